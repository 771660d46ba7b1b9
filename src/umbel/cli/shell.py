"""`umbel shell`: Python with the app and its tasks at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.errors import FAILURE, Refusal
from umbel.cli.invocation import Invocation, Target
from umbel.cli.options import common_options

if TYPE_CHECKING:
    from types import CodeType

    from umbel.app import App

WORKFLOWS: Final = ("chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap")
"""What Celery's shell has besides, as far as it is there."""


@click.command()
@click.option("-I", "--ipython", is_flag=True, help="Use IPython.")
@click.option("-B", "--bpython", is_flag=True, help="Use bpython.")
@click.option("--python", is_flag=True, help="Use Python's own prompt.")
@click.option("-T", "--without-tasks", is_flag=True, help="Leave the tasks out.")
@click.option("--eventlet", is_flag=True, hidden=True)
@click.option("--gevent", is_flag=True, hidden=True)
@common_options
@click.pass_context
def shell(
    ctx: click.Context,
    ipython: bool,
    bpython: bool,
    python: bool,
    without_tasks: bool,
    eventlet: bool,
    gevent: bool,
) -> int:
    """Start Python with the app, as app and celery, Task, and each task by its function's name.

    Uses IPython or bpython where it is installed. Code that is piped in is run.

    \b
    echo 'print(add.delay(2, 3).get(timeout=10))' | umbel shell
    """  # noqa: D301  (click's mark of lines that stay as they are)
    for name, wanted in (("eventlet", eventlet), ("gevent", gevent)):
        if wanted:
            raise click.UsageError(
                f"--{name} is refused: only a worker's children are patched. "
                "A shell needs no patch: delay() and get() work in it as they are."
            )
    if ipython + bpython + python > 1:
        raise click.UsageError("Say one of --ipython, --bpython and --python.")
    asked = ctx.ensure_object(Invocation)
    target = asked.load()
    names = collect_names(target.app, tasks=not without_tasks)
    if not (ipython or bpython or python or sys.stdin.isatty()):
        return run_code(sys.stdin.read(), names)
    start = choose(ipython=ipython, bpython=bpython, python=python)
    start(names, "" if asked.quiet else describe(target, names))
    return 0


def collect_names(app: App, *, tasks: bool) -> dict[str, Any]:
    """What the code sees; of two tasks whose functions have one name, the later one."""
    import umbel

    names: dict[str, Any] = {"app": app, "celery": app, "Task": umbel.Task}
    names |= {name: getattr(umbel, name) for name in WORKFLOWS if name in umbel.__all__}
    if tasks:
        own = (app.tasks[name] for name in app.tasks.own())
        names |= {task.__name__: task for task in own}
    return names


def describe(target: Target, names: dict[str, Any]) -> str:
    """The first lines: where this is, and what there is."""
    from umbel import __version__

    version = sys.version.partition(" ")[0]
    return (
        f"umbel {__version__}, Python {version}\napp   {target.name}\n"
        f"store {target.store.name}\nnames {', '.join(names)}"
    )


def run_code(source: str, names: dict[str, Any]) -> int:
    """Run what was piped in; the exit code. The user's error is shown without our frames."""
    import linecache
    import traceback

    linecache.cache["<stdin>"] = (len(source), None, source.splitlines(True), "<stdin>")
    try:
        code: CodeType = compile(source, "<stdin>", "exec", dont_inherit=True)
        exec(code, {"__name__": "__main__", **names})  # noqa: S102  (that is what it is for)
    except Exception as error:  # noqa: BLE001  (it is the user's)
        frames = error.__traceback__ and error.__traceback__.tb_next
        traceback.print_exception(type(error), error, frames)
        return FAILURE
    return 0


def choose(*, ipython: bool, bpython: bool, python: bool) -> Callable[[dict[str, Any], str], None]:
    """The prompt that was asked for, or the best one that is installed."""
    if python:
        return start_python
    for name, wanted, start in (
        ("IPython", ipython, start_ipython), ("bpython", bpython, start_bpython),
    ):  # fmt: skip
        if wanted or not (ipython or bpython):
            from importlib.util import find_spec

            if find_spec(name) is not None:
                return start
            if wanted:
                message = f"{name} is not installed: pip install {name.lower()}"
                raise Refusal(message, FAILURE)
    return start_python


def start_python(names: dict[str, Any], banner: str) -> None:
    """Python's own prompt, with completion."""
    import code
    import contextlib

    with contextlib.suppress(ImportError):  # not everywhere
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    code.interact(banner=banner, local=names, exitmsg="")


def start_ipython(names: dict[str, Any], banner: str) -> None:
    """The prompt of IPython."""
    from IPython import start_ipython as start  # type: ignore[import-not-found, unused-ignore]

    click.echo(banner)
    start(argv=["--no-banner"], user_ns=names)


def start_bpython(names: dict[str, Any], banner: str) -> None:
    """The prompt of bpython."""
    from bpython import embed  # type: ignore[import-not-found, unused-ignore]

    embed(locals_=names, banner=banner)
