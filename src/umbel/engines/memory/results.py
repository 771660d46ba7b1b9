"""The result store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from umbel import states
from umbel.engines.broker import Joining, StoredResult, Waker
from umbel.engines.memory.store import PipeWaker, Store


class MemoryResults:
    """`umbel.engines.results.ResultStore` inside one process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, ids: Sequence[str], waker: Waker | None = None) -> dict[str, StoredResult]:  # noqa: ARG002
        """Results by id; see the contract."""
        with self._store.lock:
            return {id: found for id in ids if (found := self._store.result(id)) is not None}

    def put(self, results: Sequence[StoredResult], *, timeout: float = 5.0) -> None:  # noqa: ARG002
        """Store results; see the contract. Nothing here waits for a `timeout`."""
        with self._store.lock:
            for result in results:
                old = self._store.result(result.id)
                if old is None or _may_follow(result.status, old.status):
                    self._store.store(result)
            self._store.ring("result")

    def forget(self, ids: Sequence[str]) -> None:
        """Remove results; see the contract."""
        with self._store.lock:
            for id in ids:
                self._store.results.pop(id, None)

    def parts(self, chord: str) -> list[bytes] | None:
        """The parts of a chord; see the contract."""
        with self._store.lock:
            found = self._store.workflows.get(chord)
            if found is None or not found.size:
                return None
            return [found.pieces[at] for at in sorted(found.pieces)]

    def progress(self, chord: str) -> tuple[int, int] | None:
        """How far a chord is; see the contract."""
        with self._store.lock:
            found = self._store.workflows.get(chord)
            if found is None or not found.size:
                return None
            return len(found.pieces), found.size

    def chords(self, limit: int = 10_000) -> list[Joining]:
        """Chords; see the contract."""
        with self._store.lock:
            open_ones = [(id, one) for id, one in self._store.workflows.items() if one.size]
        return [Joining(id, one.size, len(one.pieces), one.body) for id, one in open_ones[:limit]]

    def kept(self, id: str, start: int, stop: int) -> list[bytes]:
        """Steps of a workflow; see the contract."""
        with self._store.lock:
            found = self._store.workflows.get(id)
            places = [] if found is None else [(place, "") for place in range(start, stop)]
            return [found.pieces[at] for at in places if found and at in found.pieces]

    def listen(self) -> PipeWaker:
        """A waker for results; see the contract."""
        return PipeWaker(self._store, "result")


def _may_follow(status: str, old: str) -> bool:
    return status in states.READY_STATES or old not in states.READY_STATES
