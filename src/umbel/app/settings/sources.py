"""Where settings come from: objects, modules, and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

from umbel.app.settings import spelling
from umbel.exceptions import ImproperlyConfigured

TAKES_FUNCTIONS: Final = frozenset(
    {"broker_failover_strategy", "database_engine_callback", "task_annotations", "task_routes"}
)
"""Settings whose value may be a function; under other names a module's functions are helpers."""
CELERY_VARIABLES: Final = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
    "AUTOSCALE_KEEPALIVE": "worker_autoscale_keepalive",
}
"""Celery's environment variables that give settings."""
CONFIG_VARIABLES: Final = ("UMBEL_CONFIG_MODULE", "CELERY_CONFIG_MODULE")
"""Variables that name the module of an app that was given no configuration."""
IDLE_VARIABLES: Final = {
    "CELERY_CUSTOM_WORKER_POOL": "a package adds a pool by an entry point of the group umbel.pools",
    "CELERY_LOADER": "there are no loaders: give the app its configuration (config_source)",
    "CELERY_SKIP_CHECKS": "comes with the Django integration",
    "CELERY_TRACE_APP": "there is no trace of apps: umbel report shows what an app is made of",
    "CELERY_WORKER_REVOKES_MAX": "revocations are kept in the store, for seven days",
    "CELERY_WORKER_REVOKE_EXPIRES": "revocations are kept in the store, for seven days",
    "CELERY_WORKER_SUCCESSFUL_EXPIRES": "a task that has ended is not delivered again",
    "CELERY_WORKER_SUCCESSFUL_MAX": "a task that has ended is not delivered again",
    "CELERY_RDBSIG": "there is no remote debugger",
    "CELERY_RDB_HOST": "there is no remote debugger",
    "CELERY_RDB_PORT": "there is no remote debugger",
    "C_FAKEFORK": "it is a switch for Celery's own tests",
    "C_STRICT_APP": "there is no implicit app to be strict about",
    "C_WARN_APP": "there is no implicit app to warn of",
    "MP_LOG": "there is no multiprocessing underneath",
}
"""Celery's variables that have no effect, and why."""
OTHER_VARIABLES: Final = frozenset({"UMBEL_HOME", "UMBEL_APP", "UMBEL_CONFIG_MODULE"})
"""Our variables that are no settings."""


class Item(NamedTuple):
    """One value that somebody gave."""

    value: Any
    origin: str
    """Where, for people: `celeryconfig.CELERY_TIMEZONE`."""


class Reading(NamedTuple):
    """What a source has given."""

    items: dict[str, Item]
    problems: list[str]
    """Names that mean no setting, each as a sentence."""
    notes: list[str]
    """What was passed over, and should not be in silence."""


def read_object(source: Any, namespace: str | None, fields: Collection[str]) -> Reading:
    """The settings of a mapping, or of a module, class or other object with attributes.

    In a mapping and under a namespace every name must be known. Elsewhere modules, classes,
    functions and foreign names are passed over, and only what seems to be one of ours and is
    not is a problem. `ImproperlyConfigured` if one setting is given twice with two values.
    """
    reading = Reading({}, [], [])
    where = _describe(source)
    strict = isinstance(source, Mapping)
    prefix = ""
    if namespace:
        prefix = namespace if namespace.endswith("_") else f"{namespace}_"
    spelled: dict[str, str] = {}
    for key, value in _pairs(source):
        name = key
        if prefix:
            if not key.startswith(prefix):
                _note_neighbour(reading, key, prefix, where, fields)
                continue
            name = key[len(prefix) :].lower()
            name = name if spelling.resolve(name, fields) else key
        meant = spelling.resolve(name, fields)
        if not strict and _is_code(value) and not (meant in TAKES_FUNCTIONS and callable(value)):
            continue
        if meant is None:
            _note_unknown(reading, key, where, fields, strict=strict or bool(prefix))
            continue
        if meant in spelled and not _same(reading.items[meant].value, value):
            raise ImproperlyConfigured(
                f"{where} gives {meant} twice, with two values: as {spelled[meant]} and as {key}. "
                f"Keep one; its name today is {prefix}{meant.upper() if prefix else meant}."
            )
        spelled[meant] = key
        reading.items[meant] = Item(value, f"{where}: {key}")
    return reading


def describe_unknown(name: str, where: str, fields: Collection[str]) -> str:
    """That there is no such setting, and what may have been meant."""
    near = spelling.nearest(name, fields)
    hint = f" Did you mean {near}?" if near else ""
    return f"There is no setting {name!r} ({where}).{hint}"


def _note_unknown(
    reading: Reading, key: str, where: str, fields: Collection[str], *, strict: bool
) -> None:
    package = spelling.add_on_of(key)
    if package is not None:
        reading.notes.append(f"{key} ({where}) has no effect: it is a setting of {package}")
    elif strict or spelling.seems_ours(key, fields):
        reading.problems.append(describe_unknown(key, where, fields))


def _note_neighbour(
    reading: Reading, key: str, prefix: str, where: str, fields: Collection[str]
) -> None:
    """Celery 3's other prefixes beside `namespace=`: Celery reads none of them."""
    if key.startswith(("BROKER_", "CELERYD_", "CELERYBEAT_")):
        meant = spelling.resolve(key, fields)
        if meant is not None:
            reading.notes.append(
                f"{key} ({where}) has no effect: under the namespace {prefix[:-1]} its name is "
                f"{prefix}{meant.upper()}"
            )


def _same(one: Any, other: Any) -> bool:
    return one is other or bool(one == other)


def _is_code(value: Any) -> bool:
    return isinstance(value, (ModuleType, type, FunctionType, MethodType, BuiltinFunctionType))


def _pairs(source: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(source, Mapping):
        for key, value in source.items():
            if not isinstance(key, str):
                raise ImproperlyConfigured(f"A setting's name must be text; got {key!r}.")
            yield key, value
        return
    for key in dir(source):
        if not key.startswith("_"):
            try:
                yield key, getattr(source, key)
            except AttributeError:
                continue  # a lazy object may list what it has not


def _describe(source: Any) -> str:
    if isinstance(source, Mapping):
        return "a dict of settings"
    name = getattr(source, "__name__", None)
    return str(name) if name else type(source).__name__


# ------------------------------------------------------------------ modules by name


def import_source(name: str, *, silent: bool = False) -> Any:
    """The object of a dotted path: `module`, `module:attribute`, or `module.attribute`.

    The working directory is searched too. `ImproperlyConfigured` if there is none (None if
    `silent`); what the module itself raises passes through.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = _import(module)
        if found is None and not attribute and "." in module:
            module, _, attribute = module.rpartition(".")
            found = _import(module)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except AttributeError:
        found = None
    if found is None and not silent:
        stem = name.removesuffix(".py")
        hint = f" Leave the .py out: {stem!r}." if stem != name else ""
        raise ImproperlyConfigured(
            f"The configuration {name!r} cannot be found: looked on the import path and in "
            f"{os.getcwd()}.{hint}"
        )
    return found


def _import(module: str) -> ModuleType | None:
    """A module, or None if there is none of that name; errors inside it pass through."""
    import importlib

    folder = os.getcwd()
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        return None
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


# ------------------------------------------------------------------ environment


def read_environment(fields: Collection[str]) -> tuple[dict[str, Item], list[str]]:
    """The settings that environment variables give, as text, and notes on near misses."""
    items: dict[str, Item] = {}
    notes = [
        f"the variable {variable} has no effect: {reason}"
        for variable, reason in IDLE_VARIABLES.items()
        if os.environ.get(variable)
    ]
    for variable, name in CELERY_VARIABLES.items():
        text = os.environ.get(variable)
        if text:
            items[name] = Item(text, variable)
    for variable in sorted(os.environ):
        if not variable.startswith("UMBEL_") or not os.environ[variable]:
            continue
        name = variable.removeprefix("UMBEL_").lower()
        meant = name if name in fields else spelling.resolve(name, fields)
        if meant is not None:
            items[meant] = Item(os.environ[variable], variable)
        elif variable not in OTHER_VARIABLES:
            near = spelling.nearest(name, fields, cutoff=0.8)
            if near:
                notes.append(
                    f"the variable {variable} has no effect: there is no such setting; "
                    f"did you mean UMBEL_{near.partition(' ')[0].upper()}?"
                )
    return items, notes
