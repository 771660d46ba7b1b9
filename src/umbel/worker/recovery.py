"""Recovery: who of the others is dead, and what becomes of what they held.

A worker is dead when its run file's lock is free (proof, on the same host, at once), or when this
judge has itself watched the lease's counter stand still for a whole lease on its own monotonic
clock. A judge that was held up itself starts its watch again, so neither a suspended machine nor an
unreachable store makes anybody dead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from umbel.app import App
from umbel.engines.broker import Delivery, Settlement
from umbel.engines.run_file import Remains, proof_of_death, remove_strays
from umbel.engines.state import Engine, WorkerRecord
from umbel.exceptions import DecodeError, WorkerLostError
from umbel.message import task as task_message
from umbel.worker.settle import Settler

logger: logging.Logger = logging.getLogger("umbel.worker")


HELD_UP: Final = 2.0
"""Seconds between two looks that are no sign of a judge that was held up: looks come each second,
whatever the lease of whoever is watched."""


class Watch:
    """One judge's observation of the other workers' counters."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}
        self._last = 0.0

    def start_again(self) -> None:
        """Something came between: nobody can be blamed for what was not seen."""
        self._seen.clear()

    def overdue(self, records: Sequence[WorkerRecord], now: float) -> list[WorkerRecord]:
        """The workers whose counter has stood still for a whole lease, as seen by this judge."""
        pause, self._last = now - self._last, now
        dead: list[WorkerRecord] = []
        for record in records:
            if pause > max(record.lease / 2, HELD_UP):  # this judge itself was held up
                self._seen.pop(record.number, None)
            counter, since = self._seen.get(record.number, (-1, now))
            if counter != record.renewals:
                self._seen[record.number] = (record.renewals, now)
            elif now - since >= record.lease:
                dead.append(record)
        for number in self._seen.keys() - {record.number for record in records}:
            del self._seen[number]
        return dead


class Judge:
    """Watches the other workers of a store and takes over from the dead."""

    def __init__(self, app: App, engine: Engine) -> None:
        self._app = app
        self._engine = engine
        self._watch = Watch()
        self._lock = threading.Lock()

    def look(self, own: int) -> None:
        """Look at every worker but number `own`; put back what the dead ones held."""
        with self._lock:
            workers = self._engine.state.workers()
            others = [worker for worker in workers if worker.number != own]
            living = [record for record in others if not self.recover_if_dead(record)]
            remove_strays(self._engine.run_dir, {worker.run_file for worker in workers})
            for record in self._watch.overdue(living, time.monotonic()):
                if self._engine.state.declare_dead(record.number, renewals=record.renewals):
                    logger.warning(
                        "Worker %s has not renewed its lease for %g s: taking over its work",
                        record.node,
                        record.lease,
                    )
                    self._recover(record, None)

    def lose_sight(self) -> None:
        """The store could not be reached: no time that has passed counts against others."""
        with self._lock:
            self._watch.start_again()

    def recover_if_dead(self, record: WorkerRecord) -> bool:
        """Recover a worker whose death is proven or declared; False if it may be alive."""
        remains = proof_of_death(record, self._engine.run_dir)
        if remains is None and not record.dead:
            return False
        self._recover(record, remains)
        return True

    def _recover(self, record: WorkerRecord, remains: Remains | None) -> None:
        """Settle everything that a dead worker held, then strike it off."""
        state = self._engine.state
        state.declare_dead(record.number)
        settler = Settler(self._app, record.node)
        count = 0
        while claims := state.claims(record.number):
            settlements = [settle_orphan(settler, claim, remains) for claim in claims]
            count += len(settlements) - len(self._engine.broker.settle(settlements))
        if state.unregister(record.number):
            if remains is not None and record.run_file:
                (self._engine.run_dir / record.run_file).unlink(missing_ok=True)
            logger.warning("Worker %s is dead: its %d messages are cared for", record.node, count)


def settle_orphan(settler: Settler, claim: Delivery, remains: Remains | None) -> Settlement:
    """What becomes of one message of a dead worker.

    What is known not to have started goes back as if untouched. What had started, or may have,
    goes back as a suspect, to run alone; it is charged only if it had run alone before, as the
    only task of the worker that died. What was acknowledged early and may have started must not
    run again.
    """
    if remains is None:
        unstarted = alone = False
    elif claim.early:
        # It was noted before it was handed out, and is until its end is stored.
        unstarted, alone = claim.number not in remains.early, False
    else:
        unstarted = claim.number not in remains.running
        alone = claim.suspect and len(remains.running) == 1
    if unstarted or not (claim.early or alone):
        return settler.put_back(claim, suspect=None if unstarted else True)
    try:
        headers = task_message.decode_headers(claim.payload)
    except DecodeError as error:
        return settler.undecodable(claim, str(error))
    if alone:
        return settler.lost(claim, headers, "the whole worker died while it ran alone", "")
    lost = WorkerLostError(
        f"The worker that had acknowledged {headers.task} early died; it is not run again"
    )
    return settler.failed(claim, headers, lost)
