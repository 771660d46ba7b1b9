"""States and exceptions: Celery's names, and the relations that user code counts on."""

from __future__ import annotations

import builtins
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import click
import pytest

from umbel import exceptions, result, states
from umbel.message.result import restore_exception

CELERY = [
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
]
"""Celery 5.7's `celery.exceptions.__all__`."""


@pytest.mark.parametrize("name", CELERY)
def test_every_name_is_there(name: str) -> None:
    value = getattr(exceptions, name)
    assert value.__module__ == "umbel.exceptions"
    assert value.__doc__


@pytest.mark.parametrize(
    ("child", "parents"),
    [
        ("ImproperlyConfigured", "CeleryError"),
        ("SecurityError", "CeleryError"),
        ("TaskPredicate", "CeleryError"),
        ("Ignore", "TaskPredicate"),
        ("Reject", "TaskPredicate"),
        ("Retry", "TaskPredicate"),
        ("TaskError", "CeleryError"),
        ("QueueNotFound", "TaskError KeyError"),
        ("IncompleteStream", "TaskError"),
        ("NotRegistered", "TaskError KeyError"),
        ("AlreadyRegistered", "TaskError"),
        ("TimeoutError", "TaskError"),
        ("MaxRetriesExceededError", "TaskError"),
        ("TaskRevokedError", "TaskError"),
        ("ChordError", "TaskError"),
        ("InvalidTaskError", "TaskError"),
        ("BackendGetMetaError", "BackendError"),
        ("BackendStoreError", "BackendError"),
        ("CeleryWarning", "UserWarning"),
        ("AlwaysEagerIgnored", "CeleryWarning"),
        ("DuplicateNodenameWarning", "CeleryWarning"),
        ("DuplicateTaskNameWarning", "CeleryWarning"),
        ("FixupWarning", "CeleryWarning"),
        ("NotConfigured", "CeleryWarning"),
        ("SecurityWarning", "CeleryWarning"),
        ("WorkerShutdown", "SystemExit"),
        ("WorkerTerminate", "SystemExit"),
        ("CPendingDeprecationWarning", "PendingDeprecationWarning"),
        ("CDeprecationWarning", "DeprecationWarning"),
    ],
)
def test_the_hierarchy(child: str, parents: str) -> None:
    for parent in parents.split():
        base = getattr(exceptions, parent, None) or getattr(builtins, parent)
        assert issubclass(getattr(exceptions, child), base)


@pytest.mark.parametrize("name", ["SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError"])
def test_a_task_that_catches_its_own_errors_does_not_swallow_its_end(name: str) -> None:
    assert not issubclass(getattr(exceptions, name), exceptions.CeleryError)


def test_a_chords_error_that_celery_has_stored_is_ours() -> None:
    record = {
        "exc_type": "ChordError",
        "exc_module": "celery.exceptions",
        "exc_message": ["Dependency 1 raised ValueError('no')"],
    }
    error = restore_exception(record, {})
    assert type(error) is exceptions.ChordError
    assert str(error) == "Dependency 1 raised ValueError('no')"


def test_all_results_are_of_one_kind() -> None:
    for kind in (result.AsyncResult, result.EagerResult, result.ResultSet):
        assert issubclass(kind, result.ResultBase)


def test_old_aliases() -> None:
    assert exceptions.CeleryError is exceptions.UmbelError
    assert exceptions.RetryTaskError is exceptions.Retry
    assert exceptions.SystemTerminate is exceptions.WorkerTerminate


def test_a_retry_says_why_and_when() -> None:
    retry = exceptions.Retry(exc=ValueError("no"), when=3)
    assert str(retry) == "Retry in 3s: ValueError('no')"
    assert str(exceptions.Retry("said so", when=3)) == "said so"
    at = datetime(2030, 1, 31, tzinfo=UTC)
    assert str(exceptions.Retry(when=at)) == "Retry at 2030-01-31 00:00:00+00:00"
    assert str(exceptions.Retry()) == "Retry at once"
    copy = pickle.loads(pickle.dumps(retry))
    assert (str(copy), repr(copy.exc), copy.when) == (str(retry), "ValueError('no')", 3)


def test_a_rejection_keeps_its_reason() -> None:
    reject = exceptions.Reject("full", requeue=True)
    assert (reject.reason, reject.requeue) == ("full", True)
    assert repr(reject) == "reject requeue=True: full"


def test_a_command_of_the_users_own_chooses_its_exit_code() -> None:
    error = exceptions.CeleryCommandException("no reply", exit_code=69)
    assert isinstance(error, click.ClickException)
    assert (error.message, error.exit_code) == ("no reply", 69)
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = exceptions.NoSuchName  # type: ignore[attr-defined]
    program = "import sys, umbel.exceptions; print('click' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert loaded.stdout.strip() == b"False"


def test_reraise() -> None:
    error = ValueError("no")
    with pytest.raises(ValueError, match="no") as raised:
        exceptions.reraise(ValueError, error, None)
    assert raised.value is error


def test_states_have_celerys_names_and_sets() -> None:
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert {"PENDING", "RECEIVED", "STARTED", "REJECTED", "RETRY"} == states.UNREADY_STATES
    assert {"RETRY", "FAILURE", "REVOKED"} == states.EXCEPTION_STATES
    assert {"FAILURE", "REVOKED"} == states.PROPAGATE_STATES
    assert {
        "PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED",
    } == states.ALL_STATES  # fmt: skip
    assert states.IGNORED == "IGNORED"


def test_states_compare_by_how_decided_they_are() -> None:
    order = ["SUCCESS", "FAILURE", "MINE", "REVOKED", "STARTED", "RECEIVED", "REJECTED", "RETRY"]
    assert sorted([*reversed(order), "PENDING"], key=states.precedence) == [*order, "PENDING"]
    state = states.state
    assert state("PROGRESS") > state("STARTED")
    assert state("PROGRESS") < state("SUCCESS")
    assert state("SUCCESS") >= state("SUCCESS")
    assert state("SUCCESS") <= state("SUCCESS")
    assert state("SUCCESS") == "SUCCESS"
    assert {state("SUCCESS")} == {"SUCCESS"}
