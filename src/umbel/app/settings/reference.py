"""What is written from the tables of settings: their reference, and their types as keywords.

`python -m umbel.app.settings.reference > docs/reference/settings.md`, and
`python -m umbel.app.settings.reference keywords > src/umbel/app/settings/keywords.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator

from umbel.app.settings import sources
from umbel.app.settings.compat import DIFFERENCES
from umbel.app.settings.names import KNOWN, Known
from umbel.app.settings.spelling import ADD_ONS, old_name
from umbel.app.settings.table import Settings

GROUP = re.compile(r"^    # -{3,} (.+)$")
"""The line in the table that opens a group of settings."""
DURATIONS = "float"
"""How the table types what is a duration; all its floats are."""

HEAD = """\
# Settings

<!-- Written by `python -m umbel.app.settings.reference > docs/reference/settings.md`. -->

Settings can be given as

- keywords of the app: `App("shop", task_time_limit=300)`;
- attributes or keys of `app.conf`: `app.conf.task_time_limit = 300`,
  `app.conf.update(task_time_limit=300)`;
- a module, class or dict: `app.config_from_object("celeryconfig")`;
- environment variables: `UMBEL_` and the name in capitals, `UMBEL_TASK_TIME_LIMIT=300`;
- options of the command line, where a command has one.

Of several values the strongest counts: the command line's, the environment's, the code's (keywords
and `app.conf`), the configuration module's, that of `app.add_defaults`, the default. `umbel report`
shows each setting that was given, and where; `umbel report --check` also says what it means.

Durations are seconds, or a `timedelta`. A name that does not exist is an error that names the
nearest one.

Every setting has three names: its own; the old one, in the manner of Celery 3; and `CELERY_` with
its own name in capitals, which is what `namespace="CELERY"` reads. Type checkers know the settings
by their own names.
"""

KEYWORDS = '''\
"""The settings as type checkers see them: keywords of `App`, and `app.conf.NAME`.

Written by `python -m umbel.app.settings.reference keywords > src/umbel/app/settings/keywords.py`.
Only type checkers read it. At run time the names of Celery 3 are taken too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta, tzinfo
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from umbel.app.sending.options import DeclaredQueues, Routes
'''
OWN_ARGUMENTS = ("include",)
"""Settings that `App` has as an argument of that name."""
TAKEN = {"timezone": "str | tzinfo | None"}
"""Settings that take more than they give."""


def read_table() -> dict[str, dict[str, str]]:
    """The groups of the table of settings, each with the texts under its settings."""
    source = inspect.getsource(Settings)
    titles = {
        number: found[1]
        for number, line in enumerate(source.splitlines(), 1)
        if (found := GROUP.match(line))
    }
    (table,) = ast.parse(source).body
    groups: dict[str, dict[str, str]] = {title: {} for title in titles.values()}
    if isinstance(table, ast.ClassDef):
        for line, after in zip(table.body, table.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                title = titles[max(number for number in titles if number < line.lineno)]
                text = after.value if isinstance(after, ast.Expr) else ast.Constant("")
                groups[title][line.target.id] = inspect.cleandoc(ast.literal_eval(text))
    return groups


# ------------------------------------------------------------------------------- the reference


def write_reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_settings(), *_compat(), *_idle(), *_variables(), *_foreign()])


def _settings() -> Iterator[str]:
    groups = read_table()
    for title, settings in groups.items():
        yield f"- **{title}**: " + ", ".join(f"[{name}](#{name})" for name in settings)
    yield ""
    for title, settings in groups.items():
        yield f"## {title}\n"
        for name, text in settings.items():
            default = getattr(Settings, name)
            default = dict(default) if hasattr(default, "keys") else default
            yield f"### {name}\n\n{text}\n"
            kind = Settings.__annotations__[name]
            yield f"`{kind}`, default `{default!r}`; old name `{old_name(name)}`\n"


def _compat() -> Iterator[str]:
    yield '## `compat="celery"`\n'
    yield "Defaults that differ from Celery's on purpose, and what `compat` makes of them:\n"
    yield "| setting | default | here | with compat | Celery |\n|---|---|---|---|---|"
    for one in DIFFERENCES:
        default = getattr(Settings, one.setting)
        yield f"| {one.setting} | `{default!r}` | {one.here} | `{one.celery!r}` | {one.there} |"
    yield "\nWith it, an unknown setting is passed over with a warning.\n"


def _idle() -> Iterator[str]:
    for kind, head, text in (
        ("no effect", "Accepted without an effect", "A worker says so in one line of its log."),
        ("later", "Accepted, not used yet", "A value other than Celery's default is logged."),
        ("refused", "Refused", "A value other than Celery's default is an error."),
    ):
        yield f"## {head}\n\n{text} The names of Celery 3 are known for each.\n"
        yield "| settings | why, and what instead |\n|---|---|"
        reasons: dict[str, list[str]] = {}
        for name, known in _of_kind(kind):
            reasons.setdefault(known.reason, []).append(f"`{name}`")
        for reason, names in reasons.items():
            yield f"| {', '.join(names)} | {reason} |"
        yield ""


def _of_kind(kind: str) -> Iterator[tuple[str, Known]]:
    for name, known in sorted(KNOWN.items()):
        if known.kind == kind and name not in Settings.__annotations__:
            yield name, known


def _variables() -> Iterator[str]:
    yield "## Environment variables\n"
    yield "| variable | means |\n|---|---|"
    yield "| `UMBEL_…` | the setting of that name: text, numbers, true and false, none, JSON |"
    yield "| `UMBEL_HOME` | the folder of the embedded store |"
    for variable in sources.CONFIG_VARIABLES:
        yield f"| `{variable}` | the configuration module of an app that was given none |"
    for variable, name in sources.CELERY_VARIABLES.items():
        yield f"| `{variable}` | `{name}` |"
    for variable, reason in sources.IDLE_VARIABLES.items():
        yield f"| `{variable}` | no effect: {reason} |"
    yield ""


def _foreign() -> Iterator[str]:
    yield "## Of packages that build on Celery\n"
    yield "Settings that begin so are passed over, with a line that says so:\n"
    yield "| begins with | package |\n|---|---|"
    for prefix, package in ADD_ONS.items():
        yield f"| `{prefix}` | {package} |"
    yield ""


# --------------------------------------------------------------------------- types for checkers


def write_keywords() -> str:
    """The module `umbel.app.settings.keywords`: what is refused at run time is not in it."""
    own = {name: _taken(name, kind) for name, kind in Settings.__annotations__.items()}
    idle = [
        name
        for name, known in KNOWN.items()
        if known.kind != "refused" and name.islower() and name not in own
    ]
    return "\n".join(
        (
            KEYWORDS,
            "",
            "class AppSettings(TypedDict, total=False):",
            '    """What `App(…)` takes as further keywords."""\n',
            *(f"    {name}: {kind}" for name, kind in own.items() if name not in OWN_ARGUMENTS),
            *(f"    {name}: Any" for name in idle),
            "\n",
            "class GivenSettings(AppSettings, total=False):",
            '    """What `app.conf.update(…)` takes."""\n',
            *(f"    {name}: {own[name]}" for name in OWN_ARGUMENTS),
            "\n",
            "class IdleSettings:",
            '    """Attributes of `app.conf` that are accepted without effect."""\n',
            *(f"    {name}: Any" for name in idle),
            "",
        )
    )


def _taken(name: str, kind: str) -> str:
    return TAKEN.get(name) or re.sub(rf"\b{DURATIONS}\b", f"{DURATIONS} | timedelta", kind)


if __name__ == "__main__":
    write = write_keywords if sys.argv[1:] == ["keywords"] else write_reference
    sys.stdout.write(write())
