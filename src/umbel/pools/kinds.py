"""The pools there are: their names, what is run by default, and where their code is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from umbel.engines.run_file import SLOTS
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.pools.slots import Pool

ALIASES: Final = {"processes": "prefork", "thread": "threads"}
NAMES: Final = ("prefork", "threads", "asyncio", "solo")
LATER: Final = ("gevent", "eventlet")
MOST_THREADS: Final = 32
"""Threads of a child unless a number is asked for; many more only wait for the interpreter."""
COROUTINES: Final = 100
"""Slots of a child with an event loop unless a number is asked for (Celery's for greenlets)."""


@dataclass(frozen=True)
class Layout:
    """How a worker is laid out: processes, and slots in each."""

    pool: str
    processes: int
    slots: int

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
    if word in NAMES:
        return word
    known = ", ".join(NAMES)
    if word in LATER:
        message = f"The pool {word!r} is not in this version; there are {known}."
    else:
        near = get_close_matches(word, (*NAMES, *ALIASES, *LATER), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        message = f"There is no pool {name!r}; there are {known}.{hint}"
    raise ImproperlyConfigured(message)


def lay_out(
    name: str, concurrency: int | None, processes: int | None, usual: int | None = None
) -> Layout:
    """A worker's layout from what was asked for; None takes `usual`, or the pool's default."""
    pool = find_pool(name)
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
        default = COROUTINES
        if pool == "threads":
            default = min(MOST_THREADS, 10 * available_processors())
        layout = Layout(pool, processes or 1, concurrency or usual or default)
    if not 1 <= layout.total <= SLOTS:
        raise ImproperlyConfigured(
            f"A worker can have 1 to {SLOTS} slots, not {layout.total}; set worker_concurrency "
            "or give -c and --processes."
        )
    return layout


def load_pool(name: str) -> type[Pool]:
    """The class of a pool. Only what is asked for is imported."""
    if name == "threads":
        from umbel.pools.threads import Threads

        return Threads
    if name == "asyncio":
        from umbel.pools.eventloop import EventLoop

        return EventLoop
    from umbel.pools.mainthread import MainThread

    return MainThread


def available_processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
