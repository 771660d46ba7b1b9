"""`umbel worker`: run tasks."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from umbel import __version__
from umbel.cli.backlog import advise, read_backlog
from umbel.cli.errors import CANNOT_CREATE, USAGE, Refusal
from umbel.cli.invocation import Invocation, Target, live_workers
from umbel.cli.options import choose_queues, common_options, queue_options, split_names
from umbel.cli.output import count, print_json, print_pairs
from umbel.cli.worker_options import legacy_options, settle_legacy

if TYPE_CHECKING:
    from logging import Logger

    from umbel.app import App
    from umbel.app.log import LogOptions
    from umbel.beat.embedded import BeatThread
    from umbel.pools.launch import ForkServer
    from umbel.worker.supervisor import Supervisor

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


@dataclass(frozen=True)
class Wishes:
    """The options of a worker, as they were given."""

    concurrency: int | None
    pool: str | None
    processes: int | None
    autoscale: tuple[int, int] | None
    node: str | None
    queues: tuple[str, ...]
    excluded: tuple[str, ...]
    log_level: str
    log_file: str | None
    log_json: bool
    pid_file: str | None
    detach: bool
    include: tuple[str, ...]
    settings: dict[str, str]
    time_limit: float | None
    soft_time_limit: float | None
    max_tasks: int | None
    max_memory: int | None
    purge: bool
    replace: bool
    beat: bool
    schedule_file: str | None
    reloads: bool


def expand_node_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """A node name with %h, %n, %d and %% replaced; without an @ it is the host's part (Celery)."""
    if name is None:
        return None
    host = socket.gethostname()
    short, _dot, domain = host.partition(".")
    values = {"h": host, "n": short, "d": domain, "%": "%"}

    def replace(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = "%h the host, %n its name, %d its domain, %% a percent sign"
            raise click.BadParameter(f"{match[0]!r} in {name!r} is unknown; there are {known}.")
        return values[match[1]]

    expanded = re.sub(r"%(.?)", replace, name)
    left, at, right = expanded.rpartition("@")
    return f"{left if at and left else 'celery'}@{right or host}"


def read_pool(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """A pool by its own name; refuse those that are not there."""
    from umbel.exceptions import ImproperlyConfigured
    from umbel.pools.kinds import find_pool

    try:
        return None if name is None else find_pool(name)
    except ImproperlyConfigured as error:
        raise click.BadParameter(str(error)) from error


def set_compat(_: click.Context, __: click.Parameter, value: str | None) -> None:
    """Answer --compat; the worker's processes inherit it."""
    if value is not None:
        os.environ["UMBEL_COMPAT"] = value


def read_concurrency(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """A number of slots; None for `auto`, the pool's usual number."""
    from umbel.engines.run_file import SLOTS

    if text is None or text == "auto":
        return None
    if not text.isdigit() or not 1 <= int(text) <= SLOTS:
        raise click.BadParameter(f"{text!r} is neither a number from 1 to {SLOTS} nor auto.")
    return int(text)


def read_autoscale(
    _: click.Context, __: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """The least and the most of `MAX,MIN`; the least is 0 if it is left out."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if len(words) > 2 or not all(word.isdigit() for word in words):
        raise click.BadParameter(f"{text!r} is neither MAX,MIN nor MAX, such as 10,3 or 10.")
    least, most = sorted(map(int, words)) if len(words) == 2 else (0, int(words[0]))
    if not most:
        raise click.BadParameter("the most must be 1 or more; to run nothing, pause the queue.")
    return least, most


def read_settings(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    """Settings from the end of the line, as Celery writes them.

    worker.log_color=0, worker_log_color=0, or .log_color=0 for one of the worker.
    """
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lower().replace(".", "_")
        if not (equals and key.isidentifier()):
            raise click.UsageError(
                f"{word!r} is neither an option nor a setting; write settings as "
                "worker.log_color=0 or task_acks_late=1."
            )
        settings[f"worker{key}" if key.startswith("_") else key] = value
    return settings


@click.command()
@click.option(
    "-c",
    "--concurrency",
    callback=read_concurrency,
    metavar="N",
    help="Tasks at the same time in each process; with prefork the number of processes. "
    "Default, and auto: prefork one for each core, threads ten, asyncio and gevent 100.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Processes that run tasks; default 1, with prefork what -c says.",
)
@click.option(
    "--autoscale",
    callback=read_autoscale,
    metavar="MAX,MIN",
    help="Between MIN and MAX processes, with other pools than prefork tasks in each: more while "
    "tasks wait and all are busy, fewer after worker_autoscale_keepalive seconds of idleness.",
)
@click.option(
    "-n",
    "--hostname",
    "node",
    metavar="NAME",
    callback=expand_node_name,
    help="The worker's name: w1@%h, with %h host, %n its name, %d its domain.",
)
@queue_options
@click.option(
    "-l",
    "--loglevel",
    "log_level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="WARNING",
    show_default=True,
)
@click.option("-f", "--logfile", "log_file", metavar="FILE", help="Log here, not to stderr.")
@click.option("--log-json", is_flag=True, help="Log one JSON object on each line.")
@click.option(
    "-P",
    "--pool",
    metavar="NAME",
    callback=read_pool,
    help="How tasks are run: prefork (default), one in each process; threads; asyncio; gevent; "
    "eventlet; solo, one in the foreground of the terminal.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Kill a task after so many seconds.",
)
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Raise SoftTimeLimitExceeded in a task after so many seconds.",
)
@click.option(
    "--max-tasks-per-child",
    "--maxtasksperchild",
    "max_tasks",
    type=click.IntRange(1),
    metavar="N",
    help="Replace a process after so many tasks.",
)
@click.option(
    "--max-memory-per-child",
    "--maxmemperchild",
    "max_memory",
    type=click.IntRange(1),
    metavar="KIB",
    help="Replace a process that has used more memory, after its task.",
)
@click.option(
    "-I",
    "--include",
    multiple=True,
    callback=split_names,
    metavar="MODULE,…",
    help="Import these modules too.",
)
@click.option("-D", "--detach", is_flag=True, help="Go on in the background; needs -f.")
@click.option("--pidfile", "pid_file", metavar="FILE", help="Keep the process's id here.")
@click.option(
    "--compat",
    type=click.Choice(["celery"]),
    callback=set_compat,
    expose_value=False,
    help="Celery's behaviour where the defaults differ on purpose (umbel report --check).",
)
@click.option(
    "--purge", "--discard", is_flag=True, help="First drop what waits in this worker's queues."
)
@click.option(
    "-B", "--beat", is_flag=True, help="Send periodic tasks too; any number of workers may."
)
@click.option(
    "-s", "--schedule", "--schedule-filename", "schedule_file", metavar="FILE",
    help="With -B: keep the state of the schedule in this file, not in the store.",
)  # fmt: skip
@click.option(
    "--reload",
    "reloads",
    is_flag=True,
    help="For development: start anew when a Python file changes; what runs is put back.",
)
@click.option("--replace", is_flag=True, help="Wait for a live worker of this name to end.")
@click.argument("settings", metavar="[SETTING=VALUE…]", nargs=-1, callback=read_settings)
@legacy_options
@common_options
@click.pass_context
def worker(ctx: click.Context, /, **options: Any) -> int:
    """Run tasks until told to stop.

    Once SIGTERM or Ctrl-C: end when what runs has ended. Twice, or SIGQUIT: stop now; what ran
    goes back into its queue. SIGHUP without a terminal: end, and start again.

    \b
    umbel worker -l INFO
    umbel -A proj worker -c 4 -Q urgent,celery -n w1@%h
    nohup umbel worker -f worker.log -l INFO &
    """  # noqa: D301  (click's mark of lines that stay as they are)
    asked = ctx.ensure_object(Invocation)
    asked.notes += settle_legacy(options)
    names = options.pop("queues"), options.pop("excluded")
    wishes = Wishes(queues=names[0], excluded=names[1], **options)
    if wishes.schedule_file and not wishes.beat:
        asked.notes.append("--schedule has no effect: it is for -B, which is not given")
    if wishes.autoscale and wishes.concurrency:
        asked.notes.append("--concurrency has no effect: --autoscale says between which numbers")
    hard, soft = wishes.time_limit, wishes.soft_time_limit
    if hard is not None and soft is not None and soft > hard:
        raise click.UsageError("--soft-time-limit must not be above --time-limit.")
    if wishes.detach and wishes.log_file is None:
        raise click.UsageError("--detach needs a log file: -f FILE.")
    if wishes.reloads and wishes.detach:
        raise click.UsageError("--reload is for development, in a terminal; leave --detach out.")
    asked.enter()
    if wishes.reloads:
        from umbel.cli.reload import is_led, serve_reloading

        if not is_led():
            return serve_reloading(asked.words, asked.home, lambda *news: tell(asked, *news))
    if wishes.detach:
        return serve_detached(asked, wishes)
    # First of all: the fork server starts while this process goes on importing.
    from umbel.pools.launch import ForkServer

    server = ForkServer()
    try:
        return serve(asked, wishes, lambda: server)
    except BaseException:
        server.kill()  # it has no children yet, or has been closed with them
        raise


def log() -> Logger:
    """The worker's logger; its help needs none."""
    import logging

    return logging.getLogger("umbel.worker")


def refuse_pickle_as_root(app: App) -> None:
    """Whoever can send a pickle runs what they like, as whoever reads it (as in Celery)."""
    from umbel.message.content import PICKLE, content_types

    if os.geteuid() or PICKLE not in content_types(app.conf.accept_content):
        return
    if not os.environ.get("C_FORCE_ROOT"):
        raise Refusal(
            "This worker would run as root and accept pickle: whoever can write to the store could "
            "run anything as root. Run it as another user, take pickle out of accept_content, or "
            "set C_FORCE_ROOT=1."
        )


def serve_detached(asked: Invocation, wishes: Wishes) -> int:
    """Run the worker in the background; what is wrong before it starts still shows."""
    from umbel.cli.daemon import detach
    from umbel.pools.launch import ForkServer

    let_go = detach()
    server: ForkServer | None = None

    def start() -> ForkServer:
        nonlocal server
        let_go()
        server = ForkServer()
        return server

    try:
        return serve(asked, wishes, start)
    except BaseException as error:
        if server is not None:
            server.kill()
            log().critical("%s", error, exc_info=error)
        raise


def free_name(target: Target) -> str:
    """The name that a worker without `-n` will most likely get; the log is set up before."""
    host = socket.gethostname()
    taken = {worker.node for worker in live_workers(target.store)} if target.exists else set()
    number = 1
    while (name := f"celery{'' if number == 1 else number}@{host}") in taken:
        number += 1
    return name


def serve(asked: Invocation, wishes: Wishes, start: Callable[[], ForkServer]) -> int:
    """Set the worker up and run it; its exit code."""
    target = asked.load(wishes.include, wishes.settings)
    app = target.app
    from umbel.app.log import LogOptions, expand_file, set_up_logging

    refuse_pickle_as_root(app)
    from types import SimpleNamespace

    from umbel import signals

    node = wishes.node or free_name(target)
    signals.celeryd_init.send(
        node, instance=SimpleNamespace(app=app, hostname=node), conf=app.conf, options=vars(wishes)
    )
    told = LogOptions(wishes.log_level, wishes.log_file, wishes.log_json, asked.color, node)
    try:
        set_up_logging(app.conf, told)
        pid_path = wishes.pid_file and expand_file(wishes.pid_file, node)
    except OSError as error:
        message = f"The log file {wishes.log_file} cannot be written: {error.strerror}."
        raise Refusal(message, CANNOT_CREATE) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with contextlib.ExitStack() as ends:
        if pid_path:
            from umbel.cli.daemon import pid_file

            ends.enter_context(pid_file(pid_path))
        code, restart = work(asked, target, wishes, told, start())
    if restart:
        asked.run_again()
    return code


def work(
    asked: Invocation, target: Target, wishes: Wishes, told: LogOptions, server: ForkServer
) -> tuple[int, bool]:
    """Work until told to stop; the exit code, and whether to start again."""
    app = target.app
    queues = choose_queues(app, wishes.queues, wishes.excluded)
    from umbel.worker.children import Processes
    from umbel.worker.leases import NodeTaken
    from umbel.worker.shutdown import OnSignals
    from umbel.worker.supervisor import Options, Supervisor

    if wishes.purge:
        from umbel.app.purging import purge

        dropped = purge(app, queues)
        tell(asked, {"event": "purged", "messages": dropped, "queues": queues},
             f"purged {count(dropped, 'message')} from {', '.join(queues)}")  # fmt: skip
    app.conf.log_notes()
    tell_of_idle_options(app)
    supervisor = Supervisor(
        app,
        Options(
            app_name=target.name,
            node=wishes.node,
            queues=queues,
            concurrency=wishes.concurrency,
            pool=wishes.pool,
            processes=wishes.processes,
            autoscale=wishes.autoscale,
            time_limit=wishes.time_limit,
            soft_time_limit=wishes.soft_time_limit,
            max_tasks_per_child=wishes.max_tasks,
            max_memory_per_child=wishes.max_memory,
            log=told,
            replace=wishes.replace,
            include=wishes.include,
            settings=wishes.settings,
        ),
        Processes(server),
        # What Ctrl-C means under --reload, the process above says.
        OnSignals(app.conf.worker_soft_shutdown_timeout, interrupts=not wishes.reloads),
    )
    beat = make_beat(app, wishes.schedule_file) if wishes.beat else None
    introduce(asked, target, supervisor, told, beat)

    def ready() -> None:
        if beat is not None:
            beat.start()
        seconds = round(time.monotonic() - asked.started, 3)
        node = supervisor.incarnation.node
        if told.file is not None:
            log().info("%s ready.", node)  # Celery's line
        tell(asked, {"event": "ready", "seconds": seconds, "node": node, "pid": os.getpid()},
             f"ready in {seconds:.2f} s as {node}")  # fmt: skip

    try:
        code = supervisor.run(ready)
    except NodeTaken as error:
        if wishes.node is None:
            log().info("Another worker has just taken the name %s; starting anew", told.node)
            return 0, True
        raise Refusal(str(error), CANNOT_CREATE) from error
    finally:
        if beat is not None:
            beat.stop()
    tell(asked, {"event": "stopped", "exit_code": code}, "stopped")
    return code, supervisor.shutdown.restart


def make_beat(app: App, file: str | None) -> BeatThread:
    """The thread of a scheduler, not started yet; a refusal if the schedule is wrong."""
    from umbel.beat.embedded import BeatThread
    from umbel.exceptions import ImproperlyConfigured

    try:
        return BeatThread(app, file)
    except ImproperlyConfigured as error:
        raise Refusal(str(error), USAGE) from error


def introduce(
    asked: Invocation,
    target: Target,
    supervisor: Supervisor,
    told: LogOptions,
    beat: BeatThread | None,
) -> None:
    """The first lines."""
    app, layout, queues = target.app, supervisor.layout, list(supervisor.queues)
    slots = count(layout.total, "slot")
    if layout.bounds is not None:
        least, most = layout.bounds
        slots = f"{least} to {most} slots"
        if layout.processes > 1 and layout.by_slots:
            slots += " each"
    if layout.room > 1:
        slots += f" in {count(layout.processes, 'process', 'processes')}"
    if told.file is not None:  # it has to say by itself what the terminal is told
        log().info(
            "umbel %s serves %s of %s for %s with %s",
            __version__, ", ".join(queues), target.store.name, target.name, slots,
        )  # fmt: skip
    if target.exists:
        backlog = read_backlog(target, live_workers(target.store))
        asked.notes += advise(target, backlog, soon=queues)
    if asked.as_json:
        print_json(
            {
                "event": "starting",
                "version": __version__,
                "app": target.name,
                "file": target.file,
                "store": target.store.name,
                "pool": layout.pool,
                "processes": layout.processes,
                "slots": layout.total,
                "autoscale": layout.bounds,
                "queues": queues,
                "tasks": app.tasks.own(),
                "entries": None if beat is None else beat.entries,
                "notes": asked.notes,
            }
        )
        return
    if asked.quiet:
        return
    hint = "" if app.tasks else ": does the app's module import those that hold its tasks?"
    print_pairs(
        [
            ("umbel", __version__),
            ("app", f"{target.name} ({target.file})"),
            ("store", target.store.name),
            ("pool", f"{layout.pool}, {slots}"),
            ("queues", ", ".join(queues)),
            ("tasks", f"{len(app.tasks.own())}{hint}"),
            (
                "beat",
                None
                if beat is None
                else f"{count(beat.entries, 'entry', 'entries')} in the "
                f"code; {target.line('schedule')}",
            ),
            *(("note", line) for line in asked.notes),
        ],
        err=True,
    )


def tell(asked: Invocation, event: dict[str, Any], text: str) -> None:
    """Tell of an event: a JSON line on standard output, or text beside the log."""
    if asked.as_json:
        print_json(event)
    elif not asked.quiet:
        click.echo(text, err=True)
    if sys.stdout is not None:  # it may have been closed
        sys.stdout.flush()


IDLE_OPTIONS: Final = {
    "rate_limit": "rate_limit has no effect in this version; these tasks run without it",
    "send_events": "send_events=False has no effect: workers of this version send no events at "
    "all. It is said of",
}
"""Options of tasks that this version keeps and does not use, and what is said of them."""


def tell_of_idle_options(app: App) -> None:
    """Say once which tasks have an option that changes nothing."""
    from umbel.app import Task

    for option, text in IDLE_OPTIONS.items():
        default = getattr(Task, option)
        names = [task.name for task in app.tasks.values() if getattr(task, option) != default]
        if names:
            log().warning("%s: %s", text, ", ".join(sorted(names)))
