"""The states of a task, under Celery's names (`celery.states`)."""

PENDING = "PENDING"
"""Nothing is stored for this id: it waits, or nobody ever sent it."""
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""The task has ended; the result will not change any more."""
UNREADY_STATES = frozenset({PENDING, STARTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""The stored result is an error record."""
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
"""`AsyncResult.get` raises in these states."""
