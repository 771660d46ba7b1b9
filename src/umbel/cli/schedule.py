"""`umbel schedule`: periodic tasks at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from umbel.cli.call import CallCommand, read_array, read_object, read_words
from umbel.cli.errors import FAILURE, Refusal
from umbel.cli.invocation import Invocation, Target, announce
from umbel.cli.options import common_options, confirm, force_option
from umbel.cli.output import count, describe_duration, describe_moment, print_json, print_table

if TYPE_CHECKING:
    from umbel.beat import PeriodicTask, Schedules

F = TypeVar("F", bound=Callable[..., Any])

WHEN: Final = ("every", "cron", "crontab", "at", "solar")
"""The options that say when; one of them."""
file_option = click.option(
    "-s", "--schedule", "file", metavar="FILE",
    help="The file of `umbel beat -s`; default: the store, or beat_schedule_filename.",
)  # fmt: skip


def entry_options(function: F) -> F:
    """Give a command the options of an entry."""
    for option in (
        click.option("--jitter", type=click.FloatRange(0), metavar="S",
                     help="Put each run off by up to so many seconds, at random."),
        click.option("--misfire-limit", type=click.IntRange(1), metavar="N",
                     help="How many `all` runs at most, the latest ones; default: 100."),
        click.option("--misfire", type=click.Choice(("skip", "once", "all")),
                     help="What becomes of ticks that came while no scheduler ran: run none, the "
                     "latest (the default), or all."),
        click.option("--timezone", metavar="ZONE", help="Its time zone, such as Europe/Vienna."),
        click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent."),
        click.option("--expires", type=float, metavar="S",
                     help="Drop a run that has not started after so many seconds."),
        click.option("--queue", metavar="NAME"),
        click.option("-k", "--kwargs", callback=read_object, metavar="JSON",
                     help="Keyword arguments as a JSON object."),
        click.option("-a", "--args", callback=read_array, metavar="JSON",
                     help="Arguments as a JSON array."),
        click.option("--solar", type=(str, float, float), metavar="EVENT LAT LON",
                     help="At an event of the sun: sunset 48.2 16.4."),
        click.option("--at", metavar="TIME", help="Once, at this time (ISO 8601)."),
        click.option("--crontab", metavar="LINE",
                     help="Celery's fields in cron's order; both kinds of day have to fit."),
        click.option("--cron", metavar="LINE", help="As a line of cron: '0 4 * * mon-fri'."),
        click.option("--every", type=click.FloatRange(0, min_open=True), metavar="S",
                     help="Every so many seconds."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(invoke_without_command=True)
@file_option
@common_options
@click.pass_context
def schedule(ctx: click.Context, file: str | None) -> None:
    """List, add, edit, pause, run and remove periodic tasks.

    All schedulers follow within a second. Without a command: list.
    """
    if ctx.invoked_subcommand is None:
        list_tasks(ctx.ensure_object(Invocation), file)
    elif file is not None:
        raise click.UsageError("-s FILE comes after the command: umbel schedule list -s FILE.")


@schedule.command("list")
@file_option
@common_options
@click.pass_context
def list_command(ctx: click.Context, file: str | None) -> None:
    """List the periodic tasks."""
    list_tasks(ctx.ensure_object(Invocation), file)


def list_tasks(asked: Invocation, file: str | None) -> None:
    """List the periodic tasks, and say which are overdue."""
    target, schedules = _open(asked, file)
    found = schedules.list() if schedules else []
    overdue = [task for task in found if task.overdue]
    if asked.as_json:
        place = {"store": target.store.name, "exists": target.exists}
        rows = [_as_record(task) for task in found]
        print_json({**place, "overdue": len(overdue), "schedule": rows})
    elif announce(target):
        if not found:
            click.echo("No periodic tasks.")
            return
        print_table(
            ("NAME", "TASK", "SCHEDULE", "NEXT", "LAST", "RUNS", "MISSED", "FROM"),
            [
                (
                    task.name, task.task, task.schedule, _describe_next(task),
                    None if task.last is None else describe_moment(task.last.timestamp()),
                    task.runs, task.missed, task.declared_by or "run time",
                )
                for task in found
            ],
        )  # fmt: skip
        for task in found:
            if task.error:
                click.echo(f"The last tick of {task.name} could not be sent: {task.error}")
        if overdue:
            click.echo(
                f"{count(len(overdue), 'periodic task')} overdue. Is a scheduler running? Start "
                f"one: {target.line('beat')}"
            )


@schedule.command("add", cls=CallCommand, context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("task")
@click.argument("words", metavar="[ARG…] [KEY=VALUE…]", nargs=-1)
@entry_options
@file_option
@common_options
@click.pass_context
def add_command(
    ctx: click.Context, /, name: str, task: str, words: tuple[str, ...], file: str | None,
    **given: Any,
) -> None:  # fmt: skip
    """Add a periodic task.

    umbel schedule add night tasks.clean --cron '30 3 * * *' --timezone Asia/Shanghai
    """
    when = _read_when(given)
    if when is None:
        raise click.UsageError(f"Say when: one of {', '.join(f'--{name}' for name in WHEN)}.")
    asked = ctx.ensure_object(Invocation)
    target, schedules = _open(asked, file, make=True, add=True)
    if task not in target.app.tasks:
        click.echo(f"Warning: {target.name or 'the app'} knows no task {task!r}.", err=True)
    more = _read_entry(given, words)
    _do(asked, lambda: schedules.add(name, when, task, **more), f"{name} added")


@schedule.command("edit", cls=CallCommand, context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("words", metavar="[ARG…] [KEY=VALUE…]", nargs=-1)
@click.option("--task", metavar="NAME", help="The task to run.")
@entry_options
@file_option
@common_options
@click.pass_context
def edit_command(
    ctx: click.Context, /, name: str, words: tuple[str, ...], task: str | None, file: str | None,
    **given: Any,
) -> None:  # fmt: skip
    """Change what is given of a periodic task that was added at run time.

    With another time or zone it starts afresh from now; else its next tick stays.
    """
    when = _read_when(given)
    changes = _read_entry(given, words)
    changes |= {key: value for key, value in (("schedule", when), ("task", task)) if value}
    if not changes:
        raise click.UsageError("Say what to change.")
    asked = ctx.ensure_object(Invocation)
    _, schedules = _open(asked, file, make=True)
    if "options" in changes:
        changes["options"] = {**_demand(schedules, name).options, **changes["options"]}
    _do(asked, lambda: schedules.edit(name, **changes), f"{name} changed")


@schedule.command("pause")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@file_option
@common_options
@click.pass_context
def pause_command(ctx: click.Context, names: tuple[str, ...], file: str | None) -> None:
    """Fire no ticks until `resume`; those that come meanwhile are not made up for."""
    _for_each(ctx, names, file, lambda schedules, name: schedules.pause(name), "paused")


@schedule.command("resume")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@file_option
@common_options
@click.pass_context
def resume_command(ctx: click.Context, names: tuple[str, ...], file: str | None) -> None:
    """End a pause."""
    _for_each(ctx, names, file, lambda schedules, name: schedules.resume(name), "resumed")


@schedule.command("remove")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@force_option
@file_option
@common_options
@click.pass_context
def remove_command(
    ctx: click.Context, names: tuple[str, ...], force: bool, file: str | None
) -> None:
    """Remove periodic tasks. What the code declares comes back when a scheduler starts."""
    asked = ctx.ensure_object(Invocation)
    confirm(f"Remove {', '.join(names)}?", force=force, as_json=asked.as_json)
    _for_each(ctx, names, file, lambda schedules, name: schedules.remove(name), "removed")


@schedule.command("run")
@click.argument("name")
@file_option
@common_options
@click.pass_context
def run_command(ctx: click.Context, name: str, file: str | None) -> None:
    """Send its task now, besides its ticks, and print the task's id."""
    asked = ctx.ensure_object(Invocation)
    _, schedules = _open(asked, file, make=True)
    id = schedules.run(name)
    if asked.as_json:
        print_json({"name": name, "id": id})
    else:
        click.echo(id)


@schedule.command("next")
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option("-n", "--count", "number", type=click.IntRange(1), default=5, show_default=True)
@file_option
@common_options
@click.pass_context
def next_command(ctx: click.Context, names: tuple[str, ...], number: int, file: str | None) -> None:
    """Print the coming times of all periodic tasks or some, each in its own time zone."""
    asked = ctx.ensure_object(Invocation)
    target, schedules = _open(asked, file)
    if schedules is None:
        if names:
            raise Refusal(f"There is no store yet at {target.store.name}.", FAILURE)
        names = ()
        coming: dict[str, Sequence[datetime]] = {}
    else:
        chosen = names or [task.name for task in schedules.list()]
        coming = {name: schedules.next(name, number) for name in chosen}
    if asked.as_json:
        rows = {name: [time.isoformat() for time in times] for name, times in coming.items()}
        print_json({"store": target.store.name, "exists": target.exists, "next": rows})
        return
    for name, times in coming.items():
        if len(coming) > 1:
            click.echo(name)
        for time in times:
            click.echo(f"{'  ' if len(coming) > 1 else ''}{_spell(time)}")
        if not times:
            click.echo(f"{name} has no tick to come.", err=True)


# ------------------------------------------------------------------------------- within


def _open(
    asked: Invocation, file: str | None, *, make: bool = False, add: bool = False
) -> tuple[Target, Any]:
    """The app, and its periodic tasks; without `make` None for those while there is no store.

    Only with `add` a file that is named is made if it is not there.
    """
    from umbel.beat import Schedules, open_store
    from umbel.beat.places import choose_file

    target = asked.load_store()
    if file is not None and not add and not choose_file(file).exists():
        raise Refusal(f"There is no schedule at {choose_file(file)}.", FAILURE)
    if not (make or target.exists or file):
        return target, None
    store = open_store(target.app, file)
    return target, Schedules(target.app, lambda: store)


def _read_when(given: dict[str, Any]) -> Any:
    """Take the options that say when out; the schedule that they mean."""
    from umbel.schedules import cron, crontab, solar

    chosen = {name: value for name in WHEN if (value := given.pop(name)) is not None}
    if len(chosen) > 1:
        raise click.UsageError(f"Only one of {', '.join(f'--{name}' for name in chosen)}.")
    for name, value in chosen.items():
        try:
            if name == "at":
                return datetime.fromisoformat(value)
            if name == "solar":
                return solar(*value)
            read: dict[str, Callable[[Any], Any]] = {
                "every": float, "cron": cron, "crontab": crontab.from_string,
            }  # fmt: skip
            return read[name](value)
        except ValueError as error:
            raise click.UsageError(f"--{name}: {error}") from error
    return None


def _read_entry(given: dict[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    """The parts of an entry that a line gives."""
    args, kwargs = read_words(words)
    args, kwargs = [*given.pop("args"), *args], {**given.pop("kwargs"), **kwargs}
    options = {
        name: value
        for name in ("queue", "expires", "priority")
        if (value := given.pop(name)) is not None
    }
    parts = {"args": args, "kwargs": kwargs, "options": options, **given}
    return {name: value for name, value in parts.items() if value not in (None, [], {})}


def _do(asked: Invocation, change: Callable[[], PeriodicTask], done: str) -> None:
    """Change something and show how it stands then."""
    try:
        task = change()
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if asked.as_json:
        print_json(_as_record(task))
    else:
        click.echo(f"{done}: {task.schedule}, next {_describe_next(task)}")


def _for_each(
    ctx: click.Context,
    names: Sequence[str],
    file: str | None,
    change: Callable[[Schedules, str], None],
    verb: str,
) -> None:
    asked = ctx.ensure_object(Invocation)
    _, schedules = _open(asked, file, make=True)
    for name in names:
        _demand(schedules, name)  # none is changed if one is missing
    for name in names:
        change(schedules, name)
    if asked.as_json:
        print_json({verb: list(names)})
    else:
        click.echo(f"{', '.join(names)} {verb}")


def _demand(schedules: Schedules, name: str) -> PeriodicTask:
    return schedules.get(name)


def _describe_next(task: PeriodicTask) -> str:
    if task.paused:
        return "paused"
    if task.due is None:
        return "never"
    if task.overdue:
        return f"overdue since {describe_duration(task.overdue)}"
    return describe_moment(task.due.timestamp())


def _spell(time: datetime) -> str:
    return f"{time.isoformat(sep=' ', timespec='seconds')} {time.tzname()}"


def _as_record(task: PeriodicTask) -> dict[str, Any]:
    return {
        **asdict(task),
        "due": None if task.due is None else task.due.isoformat(),
        "last": None if task.last is None else task.last.isoformat(),
        "overdue": task.overdue,
    }
