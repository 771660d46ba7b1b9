"""The tasks of an app, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from umbel.exceptions import NotRegistered

if TYPE_CHECKING:
    from umbel.app.task import Task


class TaskRegistry(dict[str, "Task[..., Any]"]):
    """`App.tasks`: a dict whose missing names raise `NotRegistered`."""

    NotRegistered = NotRegistered

    def nearest(self, name: str) -> str | None:
        """The task whose name is most like this one; the last part of a name counts most."""
        import difflib

        same = [known for known in self if known.endswith(f".{name.rpartition('.')[2]}")]
        return next(iter(same or difflib.get_close_matches(name, self, n=1)), None)

    def __missing__(self, name: str) -> Task[..., Any]:
        near = self.nearest(name)
        hint = f" The nearest that is: {near!r}." if near else ""
        message = f"No task {name!r} is registered; the app has {len(self)} tasks.{hint}"
        raise NotRegistered(message)

    def own(self) -> list[str]:
        """The names of all but those that every app has, because workflows are made of them."""
        return sorted(name for name in self if not name.startswith(("celery.", "umbel.")))

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Add a task that has a name. `App.register_task` also names it and binds it to the app."""
        added = task() if isinstance(task, type) else task
        if not added.name:
            raise ValueError(f"{added!r} has no name, so it cannot be registered.")
        self[added.name] = added

    def unregister(self, name: str | Task[..., Any]) -> None:
        """Take a task out, by name or itself; `NotRegistered` if it is not here."""
        key = name if isinstance(name, str) else name.name
        if key not in self:
            self.__missing__(key)
        del self[key]
