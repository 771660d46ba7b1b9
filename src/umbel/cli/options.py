"""The options that commands share."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from umbel.cli.errors import USAGE, Refusal
from umbel.cli.invocation import Invocation, Target

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
            "--skip-checks", is_flag=True, hidden=True, expose_value=False,
            callback=note_skipped_checks,
        ),
        click.option(
            "--loader", metavar="CLASS", hidden=True, expose_value=False, callback=refuse_loader,
        ),
        click.option(
            "-q", "--quiet", is_flag=True, hidden=hidden, help="Say less.",
            envvar=variables("CELERY_QUIET"), **_kept_as("quiet"),
        ),
        click.option(
            "-C", "--no-color", is_flag=True, hidden=hidden, help="No colours, as with NO_COLOR.",
            envvar=variables("CELERY_NO_COLOR"), **_kept_as("no_color"),
        ),
        click.option(
            "--config", metavar="MODULE", hidden=hidden, help="The configuration of an app that "
            "has none.", envvar=variables("CELERY_CONFIG"), **_kept_as("config"),
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
            help="Work in this folder; it goes first on the import path.",
            envvar=variables("CELERY_WORKDIR"), **_kept_as("workdir"),
        ),
        click.option(
            "-b", "--broker", metavar="URL", help="The store, instead of the app's own.",
            envvar=variables("CELERY_BROKER"), **_kept_as("broker"),
        ),
        click.option(
            "-A", "--app", metavar="MODULE[:APP]", help="Where the app is.",
            shell_complete=complete_app, envvar=variables("UMBEL_APP", "CELERY_APP"),
            **_kept_as("app_name"),
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def read_variables(command: click.Command) -> None:
    """Let variables stand for a command's options: `CELERY_WORKER_CONCURRENCY` for `-c` (Celery).

    Those that every command has are left to the group.
    """
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None and option.name:
            long = next((name for name in option.opts if name.startswith("--")), "")
            if long and long not in GLOBAL:
                words = f"{command.name}{long.replace('--', '_', 1)}"
                option.envvar = f"CELERY_{words}".replace("-", "_").upper()


GLOBAL: Final = frozenset(
    ("--app", "--broker", "--workdir", "--json", "--result-backend", "--config", "--no-color",
     "--quiet", "--loader", "--skip-checks")
)  # fmt: skip
"""The long names of the options that every command has."""


# ------------------------------------------------------------------ what a shell may complete


def complete_app(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The apps of the working directory."""
    from pathlib import Path

    from umbel.app.loading import survey

    found = survey(Path(ctx.ensure_object(Invocation).workdir or ".").resolve())
    return [app.name for app in found.apps if app.name.startswith(begun)]


def complete_task(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The tasks of the app."""
    target = _load_in_silence(ctx)
    return sorted(name for name in target.app.tasks if name.startswith(begun)) if target else []


def complete_queue(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The queues that the app declares, and those that hold something."""
    target = _load_in_silence(ctx)
    if target is None:
        return []
    held = target.store.broker.counts() if target.exists else []
    names = {*target.app.amqp.queues, *(count.queue for count in held)}
    return sorted(name for name in names if name.startswith(begun))


def _load_in_silence(ctx: click.Context) -> Target | None:
    """The app; None for whatever reason, since nobody can be told on a half-typed line."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, \
            contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # fmt: skip
        try:
            return ctx.ensure_object(Invocation).load()
        except (Exception, SystemExit):  # noqa: BLE001
            return None


def note_skipped_checks(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Answer --skip-checks: there is nothing to skip yet."""
    if value:
        reason = "Django's checks come with the Django integration; none are made in this version"
        ctx.ensure_object(Invocation).notes.append(f"--skip-checks has no effect: {reason}")


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
        help="Leave these queues out.", shell_complete=complete_queue,
    )(function)  # fmt: skip
    return click.option(
        "-Q", "--queues", metavar="NAME,…", multiple=True, callback=split_names,
        help="These queues; default: the app's own (task_queues).", shell_complete=complete_queue,
    )(function)  # fmt: skip


def force_option(function: F) -> F:
    """Give a command -f."""
    return click.option("-f", "--force", is_flag=True, help="Do not ask.")(function)


def task_option(function: F) -> F:
    """Give a command --task."""
    return click.option(
        "--task", metavar="NAME", help="Only those of this task.", shell_complete=complete_task
    )(function)


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


class Seconds(click.FloatRange):
    """How long to wait: from 0, and a number; nan would be for ever."""

    name = "float"

    def __init__(self) -> None:
        super().__init__(0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; a usage error for nan."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


def confirm(question: str, *, force: bool, as_json: bool) -> None:
    """Ask, unless forced; a refusal ends the command."""
    if force:
        return
    if as_json:
        raise Refusal("With --json nobody is asked: say -f (--force) to go ahead.", USAGE)
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        message = "Aborted: nobody answered, and nothing was changed. Say -f (--force) to go ahead."
        raise Refusal(message) from None
    if not agreed:
        raise Refusal("Nothing was changed.")


def _kept_as(name: str) -> dict[str, Any]:
    """What makes an option set a field of the `Invocation`; the later place on the line wins."""

    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Invocation), name, value)
            if name == "no_color":
                ctx.color = False

    return {"expose_value": False, "callback": keep, "is_eager": True}


def split_names(
    ctx: click.Context, option: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    """Names from an option that may be given more than once, each time with commas.

    `BadParameter` where it is given and names nothing: that must not mean the default.
    """
    names = (name.strip() for value in values for name in value.split(","))
    found = tuple(dict.fromkeys(name for name in names if name))
    if values and not found:
        raise click.BadParameter("it names nothing; give a name, or leave it out.", ctx, option)
    return found
