"""`umbel status`: the workers, the store, and what waits in it."""

from __future__ import annotations

from typing import Any

import click

from umbel.cli.backlog import Queue, advise, print_backlog, read_backlog
from umbel.cli.errors import UNAVAILABLE, Refusal
from umbel.cli.invocation import Invocation, Target
from umbel.cli.liveness import ALIVE, DEAD, SILENT, STALLED, Sighting, observe
from umbel.cli.options import Seconds, common_options, split_names
from umbel.cli.output import count, describe_duration, describe_moment, print_json, print_table

LETTERS = 1000
"""Dead letters are counted up to here."""
REMARKS = {
    STALLED: "has not renewed its lease for {renewed}: it is stopped, or hangs",
    SILENT: "gave no sign of life; it is on another host, and renews its lease every {period}",
    DEAD: "is dead; the next live worker takes over what it held",
}
"""What is said of a worker that is not alive."""


@click.command()
@click.option("-t", "--timeout", type=Seconds(), metavar="S", help="Wait no longer for a "
              "sign of workers on other hosts; default: as long as they take.")  # fmt: skip
@click.option("-d", "--destination", metavar="NODE,…", multiple=True, callback=split_names,
              help="Only these workers, and nothing of the queues.")  # fmt: skip
@click.option("-j", "short_json", is_flag=True, help="The same as --json.")
@common_options
@click.pass_context
def status(
    ctx: click.Context, timeout: float | None, destination: tuple[str, ...], short_json: bool
) -> int:
    """Show the workers, where the store is, and what waits in it.

    The exit code is 69 if none of the workers is alive.
    """
    asked = ctx.ensure_object(Invocation)
    asked.as_json |= short_json
    target = asked.load_store()
    store, there = target.store, target.exists
    workers = observe(store, destination, timeout) if there else []
    alive = [worker.record for worker in workers if worker.state == ALIVE]
    queues, letters = [], 0
    if there and not destination:
        queues = read_backlog(target, alive)
        letters = len(store.state.dead_letters(limit=LETTERS))
    if asked.as_json:
        document: dict[str, Any] = {"store": store.name, "exists": there, "alive": len(alive)}
        document["workers"] = [worker.as_record() for worker in workers]
        if not destination:
            document["queues"] = [queue.as_record() for queue in queues]
            document["dead_letters"] = letters
        print_json(document)
        return 0 if alive else UNAVAILABLE
    show_workers(target, workers)
    for name in sorted(set(destination) - {worker.record.node for worker in workers}):
        click.echo(f"Warning: there is no worker {name} on record.", err=True)
    if alive and not asked.quiet:
        click.echo(f"{count(len(alive), 'node')} online.")
    show_backlog(target, queues, letters)
    if alive:
        return 0
    if destination:
        raise Refusal("None of these workers is alive.", UNAVAILABLE)
    raise Refusal(f"No worker is alive. Start one: {target.line('worker')}", UNAVAILABLE)


def show_backlog(target: Target, queues: list[Queue], letters: int) -> None:
    """Write what waits, and what to do about it."""
    if queues:
        click.echo()
        print_backlog(queues)
    for line in advise(target, queues):
        click.echo(line)
    if letters:
        more = " or more" if letters == LETTERS else ""
        click.echo(f"{count(letters, f'{more} dead letter'.strip())}: {target.line('dead')}")


def describe_slots(worker: Sighting) -> str:
    """How many slots a worker has, and between which numbers that changes by itself."""
    bounds = worker.record.autoscale
    return f"{worker.slots}" if bounds is None else f"{worker.slots} ({bounds[0]}-{bounds[1]})"


def show_workers(target: Target, workers: list[Sighting]) -> None:
    """Write the store and the table of workers."""
    absence = "" if target.exists else " (not made yet: the first task or worker makes it)"
    click.echo(f"store {target.store.name}{absence}")
    if not workers:
        return
    print_table(
        ("NODE", "STATE", "PID", "HOST", "SLOTS", "BUSY", "QUEUES", "SINCE", "LEASE RENEWED"),
        [
            (
                worker.record.node,
                worker.state,
                worker.record.pid,
                worker.record.host,
                describe_slots(worker),
                "" if worker.running is None else worker.running,
                ",".join(worker.record.queues),
                describe_moment(worker.record.started),
                "" if worker.renewed is None else f"{describe_duration(worker.renewed)} ago",
            )
            for worker in workers
        ],
    )
    for worker in workers:
        if worker.state in REMARKS:
            remark = REMARKS[worker.state].format(
                renewed=describe_duration(worker.renewed or 0.0),
                period=describe_duration(worker.period),
            )
            click.echo(f"{worker.record.node} {remark}.")
