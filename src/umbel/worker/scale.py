"""How many tasks a worker runs at once, and how that changes: by request, or by what waits.

In the pool prefork the number of processes changes; in the others, which run many tasks in each
process, the number of slots of each that are used. Nothing is interrupted: what is too much ends
what it runs, and gets nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from umbel.pools.kinds import Layout
from umbel.worker.children import Child

logger: logging.Logger = logging.getLogger("umbel.worker.autoscale")

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at what is busy; it grows if nothing is free at two in a row."""
LOOK_IDLE: Final = 1.0
"""The same (s) while it has no slot at all."""
NEVER: Final = float("inf")


class Scale:
    """The numbers that the supervisor keeps to. Any thread may change them: a turn later they hold.

    `keepalive`: seconds of idleness before it shrinks, if it does so by itself.
    """

    def __init__(self, layout: Layout, keepalive: float) -> None:
        self.by_slots: bool = layout.by_slots
        """Whether slots change, and not processes."""
        self.processes: int = layout.processes
        self.slots: int = layout.slots
        """Of each process, that are used."""
        self.room: int = layout.room
        """What a new process has slots for."""
        self.bounds: tuple[int, int] | None = layout.bounds
        """The least and the most between which it changes by itself, if it does."""
        self._layout = layout
        self._keepalive = keepalive
        self._next_look = 0.0
        self._was_full = False
        self._full_at: float | None = None
        self._peak = 0

    # ------------------------------------------------------------------ the numbers

    @property
    def number(self) -> int:
        """What `-c` names: processes, or slots in each."""
        return self.slots if self.by_slots else self.processes

    @property
    def total(self) -> int:
        """Tasks that run at the same time."""
        return self.processes * self.slots

    def grow(self, n: int = 1) -> int:
        """Have `n` more processes, or slots in each; the number from now on.

        `ValueError` in the pool solo, beyond the most that a worker can have, and while it scales
        by itself.
        """
        return self._change(n, "grow")

    def shrink(self, n: int = 1) -> int:
        """Have `n` fewer; at least one is kept. Those that are idle go first, the others in time.

        `ValueError` as of `grow`.
        """
        return self._change(-n, "shrink")

    def autoscale(self, most: int | None = None, least: int | None = None) -> tuple[int, int]:
        """Change the bounds between which it scales by itself; the new ones, the most first.

        `ValueError` if it does not, or if they are none.
        """
        if self.bounds is None:
            raise ValueError("Autoscale not enabled: start the worker with --autoscale.")
        low = self.bounds[0] if least is None else least
        high = self.bounds[1] if most is None else most
        self._layout.check_bounds(low, high)
        self.bounds = (low, high)
        self._set(min(max(self.number, low), high))
        return high, low

    def _change(self, n: int, what: str) -> int:
        if self.bounds is not None:
            raise ValueError(f"pool_{what} is not supported with autoscale: change its range.")
        number = max(1, self.number + n)
        self._layout.check_number(number)
        logger.info("The pool is to %s: %s", what, self._describe(number))
        self._set(number)
        return number

    def _set(self, number: int) -> None:
        if not self.by_slots:
            self.processes = number
            return
        self.slots = number
        most = number if self.bounds is None else max(number, self.bounds[1])
        self.room = max(self.room, most)

    def _describe(self, number: int) -> str:
        kind = "slots in each process" if self.by_slots else "processes"
        return f"{self.number} → {number} {kind}"

    def fit(self, children: Iterable[Child]) -> list[Child]:
        """Have the children keep to the numbers; those whose unstarted work is to be taken back."""
        present = [child for child in children if not (child.spare or child.told_to_end)]
        return self._fit_slots(present) if self.by_slots else self._fit_processes(present)

    def _fit_slots(self, children: list[Child]) -> list[Child]:
        fewer: list[Child] = []
        for child in children:
            if self.slots > child.records:
                child.retiring = True  # its successor has more
            elif not child.retiring:
                if self.slots < child.slots:
                    fewer.append(child)
                child.slots = self.slots
        return fewer

    def _fit_processes(self, children: list[Child]) -> list[Child]:
        """Mark those that are too many: whoever is idle first is the one that goes."""
        if len(children) <= self.processes and not any(child.surplus for child in children):
            return []
        children.sort(key=lambda child: (not child.occupied, child.seat))
        gone: list[Child] = []
        for index, child in enumerate(children):
            if index >= self.processes and not child.surplus:
                gone.append(child)
            child.surplus = index >= self.processes
        return gone

    # ------------------------------------------------------------------ by itself

    def next_look(self, *, busy: bool) -> float:
        """Monotonic time at which `look` wants to be called; `busy`: whether anything runs."""
        if self.bounds is None or not (busy or self.number > self.bounds[0] or not self.number):
            return NEVER
        return self._next_look

    def look_soon(self) -> None:
        """Something has come, perhaps: without a slot, nobody else would see it."""
        if not self.number:
            self._next_look = 0.0

    def look(
        self, now: float, children: Iterable[Child], held: int, waiting: Callable[[], int]
    ) -> None:
        """Grow if all is busy and more waits, shrink after idleness.

        `held` is what this worker has claimed and given to no child, `waiting` asks how much the
        queues hold.
        """
        if self.bounds is None or now < self._next_look:
            return
        least, most = self.bounds
        self._next_look = now + (LOOK_EVERY if self.number else LOOK_IDLE)
        present = [child for child in children if not (child.spare or child.surplus)]
        busy = sum(min(child.occupied, child.slots) for child in present)
        if self._full_at is None:
            self._full_at = now
        if busy < self.total:
            self._was_full = False
            self._peak = max(self._peak, busy)
            if now - self._full_at >= self._keepalive:
                self._shrink(max(least, self._share(self._peak)))
                self._full_at, self._peak = now, busy
            return
        self._full_at, self._peak = now, 0
        full, self._was_full = self._was_full, True
        if self.number < most and (full or not self.number):
            more = sum(max(0, child.occupied - child.slots) for child in present) + held
            wanted = busy + more + waiting()
            number = min(most, self._share(wanted))
            if number > self.number:
                logger.info(
                    "Scaling up: %s, as %d tasks run or wait", self._describe(number), wanted
                )
                self._set(number)
                self._was_full = False

    def _shrink(self, number: int) -> None:
        if number < self.number:
            logger.info("Scaling down: %s, as the rest was idle", self._describe(number))
            self._set(number)

    def _share(self, tasks: int) -> int:
        """Of so many tasks: the number that it takes to run them all at once."""
        return -(-tasks // self.processes) if self.by_slots else tasks
