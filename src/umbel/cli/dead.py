"""`umbel dead`: the dead-letter queue."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from umbel.cli.errors import FAILURE, USAGE, Refusal
from umbel.cli.invocation import Invocation, Target, announce
from umbel.cli.options import common_options, confirm, force_option, task_option
from umbel.cli.output import count, describe_moment, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.engines.redis.unacked import Unacked
    from umbel.engines.state import DeadLetter

F = TypeVar("F", bound=Callable[..., Any])


class Letters(click.Group):
    """The group `umbel dead`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; `UsageError` names the nearest one."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            from umbel.cli.absent import suggest

            hint = suggest(args[0], self.commands)
            raise click.UsageError(f"There is no command dead {args[0]}. {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Letters, invoke_without_command=True)
@common_options
@click.pass_context
def dead(ctx: click.Context) -> None:
    """List, show, replay and drop dead letters; recover what dead Celery workers held.

    A letter goes by its number or by its task's id. Without a command: list.
    """
    if ctx.invoked_subcommand is None:
        list_letters(ctx.ensure_object(Invocation), task=None, limit=100)


@dead.command("list")
@task_option
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True)
@common_options
@click.pass_context
def list_command(ctx: click.Context, task: str | None, limit: int) -> None:
    """List dead letters, newest first."""
    list_letters(ctx.ensure_object(Invocation), task, limit)


def list_letters(asked: Invocation, task: str | None, limit: int) -> None:
    """List the newest dead letters."""
    target = asked.load_store()
    letters: list[DeadLetter] = []
    if target.exists:
        letters = target.store.state.dead_letters(limit=limit, task=task)
    if asked.as_json:
        place = {"store": target.store.name, "exists": target.exists}
        print_json({**place, "dead_letters": [_as_record(letter) for letter in letters]})
    elif announce(target):
        if not letters:
            click.echo("No dead letters.")
            return
        print_table(
            ("NUMBER", "ID", "TASK", "QUEUE", "REASON", "BURIED", "DETAIL"),
            [
                (
                    letter.number, letter.id, letter.task, letter.queue, letter.reason,
                    describe_moment(letter.at), letter.detail.partition("\n")[0],
                )
                for letter in letters
            ],
        )  # fmt: skip


@dead.command("show")
@click.argument("id")
@common_options
@click.pass_context
def show_command(ctx: click.Context, id: str) -> None:
    """Show one dead letter whole: its cause, and its arguments."""
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    letter = _find(target, id)
    message = _read_message(target.app, letter)
    if asked.as_json:
        print_json({"store": target.store.name, **_as_record(letter), **message})
        return
    announce(target)
    print_pairs(
        [
            ("number", letter.number),
            ("id", letter.id),
            ("task", letter.task),
            ("queue", letter.queue),
            ("args", message["args"]),
            ("kwargs", message["kwargs"]),
            ("payload", message["payload"]),
            ("buried", describe_moment(letter.at)),
            ("deliveries", letter.deliveries),
            ("reason", letter.reason),
            ("detail", letter.detail.rstrip()),
            ("run again", target.line("dead", "replay", str(letter.number))),
        ]
    )


def selection(function: F) -> F:
    """Give a command the ways to say which letters: ids, --all, --task."""
    for option in (
        common_options,
        force_option,
        task_option,
        click.option("--all", "every", is_flag=True, help="All of them."),
        click.argument("ids", metavar="[ID…]", nargs=-1),
    ):
        function = option(function)
    return function


@dead.command("replay")
@selection
@click.pass_context
def replay_command(
    ctx: click.Context, ids: tuple[str, ...], every: bool, task: str | None, force: bool
) -> None:
    """Put dead letters back into their queues, with a clean record.

    Letters that are named one by one are replayed without a question.
    """
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    numbers = _select(target, ids, every, task)
    if numbers and not ids:
        question = f"Replay {count(len(numbers), 'dead letter')} of {target.store.name}?"
        confirm(question, force=force, as_json=asked.as_json)
    done = target.store.state.replay(numbers) if numbers else 0
    _report(asked, target, "replayed", done)


@dead.command("drop")
@selection
@click.pass_context
def drop_command(
    ctx: click.Context, ids: tuple[str, ...], every: bool, task: str | None, force: bool
) -> None:
    """Delete dead letters for good."""
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    numbers = _select(target, ids, every, task)
    if numbers:
        question = f"Drop {count(len(numbers), 'dead letter')} of {target.store.name} for good?"
        confirm(question, force=force, as_json=asked.as_json)
    done = target.store.state.drop(numbers) if numbers else 0
    _report(asked, target, "dropped", done)


@dead.command("recover")
@click.option("--dry-run", is_flag=True, help="Only list what lies there.")
@click.option("--wait", type=click.FloatRange(0.1), default=5.0, show_default=True,
              metavar="SECONDS", help="How long living Celery workers may take.")  # fmt: skip
@force_option
@common_options
@click.pass_context
def recover_command(ctx: click.Context, dry_run: bool, wait: float, force: bool) -> None:
    """Put back what dead Celery workers left unacknowledged on Redis.

    All living Celery workers are asked what they hold, and that is left alone. If one of them does
    not answer, nothing is done.
    """
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    unacked = _unacked_of(target)
    from umbel.engines.redis.unacked import Unanswered

    try:
        found = unacked.look(wait)
    except Unanswered as error:
        raise Refusal(
            f"{error.living - error.answered} of {count(error.living, 'living Celery worker')} did "
            f"not answer within {wait:g} s, so nobody knows what is theirs. Nothing was changed. "
            "Try --wait with more seconds, or stop these workers first.",
            FAILURE,
        ) from None
    left = [one for one in found if not one.held and one.queue]
    recovered = 0
    if left and not dry_run:
        question = f"Put {count(len(left), 'message')} of {target.store.name} back?"
        confirm(question, force=force, as_json=asked.as_json)
        recovered = unacked.recover(left)
    if asked.as_json:
        rows = [
            {"tag": one.tag, "id": one.id, "task": one.task, "queue": one.queue or None,
             "received": one.received, "held": one.held}
            for one in found
        ]  # fmt: skip
        print_json({"store": target.store.name, "unacked": rows, "recovered": recovered})
    elif announce(target):
        if found and (dry_run or len(left) < len(found)):
            print_table(
                ("ID", "TASK", "QUEUE", "RECEIVED", "HELD BY"),
                [
                    (
                        one.id, one.task, one.queue or "(unknown)",
                        describe_moment(one.received) if one.received else "",
                        "a living worker" if one.held else "nobody",
                    )
                    for one in found
                ],
            )  # fmt: skip
        click.echo(f"{count(len(left) if dry_run else recovered, 'message')} "
                   f"{'would be ' if dry_run else ''}put back")  # fmt: skip


def _unacked_of(target: Target) -> Unacked:
    """What Celery workers share; `Refusal` if this store is none of theirs."""
    from umbel.engines.urls import REDIS

    if target.app.broker_url.partition(":")[0] in REDIS:
        from umbel.engines.apart import ApartEngine
        from umbel.engines.redis import RedisEngine

        store = target.store
        engine = store.messages if isinstance(store, ApartEngine) else store
        if isinstance(engine, RedisEngine):
            return engine.unacked
    raise Refusal(f"{target.store.name} is no Redis, so no Celery worker left anything.", USAGE)


def _report(asked: Invocation, target: Target, verb: str, done: int) -> None:
    if asked.as_json:
        print_json({"store": target.store.name, "exists": target.exists, verb: done})
    elif announce(target):
        click.echo(f"{count(done, 'dead letter')} {verb}")


def _select(target: Target, ids: Sequence[str], every: bool, task: str | None) -> list[int]:
    """The numbers of the letters that a command line means."""
    if (bool(ids), every, task is not None).count(True) != 1:
        raise click.UsageError("Say which: either ids, or --all, or --task NAME.")
    if ids:
        return list(dict.fromkeys(_find(target, id).number for id in ids))
    if not target.exists:
        return []
    letters = target.store.state.dead_letters(limit=sys.maxsize, task=task)
    return [letter.number for letter in letters]


def _find(target: Target, id: str) -> DeadLetter:
    letter = target.store.state.dead_letter(id) if target.exists else None
    if letter is None:
        raise Refusal(f"There is no dead letter {id} in {target.store.name}.", FAILURE)
    return letter


def _as_record(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number, "id": letter.id, "task": letter.task, "queue": letter.queue,
        "reason": letter.reason, "detail": letter.detail, "buried": letter.at,
        "deliveries": letter.deliveries,
    }  # fmt: skip


def _read_message(app: App, letter: DeadLetter) -> dict[str, Any]:
    """The message's arguments; of one that cannot be read, its bytes as far as they are text.

    Its body is left out then: it may hold arguments that the headers call secret.
    """
    from umbel.exceptions import ContentDisallowed, DecodeError, SecurityError
    from umbel.message import task as task_message
    from umbel.message.content import PICKLE, content_types

    # Pickle is code, and a letter may be here because nobody should run what it brings.
    accept = content_types(app.conf.accept_content) - {PICKLE}
    try:
        message = task_message.decode(letter.payload, accept, app.conf.task_max_message_bytes)
    except (ContentDisallowed, DecodeError, SecurityError):
        return {"args": None, "kwargs": None, "payload": _without_body(letter.payload)}
    hidden = message.headers.secret or ()
    shown = task_message.hide(hidden, message.args, message.kwargs)
    args, kwargs = (json.loads(json.dumps(value, default=str)) for value in shown)
    return {"args": args, "kwargs": kwargs, "payload": None}


def _without_body(payload: bytes) -> str:
    try:
        envelope = json.loads(payload)
        envelope["body"] = f"(not shown: {len(envelope['body'])} characters)"
    except (ValueError, TypeError, KeyError, RecursionError):
        return payload.decode("utf-8", "backslashreplace")
    return json.dumps(envelope)
