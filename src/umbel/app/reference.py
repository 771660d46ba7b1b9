"""The reference of settings, written from the tables: `python -m umbel.app.reference`."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator

from umbel.app import sources
from umbel.app.compat import DIFFERENCES
from umbel.app.names import KNOWN, Known
from umbel.app.settings import Settings
from umbel.app.spelling import ADD_ONS, old_name

HEAD = """\
# Settings

<!-- Written by `python -m umbel.app.reference > docs/reference/settings.md`. -->

Settings are given as keywords of `App`, as attributes or keys of `app.conf`, in a module, class or
dict (`app.config_from_object`), in the environment (`UMBEL_` and the name in capitals), or on the
command line. The order: command line, environment, code, configuration module, `add_defaults`,
default. `umbel report` shows each with its origin; `umbel report --check` what it means.

Every setting has three names: its own, one in the manner of Celery 3 (its name there if it had
one), and `CELERY_` with its own name in capitals, which is what `namespace="CELERY"` reads.
Durations are seconds; a `timedelta` is taken too. An unknown name is an error that names the
nearest one.
"""


def docstrings() -> dict[str, str]:
    """The text under each setting in the table."""
    (table,) = ast.parse(inspect.getsource(Settings)).body
    texts = {}
    if isinstance(table, ast.ClassDef):
        for line, after in zip(table.body, table.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[line.target.id] = " ".join(str(after.value.value).split())
    return texts


def write_reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_settings(), *_compat(), *_idle(), *_variables(), *_foreign()])


def _settings() -> Iterator[str]:
    yield "## With an effect\n"
    texts = docstrings()
    for name, kind in Settings.__annotations__.items():
        yield f"### {name}\n"
        default = getattr(Settings, name)
        default = dict(default) if hasattr(default, "keys") else default
        yield f"`{kind}`, default `{default!r}`; also `{old_name(name)}`\n"
        yield f"{texts.get(name, '')}\n"


def _compat() -> Iterator[str]:
    yield "## compat='celery'\n"
    yield "Defaults that differ from Celery's on purpose, and what `compat` makes of them:\n"
    yield "| setting | default | here | with compat | Celery |\n|---|---|---|---|---|"
    for one in DIFFERENCES:
        default = getattr(Settings, one.setting)
        yield f"| {one.setting} | `{default!r}` | {one.here} | `{one.celery!r}` | {one.there} |"
    yield "\nWith it, an unknown setting is passed over with a warning.\n"


def _idle() -> Iterator[str]:
    for kind, head, text in (
        ("no effect", "Accepted without an effect", "A worker says so in one line of its log:"),
        ("later", "Accepted, not used yet", "A value other than Celery's default is logged:"),
        ("refused", "Refused", "A value other than Celery's default is an error:"),
    ):
        yield f"## {head}\n\n{text}\n"
        yield "| setting | in Celery 3 | why, and what instead |\n|---|---|---|"
        for name, known in _of_kind(kind):
            yield f"| {name} | {old_name(name)} | {known.reason} |"
        yield ""


def _of_kind(kind: str) -> Iterator[tuple[str, Known]]:
    for name, known in sorted(KNOWN.items()):
        if known.kind == kind and name not in Settings.__annotations__:
            yield name, known


def _variables() -> Iterator[str]:
    yield "## Environment variables\n"
    yield "| variable | means |\n|---|---|"
    yield "| UMBEL_*NAME* | the setting of that name; text, numbers, true and false, none, JSON |"
    yield "| UMBEL_HOME | the folder of the embedded store |"
    for variable in sources.CONFIG_VARIABLES:
        yield f"| {variable} | the configuration module of an app that was given none |"
    for variable, name in sources.CELERY_VARIABLES.items():
        yield f"| {variable} | {name} |"
    for variable, reason in sources.IDLE_VARIABLES.items():
        yield f"| {variable} | no effect: {reason} |"
    yield ""


def _foreign() -> Iterator[str]:
    yield "## Of packages that build on Celery\n"
    yield "Settings that begin so are passed over, with a line that says so:\n"
    yield "| begins with | package |\n|---|---|"
    for prefix, package in ADD_ONS.items():
        yield f"| {prefix} | {package} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(write_reference())
