"""`App.add_periodic_task`: from a call to an item of `beat_schedule`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.task import Task

OF_ENTRY: Final = frozenset({"timezone", "misfire", "misfire_limit", "jitter", "relative"})
"""Keywords that are the entry's own; all others are options of its task."""


def describe_entry(
    app: App,
    schedule: Any,
    sig: Task[..., Any] | str | Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """An entry and its name. Of a signature, its own arguments come after those given here."""
    own = {key: value for key, value in options.items() if key in OF_ENTRY}
    rest = {key: value for key, value in options.items() if key not in OF_ENTRY}
    all_args, all_kwargs = tuple(args or ()), dict(kwargs or {})
    if isinstance(sig, Mapping):
        task = sig["task"]
        all_args = (*all_args, *(sig.get("args") or ()))
        all_kwargs = {**(sig.get("kwargs") or {}), **all_kwargs}
        rest = {**(sig.get("options") or {}), **rest}
    else:
        task = getattr(sig, "name", sig)
    key = name or _spell_call(task, all_args, all_kwargs)
    entry = {
        "task": task, "schedule": schedule, "args": all_args, "kwargs": all_kwargs,
        "options": rest, **own,
    }  # fmt: skip
    there = app.conf.beat_schedule.get(key)
    if there is not None and there != entry:
        warnings.warn(
            f"Two periodic tasks have the name {key!r}; the second one stays. Give one of them "
            "another: add_periodic_task(…, name=…).",
            stacklevel=3,
        )
    return key, entry


def _spell_call(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call as Python would write it."""
    values = [repr(value) for value in args]
    values += [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{task}({', '.join(values)})"
