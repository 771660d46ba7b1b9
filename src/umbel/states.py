"""The states of a task, under Celery's names (`celery.states`)."""

from __future__ import annotations

PENDING = "PENDING"
"""Nothing is stored for this id: it waits, or nobody ever sent it (`AsyncResult.exists`)."""
RECEIVED = "RECEIVED"
"""A worker has it in hand. Only in events, never stored."""
STARTED = "STARTED"
"""Its function runs; stored where `track_started` is on."""
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
"""It was revoked, or expired, before it ran."""
REJECTED = "REJECTED"
"""It raised `Reject`. Only in events and signals, never stored."""
RETRY = "RETRY"
"""It failed and waits for its next attempt."""
IGNORED = "IGNORED"
"""It raised `Ignore`. Only in signals, never stored."""

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""The task has ended; the result will not change any more."""
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""The stored result is an error record."""
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
"""`AsyncResult.get` raises in these states."""
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

PRECEDENCE: list[str | None] = [
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
]
"""The states from the most to the least decided; None stands for all that users define."""
PRECEDENCE_LOOKUP: dict[str | None, int] = {name: place for place, name in enumerate(PRECEDENCE)}


def precedence(state: str) -> int:
    """A state's place in `PRECEDENCE`: the lower, the more decided."""
    return PRECEDENCE_LOOKUP.get(state, PRECEDENCE_LOOKUP[None])


class state(str):  # noqa: N801  (Celery's name)
    """A state that compares by `precedence`: `state("PROGRESS") > state("STARTED")`."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
