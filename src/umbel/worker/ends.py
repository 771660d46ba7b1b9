"""How deliveries end that were handed to children: by an outcome, at a limit, with their process.

What had started when a process died is what its token tells (`umbel.pools.link`). If that is one
delivery, it is to blame and charged; if there are several, nobody is: they go back as suspects, and
each runs alone. Of what was killed because another one had passed its limit, that one is to blame.
"""

from __future__ import annotations

import logging
from typing import Final

from umbel.app.execution.outcome import Outcome
from umbel.engines.broker import Settlement
from umbel.worker.children import Child, Verdict, describe_exit, describe_signal
from umbel.worker.dispatch import Dispatcher
from umbel.worker.gate import NEVER, Gate, Held
from umbel.worker.settle import Settler

logger: logging.Logger = logging.getLogger("umbel.worker")

INTERRUPTIONS: Final = 2
"""So often a task may be interrupted by what another one did to their process; then it is alone."""
REMEMBERED: Final = 10_000
"""Interrupted tasks that a worker counts for; this is not stored (docs/internals)."""


class Ends:
    """Turns ends into settlements, which it adds to a list."""

    def __init__(
        self,
        settlements: list[Settlement],
        dispatcher: Dispatcher,
        gate: Gate,
        settler: Settler,
        max_memory: int | None,
    ) -> None:
        self._settlements = settlements
        self._dispatcher = dispatcher
        self._gate = gate
        self._settler = settler
        self._max_memory = max_memory
        self._interrupted: dict[str, int] = {}
        """How often each task was, by its id: a delivery may have another number each time."""

    def by_outcome(self, child: Child, outcome: Outcome) -> None:
        """A child has told of an end."""
        if outcome.ending == "finished":
            self._note_end(child, outcome.number)
            return
        held = self._dispatcher.release(child, outcome.number)
        if held is None:  # settled otherwise already
            if not outcome.busy:
                self._note_end(child, outcome.number)
            return
        if self._interrupted:
            self._interrupted.pop(held.headers.id, None)
        if outcome.busy:
            child.finishing[outcome.number] = held
        child.done += 1
        child.alone = False
        if child.spare or (self._max_memory and outcome.memory > self._max_memory):
            child.retiring = True
        self._dispatcher.learn(held, outcome.runtime)
        if not held.disowned:
            try:
                settlement = self._gate.ended(held, outcome)
            except Exception as error:
                logger.exception("An outcome of %s could not be settled", held.headers.id)
                settlement = self._settler.undecodable(
                    held.delivery, f"its outcome could not be settled: {error!r}", held.headers
                )
            self._settlements.append(settlement)

    def _note_end(self, child: Child, number: int) -> None:
        held = child.finishing.pop(number, None)
        if held is not None and held is child.culprit:
            child.culprit, child.doom = None, NEVER  # it has ended by itself, its child will too

    def take_back(self, child: Child) -> None:
        """Let nothing more start in a child."""
        self._dispatcher.take_back(child)

    def by_request(self, child: Child, held: Held) -> bool:
        """Somebody wants a running delivery ended: settle it. False if it has ended meanwhile."""
        delivery, headers = held.delivery, held.headers
        if self._dispatcher.release(child, delivery.number) is None:
            return False
        name = describe_signal(held.signal)
        logger.warning("Terminating %s[%s] (%s)", headers.shown_name, headers.id, name)
        child.finishing[delivery.number] = held  # until its slot is free
        child.done += 1
        child.retiring = child.retiring or child.spare
        self._interrupted.pop(headers.id, None)
        if not held.disowned:
            self._settlements.append(self._gate.terminate(held))
        return True

    def by_limit(self, child: Child, verdict: Verdict, stacks: str) -> None:
        """A delivery's time is over; its child will be killed for it."""
        held, error = verdict.held, verdict.error
        delivery, headers = held.delivery, held.headers
        if child.finishing.pop(delivery.number, None) is not None:
            if held.signal:
                logger.error(
                    "Task %s[%s] goes on after %s; its process is ended",
                    headers.shown_name, headers.id, describe_signal(held.signal),
                )  # fmt: skip
                return
            logger.error(
                "Task %s[%s] had ended and is stored; its handlers are ended: %r",
                headers.shown_name, headers.id, error,
            )  # fmt: skip
        elif self._dispatcher.release(child, delivery.number) is not None and not held.disowned:
            logger.error("Task %s[%s]: %r", headers.shown_name, headers.id, error)
            self._settlements.append(self._settler.timed_out(delivery, headers, error, stacks))

    def by_death(self, child: Child, status: int, memory: int, *, cold: bool) -> None:
        """A child has ended; `cold`: it was killed to stop the worker."""
        self._dispatcher.take_back(child)
        cause = describe_exit(status, memory)
        for held in child.finishing.values():
            if not held.signal:
                logger.error(
                    "Task %s[%s] had ended and is stored; its process was lost in its handlers",
                    held.headers.shown_name, held.headers.id,
                )  # fmt: skip
        expected = child.told_to_end or (child.killed and not child.cut)
        if not (expected or child.culprit is not None):
            logger.error("Child %d (slot %d) was lost: %s", child.pid, child.seat, cause)
        started = list(child.held.values())
        alone = len(started) + len(child.finishing) == 1
        for held in started:
            self._dispatcher.release(child, held.delivery.number)
            if held.disowned:
                continue
            if cold and not held.early:
                settlement = self._settler.put_back(held.delivery)
            elif child.culprit is not None:
                settlement = self._interrupt(held, child.culprit)
            else:
                settlement = self._lose(child, held, cause, alone=alone)
            self._settlements.append(settlement)

    def _interrupt(self, held: Held, culprit: Held) -> Settlement:
        guilty, id = culprit.headers, held.headers.id
        count = self._interrupted.pop(id, 0) + 1
        alone = count >= INTERRUPTIONS
        if not alone:
            if len(self._interrupted) >= REMEMBERED:  # the oldest: another worker may have run it
                del self._interrupted[next(iter(self._interrupted))]
            self._interrupted[id] = count
        reason = "was terminated" if culprit.signal else "passed its limit"
        cause = f"killed because {guilty.task}[{guilty.id}], which it ran too, {reason}"
        return self._settler.interrupted(
            held.delivery, held.headers, cause, suspect=True if alone else None
        )

    def _lose(self, child: Child, held: Held, cause: str, *, alone: bool) -> Settlement:
        delivery, headers = held.delivery, held.headers
        logger.error(
            "Task %s[%s] was lost with its process: %s", headers.shown_name, headers.id, cause
        )
        if alone:
            return self._settler.lost(delivery, headers, cause, child.last_stacks())
        others = f"{cause}, while it ran others too"
        return self._settler.interrupted(delivery, headers, others, suspect=True)
