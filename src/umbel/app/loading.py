"""Finding an app: by its name (`module:attribute`, `module.attribute`, `module`) or by looking.

The looking reads source text only; a module is imported once it is known to be the right one.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from umbel.app.app import App
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    import ast

DEFAULT_APP = "umbel.app.default:app"
"""The app of a folder that has a configuration module and makes no app."""
ATTRIBUTES = ("app", "celery")
"""Names under which a module's app is looked for first (Celery's rule)."""
PATTERNS = (
    "*.py",
    *(f"*/{name}.py" for name in ("__init__", "app", "celery", "celery_app", "tasks")),
)
"""Where in a folder apps are looked for."""


@dataclass(frozen=True)
class Candidate:
    """A place in source text where an app is made."""

    module: str
    attribute: str
    path: Path
    line: int

    @property
    def name(self) -> str:
        """What to give to -A."""
        return f"{self.module}:{self.attribute}"


@dataclass
class Survey:
    """What looking through a folder has found."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    """All that were looked at."""
    apps: list[Candidate] = field(default_factory=list)
    foreign: list[Candidate] = field(default_factory=list)
    """Apps made with `celery`, which Umbel runs once their import says `umbel`."""
    broken: list[tuple[Path, int, str]] = field(default_factory=list)
    """Files that do not parse: file, line, what is wrong."""


class AppNotFound(ImproperlyConfigured):
    """There is no app of that name; the message says what was looked at."""


def load_app(name: str) -> App:
    """Import and return an app; see `find_app`."""
    return find_app(name)[0]


def import_modules(app: App, include: Iterable[str] = ()) -> None:
    """Import the modules with the app's tasks, and those that a command line names besides."""
    app.import_default_modules()
    for module in include:
        importlib.import_module(module)


def find_app(name: str) -> tuple[App, str]:
    """The app of a name, and its exact place as `module:attribute`.

    `AppNotFound` says what was looked at if there is none, or more than one. The user's own
    import errors pass through.
    """
    return _resolve(name)


def survey(folder: Path) -> Survey:
    """Look for apps in the modules and packages of a folder, without importing any."""
    found = Survey(folder)
    for pattern in PATTERNS:
        for path in sorted(folder.glob(pattern)):
            module = _module_name(path.relative_to(folder))
            if module is not None and path.is_file():
                found.files.append(path)
                _read_candidates(path, module, found)
    return found


def configured_app(folder: Path) -> tuple[str, Path] | None:
    """What `[tool.umbel] app` of the nearest pyproject.toml says, and the folder of that file.

    `ImproperlyConfigured` if the file cannot be read.
    """
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file():
            text = file.read_bytes()
            if b"tool.umbel" not in text:
                return None
            import tomllib

            try:
                table = tomllib.loads(text.decode()).get("tool", {}).get("umbel", {})
            except ValueError as error:
                raise ImproperlyConfigured(f"{file} cannot be read: {error}") from error
            name = table.get("app")
            if name is not None and not isinstance(name, str):
                raise ImproperlyConfigured(f"{file}: [tool.umbel] app must be text, not {name!r}.")
            return (name, place) if name else None
    return None


def has_configuration(folder: Path) -> bool:
    """Whether a variable names a configuration module, or there is one where Celery 3 looked."""
    from umbel.app.settings.sources import CONFIG_VARIABLES

    if any(os.environ.get(variable) for variable in CONFIG_VARIABLES):
        return True
    return any((folder / name).exists() for name in ("celeryconfig.py", "celeryconfig/__init__.py"))


# ------------------------------------------------------------------ by name


def _resolve(name: str) -> tuple[App, str]:
    module_name, _, attribute = name.partition(":")
    if not module_name or os.sep in module_name or module_name.endswith(".py"):
        raise AppNotFound(_explain_spelling(module_name, attribute))
    if not attribute:
        return _resolve_module(module_name)
    module = _import(module_name)
    value = getattr(module, attribute, None)
    if isinstance(value, App):
        return value, name
    raise AppNotFound(f"{module_name}:{attribute} is no umbel App. {_list_apps(module)}")


def _explain_spelling(name: str, attribute: str) -> str:
    """What to write in the place of a path, or of a name without a module."""
    if not name:
        return f"-A :{attribute} names no module: write -A MODULE:{attribute or 'app'}."
    path = Path(name)
    parts = [part for part in path.with_suffix("").parts if part != os.curdir]
    after = f":{attribute}" if attribute else ""
    if all(part.isidentifier() for part in parts):
        right = f"-A {'.'.join(parts)}{after}"
    elif parts[-1].isidentifier():
        right = f"--workdir {path.parent} -A {parts[-1]}{after}"
    else:
        right = "-A MODULE:APP"
    return f"{name!r} is no module's name, as an import has it. Write {right}"


def _resolve_module(name: str) -> tuple[App, str]:
    parent, _, attribute = name.rpartition(".")
    try:
        module = _import(name)
    except AppNotFound:
        if not parent:
            raise
        value = getattr(_import(parent), attribute, None)
        if not isinstance(value, App):
            raise
        return value, f"{parent}:{attribute}"
    return _find_in(module)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports
        raise AppNotFound(f"There is no module {error.name!r} in {os.getcwd()}.") from error


def _find_in(module: ModuleType) -> tuple[App, str]:
    for attribute in ATTRIBUTES:
        value = getattr(module, attribute, None)
        if isinstance(value, App):
            return value, f"{module.__name__}:{attribute}"
        if isinstance(value, ModuleType) and value.__name__.startswith(f"{module.__name__}."):
            return _find_in(value)
    apps = {id(v): (v, k) for k, v in vars(module).items() if isinstance(v, App)}
    if len(apps) == 1:
        ((app, name),) = apps.values()
        return app, f"{module.__name__}:{name}"
    if not apps and hasattr(module, "__path__"):
        from importlib.util import find_spec

        for attribute in ATTRIBUTES:
            submodule = f"{module.__name__}.{attribute}"
            if find_spec(submodule) is not None:
                return _find_in(importlib.import_module(submodule))
    raise AppNotFound(_list_apps(module))


def _list_apps(module: ModuleType) -> str:
    names = sorted(k for k, v in vars(module).items() if isinstance(v, App))
    where = f"module {module.__name__} ({getattr(module, '__file__', 'no file')})"
    if not names:
        return f"There is no app in the {where}. Make one: app = umbel.App({module.__name__!r})"
    choices = ", ".join(f"-A {module.__name__}:{name}" for name in names)
    count = "one app" if len(names) == 1 else f"{len(names)} apps"
    return f"The {where} has {count}: {choices}"


# ------------------------------------------------------------------ by looking


def _module_name(path: Path) -> str | None:
    """The name under which a file is imported from its folder; None if it cannot be."""
    parts = (*path.parent.parts, path.stem)
    if path.stem == "__init__":
        parts = parts[:-1]
    own = path.parts[0] in {"__init__.py", "__main__.py", "setup.py"}
    return None if own or not all(part.isidentifier() for part in parts) else ".".join(parts)


def _read_candidates(path: Path, module: str, found: Survey) -> None:
    try:
        source = path.read_bytes()
    except OSError:
        return
    if b"umbel" not in source and b"celery" not in source:
        return
    import ast

    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        found.broken.append((path, error.lineno or 1, error.msg))
        return  # whoever names the module is shown the error
    except ValueError:
        return
    ours, theirs = _makers(body, "umbel"), _makers(body, "celery")
    for name, call, line in _assignments(body):
        if call in ours:
            found.apps.append(Candidate(module, name, path, line))
        elif call in theirs:
            found.foreign.append(Candidate(module, name, path, line))


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's statements with those inside `if`, `try` and `with`."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "finalbody", "handlers"):
            inner = getattr(statement, part, [])
            # A function's body is not run by an import, and a class's names are its own.
            if not hasattr(statement, "decorator_list"):
                yield from _statements(inner)


def _makers(body: Sequence[ast.stmt], package: str) -> set[str]:
    """The calls by which this module makes an app of a package: `App`, or `umbel.Celery`."""
    import ast

    makers = set()
    for statement in _statements(body):
        if isinstance(statement, ast.ImportFrom) and statement.level == 0:
            if (statement.module or "").partition(".")[0] == package:
                for alias in statement.names:
                    if alias.name in {"App", "Celery"}:
                        makers.add(alias.asname or alias.name)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.name == package:
                    local = alias.asname or alias.name
                    makers |= {f"{local}.App", f"{local}.Celery"}
    return makers


def _assignments(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str, int]]:
    """Name, called function and line of each `name = call(…)`."""
    import ast

    for statement in _statements(body):
        targets: Sequence[ast.expr] = ()
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = (statement.target,)
        value = getattr(statement, "value", None)
        if targets and isinstance(targets[0], ast.Name) and isinstance(value, ast.Call):
            yield targets[0].id, ast.unparse(value.func), statement.lineno
