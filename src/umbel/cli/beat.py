"""`umbel beat`: run the schedule."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from umbel import __version__
from umbel.cli.errors import CANNOT_CREATE, USAGE, Refusal
from umbel.cli.invocation import Invocation, Target
from umbel.cli.options import common_options
from umbel.cli.output import print_json, print_pairs
from umbel.cli.worker import LEVELS, expand_node_name, read_settings, tell
from umbel.cli.worker_options import BEAT_OPTIONS, legacy_options, settle_legacy

if TYPE_CHECKING:
    from umbel.beat.scheduler import Scheduler


@dataclass(frozen=True)
class Wishes:
    """The options, as they were given."""

    file: str | None
    node: str | None
    log_level: str
    log_file: str | None
    log_json: bool
    pid_file: str | None
    detach: bool
    settings: dict[str, str]


@click.command()
@click.option(
    "-s", "--schedule", "file", metavar="FILE", help="Keep the state of the schedule in this file, "
    "for schedulers of this host alone; default: in the store, for any number of hosts.",
)  # fmt: skip
@click.option("-l", "--loglevel", "log_level", default="WARNING", show_default=True,
              type=click.Choice(LEVELS, case_sensitive=False))  # fmt: skip
@click.option("-f", "--logfile", "log_file", metavar="FILE", help="Log here, not to stderr.")
@click.option("--log-json", is_flag=True, help="Log one JSON object on each line.")
@click.option("--pidfile", "pid_file", metavar="FILE", help="Keep the process's id here.")
@click.option("--detach", is_flag=True, help="Go on in the background; needs -f.")
@click.option("-n", "--hostname", "node", metavar="NAME", callback=expand_node_name,
              help="Its name in log files: beat@%h.")  # fmt: skip
@click.argument("settings", metavar="[SETTING=VALUE…]", nargs=-1, callback=read_settings)
@partial(legacy_options, options=BEAT_OPTIONS)
@common_options
@click.pass_context
def beat(ctx: click.Context, /, **options: Any) -> int:
    """Send periodic tasks when they are due, until told to stop.

    Any number of them may run, on any number of hosts, or inside workers (umbel worker -B): each
    tick is sent once.

    \b
    umbel beat -l INFO
    nohup umbel -A proj beat -s /var/lib/proj/schedule -f beat.log -l INFO &
    """  # noqa: D301  # fmt: skip  (click wants the character itself)
    asked = ctx.ensure_object(Invocation)
    asked.notes += settle_legacy(options, BEAT_OPTIONS)
    wishes = Wishes(**options)
    if wishes.detach and wishes.log_file is None:
        raise click.UsageError("--detach needs a log file: -f FILE.")
    asked.enter()
    let_go: Callable[[], None] | None = None
    if wishes.detach:
        from umbel.cli.daemon import detach

        let_go = detach()
    try:
        return serve(asked, wishes, let_go)
    except BaseException as error:
        if let_go is not None:
            import logging

            logging.getLogger("umbel.beat").critical("%s", error, exc_info=error)
        raise


def serve(asked: Invocation, wishes: Wishes, let_go: Callable[[], None] | None) -> int:
    """Set the scheduler up and run it; the exit code."""
    target = asked.load(settings=wishes.settings)
    from umbel.app.log import LogOptions, expand_file, set_up_logging

    node = wishes.node or f"celerybeat@{socket.gethostname()}"
    log = LogOptions(wishes.log_level, wishes.log_file, wishes.log_json, asked.color, node)
    try:
        set_up_logging(target.app.conf, log)
        pid_path = wishes.pid_file and expand_file(wishes.pid_file, node)
    except OSError as error:
        message = f"The log file {wishes.log_file} cannot be written: {error.strerror}."
        raise Refusal(message, CANNOT_CREATE) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    target.app.conf.log_notes()
    with contextlib.ExitStack() as ends:
        if let_go is not None:
            let_go()
        if pid_path:
            from umbel.cli.daemon import pid_file

            ends.enter_context(pid_file(pid_path))
        run(asked, target, wishes)
    return 0


def run(asked: Invocation, target: Target, wishes: Wishes) -> None:
    """Run the schedule until told to stop."""
    from umbel import signals
    from umbel.beat import open_store
    from umbel.beat.scheduler import Scheduler
    from umbel.exceptions import ImproperlyConfigured

    app = target.app
    try:
        store = open_store(app, wishes.file)
        scheduler = Scheduler(app, store)
        entries = scheduler.declare()
    except ImproperlyConfigured as error:
        raise Refusal(str(error), USAGE) from error
    place = tell_of_file(wishes.file or app.conf.beat_schedule_filename, store)
    introduce(asked, target, place or target.store.name, entries)
    signals.beat_init.send(sender=scheduler)
    watch_signals(scheduler)
    seconds = round(time.monotonic() - asked.started, 3)
    tell(asked, {"event": "ready", "seconds": seconds, "pid": os.getpid()},
         f"ready in {seconds:.2f} s")  # fmt: skip
    scheduler.run()
    tell(asked, {"event": "stopped", "fired": scheduler.fired}, "stopped")


def tell_of_file(wanted: str | None, store: object) -> str | None:
    """The file that holds the schedule; the log says if it is not the one that was named."""
    import logging

    path = getattr(store, "path", None)
    if wanted is not None and path is not None and os.path.abspath(wanted) != os.fspath(path):
        logging.getLogger("umbel.beat").warning(
            "%s is a file of another program and was left as it is; the schedule is in %s",
            wanted,
            path,
        )
    return None if path is None else os.fspath(path)


def watch_signals(scheduler: Scheduler) -> None:
    """End on SIGTERM and Ctrl-C, and at once the second time; SIGUSR1 shows where it stands."""
    import faulthandler

    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

    def stop(*_: object) -> None:
        scheduler.stop()
        for number in ends:  # it may be waiting for a schedule that does not return
            signal.signal(number, signal.SIG_DFL)

    for number in ends:
        signal.signal(number, stop)
    faulthandler.register(signal.SIGUSR1)


def introduce(asked: Invocation, target: Target, place: str, entries: int) -> None:
    """The first lines."""
    if asked.as_json:
        print_json(
            {
                "event": "starting",
                "version": __version__,
                "app": target.name,
                "file": target.file,
                "store": target.store.name,
                "schedule": place,
                "entries": entries,
                "notes": asked.notes,
            }
        )
    elif not asked.quiet:
        print_pairs(
            [
                ("umbel", __version__),
                ("app", f"{target.name} ({target.file})"),
                ("store", target.store.name),
                ("schedule", place),
                ("entries", f"{entries} in the code; {target.line('schedule')}"),
                *(("note", line) for line in asked.notes),
            ],
            err=True,
        )
