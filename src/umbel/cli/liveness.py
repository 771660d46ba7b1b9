"""Which workers live, and how that is known.

On its own host a worker leaves proof: its run file is locked while any process of it is left, and
says when it renewed its lease last. Of a worker elsewhere nothing is known but its lease's counter:
it lives if the counter is seen to move. No stored time and no process id is taken for a sign.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from umbel.engines.state import Engine, WorkerRecord

ALIVE: Final = "alive"
STALLED: Final = "stalled"
"""Its processes are there, and it has not renewed its lease for half of it: stopped, or hung."""
SILENT: Final = "silent"
"""It is on another host, and its lease was not seen to be renewed."""
DEAD: Final = "dead"
"""Its lock is free, or another worker has declared it dead; a live worker takes over its work."""
LOOK_EVERY: Final = 0.1
"""Seconds between two looks at the counters."""
SLACK: Final = 1.0
"""How much longer than a worker takes to renew its lease it is waited for (s)."""


@dataclass(frozen=True)
class Sighting:
    """What is known of one worker on record."""

    record: WorkerRecord
    state: str
    renewed: float | None
    """Seconds since the last renewal of its lease that is known of."""
    running: int | None = None
    """How many of its slots run a task; None: it is on another host."""
    slots_now: int | None = None
    """How many it has, on this host."""

    @property
    def slots(self) -> int:
        """How many slots it has; of a worker elsewhere: had when it started."""
        return self.record.slots if self.slots_now is None else self.slots_now

    @property
    def period(self) -> float:
        """Seconds that it takes to renew its lease."""
        from umbel.worker.leases import RENEWALS

        return self.record.lease / RENEWALS

    def as_record(self) -> dict[str, Any]:
        """It as a JSON object."""
        record = self.record
        return {
            "node": record.node, "state": self.state, "host": record.host, "pid": record.pid,
            "queues": list(record.queues), "slots": self.slots, "running": self.running,
            "autoscale": record.autoscale, "started": record.started, "lease": record.lease,
            "renewed": self.renewed,
        }  # fmt: skip


def observe(
    store: Engine, nodes: Collection[str] = (), timeout: float | None = None
) -> list[Sighting]:
    """Every worker on record, or those of these names, by node name.

    What leaves no proof here is watched for up to `timeout` seconds: by default for as long as it
    takes it to renew its lease. Where there is proof, nothing is waited for.
    """
    records = [worker for worker in store.state.workers() if not nodes or worker.node in nodes]
    seen = {record.number: _judge_here(record, store) for record in records}
    unsure = {record.number: record for record in records if seen[record.number].state == SILENT}
    if timeout is None:
        timeout = max((seen[number].period + SLACK for number in unsure), default=0.0)
    end = time.monotonic() + timeout
    while unsure and time.monotonic() < end:
        time.sleep(min(LOOK_EVERY, timeout))
        for record in store.state.workers():
            before = unsure.get(record.number)
            if before is None:
                continue
            if record.dead or record.renewals != before.renewals:
                state, renewed = (DEAD, None) if record.dead else (ALIVE, 0.0)
                seen[record.number] = Sighting(record, state, renewed)
                del unsure[record.number]
    return sorted(seen.values(), key=lambda sighting: sighting.record.node)


def _judge_here(record: WorkerRecord, store: Engine) -> Sighting:
    """What can be told at once."""
    from umbel.engines.run_file import read_trace

    trace = read_trace(record, store.run_dir)
    if record.dead or (trace is not None and not trace.locked):
        return Sighting(record, DEAD, None)
    if trace is None:
        return Sighting(record, SILENT, None)
    state = STALLED if trace.renewed > record.lease / 2 else ALIVE
    return Sighting(record, state, trace.renewed, len(trace.running), trace.slots)
