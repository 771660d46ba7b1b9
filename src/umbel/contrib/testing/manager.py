"""Waiting for what tasks do (`celery.contrib.testing.manager`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

from umbel import states
from umbel.app import App
from umbel.app.refusals import refuse_names
from umbel.exceptions import TimeoutError  # noqa: A004  (Celery's name)
from umbel.result import AsyncResult, ResultSet

R = TypeVar("R")
PAUSE: Final = 0.02
"""Seconds between two looks."""


class Sentinel(Exception):  # noqa: N818  (Celery's name)
    """What was waited for has not come."""


class Manager:
    """Waits, for tests of a worker that runs beside them.

    It looks into the store; Celery's asks the workers. So it works with any number of them, and
    a task counts as received once a worker has claimed it.
    """

    def __init__(
        self,
        app: App,
        block_timeout: float = 1800.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.app = app
        self.block_timeout = block_timeout
        """Longest wait of `wait_until_idle`, in seconds."""
        self.no_join = no_join
        self.stdout: TextIO = sys.stdout if stdout is None else stdout
        self.stderr: TextIO = sys.stderr if stderr is None else stderr

    def remark(self, s: str, sep: str = "-") -> None:
        """Write a line to `stdout`."""
        self.stdout.write(f"{sep}{s}\n")

    def warn(self, s: str) -> None:
        """Write a line to `stderr`."""
        self.stderr.write(f"{s}\n")

    def missing_results(self, r: Iterable[AsyncResult[Any]]) -> list[str]:
        """The ids of those that have not ended."""
        return [result.id for result in r if not result.ready()]

    def join(
        self,
        r: AsyncResult[Any] | ResultSet[Any],
        propagate: bool = False,
        max_retries: int = 10,
        timeout: float = 10.0,
    ) -> Any:
        """Wait for results, `max_retries` times `timeout` seconds; their values.

        `AssertionError` if they do not come.
        """
        if self.no_join:
            return None
        results = r if isinstance(r, ResultSet) else ResultSet([r], app=self.app)
        for _ in range(max_retries):
            try:
                return results.get(timeout=timeout, propagate=propagate)
            except TimeoutError as error:
                missing = ", ".join(self.missing_results(results.results))
                self.remark(f"Still waiting for [{missing}]: {error}", "!")
        raise AssertionError("Test failed: Missing task results")

    def wait_for(
        self,
        fun: Callable[..., R],
        catch: Sequence[type[BaseException]],
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        errback: Callable[[BaseException, float, int], object] | None = None,
        max_retries: int = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
    ) -> R:
        """Call `fun` until it raises none of `catch`; its value.

        The last try's error is raised. The intervals are seconds.
        """
        interval = interval_start
        for attempt in range(max_retries + 1):
            try:
                return fun(*args, **(kwargs or {}))
            except tuple(catch) as error:
                if attempt == max_retries:
                    raise
                if emit_warning:
                    self.warn(
                        f"Still waiting for {desc}. Trying again in {interval:g} s: {error!r}"
                    )
                if errback is not None:
                    errback(error, interval, attempt)
            time.sleep(interval)
            interval = min(interval + interval_step, interval_max)
        raise AssertionError("unreachable")

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., object],
        catch: Sequence[type[BaseException]],
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
    ) -> None:
        """Make sure that `fun` goes on raising one of `catch`; else `AssertionError`."""
        try:
            self.wait_for(
                fun,
                catch,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
            )
        except tuple(catch):
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def true_or_raise(self, fun: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """The value of `fun`; `Sentinel` if it is false."""
        value = fun(*args, **kwargs)
        if not value:
            raise Sentinel
        return value

    # ------------------------------------------------------------------ what became of tasks

    def is_received(self, ids: Collection[str]) -> bool:
        """Whether each task has been claimed by a worker, or has ended."""
        return all(self._state_of(id) != "waiting" for id in ids)

    def is_accepted(self, ids: Collection[str]) -> bool:
        """Whether each task has been claimed by a worker, or has ended."""
        return self.is_received(ids)

    def is_result_task_in_progress(self, results: Iterable[AsyncResult[Any]]) -> bool:
        """Whether each task has started (as far as that is stored) or has returned."""
        return all(result.state in {states.STARTED, states.SUCCESS} for result in results)

    def _state_of(self, id: str) -> str:
        held = self.app.engine.broker.browse(id=id)
        if any(message.worker is not None for message in held):
            return "claimed"
        if held:
            return "waiting"
        known = self.app.engine.results.get([id]) or self.app.engine.state.history(id=id, limit=1)
        return "ended" if known else "waiting"

    def assert_received(
        self, ids: Collection[str], interval: float = 0.5, desc: str = "tasks", **policy: Any
    ) -> bool:
        """Wait until `is_received`; `Sentinel` if it is not to be. `policy` as of `wait_for`."""
        return self._assert(self.is_received, ids, interval, f"{desc} to be received", policy)

    def assert_accepted(
        self, ids: Collection[str], interval: float = 0.5, desc: str = "tasks", **policy: Any
    ) -> bool:
        """Wait until `is_accepted`; `Sentinel` if it is not to be. `policy` as of `wait_for`."""
        return self._assert(self.is_accepted, ids, interval, f"{desc} to be accepted", policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Collection[AsyncResult[Any]],
        interval: float = 0.5,
        desc: str = "tasks",
        **policy: Any,
    ) -> bool:
        """Wait until `is_result_task_in_progress`; `Sentinel` if it is not to be."""
        return self._assert(
            self.is_result_task_in_progress, async_results, interval, f"{desc} to start", policy
        )

    def _assert(
        self,
        check: Callable[[Any], bool],
        what: Collection[Any],
        interval: float,
        desc: str,
        policy: Mapping[str, Any],
    ) -> bool:
        options = {"interval_start": PAUSE, "interval_max": interval, **policy}
        self.wait_for(self.true_or_raise, (Sentinel,), desc=desc, args=(check, what), **options)
        return True

    def wait_until_idle(self) -> None:
        """Drop what waits, then wait until no task runs; `AssertionError` after `block_timeout`."""
        broker = self.app.engine.broker
        end = time.monotonic() + self.block_timeout
        while True:
            counts = broker.counts()
            broker.purge([count.queue for count in counts])
            if not any(count.claimed for count in counts):
                return
            if time.monotonic() > end:
                raise AssertionError(f"Tasks still run after {self.block_timeout:g} s")
            time.sleep(PAUSE)


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
