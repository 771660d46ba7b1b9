"""`umbel queues`: what lies in the queues, and who serves them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from umbel import clock
from umbel.cli.errors import FAILURE, Refusal
from umbel.cli.invocation import Invocation, Target, announce, live_workers
from umbel.cli.options import common_options
from umbel.cli.output import describe_duration, print_json, print_table


@dataclass(frozen=True)
class Queue:
    """One line of the table."""

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
        """Whether work waits that nobody will take."""
        return bool(self.ready) and not self.workers


@click.command()
@click.option("--pause", "paused", metavar="NAME", multiple=True,
              help="Let no worker take from this queue; what runs goes on.")  # fmt: skip
@click.option("--resume", "resumed", metavar="NAME", multiple=True, help="End a pause.")
@common_options
@click.pass_context
def queues(ctx: click.Context, paused: tuple[str, ...], resumed: tuple[str, ...]) -> None:
    """Show the queues, and who serves them."""
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    if not target.exists and (paused or resumed):
        raise Refusal(f"There is no store yet at {target.store.name}.", FAILURE)
    for name in paused:
        target.store.state.pause(name)
    for name in resumed:
        if not target.store.state.resume(name):
            click.echo(f"Warning: the queue {name} was not paused.", err=True)
    found = survey_queues(target) if target.exists else []
    if asked.as_json:
        rows = [{**asdict(queue), "deserted": queue.deserted} for queue in found]
        print_json({"store": target.store.name, "exists": target.exists, "queues": rows})
    elif announce(target):
        show(target, found)


def survey_queues(target: Target) -> list[Queue]:
    """Every queue that holds something, is paused, or is served."""
    serving: dict[str, list[str]] = {}
    for worker in live_workers(target.store):
        for name in worker.queues:
            serving.setdefault(name, []).append(worker.node)
    counts = {count.queue: count for count in target.store.broker.counts()}
    now = clock.time()
    found = []
    for name in sorted(counts.keys() | serving.keys()):
        count = counts.get(name)
        if count is None:
            found.append(Queue(name, 0, 0, 0, None, paused=False, workers=serving[name]))
            continue
        age = None if count.oldest is None else max(now - count.oldest, 0.0)
        found.append(
            Queue(
                name,
                count.ready,
                count.delayed,
                count.claimed,
                age,
                count.paused,
                serving.get(name, []),
            )
        )
    return found


def show(target: Target, found: list[Queue]) -> None:
    """Print the table, and what is to be done."""
    if not found:
        click.echo("No queue holds anything, and no worker runs.")
        return
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
            for queue in found
        ],
    )
    for queue in found:
        if queue.deserted:
            command = target.line(f"worker -Q {queue.queue}")
            click.echo(f"Nobody serves {queue.queue}. Start a worker: {command}")
        if queue.paused and queue.ready:
            command = target.line(f"queues --resume {queue.queue}")
            click.echo(f"{queue.queue} is paused. Go on: {command}")
