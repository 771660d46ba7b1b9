"""`umbel queues`: what lies in the queues, and who serves them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from umbel.cli.backlog import advise, print_backlog, read_backlog
from umbel.cli.errors import FAILURE, Refusal
from umbel.cli.invocation import Invocation, Target, announce, live_workers
from umbel.cli.options import common_options, complete_queue
from umbel.cli.output import print_json


@click.command()
@click.option("--pause", "paused", metavar="NAME", multiple=True, shell_complete=complete_queue,
              help="Let no worker take from this queue; what runs goes on.")  # fmt: skip
@click.option("--resume", "resumed", metavar="NAME", multiple=True, shell_complete=complete_queue,
              help="End a pause.")  # fmt: skip
@common_options
@click.pass_context
def queues(ctx: click.Context, paused: tuple[str, ...], resumed: tuple[str, ...]) -> None:
    """Show the queues, and who serves them."""
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    if not target.exists and (paused or resumed):
        raise Refusal(f"There is no store yet at {target.store.name}.", FAILURE)
    if paused:
        pause(target, paused)
    for name in resumed:
        if not target.store.state.resume(name):
            click.echo(f"Warning: the queue {name} was not paused.", err=True)
    found = read_backlog(target, live_workers(target.store)) if target.exists else []
    if asked.as_json:
        rows = [queue.as_record() for queue in found]
        print_json({"store": target.store.name, "exists": target.exists, "queues": rows})
    elif announce(target):
        if not found:
            click.echo("No queue holds anything, and no worker runs.")
            return
        print_backlog(found)
        for line in advise(target, found):
            click.echo(line)


def pause(target: Target, names: Sequence[str]) -> None:
    """Pause queues; of one that nobody knows it is said, as it may be a typo."""
    known = {queue.queue for queue in read_backlog(target, live_workers(target.store))}
    for name in names:
        target.store.state.pause(name)
        if name not in known:
            text = f"Note: {name} is empty, and no live worker serves it; it is paused now."
            click.echo(text, err=True)
