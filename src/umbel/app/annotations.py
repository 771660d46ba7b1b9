"""The setting `task_annotations`: options of tasks that a configuration overrides.

    task_annotations = {"proj.add": {"rate_limit": "10/s"}, "*": {"max_retries": 5}}

The value is such a dict, an object with `annotate(task)` and perhaps `annotate_any()`, or a list
of these, of which the first that knows a task decides. As in Celery, what is said of all tasks
is applied after what is said of one, and a key such as "@run" wraps that method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.task import Task


def annotations_of(setting: Any, task: Task[..., Any]) -> Iterator[tuple[str, Any]]:
    """The options that the setting has for a task, in the order in which they apply."""
    sources = setting if isinstance(setting, (list, tuple)) else (setting,)
    for of_all in (False, True):
        for source in sources:
            found = _ask(source, task, of_all=of_all)
            if found:
                yield from found.items()
                break


def _ask(source: Any, task: Task[..., Any], *, of_all: bool) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None
    if isinstance(source, Mapping):
        found = source.get("*" if of_all else task.name)
    elif hasattr(source, "annotate"):
        any_of = getattr(source, "annotate_any", None)
        found = source.annotate(task) if not of_all else any_of() if any_of else None
    else:
        raise ImproperlyConfigured(
            f"task_annotations has {source!r}; give a dict of task names, or an object with a "
            "method annotate(task)."
        )
    if found is not None and not isinstance(found, Mapping):
        raise ImproperlyConfigured(
            f"task_annotations for {task.name!r} must be a dict of options; got {found!r}."
        )
    return found
