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
    """Give a command -A, -b, --workdir and --json, and Celery's global options, hidden."""
    return _add_options(function, hidden=True)


def global_options(function: F) -> F:
    """Give the group all of them; `CELERY_APP` and the like stand for what is not given."""
    return _add_options(function, hidden=False)


def _add_options(function: F, *, hidden: bool) -> F:
    def variables(*names: str) -> list[str]:
        return [] if hidden else list(names)

    for option in (
        click.option(
            "--skip-checks", is_flag=True, hidden=True, **_kept_as("skip_checks"),
        ),
        click.option(
            "--loader", metavar="CLASS", hidden=True, expose_value=False, callback=refuse_loader,
        ),
        click.option(
            "-q", "--quiet", is_flag=True, hidden=hidden, help="Say less.", **_kept_as("quiet"),
        ),
        click.option(
            "-C", "--no-color", is_flag=True, hidden=hidden, help="No colours, as with NO_COLOR.",
            **_kept_as("no_color"),
        ),
        click.option(
            "--config", metavar="MODULE", hidden=hidden, help="The configuration of an app that "
            "has none.", **_kept_as("config"),
        ),
        click.option(
            "--result-backend", metavar="URL", hidden=hidden, help="Where results are kept.",
            **_kept_as("result_backend"),
        ),
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
            envvar=variables("UMBEL_APP", "CELERY_APP"), **_kept_as("app_name"),
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def refuse_loader(_: click.Context, __: click.Parameter, value: str | None) -> None:
    """Answer --loader: there are none."""
    if value is not None:
        raise click.UsageError(
            "--loader is refused: the app is found by -A, and its modules by the settings "
            "include and imports."
        )


def queue_options(function: F) -> F:
    """Give a command -Q and -X; both arrive as tuples of names."""
    function = click.option(
        "-X", "--exclude-queues", "excluded", metavar="NAME,…", multiple=True, callback=split_names,
        help="Leave these queues out.",
    )(function)  # fmt: skip
    return click.option(
        "-Q", "--queues", metavar="NAME,…", multiple=True, callback=split_names,
        help="These queues; default: the app's own (task_queues).",
    )(function)  # fmt: skip


def force_option(function: F) -> F:
    """Give a command -f."""
    return click.option("-f", "--force", is_flag=True, help="Do not ask.")(function)


def task_option(function: F) -> F:
    """Give a command --task."""
    return click.option("--task", metavar="NAME", help="Only those of this task.")(function)


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


def split_names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Names from an option that may be given more than once, each time with commas."""
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
