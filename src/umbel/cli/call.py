"""`umbel call`: send a task by its name."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.errors import FAILURE, USAGE, Refusal
from umbel.cli.invocation import Invocation, Target, interruption
from umbel.cli.options import Seconds, common_options, complete_queue, complete_task
from umbel.cli.output import describe_value, print_dim, print_json

if TYPE_CHECKING:
    from umbel.result import AsyncResult

NEGATIVE: Final = re.compile(r"-\.?\d")
"""A negative number is an argument, not an option."""


class CallCommand(click.Command):
    """Takes negative numbers, and all after `--`, as arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a line; `NoSuchOption` for what looks like an option and is none."""
        place = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:place])
        words = ctx.params.get("words", ())
        options = [name for parameter in self.params for name in parameter.opts]
        for word in (ctx.params.get("name") or "", *words):
            if word.startswith("-") and word != "-" and not NEGATIVE.match(word):
                raise click.NoSuchOption(word.partition("=")[0], possibilities=options, ctx=ctx)
        ctx.params["words"] = (*words, *args[place + 1 :])
        return rest


def read_moment(_: object, __: object, value: str | None) -> float | str | None:
    """A number, or a time as ISO 8601 text."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        if math.isfinite(number):
            return number
    try:
        datetime.fromisoformat(value)
    except ValueError:
        message = f"{value!r} is neither a number of seconds nor a time as ISO 8601."
        raise click.BadParameter(message) from None
    return value


def read_array(_: object, __: object, text: str | None) -> list[Any]:
    """A JSON array; an empty one without a text."""
    value = _read_json(text, "'[1, 2]'")
    if value is None:
        return []
    if not isinstance(value, list):
        raise click.BadParameter(f"{text} is no array; write it like '[1, 2]'.")
    return value


def read_object(_: object, __: object, text: str | None) -> dict[str, Any]:
    """A JSON object; an empty one without a text."""
    value = _read_json(text, """'{"key": 1}'""")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text} is no object; write it like '{{\"key\": 1}}'.")
    return value


def _read_json(text: str | None, example: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        message = f"{text!r} is not JSON ({error}); write it like {example}."
        raise click.BadParameter(message) from None


@click.command(cls=CallCommand, context_settings={"ignore_unknown_options": True})
@click.argument("name", shell_complete=complete_task)
@click.argument("words", metavar="[ARG…] [KEY=VALUE…]", nargs=-1)
@click.option(
    "-a", "--args", callback=read_array, metavar="JSON", help="Arguments as a JSON array."
)
@click.option(
    "-k",
    "--kwargs",
    callback=read_object,
    metavar="JSON",
    help="Keyword arguments as a JSON object.",
)
@click.option("--countdown", type=float, metavar="S", help="Run it so many seconds from now.")
@click.option(
    "--eta",
    callback=read_moment,
    metavar="TIME",
    help="Run it at this time: ISO 8601, or Unix time.",
)
@click.option(
    "--expires",
    callback=read_moment,
    metavar="TIME",
    help="Drop it if it has not started: seconds, or a time.",
)
@click.option("--serializer", metavar="NAME", help="What to write the arguments in.")
@click.option("--queue", metavar="NAME", shell_complete=complete_queue)
@click.option("--exchange", metavar="NAME", help="Send it to an exchange, with --routing-key.")
@click.option("--routing-key", metavar="KEY", help="Which of the exchange's queues get it.")
@click.option("--priority", metavar="N", type=click.IntRange(0, 9), help="9 is the most urgent.")
@click.option("--task-id", metavar="ID", help="The id, instead of a new one.")
@click.option("--wait", is_flag=True, help="Wait for the task's end and print its result.")
@click.option("--timeout", type=Seconds(), metavar="S", help="Wait no longer.")
@common_options
@click.pass_context
def call(
    ctx: click.Context,
    /,
    name: str,
    words: tuple[str, ...],
    args: list[Any],
    kwargs: dict[str, Any],
    wait: bool,
    timeout: float | None,
    **options: Any,
) -> int:
    """Send a task and print its id.

    An argument is JSON, else text.

    \b
    umbel call tasks.add 2 3
    umbel call tasks.greet name=Ann
    """  # noqa: D301  (click's mark of lines that stay as they are)
    if timeout is not None and not wait:
        raise click.UsageError("--timeout says how long to --wait.")
    asked = ctx.ensure_object(Invocation)
    more_args, more_kwargs = read_words(words)
    doubled = kwargs.keys() & more_kwargs.keys()
    if doubled:
        raise click.UsageError(f"{min(doubled)!r} is given twice, in --kwargs and alone.")
    target = asked.load_store()
    if wait:
        require_results(target)
    given = {option: value for option, value in options.items() if value is not None}
    result = send(target, name, [*args, *more_args], {**kwargs, **more_kwargs}, given)
    if wait:
        if not asked.as_json:
            click.echo(result.id, err=True)
        return await_result(asked, target, result, timeout)
    if asked.as_json:
        document = {"store": target.store.name, "id": result.id, "task": name}
        print_json({**document, "known": name in target.app.tasks})
    else:
        print_dim(f"store {target.store.name}")
        click.echo(result.id)
    return 0


def require_results(target: Target) -> None:
    """A `Refusal` where nobody could wait for one."""
    from umbel.exceptions import ImproperlyConfigured

    try:
        _ = target.app.results
    except ImproperlyConfigured as error:
        raise Refusal(f"{error} Nothing was queued.", USAGE) from error


def read_words(words: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments; a word that is no JSON is text."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.isidentifier()):
            args.append(_read_word(word))
        elif key in kwargs:
            raise click.UsageError(f"{key!r} is given twice.")
        else:
            kwargs[key] = _read_word(value)
    return args, kwargs


def _read_word(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def send(
    target: Target, name: str, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> AsyncResult[Any]:
    """Send a task, with a warning if the app does not know it."""
    from umbel.app.sending.queues import check_name
    from umbel.exceptions import ImproperlyConfigured, QueueNotFound, SerializerNotInstalled

    try:
        if "queue" in options:
            check_name(options["queue"])
    except ImproperlyConfigured as error:
        raise Refusal(str(error), USAGE) from error
    task = target.app.tasks.get(name)
    try:
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        click.echo(_warn(target, name), err=True)
        return target.app.send_task(name, args, kwargs, **options)
    except (
        TypeError,
        ValueError,
        QueueNotFound,
        SerializerNotInstalled,
    ) as error:  # arguments that do not fit or cannot be sent
        raise Refusal(str(error), USAGE) from error


def _warn(target: Target, name: str) -> str:
    near = target.app.tasks.nearest(name)
    hint = f" The nearest that it has: {near}." if near else ""
    app = f"The app {target.name} has no" if target.name else "Without an app nobody knows a"
    return f"Warning: {app} task {name!r}.{hint} It is sent all the same."


def await_result(
    asked: Invocation, target: Target, result: AsyncResult[Any], timeout: float | None
) -> int:
    """Wait for a task's end and print its result; the exit code."""
    from umbel import exceptions, states

    try:
        value = result.get(timeout, propagate=False)
    except exceptions.TimeoutError as error:
        raise Refusal(str(error), id=result.id) from error
    except KeyboardInterrupt as error:
        raise interruption(target, result.id) from error
    failed = result.state in states.PROPAGATE_STATES
    if asked.as_json:
        document: dict[str, Any] = {"store": target.store.name, "id": result.id}
        document["state"] = result.state
        if failed:
            what = {"type": type(value).__qualname__, "message": str(value)}
            document["error"] = {**what, "traceback": result.traceback}
        else:
            document["result"] = value
        print_json(document)
    elif failed:
        click.echo(
            (result.traceback or "").rstrip() or f"{type(value).__qualname__}: {value}", err=True
        )
    else:
        click.echo(describe_value(value))
    return FAILURE if failed else 0
