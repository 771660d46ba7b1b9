"""What is refused gives its reason, and what is accepted without effect its line of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from click import UsageError

from tests.surface.evidence import is_command
from tests.surface.table import Row, rows
from tests.surface.verdicts import OF_COMMANDS
from umbel import App, Task
from umbel.app.sending import carried
from umbel.app.settings.names import KNOWN
from umbel.cli import commands, worker_options
from umbel.cli.invocation import Invocation
from umbel.cli.worker import tell_of_idle_options
from umbel.exceptions import ImproperlyConfigured
from umbel.result import EagerResult


def make(**arguments: Any) -> App:
    return App("surface", broker="memory://surface", set_as_current=False, **arguments)


def set_setting(name: str) -> App:
    """An app with a value other than Celery's default."""
    app = make()
    default = KNOWN[name].default
    other = not default if isinstance(default, bool) or not default else "another"
    app.conf[name] = {"a": 1} if default == {} else other
    return app


def given(row: Row) -> dict[str, Any]:
    """A command's options that have no effect or are refused, with the row's one given."""
    known = OF_COMMANDS[row.group]
    options: dict[str, Any] = {worker_options._name(one): None for one in known}
    option = next(one for one in known if row.name.split("/")[0] in one.names)
    return options | {worker_options._name(option): "1"}


USE: dict[str, Callable[[Row], object]] = {
    "App()": lambda row: make(**{row.name: "proj:Class"}),
    "App.": lambda row: getattr(make(), row.name),
    "app.conf.": lambda row: getattr(make().conf, row.name),
    "AsyncResult.": lambda row: getattr(make().AsyncResult("id"), row.name),
    "EagerResult.": lambda row: getattr(EagerResult("id", 1, "SUCCESS"), row.name),
    "ResultSet.": lambda row: getattr(make().ResultSet([]), row.name),
    "GroupResult.": lambda row: getattr(make().GroupResult("id", []), row.name),
    "Signature.": lambda row: getattr(make().signature("a.task"), row.name),
    "Task.": lambda row: type("Mine", (Task,), {row.name: "proj:Class"}),
    "apply_async": lambda row: carried.carry("a.task", {row.name: object()}),
    "setting": lambda row: set_setting(row.name),
    "umbel worker": lambda row: worker_options.settle_legacy(given(row)),
    "umbel beat": lambda row: worker_options.settle_legacy(given(row), OF_COMMANDS["umbel beat"]),
    "umbel.bootsteps": lambda _: exec("from umbel import bootsteps"),
    "umbel.loaders": lambda _: exec("from umbel import loaders"),
    "umbel.backends.base": lambda _: exec("from umbel import backends"),
    "umbel.contrib.rdb": lambda _: exec("from umbel.contrib import rdb"),
}
"""How a row's name is used; of other groups it is imported."""


def import_it(row: Row) -> None:
    exec(f"from {row.group} import {row.name}")


def run_command(row: Row) -> Invocation:
    """Type an option, or the command that it is one of; what it notes."""
    command = row.group.split()[1:2] or [row.name]
    words = [row.name, "x", "report"] if row.group == "umbel" and row.name[0] == "-" else command
    asked = Invocation((), 0.0)
    with commands.make_context("umbel", words, obj=asked) as context:
        commands.invoke(context)
    return asked


def find_use(row: Row) -> Callable[[Row], object]:
    return USE.get(row.group) or (run_command if is_command(row.group) else import_it)


UNANNOUNCED = {"umbel.events.snapshot"}
"""Refused groups of a part that this version does not have."""
REFUSALS = (AttributeError, ImportError, ImproperlyConfigured, TypeError, UsageError)


def of(verdict: str, *groups: str) -> list[Any]:
    """The rows of a verdict, as parameters."""
    return [
        pytest.param(row, id=f"{row.group} {row.name}")
        for row in rows()
        if row.verdict == verdict and (not groups or row.group in groups)
        if row.group not in UNANNOUNCED
    ]


@pytest.mark.parametrize("row", of("refused"))
def test_each_refusal_gives_its_reason(row: Row) -> None:
    with pytest.raises(REFUSALS) as refusal:
        find_use(row)(row)
    assert row.evidence.rstrip(".") in str(refusal.value)


@pytest.mark.parametrize("row", of("without effect", "setting"))
def test_a_setting_without_effect_says_so(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    app = set_setting(row.name)
    with caplog.at_level(logging.INFO, "umbel.settings"):
        app.conf.log_notes()
    assert caplog.messages == [row.evidence]


@pytest.mark.parametrize("row", of("without effect", *OF_COMMANDS))
def test_an_option_without_effect_says_so(row: Row) -> None:
    options = given(row)
    assert worker_options.settle_legacy(options, OF_COMMANDS[row.group]) == [row.evidence]
    assert options == {}


@pytest.mark.parametrize("row", of("without effect", "apply_async"))
def test_an_option_of_sending_without_effect_says_so(
    row: Row, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried, "_told", set())
    for _ in range(2):
        carried.carry("a.task", {row.name: ["x"]})
    assert caplog.messages == [row.evidence]


@pytest.mark.parametrize("row", of("without effect", "Task."))
def test_a_worker_says_which_tasks_have_an_option_without_effect(
    row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    app = make()
    value = {"rate_limit": "1/s", "send_events": False}[row.name]
    for name in ("second", "first"):
        app.register_task(type("Told", (Task,), {"name": name, row.name: value}))
    app.task(name="other")(print)
    tell_of_idle_options(app)
    assert caplog.messages == [row.evidence.replace("…", "first, second")]


@pytest.mark.parametrize("row", of("without effect", "umbel"))
def test_a_global_option_without_effect_says_so(row: Row) -> None:
    asked = Invocation((), 0.0)
    with commands.make_context("umbel", [row.name, "report"], obj=asked):
        assert asked.notes == [row.evidence]


def test_every_row_that_is_accepted_has_its_line_read() -> None:
    read = {"setting", *OF_COMMANDS, "apply_async", "Task.", "umbel"}
    assert {row.group for row in rows() if row.verdict == "without effect"} == read
