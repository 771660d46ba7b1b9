"""What became of a task: `AsyncResult` (`celery.result`)."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from umbel import clock, states
from umbel.exceptions import TaskRevokedError, TimeoutError, UmbelError  # noqa: A004  (Celery's name)

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.engines.broker import StoredResult
    from umbel.message.result import Meta

R = TypeVar("R")
logger = logging.getLogger("umbel.result")

QUIET_AFTER: Final = 2.0
"""Seconds after which a wait looks whether any worker serves the queue."""
REVOKED_FOR: Final = 7 * 86400.0
"""Seconds for which a revocation is remembered."""


class AsyncResult(Generic[R]):
    """The result of one task, by its id. Cheap to make; it looks into the store when asked."""

    def __init__(
        self, id: str, app: App, *, queue: str | None = None, ignored: bool = False
    ) -> None:
        self.id = id
        self.app = app
        self._ignored = ignored
        self._queue = queue
        self._stored: StoredResult | None = None

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _look(self) -> StoredResult | None:
        if self._stored is None or self._stored.status not in states.READY_STATES:
            self._stored = self.app.engine.results.get([self.id]).get(self.id)
        return self._stored

    def _meta(self) -> Meta | None:
        from umbel.message import result as message

        stored = self._look()
        return None if stored is None else message.decode(stored.meta)

    @property
    def state(self) -> str:
        """One of `umbel.states`; PENDING also for an id that nobody ever sent."""
        stored = self._look()
        return states.PENDING if stored is None else stored.status

    status = state

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task has failed."""
        return self.state == states.FAILURE

    @property
    def result(self) -> R | Exception | None:
        """The return value, or the exception, or None while there is neither."""
        meta = self._meta()
        if meta is None:
            return None
        if meta.status in states.EXCEPTION_STATES:
            return self._error(meta)
        return cast("R", meta.result)

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        meta = self._meta()
        return None if meta is None else meta.traceback

    @overload
    def get(self, timeout: float | None = None, *, propagate: Literal[True] = True) -> R: ...
    @overload
    def get(self, timeout: float | None = None, *, propagate: bool) -> R | Exception: ...

    def get(self, timeout: float | None = None, *, propagate: bool = True) -> R | Exception:
        """Wait for the task to end and return its value.

        None at once if the task was sent with its result ignored: nobody will ever know.

        Raises what the task raised (with `propagate=False` returns it), `TaskRevokedError`, or
        `umbel.exceptions.TimeoutError` after `timeout` seconds (None: no limit). Logs one
        warning when after 2 s no live worker serves the queue.
        """
        if self._ignored:
            return cast("R", None)
        from umbel.engines.waiting import wait_for_result

        if self._stored is None or self._stored.status not in states.READY_STATES:
            self._stored = wait_for_result(
                self.app.engine.results, self.id, timeout, self._warn_if_nobody_works, QUIET_AFTER
            )
        if self._stored is None:
            raise self._timed_out(timeout)
        return self._value(propagate=propagate)

    @overload
    async def aget(self, timeout: float | None = None, *, propagate: Literal[True] = True) -> R: ...
    @overload
    async def aget(self, timeout: float | None = None, *, propagate: bool) -> R | Exception: ...

    async def aget(self, timeout: float | None = None, *, propagate: bool = True) -> R | Exception:
        """`get` for coroutines: the event loop goes on meanwhile."""
        if self._ignored:
            return cast("R", None)
        if not await asyncio.to_thread(self.ready):
            waiting = asyncio.ensure_future(self.app.waiter.wait(self.id))
            quiet = QUIET_AFTER if timeout is None else min(QUIET_AFTER, timeout)
            done, _ = await asyncio.wait({waiting}, timeout=quiet)
            try:
                if not done:
                    if quiet == QUIET_AFTER:
                        await asyncio.to_thread(self._warn_if_nobody_works)
                    rest = None if timeout is None else timeout - quiet
                    await asyncio.wait_for(waiting, rest)
                await waiting
            except builtins.TimeoutError:
                raise self._timed_out(timeout) from None
            finally:
                waiting.cancel()
            await asyncio.to_thread(self._look)
        return self._value(propagate=propagate)

    def _value(self, *, propagate: bool) -> R | Exception:
        meta = self._meta()
        if meta is None:
            raise TimeoutError(f"The result of task {self.id} has expired or was removed.")
        if meta.status not in states.PROPAGATE_STATES:
            return cast("R", meta.result)
        error = self._error(meta)
        if not propagate:
            return error
        if meta.traceback:
            error.add_note(f"In the worker:\n{meta.traceback}")
        raise error

    def _error(self, meta: Meta) -> Exception:
        from umbel.message import result as message

        registered: Mapping[str, type[BaseException]] = {
            f"{kind.__module__}.{kind.__qualname__}": kind
            for task in self.app.tasks.values()
            for kind in task.throws
        }
        return message.restore_exception(meta.result, registered)

    def _timed_out(self, timeout: float | None) -> TimeoutError:
        hint = self._hint_if_nobody_works() or "It goes on."
        return TimeoutError(f"Task {self.id} has not ended after {timeout:g} s. {hint}")

    def forget(self) -> None:
        """Remove the stored result."""
        self._stored = None
        self.app.engine.results.forget([self.id])

    def revoke(self) -> bool:
        """Do not run the task; True if it was still waiting and is now taken out.

        Works with all workers down too. A task that runs goes on; its retries are refused.
        """
        from umbel.engines.broker import StoredResult
        from umbel.message import result as message

        now = clock.time()
        record = message.describe_exception(TaskRevokedError("revoked"))
        meta = message.encode_failure(self.id, record, now, status=states.REVOKED)
        expires = self.app.conf.result_expires
        stored = StoredResult(
            self.id, states.REVOKED, meta, None if expires is None else now + expires
        )
        state = self.app.engine.state
        return bool(state.revoke([stored], until=now + REVOKED_FOR))

    def _warn_if_nobody_works(self) -> None:
        hint = self._hint_if_nobody_works()
        if hint:
            logger.warning("Task %s waits. %s", self.id, hint)

    def _hint_if_nobody_works(self) -> str:
        """What to do if no live worker serves the task's queue; empty if one does."""
        from umbel.engines.run_file import is_alive

        engine = self.app.engine
        queue = self._queue
        if queue is None:
            waiting = engine.broker.browse(id=self.id, limit=1) if engine.broker.browsable else []
            if not waiting or waiting[0].worker is not None:
                return ""
            queue = waiting[0].queue
        live = [w for w in engine.state.workers() if is_alive(w, engine.run_dir)]
        if any(queue in worker.queues for worker in live):
            return ""
        others = "; ".join(f"{w.node} serves {', '.join(w.queues)}" for w in live)
        return (
            f"Nobody works on its queue {queue!r} of {engine.name}. Live workers: "
            f"{others or 'none'}. Start one: umbel -A {self.app.module} worker -Q {queue}"
        )


class EagerResult(AsyncResult[R]):
    """The result of a task that has already run here (`celery.result.EagerResult`)."""

    def __init__(
        self,
        id: str,
        ret_value: R | BaseException | None,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self._result = ret_value
        self._state = state
        self._traceback = traceback

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.id, self._result, self._state, self._traceback, self.name)
        return type(self), arguments

    @property
    def state(self) -> str:
        """How it ended: one of `umbel.states`."""
        return self._state

    status = state

    @property
    def result(self) -> R | Exception | None:
        """The return value, or the exception."""
        return cast("R | Exception | None", self._result)

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        return self._traceback

    def ready(self) -> bool:
        """Whether the task has ended: it has."""
        return True

    def get(self, timeout: float | None = None, *, propagate: bool = True, **_: Any) -> Any:  # noqa: ARG002
        """The return value; raises what the task raised (with `propagate=False` returns it)."""
        if propagate and self._state in states.PROPAGATE_STATES:
            error = self._result
            raise error if isinstance(error, BaseException) else UmbelError(str(error))
        return self._result

    wait = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ARG002  (it never waits)
        *,
        propagate: bool = True,
        **_: Any,
    ) -> Any:
        """`get` for coroutines."""
        return self.get(propagate=propagate)

    def then(
        self,
        callback: Callable[[EagerResult[R]], object],
        on_error: Callable[[EagerResult[R]], object] | None = None,
        weak: bool = False,  # noqa: ARG002  (Celery's; called at once, nothing is held)
    ) -> EagerResult[R]:
        """Call one of the two with this result, now: it has ended."""
        if self._state not in states.PROPAGATE_STATES:
            callback(self)
        elif on_error is not None:
            on_error(self)
        return self

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def revoke(self, *_: object, **__: object) -> bool:
        """Turn it into a revoked one, which has no value any more; False: it had ended."""
        self._state = states.REVOKED
        self._result = TaskRevokedError("revoked")
        self._traceback = None
        return False
