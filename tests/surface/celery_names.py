"""The public names of the Celery that is installed, as rows of `inventory.tsv`.

`python -m tests.surface.celery_names` prints those that the inventory has not, and those that it
has and Celery has not.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

FILE = Path(__file__).parent / "inventory.tsv"
BY_ALL = (
    "app", "app.log", "beat", "bootsteps", "canvas", "contrib.abortable", "contrib.migrate",
    "contrib.rdb", "events", "events.snapshot", "events.state", "exceptions", "result",
    "schedules", "security", "signals", "states", "utils", "utils.log", "worker.state",
)  # fmt: skip
"""Modules that name what is public in them by `__all__`."""
SENDING = ("app.task:Task.apply_async", "app.base:Celery.send_task")
"""Functions whose parameters are options of sending."""
MORE = {"apply_async", "umbel.result"}
"""Groups that have more rows than can be read from Celery."""


def read() -> set[tuple[str, str]]:
    """(group, name) of each row of the inventory."""
    rows = FILE.read_text().splitlines()
    return {(group, name) for group, _, name in (row.partition("\t") for row in rows)}


def names() -> Iterator[tuple[str, str]]:
    """(group, name) of what the installed Celery has, in the groups that can be looked into."""
    app = _import(":Celery")("names", set_as_current=False)
    for module in BY_ALL:
        yield from _group(f"umbel.{module}", _import(module).__all__)
    yield from _group("App()", _parameters(type(app)) - {"kwargs"})
    for group, thing in {
        "App.": app,
        "Task.": app.Task,
        "Task.request.": _import("app.task:Context")(),
        "AsyncResult.": app.AsyncResult("id"),
        "EagerResult.": _import("result:EagerResult")("id", 1, "SUCCESS"),
        "GroupResult.": app.GroupResult("id", []),
        "ResultSet.": app.ResultSet([]),
        "Signature.": app.signature("name"),
        "app.control.": app.control,
        "app.control.inspect().": app.control.inspect(),
    }.items():
        yield from _group(group, _public(thing))
    yield from _group("retry", _parameters(app.Task.retry) - {"self"})
    given = set().union(*(_parameters(_import(function)) for function in SENDING))
    yield from _group("apply_async", given - {"self", "name", "options"})
    yield from _group("remote command", _import("worker.control:Panel").data)
    yield from _group("umbel multi", _import("bin.multi:MultiTool")().commands)
    yield from _settings(app)
    yield from _commands("umbel", _import("bin.celery:celery"))


def _import(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(f"celery.{module}".rstrip("."))
    for name in names.split(".") if names else ():
        found = getattr(found, name)
    return found


def _group(group: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((group, name) for name in sorted(names))


def _public(thing: Any) -> set[str]:
    """Attributes without a leading underscore; what a dict or a logger brings along is not it."""
    foreign = set(dir(dict)) if isinstance(thing, dict) else set()
    return {name for name in dir(thing) if not name.startswith("_")} - foreign


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _settings(app: Any) -> Iterator[tuple[str, str]]:
    defaults = _import("app.defaults")
    fields = {name for name, _ in defaults.flatten(defaults.NAMESPACES)}
    yield from _group("setting", fields)
    yield from _group("old setting", (f"{old} {new}" for new, old in defaults._TO_OLD_KEY.items()))
    plain = {"task_default_exchange", "task_default_routing_key", "timezone", "result_backend",
             "broker_url", "broker_read_url", "broker_write_url"}  # fmt: skip
    settings = _public_of_class(type(app.conf)) - (fields - plain)
    yield from _group("app.conf.", settings)


def _public_of_class(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def _commands(group: str, command: click.Command) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if parameter.name == "help":
            continue
        if isinstance(parameter, click.Argument):
            yield group, parameter.name or ""
        else:
            yield group, "/".join((*parameter.opts, *parameter.secondary_opts))
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield group, name
            yield from _commands(f"{group} {name}", inner)


def differences() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What Celery has and the inventory has not, and the other way round in the same groups."""
    there, known = set(names()), read()
    groups = {group for group, _ in there} - MORE
    return sorted(there - known), sorted(row for row in known - there if row[0] in groups)


if __name__ == "__main__":
    missing, gone = differences()
    for mark, rows in (("+", missing), ("-", gone)):
        for group, name in rows:
            print(f"{mark}\t{group}\t{name}")
