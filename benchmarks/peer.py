"""What the harness must know of a peer."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

EVERYTHING = frozenset(
    {"drain", "drain-results", "mix", "enqueue", "roundtrip", "imports", "first-task", "cpu"}
)


@dataclass(frozen=True)
class Peer:
    """One task queue with one set of settings; all that differs between peers is in here.

    The code that runs inside the peer's own environment (its tasks, and how they are sent and
    waited for) is the module `tasks` in the folder `within`.
    """

    name: str
    """The row's name in the tables."""
    environment: str
    """The virtual environment, shared by peers that name the same one."""
    requirements: tuple[str, ...]
    """What pip installs into it; `.` is this checkout, built anew for each run."""
    package: str
    """What `imports` imports, and whose version is printed."""
    tasks: str
    """The module in the folder `within`."""
    worker: Callable[[int], tuple[str, ...]]
    """Number of processes to the command line of a worker; its first word is in the environment."""
    application: str
    """A module as its user would write it, with three tasks, for `imports`."""
    redis: bool = True
    """Whether it needs the Redis server; the others keep an SQLite file."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables for its producer and worker besides the harness's own."""
    stop: signal.Signals = signal.SIGTERM
    """What makes its worker finish the tasks it runs, and end."""
    scenarios: frozenset[str] = EVERYTHING
    """The scenarios that mean something for it."""
