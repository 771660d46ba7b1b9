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
from umbel.worker.children import Child, Verdict, describe_exit
from umbel.worker.dispatch import Dispatcher
from umbel.worker.gate import Gate, Held
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
            child.finishing.pop(outcome.number, None)
            return
        held = self._dispatcher.release(child, outcome.number)
        if held is None:
            return  # settled otherwise already
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

    def by_limit(self, child: Child, verdict: Verdict, stacks: str) -> None:
        """A delivery's time is over; its child will be killed for it."""
        held, error = verdict.held, verdict.error
        delivery, headers = held.delivery, held.headers
        if child.finishing.pop(delivery.number, None) is not None:
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
            logger.error(
                "Task %s[%s] had ended and is stored; its process was lost in its handlers",
                held.headers.shown_name, held.headers.id,
            )  # fmt: skip
        if not (child.told_to_end or (child.killed and not child.cut)):
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
        cause = f"killed because {guilty.task}[{guilty.id}], which it ran too, passed its limit"
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
