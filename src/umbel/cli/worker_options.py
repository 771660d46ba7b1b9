"""Options of `celery worker` and `celery beat` that mean nothing here, or nothing yet.

Commands that ran for years go on running where what they ask for is so anyway; where they ask for
something that is not there, the worker says so instead of starting without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_GOSSIP: Final = "workers do not talk to each other: they share the store, and its leases"
_SCHEDULER: Final = (
    "there is one, which keeps its entries in the store, can be edited at run time (umbel "
    "schedule) and may run any number of times"
)
_REMOTE: Final = "nothing is broadcast in this version"
_PRIVILEGES: Final = (
    "the service manager does that: User=, Group= and UMask= of a systemd unit, or "
    "`docker run --user`"
)


class Legacy(NamedTuple):
    """One option."""

    names: tuple[str, ...]
    reason: str
    """Why it has no effect, or what to do instead."""
    refused: bool = False
    flag: bool = False
    kind: Any = str


OPTIONS: Final = (
    Legacy(("-O", "--optimization"), "no task waits behind a long one while a slot is free",
           kind=click.Choice(("default", "fair"))),
    Legacy(("--prefetch-multiplier",), "tasks are claimed for free slots, and read-ahead is "
           "handed back when a slot elsewhere is free", kind=int),
    Legacy(("--disable-prefetch",), "tasks are claimed for free slots", flag=True),
    Legacy(("-S", "--statedb"), "revocations are kept in the store and outlast every worker"),
    Legacy(("-E", "--task-events", "--events"), "events are not in this version; `umbel result`, "
           "`queues` and `status` read the store", flag=True),
    Legacy(("--pool-start-method",), "processes come from a small program of their own, safe with "
           "threads and sockets, whatever is asked for", kind=click.Choice(("fork", "spawn"))),
    Legacy(("--without-gossip",), _GOSSIP, flag=True),
    Legacy(("--without-mingle",), _GOSSIP, flag=True),
    Legacy(("--without-heartbeat",), _GOSSIP, flag=True),
    Legacy(("--heartbeat-interval",), _GOSSIP, kind=float),
    Legacy(("--scheduler",), _SCHEDULER),
    Legacy(("--autoreload",), "it is gone since Celery 4, and is --reload here", refused=True,
           flag=True),
    Legacy(("--uid",), _PRIVILEGES, refused=True),
    Legacy(("--gid",), _PRIVILEGES, refused=True),
    Legacy(("--umask",), _PRIVILEGES, refused=True),
    Legacy(("--executable",), "start the worker with the Python that you want: "
           "/path/to/python -m umbel worker", refused=True),
)  # fmt: skip
"""Those of `umbel worker`."""
BEAT_OPTIONS: Final = (
    Legacy(("-S", "--scheduler"), _SCHEDULER),
    Legacy(("--max-interval",), "a scheduler wakes when something is due, and at least twice a "
           "second", kind=float),
    Legacy(("--enable-remote-control",), _REMOTE, flag=True),
    Legacy(("--no-enable-remote-control",), _REMOTE, flag=True),
    *(option for option in OPTIONS if option.names[0] in {"--uid", "--gid", "--umask"}),
    Legacy(("--executable",), "start it with the Python that you want: /path/to/python -m umbel "
           "beat", refused=True),
)  # fmt: skip
"""Those of `umbel beat`."""


def legacy_options(function: F, options: Sequence[Legacy] = OPTIONS) -> F:
    """Give a command these options; they do not show in its help."""
    for option in reversed(options):
        function = click.option(
            *option.names, _name(option), is_flag=option.flag, hidden=True,
            type=None if option.flag else option.kind,
        )(function)  # fmt: skip
    return function


def settle_legacy(given: dict[str, Any], options: Sequence[Legacy] = OPTIONS) -> list[str]:
    """Take these options out; a line for each that has no effect. `UsageError` for refused ones."""
    lines = []
    for option in options:
        value = given.pop(_name(option))
        if value is None or value is False:
            continue
        name = max(option.names, key=len)
        if option.refused:
            raise click.UsageError(f"{name} is refused: {option.reason}.")
        lines.append(f"{name} has no effect: {option.reason}")
    return lines


def _name(option: Legacy) -> str:
    return "legacy_" + option.names[-1].strip("-").replace("-", "_")
