"""Soft and hard time limits, and termination: what the supervisor does to a child, and when.

A task that somebody wants terminated is settled as soon as it is seen running. A process that runs
nothing else gets the signal that was asked for; what shares its process, or the host's, is told as
at a soft limit. Who goes on after its grace is ended as at a hard limit.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from umbel.engines.run_file import ASKED, ENDED, SOFT, STACK
from umbel.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from umbel.worker.children import Child, Children, Verdict
from umbel.worker.ends import Ends
from umbel.worker.gate import NEVER, Held

logger: logging.Logger = logging.getLogger("umbel.worker")

STACKS_WAIT: Final = 0.2
"""Seconds that a child gets to begin writing its stacks before it is killed."""
STACKS_TIME: Final = 0.05
"""Seconds that it gets to write them."""
STACKS_LOOK: Final = 0.01
NEIGHBOURS: Final = 1.0
"""Seconds that the others in a child get to end, before it is killed for one of them."""
TELL_EVERY: Final = 0.1
"""Seconds after which a task that was told to end, and runs, is told again: it may have been where
nothing could be raised."""


class Limits:
    """Watches what runs, and ends what has passed its hard limit, or is to be terminated.

    `read` takes in the outcomes that a child has sent.
    """

    def __init__(
        self, children: Children, grace: float, ends: Ends, read: Callable[[Child], None]
    ) -> None:
        self._children = children
        self._read = read
        self._grace = grace
        self._ends = ends

    def watch(self, child: Child, held: Held, now: float) -> None:
        """A delivery is handed to a child."""
        if held.soft is None and held.hard is None:
            return
        held.soft_at = 0.0
        held.look = now + _first_limit(held)  # it has not started, so it cannot be due before
        child.limits_at = min(child.limits_at, held.look)

    def terminate(self, child: Child, held: Held, number: int, now: float) -> None:
        """End a delivery that a child has, by a signal."""
        if not held.signal:
            held.signal, held.look = number, now
            child.limits_at = now

    def enforce(self, now: float) -> float:
        """Do what is due; the monotonic time at which to come again."""
        return min((self._enforce(child, now) for child in self._children), default=NEVER)

    def _enforce(self, child: Child, now: float) -> float:
        if child.killed:
            return NEVER
        if child.verdict is not None:
            return self._carry_out(child, child.verdict, now)
        if child.culprit is not None and (now >= child.doom or not child.occupied):
            self._children.kill(child)
            return NEVER
        if now >= child.limits_at:
            self._look(child, now)
        return min(child.limits_at, child.doom)

    def _look(self, child: Child, now: float) -> None:
        """See which of a child's deliveries have passed a limit."""
        runs = {number: (record, start) for record, number, start in self._children.running(child)}
        watched = [*child.held.values(), *child.finishing.values()]
        for held in watched:
            if held.look <= now:
                run = runs.get(held.delivery.number)
                if run is None and held.signal:
                    held.look = now + STACKS_LOOK  # it is about to begin, or has just ended
                elif run is None:
                    held.look = now + _first_limit(held)  # its token is still unread
                else:
                    held.look = self._look_at(child, held, *run, now)
        child.limits_at = min((held.look for held in watched), default=NEVER)

    def _look_at(self, child: Child, held: Held, record: int, start: float, now: float) -> float:
        """Do to one what is due; when to look again."""
        finishing = held.delivery.number in child.finishing
        if held.signal:
            if not finishing:
                return self._terminate(child, held, record, now)
            if now < held.soft_at + self._grace_of(held):
                return self._tell(child, held, now)
        elif finishing and held.hard is None:
            return NEVER  # its handlers run, and only the hard limit holds for these too
        soft = NEVER
        if held.soft is not None and not held.soft_at and not finishing:
            soft = start + held.soft
        if now >= soft:
            soft, held.soft_at = NEVER, now
            self._children.table.aim(record, SOFT, held.delivery.number)
            self._children.signal(child, signal.SIGUSR1)
        kill = self._time_to_kill(held, start)
        if now < kill:
            return min(soft, kill)
        if child.verdict is None:
            self._sentence(child, held, record, now)
        return now + STACKS_LOOK

    def _terminate(self, child: Child, held: Held, record: int, now: float) -> float:
        """Settle it, and tell it to end; when to look again."""
        number, table = held.delivery.number, self._children.table
        if child.verdict is not None or child.killed:
            return now + STACKS_LOOK  # another one is being ended; what follows is for this one too
        signalled = self._children.kills and child.records == 1 and held.signal != signal.SIGUSR1
        if signalled:
            self._ends.take_back(child)  # from here on the signal can meet no other one
        # Either its end is there to be read by now, or its slot waits for what is decided.
        table.aim(record, SOFT, number | ASKED)
        self._read(child)
        if table.number(record) != number or not self._ends.by_request(child, held):
            table.aim(record, SOFT, number if held.soft_at else 0)
            return now + STACKS_LOOK if number in child.held else NEVER
        table.aim(record, SOFT, number | ENDED)
        if not signalled:
            held.soft_at = now
            return self._tell(child, held, now)
        child.retiring = True
        child.culprit, child.doom = held, now + self._grace
        if held.signal == signal.SIGKILL:
            self._children.kill(child)
        else:
            self._children.signal(child, held.signal)
        return NEVER

    def _grace_of(self, held: Held) -> float:
        """Seconds that a task gets to end which was told to, beside others."""
        if held.signal == signal.SIGKILL:
            return 0.0
        return self._grace if held.signal == signal.SIGUSR1 else min(NEIGHBOURS, self._grace)

    def _tell(self, child: Child, held: Held, now: float) -> float:
        """Raise the soft limit in it, whose end interests nobody; when to look again."""
        grace = self._grace_of(held)
        if grace:
            self._children.signal(child, signal.SIGUSR1)
        return min(now + TELL_EVERY, held.soft_at + grace)

    def _time_to_kill(self, held: Held, start: float) -> float:
        if held.signal:
            return held.soft_at + self._grace_of(held)
        if held.hard is not None:
            return start + held.hard
        return held.soft_at + self._grace if held.soft_at else NEVER

    def _sentence(self, child: Child, held: Held, record: int, now: float) -> None:
        """Decide to end it: nothing new may start in the child, and it tells its stacks first."""
        error: Exception
        if held.signal:
            error = TaskRevokedError("terminated")
        elif held.hard is not None:
            error = TimeLimitExceeded(held.hard)
        else:
            error = SoftTimeLimitExceeded(
                f"the soft limit of {held.soft:g} s was ignored for {self._grace:g} s more"
            )
        child.verdict = Verdict(held, record, error, now)
        child.forget_stacks()
        self._children.table.aim(record, STACK, held.delivery.number)
        self._children.signal(child, signal.SIGUSR2)

    def _carry_out(self, child: Child, verdict: Verdict, now: float) -> float:
        table, number = self._children.table, verdict.held.delivery.number
        if table.number(verdict.record) != number:
            child.verdict = None  # it has just ended
            child.forget_stacks()
            return now
        # faulthandler writes in one go while the child stands still; a moment more lets it end.
        wait = STACKS_TIME if os.fstat(child.stacks).st_size else STACKS_WAIT
        if now < verdict.passed + wait:
            return now + STACKS_LOOK
        child.verdict = None
        child.culprit = verdict.held
        child.retiring = True
        stacks = child.last_stacks(table.thread(verdict.record))
        if self._children.kills:
            child.doom = min(child.doom, now + NEIGHBOURS)
        self._ends.by_limit(child, verdict, stacks)
        if not self._children.kills:
            logger.error("Its thread cannot be ended and is abandoned; it is here:\n%s", stacks)
        return self._enforce(child, now)


def _first_limit(held: Held) -> float:
    """Seconds after its start at which the first of its limits passes."""
    return min(limit for limit in (held.soft, held.hard) if limit is not None)
