"""The results of a group, under an id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from umbel import clock, states
from umbel.message.serializer import dumps, loads
from umbel.result.expiry import expiry
from umbel.result.many import ResultSet
from umbel.result.single import AsyncResult, ResultBase, ResultTuple, result_from_tuple
from umbel.result.stored import current_app, result_store

if TYPE_CHECKING:
    from umbel.app import App

R = TypeVar("R")
SAVED: Final = "group:"
"""What the id of a saved group begins with in the result store."""


class GroupResult(ResultSet[R]):
    """The results of a group (`celery.result.GroupResult`): `get()` gives them in order.

    `save()` keeps its members in the store, so that another process finds them by the group's id.
    """

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[AsyncResult[R]] | None = None,
        parent: ResultBase | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(results or (), app=app)
        self.id: str = id or ""
        self.parent: ResultBase | None = parent

    @property
    def children(self) -> list[AsyncResult[R]]:
        """The same as `results`."""
        return self.results

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(map(str, self.as_ids()))}]>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)

    def as_ids(self) -> list[str]:
        """The ids of its tasks."""
        return [member.id for member in self._leaves()]

    def as_list(self) -> list[str]:
        """The ids of its tasks and of the steps before them."""
        own = [id for member in self.results for id in member.as_list()]
        return [*own, *([] if self.parent is None else self.parent.as_list())]

    def as_tuple(self) -> ResultTuple:
        """`((id, parent's tuple or None), tuples of its members)`."""
        parent = None if self.parent is None else self.parent.as_tuple()
        return (self.id, parent), [member.as_tuple() for member in self.results]

    def __json__(self) -> ResultTuple:
        """A task may return a result: its tuple is stored."""
        return self.as_tuple()

    def progress(self) -> tuple[int, int]:
        """How many of its tasks have ended, of how many; no result is fetched.

        Of a chord's header it is what the store has counted, members that were added too.
        """
        counted = None if self._eager() else result_store(self.app).progress(self.id)
        if counted is not None:
            return counted
        states_now = self._states()
        return sum(state in states.READY_STATES for state in states_now), len(states_now)

    def _eager(self) -> bool:
        return any(member.eager for member in self._leaves())

    def iterdeps(
        self, intermediate: bool = False
    ) -> Iterator[tuple[ResultBase | None, AsyncResult[Any]]]:
        """Its tasks and all that they led to, as `AsyncResult.iterdeps`."""
        for member in self.results:
            for sender, node in member.iterdeps(intermediate):
                yield self if sender is None else sender, node

    # ---------------------------------------------------------------------------- keeping it

    def save(self, backend: None = None) -> None:
        """Keep the ids of its members, as long as results are kept."""
        from umbel.engines.broker import StoredResult

        _refuse(backend)
        now = clock.time()
        meta = dumps({"result": self.as_tuple()})
        expires = expiry(self.app.conf, states.SUCCESS, now)
        result_store(self.app).put([StoredResult(SAVED + self.id, states.SUCCESS, meta, expires)])

    def delete(self, backend: None = None) -> None:
        """Forget what `save` has kept; the tasks' results stay."""
        _refuse(backend)
        result_store(self.app).forget([SAVED + self.id])

    @classmethod
    def restore(
        cls, id: str, backend: None = None, app: App | None = None
    ) -> GroupResult[Any] | None:
        """The group that was saved under an id; None if there is none."""
        _refuse(backend)
        owner = current_app() if app is None else app
        stored = result_store(owner).get([SAVED + id]).get(SAVED + id)
        if stored is None:
            return None
        fields = cast("dict[str, Any]", loads(stored.meta))
        found = result_from_tuple(fields["result"], owner)
        return cast("GroupResult[Any]", found)


def _refuse(backend: object) -> None:
    if backend is not None:
        raise ValueError("An app has one result store, its own: leave backend out.")
