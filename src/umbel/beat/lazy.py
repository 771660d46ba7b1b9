"""Arguments that are made when a task is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class BeatLazyFunc:
    """An argument in a schedule that is made anew at each tick: `BeatLazyFunc(date.today)`.

    The function is called with the arguments that are given here, in the scheduler's process.
    """

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args, self._kwargs = args, kwargs

    def __call__(self) -> Any:
        """The argument."""
        return self.delay()

    def delay(self) -> Any:
        """The argument (Celery's name)."""
        return self._func(*self._args, **self._kwargs)

    def __repr__(self) -> str:
        name = getattr(self._func, "__qualname__", repr(self._func))
        return f"<lazy: {name}>"
