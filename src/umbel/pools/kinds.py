"""The pools there are: their names, what is run by default, and where their code is."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from umbel.engines.run_file import SLOTS
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from umbel.pools.slots import Pool

ALIASES: Final = {"processes": "prefork", "thread": "threads"}
NAMES: Final = ("prefork", "threads", "asyncio", "gevent", "eventlet", "solo")
LIBRARIES: Final = ("gevent", "eventlet")
"""Pools that need the library of their name, which the extra of that name installs."""
ENTRY_POINTS: Final = "umbel.pools"
"""The group of entry points by which a package offers a pool of its own (`umbel.pools.slots`)."""
MOST_THREADS: Final = 32
"""Threads of a child unless a number is asked for; many more only wait for the interpreter."""
COROUTINES: Final = 100
"""Slots of a child with an event loop, or with greenlets, unless a number is asked for."""


@dataclass(frozen=True)
class Layout:
    """How a worker is laid out: processes, and slots in each."""

    pool: str
    processes: int
    slots: int
    bounds: tuple[int, int] | None = None
    """The least and the most processes, or slots in each, between which it scales by itself."""

    @property
    def by_slots(self) -> bool:
        """Whether each process has slots of its own, which can change."""
        return self.pool not in {"prefork", "solo"}

    @property
    def room(self) -> int:
        """Slots that a process is made with."""
        return self.slots if self.bounds is None or not self.by_slots else self.bounds[1]

    def check_number(self, number: int) -> None:
        """`ValueError` if it cannot have so many processes, or slots in each."""
        if self.pool == "solo":
            raise ValueError("The pool solo has one slot, whatever is asked for: use -P prefork.")
        total = number * (self.processes if self.by_slots else 1)
        if not 1 <= total <= SLOTS:
            raise ValueError(f"A worker can have 1 to {SLOTS} slots, not {total}.")

    def check_bounds(self, least: int, most: int) -> None:
        """`ValueError` if it cannot change between these."""
        if not 0 <= least <= most:
            raise ValueError(f"It cannot change between {least} and {most}.")
        self.check_number(most)

    @property
    def total(self) -> int:
        """Deliveries that run at the same time."""
        return self.processes * self.slots


def find_pool(name: str) -> str:
    """A pool's own name, of one that `-P` or `worker_pool` gives. `ImproperlyConfigured` if none.

    Celery's names of classes (`celery.concurrency.prefork:TaskPool`) mean the pool of that name.
    """
    word = name.partition(":")[0].rpartition(".")[2] if name.startswith("celery.") else name
    word = ALIASES.get(word, word)
    if word in LIBRARIES and find_spec(word) is None:
        raise ImproperlyConfigured(f'The pool {word} needs a library: pip install "umbel[{word}]"')
    if word in NAMES:
        return word
    others = offered_pools()
    if word in others:
        return word
    known = (*NAMES, *others)
    near = get_close_matches(word, (*known, *ALIASES), 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ImproperlyConfigured(
        f"There is no pool {name!r}; there are {', '.join(known)}.{hint} A package can add one by "
        f"an entry point of the group {ENTRY_POINTS}."
    )


def offered_pools() -> dict[str, EntryPoint]:
    """The pools of other packages, by name."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def lay_out(
    name: str,
    concurrency: int | None,
    processes: int | None,
    usual: int | None = None,
    bounds: tuple[int, int] | None = None,
) -> Layout:
    """A worker's layout from what was asked for; None takes `usual`, or the pool's default.

    With `bounds`, the least and the most, it begins with the least, whatever else is asked for.
    """
    pool = find_pool(name)
    if bounds is not None:
        return _lay_out_to_scale(pool, processes, bounds)
    if pool == "solo":
        if processes is not None and processes != 1:
            raise ImproperlyConfigured("The pool solo has one process: leave --processes out.")
        return Layout(pool, 1, 1)
    if pool == "prefork":
        if concurrency is not None and processes is not None and concurrency != processes:
            raise ImproperlyConfigured(
                "A process of the pool prefork runs one task at a time: give -c or --processes."
            )
        layout = Layout(pool, concurrency or processes or usual or available_processors(), 1)
    else:
        default = min(MOST_THREADS, 10 * available_processors())
        if pool in {"asyncio", *LIBRARIES}:
            default = COROUTINES
        layout = Layout(pool, processes or 1, concurrency or usual or default)
    if not 1 <= layout.total <= SLOTS:
        raise ImproperlyConfigured(
            f"A worker can have 1 to {SLOTS} slots, not {layout.total}; set worker_concurrency "
            "or give -c and --processes."
        )
    return layout


def _lay_out_to_scale(pool: str, processes: int | None, bounds: tuple[int, int]) -> Layout:
    if pool == "prefork":
        if processes is not None:
            raise ImproperlyConfigured(
                "With --autoscale the pool prefork has as many processes as it needs: leave "
                "--processes out."
            )
        layout = Layout(pool, bounds[0], 1, bounds)
    else:
        layout = Layout(pool, processes or 1, bounds[0], bounds)
    try:
        layout.check_bounds(*bounds)
    except ValueError as error:
        raise ImproperlyConfigured(f"--autoscale: {error}") from None
    return layout


def load_pool(name: str) -> type[Pool]:
    """The class of a pool. Only what is asked for is imported.

    Called in a child before the app is imported; the modules of gevent and eventlet patch it.
    """
    if name == "threads":
        from umbel.pools.threads import Threads

        return Threads
    if name == "asyncio":
        from umbel.pools.eventloop import EventLoop

        return EventLoop
    if name == "gevent":
        from umbel.pools.gevent import Gevent

        return Gevent
    if name == "eventlet":
        from umbel.pools.eventlet import Eventlet

        return Eventlet
    if name not in NAMES:
        pool: type[Pool] = offered_pools()[name].load()
        return pool
    from umbel.pools.mainthread import MainThread

    return MainThread


def maybe_patch_concurrency(
    argv: Sequence[str] | None = None,
    short_opts: Sequence[str] = ("-P",),
    long_opts: Sequence[str] = ("--pool",),
    patches: object = None,  # noqa: ARG001  (Celery's)
) -> None:
    """Check that the pool which a command line asks for (`sys.argv`) can run here.

    Celery patches the calling process, if the pool is one of greenlets. Here a worker patches
    its children, before they import anything of the app's, and nothing else is to be patched.
    `ImproperlyConfigured` if there is no such pool, or its library is not installed.
    """
    words = iter(sys.argv if argv is None else argv)
    for word in words:
        option, equals, value = word.partition("=")
        if word in short_opts or (option in long_opts and not equals):
            find_pool(next(words, ""))
        elif option in long_opts:
            find_pool(value)
        elif word.startswith(tuple(short_opts)):
            find_pool(word[2:])


def available_processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
