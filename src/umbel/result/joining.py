"""Whether waiting for a result is allowed here: not inside a task, unless it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from umbel._state import current_request

_denied: ContextVar[bool | None] = ContextVar("umbel_join_denied", default=None)
"""What the innermost context manager says; None: what runs here decides."""


def task_join_will_block() -> bool:
    """Whether `get` refuses to wait here: inside a task, or under `denied_join_result`."""
    denied = _denied.get()
    if denied is not None:
        return denied
    request = current_request.get()
    return request is not None and not request.called_directly


def assert_will_not_block() -> None:
    """`RuntimeError` if `task_join_will_block`."""
    if task_join_will_block():
        raise RuntimeError(
            "Never call result.get() within a task! It would hold its place in the worker until "
            "another task has run, and workers full of such waiting never end. Let the caller "
            "wait, or return the result. If this task is surely served by other workers than "
            "those it waits for: get(disable_sync_subtasks=False), or `with allow_join_result():`."
        )


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside the block, `get` may wait for results in a task too."""
    token = _denied.set(False)
    try:
        yield
    finally:
        _denied.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Inside the block, `get` raises `RuntimeError` as it does in a task."""
    token = _denied.set(True)
    try:
        yield
    finally:
        _denied.reset(token)
