"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from umbel.cli.errors import USAGE, Refusal
from umbel.cli.invocation import Invocation

if TYPE_CHECKING:
    from umbel.app import App

F = TypeVar("F", bound=Callable[..., Any])


def common_options(function: F) -> F:
    """Give a command -A, -b, --workdir and --json; the group takes them too."""
    for option in (
        click.option(
            "--json", is_flag=True, help="Write JSON, errors too.", **_kept_as("as_json")
        ),
        click.option(
            "--workdir", metavar="DIR", type=click.Path(exists=True, file_okay=False),
            help="Work in this folder; it goes first on the import path.", **_kept_as("workdir"),
        ),
        click.option(
            "-b", "--broker", metavar="URL", help="The store, instead of the app's own.",
            **_kept_as("broker"),
        ),
        click.option(
            "-A", "--app", metavar="MODULE[:APP]", help="Where the app is.",
            **_kept_as("app_name"),
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def queue_options(function: F) -> F:
    """Give a command -Q and -X; both arrive as tuples of names."""
    function = click.option(
        "-X", "--exclude-queues", "excluded", metavar="NAME,…", multiple=True, callback=_split,
        help="Leave these queues out.",
    )(function)  # fmt: skip
    return click.option(
        "-Q", "--queues", metavar="NAME,…", multiple=True, callback=_split,
        help="These queues; default: the app's own (task_queues).",
    )(function)  # fmt: skip


force_option = click.option("-f", "--force", is_flag=True, help="Do not ask.")
task_option = click.option("--task", metavar="NAME", help="Only those of this task.")


def choose_queues(app: App, queues: Sequence[str], excluded: Sequence[str]) -> list[str]:
    """The queues that -Q and -X leave of the app's; a usage error if there are none."""
    from umbel.exceptions import ImproperlyConfigured, QueueNotFound

    try:
        known = app.amqp.queues
        if queues:
            known.select(queues)
        known.deselect(excluded)
    except (ImproperlyConfigured, QueueNotFound) as error:
        raise Refusal(str(error), USAGE) from error
    chosen = list(known.consume_from)
    if not chosen:
        raise click.UsageError("-X leaves no queue; name those that you want with -Q.")
    return chosen


def confirm(question: str, *, force: bool, as_json: bool) -> None:
    """Ask, unless forced; a refusal ends the command."""
    if force:
        return
    if as_json:
        raise Refusal("With --json nobody is asked: say -f (--force) to go ahead.", USAGE)
    if not click.confirm(question, err=True):
        raise Refusal("Nothing was changed.")


def _kept_as(name: str) -> dict[str, Any]:
    """What makes an option set a field of the `Invocation`; the later place on the line wins."""

    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Invocation), name, value)

    return {"expose_value": False, "callback": keep, "is_eager": True}


def _split(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
