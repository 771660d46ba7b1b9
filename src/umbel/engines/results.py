"""The contract of a result store: what became of a task, by its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from umbel.engines.broker import Joining, StoredResult, Waker


class ResultStore(Protocol):
    """Results by task id. Safe for use from any number of threads and processes at once.

    A stored SUCCESS is never overwritten (Celery's rule), and `put` overwrites no end (FAILURE,
    REVOKED) by a state that is none: a task's late word about itself. An expired result is as
    absent.
    """

    def get(self, ids: Sequence[str], waker: Waker | None = None) -> dict[str, StoredResult]:
        """The results that are there, by id.

        With a `waker` of this store, those of which it may fire once more are enough: what was got
        through it before and has not changed since may be left out.
        """
        ...

    def put(self, results: Sequence[StoredResult], *, timeout: float = 5.0) -> None:
        """Store results outside of a settlement (a task's own progress, a revocation)."""
        ...

    def forget(self, ids: Sequence[str]) -> None:
        """Remove results."""
        ...

    def parts(self, chord: str) -> list[bytes] | None:
        """The parts of a chord so far, by index and key; None if there is no such chord."""
        ...

    def progress(self, chord: str) -> tuple[int, int] | None:
        """How many parts of a chord are there, of how many; None if there is no such chord."""
        ...

    def chords(self, limit: int = 10_000) -> list[Joining]:
        """The chords that are there, in no order."""
        ...

    def kept(self, id: str, start: int, stop: int) -> list[bytes]:
        """Steps of a workflow from one position up to another; `[]` if they are gone."""
        ...

    def listen(self) -> Waker:
        """A waker that fires when any result may have been stored since."""
        ...
