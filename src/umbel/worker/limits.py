"""Soft and hard time limits: what the supervisor does to a child, and when."""

from __future__ import annotations

import os
import signal
from typing import Final

from umbel.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from umbel.worker.children import Child, Children, Verdict
from umbel.worker.gate import Held

STACKS_WAIT: Final = 0.2
"""Seconds that a child gets to begin writing its stacks before it is killed."""
STACKS_TIME: Final = 0.05
"""Seconds that it gets to write them."""
STACKS_LOOK: Final = 0.01


class Limits:
    """Watches the running task of every child."""

    def __init__(self, children: Children, grace: float) -> None:
        self._children = children
        self._grace = grace

    def enforce(self, now: float) -> float | None:
        """Do what is due; the monotonic time at which to come again, None if nothing is."""
        times = [self._enforce(child, now) for child in self._children.by_slot.values()]
        return min((t for t in times if t is not None), default=None)

    def _enforce(self, child: Child, now: float) -> float | None:
        if child.killed:
            return None
        if child.verdict is not None:
            return self._carry_out(child, child.verdict, now)
        held = child.finishing or next(iter(child.held.values()), None)
        if held is None or (held.hard is None and held.soft is None):
            return None
        number, start = self._children.table.running(child.slot)
        if number != held.delivery.number:
            return now + 0.01  # between two tasks, or its token is still unread
        if child.finishing is not None:  # its handlers run: the hard limit holds for these too
            if held.hard is None:
                return None
            return (
                self._sentence(child, held, now) if now >= start + held.hard else start + held.hard
            )
        if child.soft_sent != number and held.soft is not None and now >= start + held.soft:
            child.soft_sent, child.soft_at = number, now
            self._children.table.aim_soft_limit(child.slot, number)
            self._children.signal(child, signal.SIGUSR1)
        kill = self._time_to_kill(child, held, start)
        if now >= kill:
            return self._sentence(child, held, now)
        if held.soft is not None and child.soft_sent != number:
            return min(kill, start + held.soft)
        return kill

    def _time_to_kill(self, child: Child, held: Held, start: float) -> float:
        if held.hard is not None:
            return start + held.hard
        if child.soft_sent == held.delivery.number:
            return child.soft_at + self._grace
        return float("inf")

    def _sentence(self, child: Child, held: Held, now: float) -> float:
        """Decide to kill: nothing new may start in the child, and it tells its stacks first."""
        error: Exception
        if held.hard is not None:
            error = TimeLimitExceeded(held.hard)
        else:
            error = SoftTimeLimitExceeded(
                f"the soft limit of {held.soft:g} s was ignored for {self._grace:g} s more"
            )
        child.verdict = Verdict(held.delivery.number, error, now)
        self._children.signal(child, signal.SIGUSR2)
        return now + STACKS_LOOK

    def _carry_out(self, child: Child, verdict: Verdict, now: float) -> float | None:
        running, _ = self._children.table.running(child.slot)
        if running != verdict.number:
            child.verdict = None  # it has just ended; nothing else could start meanwhile
            child.forget_stacks()
            return None
        # faulthandler writes in one go while the child stands still; a moment more lets it end.
        wait = STACKS_TIME if os.fstat(child.stacks).st_size else STACKS_WAIT
        if now < verdict.passed + wait:
            return now + STACKS_LOOK
        self._children.kill(child)
        return None
