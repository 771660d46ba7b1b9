"""The table of Celery's public names: what each does here, and the test that shows it.

`python -m tests.surface.table` writes it to `docs/reference/surface.md`.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

import umbel
from tests.surface.evidence import ROOT, is_command, judge
from tests.surface.pins import PINS
from tests.surface.verdicts import (
    LATER,
    LATER_GROUPS,
    REFUSED,
    REFUSED_GROUPS,
    WITHOUT_EFFECT,
    judge_option,
    judge_setting,
)
from umbel import App
from umbel.app.request import Request
from umbel.app.sending.options import SendOptions, TaskOptions
from umbel.app.settings.spelling import resolve
from umbel.app.settings.table import Settings
from umbel.app.task import Task
from umbel.cli import COMMANDS, commands
from umbel.result import AsyncResult, EagerResult, ResultSet

PAGE = ROOT / "docs" / "reference" / "surface.md"


@dataclass(frozen=True)
class Row:
    group: str
    name: str
    verdict: str
    """works, without effect, refused, later; or empty: something is missing."""
    evidence: str


def inventory() -> Iterator[tuple[str, str]]:
    """(group, name) of every public name of Celery 5.7."""
    for line in (Path(__file__).parent / "inventory.tsv").read_text().splitlines():
        group, _, name = line.partition("\t")
        yield group, name


@cache
def rows() -> list[Row]:
    """The whole table."""
    return [_row(group, name) for group, name in inventory()]


def _row(group: str, name: str) -> Row:
    return Row(group, name, *_judge(group, name))


def _judge(group: str, name: str) -> tuple[str, str]:
    key = (group, name)
    if key in REFUSED:
        return "refused", REFUSED[key]
    if group in REFUSED_GROUPS:
        return "refused", REFUSED_GROUPS[group]
    if key in LATER:
        return "later", f"comes with {LATER[key]}"
    if group in {"setting", "old setting"}:
        return _setting(name)
    if (judged := judge_option(group, name)) is not None:
        return judged
    if key in WITHOUT_EFFECT:
        return "without effect", WITHOUT_EFFECT[key]
    if is_command(group) and (command := group.split()[1:2]) and command[0] not in COMMANDS:
        return _judge("umbel", command[0])  # its options share its lot
    if resolves(group, name):
        return _works(group, name)
    if group in LATER_GROUPS:
        return "later", f"comes with {LATER_GROUPS[group]}"
    return "", "there is no such name"


def _works(group: str, name: str) -> tuple[str, str]:
    test = PINS.get((group, name)) or judge(group, name, _cited().get((group, name), ""))
    return ("works", test) if test else ("", "no test judges it")


@cache
def _cited() -> dict[tuple[str, str], str]:
    """The tests that the page names."""
    cited, group = {}, ""
    for line in PAGE.read_text().splitlines() if PAGE.exists() else ():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif row := CITATION.fullmatch(line):
            cited[group, row[1]] = row[2]
    return cited


CITATION = re.compile(r"\| `(.*)` \| works \| `(.*)` \|")


# --------------------------------------------------------------------------------- is it there?


def resolves(group: str, name: str) -> bool:
    """Whether the name exists here."""
    if group in _names():
        return name in _names()[group]
    if is_command(group):
        return _option_resolves(group, name)
    try:
        return hasattr(importlib.import_module(group), name)
    except ImportError:  # no such module, or a name that its module refuses
        return False


@cache
def _names() -> dict[str, set[str]]:
    """The names that there are, of each group that is no module and no command."""
    app = App("surface", broker="memory://", result_backend="broker", set_as_current=False)
    options = set(SendOptions.__annotations__)
    return {
        "App.": set(dir(app)),
        "App()": set(inspect.signature(App.__init__).parameters),
        "app.conf.": set(dir(app.conf)),
        "@task": {*TaskOptions.__annotations__, "bind", "pydantic"},
        "Task.": {*dir(Task), *TaskOptions.__annotations__},
        "Task.request.": set(dir(Request("", ""))),
        "apply_async": {*options, "args", "kwargs"},
        "retry": {*inspect.signature(Task.retry).parameters, *options, "options"},
        "umbel (module)": set(umbel.__all__),
        "AsyncResult.": set(dir(AsyncResult("id", app=app))),
        "EagerResult.": set(dir(EagerResult("id", None, "SUCCESS"))),
        "ResultSet.": set(dir(ResultSet([], app=app))),
        "GroupResult.": set(dir(app.GroupResult("id", []))),
        "Signature.": set(dir(app.signature("name"))),
    }


def _option_resolves(group: str, name: str) -> bool:
    command: click.Command = commands
    context = click.Context(command)
    if group != "umbel":
        assert isinstance(commands, click.Group)
        found = commands.get_command(context, group.removeprefix("umbel "))
        if found is None:
            return False
        command = found
    elif not name.startswith("-"):
        assert isinstance(commands, click.Group)
        return commands.get_command(context, name) is not None
    have = {text for p in command.params for text in (*p.opts, *p.secondary_opts)}
    have |= {p.name or "" for p in command.params if isinstance(p, click.Argument)}
    names = name.split("/")
    return all(one in have for one in names) if name.startswith("-") else bool(have)


def _setting(name: str) -> tuple[str, str]:
    fields = Settings.__annotations__
    old, _, new = name.partition(" ")
    if new:
        known = resolve(old, fields)
        return ("works", SPELLINGS) if known == new else ("", f"{old} is read as {known}")
    if name in fields:
        return _works("setting", name)
    return judge_setting(name) or ("", "there is no such setting")


SPELLINGS = "tests/unit/test_settings.py::test_each_name_of_celerys_is_known_under_its_old_one_too"
"""Where each old name is looked up."""


# --------------------------------------------------------------------------------------- the page


TITLES = {
    "works": "works",
    "without effect": "accepted",
    "refused": "refused",
    "later": "later",
    "": "missing",
}
HEAD = """# Celery's public names, one by one

Every public name, option, setting and command-line option of Celery 5.7, and what it does here:
*works*, with the test that judges it; *accepted*, without effect, with the line of the log that
says why; *refused*, and why; *later*, with the area that it belongs to and that this version does
not have; *missing*, with what is not there: the name, or a test of it. Generated by
`python -m tests.surface.table`;
a test fails when it is stale, or when more is missing than before.
"""


def page() -> str:
    """The table as Markdown."""
    everything = rows()
    counts = {verdict: sum(row.verdict == verdict for row in everything) for verdict in TITLES}
    summary = ", ".join(f"{counts[verdict]} {title}" for verdict, title in TITLES.items())
    lines = [HEAD, f"{summary}."]
    group = ""
    for row in everything:
        if row.group != group:
            group = row.group
            lines += ["", f"## {group}", "", "| name | here | |", "|---|---|---|"]
        evidence = f"`{row.evidence}`" if row.verdict == "works" else row.evidence
        lines.append(f"| `{row.name}` | {TITLES[row.verdict]} | {evidence} |")
    return "\n".join(lines) + "\n"


def missing() -> str:
    """The rows where something is missing, as lines of `missing.tsv`."""
    return "".join(f"{row.group}\t{row.name}\n" for row in rows() if not row.verdict)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
