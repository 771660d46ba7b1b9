"""`umbel purge`: drop what waits in queues."""

from __future__ import annotations

import click

from umbel.cli.invocation import Invocation, announce
from umbel.cli.options import choose_queues, common_options, confirm, force_option, queue_options
from umbel.cli.output import count, print_json


@click.command()
@queue_options
@force_option
@common_options
@click.pass_context
def purge(
    ctx: click.Context, queues: tuple[str, ...], excluded: tuple[str, ...], force: bool
) -> None:
    """Drop the messages that wait in queues.

    Delayed ones too; what a worker has claimed stays. Tasks of workflows are revoked, so that
    chords and the steps after them end.
    """
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    chosen = choose_queues(target.app, queues, excluded)
    waiting = dropped = 0
    if target.exists:
        counts = target.store.broker.counts()
        waiting = sum(q.ready + q.delayed for q in counts if q.queue in chosen)
    names = ", ".join(chosen)
    if waiting:
        question = f"Drop {count(waiting, 'message')} waiting in {names} of {target.store.name}?"
        confirm(question, force=force, as_json=asked.as_json)
        from umbel.app.purging import purge as purge_queues

        dropped = purge_queues(target.app, chosen)
    if asked.as_json:
        place = {"store": target.store.name, "exists": target.exists}
        print_json({**place, "queues": chosen, "dropped": dropped})
    elif announce(target):
        click.echo(f"{count(dropped, 'message')} dropped from {names}")
