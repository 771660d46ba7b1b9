"""What waits in the queues, and who serves them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from umbel import clock
from umbel.cli.output import describe_duration, print_table

if TYPE_CHECKING:
    from umbel.cli.invocation import Target
    from umbel.engines.state import WorkerRecord


@dataclass(frozen=True)
class Queue:
    """What lies in one queue."""

    queue: str
    ready: int
    delayed: int
    claimed: int
    oldest_age: float | None
    """Seconds since the oldest ready message was published."""
    paused: bool
    workers: list[str]
    """Node names of the live workers that serve it."""

    @property
    def deserted(self) -> bool:
        """Whether there is work that nobody will do: delayed, or a dead worker's, counts too."""
        return not self.workers and bool(self.ready or self.delayed or self.claimed)

    def as_record(self) -> dict[str, Any]:
        """It as a JSON object."""
        return {**asdict(self), "deserted": self.deserted}

    def __str__(self) -> str:
        counts = {"ready": self.ready, "delayed": self.delayed, "claimed": self.claimed}
        return ", ".join(f"{number} {what}" for what, number in counts.items() if number)


def read_backlog(target: Target, workers: Sequence[WorkerRecord]) -> list[Queue]:
    """Every queue that holds something, is paused, or is served by one of these workers."""
    serving: dict[str, list[str]] = {}
    for worker in workers:
        for name in worker.queues:
            serving.setdefault(name, []).append(worker.node)
    counts = {count.queue: count for count in target.store.broker.counts()}
    now = clock.time()
    found = []
    for name in sorted(counts.keys() | serving.keys()):
        count = counts.get(name)
        nodes = serving.get(name, [])
        if count is None:
            found.append(Queue(name, 0, 0, 0, None, paused=False, workers=nodes))
            continue
        age = None if count.oldest is None else max(now - count.oldest, 0.0)
        found.append(
            Queue(name, count.ready, count.delayed, count.claimed, age, count.paused, nodes)
        )
    return found


def print_backlog(queues: Sequence[Queue]) -> None:
    """Write the queues as a table."""
    print_table(
        ("QUEUE", "READY", "DELAYED", "CLAIMED", "OLDEST", "STATE", "WORKERS"),
        [
            (
                queue.queue,
                queue.ready,
                queue.delayed,
                queue.claimed,
                "" if queue.oldest_age is None else describe_duration(queue.oldest_age),
                "paused" if queue.paused else "open",
                ", ".join(queue.workers) or "none",
            )
            for queue in queues
        ],
    )


def advise(target: Target, queues: Sequence[Queue], soon: Collection[str] = ()) -> list[str]:
    """What to type so that the work of these queues goes on; nothing where it does.

    `soon` are those that somebody is about to serve.
    """
    lines = []
    deserted = [queue for queue in queues if queue.deserted and queue.queue not in soon]
    if deserted:
        what = "; ".join(f"{queue.queue} ({queue})" for queue in deserted)
        command = target.line("worker", "-Q", ",".join(queue.queue for queue in deserted))
        lines.append(f"Nobody serves {what}. Start a worker: {command}")
    for queue in queues:
        if queue.paused and (queue.ready or queue.delayed):
            command = target.line("queues", "--resume", queue.queue)
            lines.append(f"{queue.queue} is paused ({queue}). Go on: {command}")
    return lines
