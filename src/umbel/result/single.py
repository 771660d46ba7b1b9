"""The result of one task."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    cast,
    overload,
)

from umbel import exceptions, states
from umbel.exceptions import ImproperlyConfigured, IncompleteStream
from umbel.result.joining import assert_will_not_block
from umbel.result.meter import Meter
from umbel.result.stored import (
    MetaDict,
    advise,
    current_app,
    decode,
    locate,
    message_watch,
    result_store,
    revoke_all,
    stored_value,
)

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.engines.broker import StoredResult
    from umbel.message.result import Meta
    from umbel.result.graph import DependencyGraph

R = TypeVar("R")
logger: logging.Logger = logging.getLogger("umbel.result")

QUIET_AFTER: Final = 2.0
"""Seconds after which a wait looks whether any worker serves the queue."""


ABSENT: Final = {
    "backend": "an app has one result store, and no class of your own can be one; what it holds is "
    "told by state, result, traceback, exists() and App.history()",
    "on_ready": "then(callback) calls you when the task has ended",
    "revoke_by_stamped_headers": "it comes with remote control; revoke() works by id",
}
"""Names of Celery's results that are not there, and why."""


ResultTuple = tuple[tuple[str, Any], list[Any] | None]
"""`((id, parent's tuple or None), None)`, with a list of tuples at the end for a group."""


class ResultBase:
    """What `AsyncResult` and `ResultSet` have in common."""

    parent: ResultBase | None = None
    """The result of the step before, in a workflow."""

    def as_tuple(self) -> ResultTuple:
        """What `result_from_tuple` reads."""
        raise NotImplementedError(f"{type(self).__name__} has no id, so it has no tuple.")

    def as_list(self) -> list[str]:
        """The ids of its tasks and of the steps before them."""
        return []

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            why = f": {ABSENT[name]}" if name in ABSENT else ""
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{why}",
                name=name,
                obj=self,
            )


class AsyncResult(ResultBase, Generic[R]):
    """The result of one task, by its id. Cheap to make; it looks into the store when asked.

    Comparing is by id, with other results and with plain text. `await result` is `aget()`.
    """

    TimeoutError: ClassVar[type[exceptions.TimeoutError]] = exceptions.TimeoutError
    """What `get` raises when the time is over."""
    eager: ClassVar[bool] = False
    """The task ran where it was called, without a store (`EagerResult`)."""

    def __init__(
        self,
        id: str,
        backend: None = None,
        task_name: str | None = None,  # noqa: ARG002  (Celery's, deprecated there)
        app: App | None = None,
        parent: ResultBase | None = None,
        *,
        queue: str | None = None,
        ignored: bool = False,
    ) -> None:
        if not isinstance(id, str):
            raise ValueError(f"A result is known by its task's id, which is text; got {id!r}.")  # noqa: TRY004  (Celery's)
        if backend is not None:
            raise ImproperlyConfigured(
                "An app has one result store, its own: write AsyncResult(id, app=app)."
            )
        self.id = id
        self.app: App = current_app() if app is None else app
        if parent is not None:
            self.parent: ResultBase | None = parent
        self.ignored = ignored
        """Its result is not stored, so nobody will ever know it: `get` returns None at once."""
        self._queue = queue
        self._stored: StoredResult | None = None
        self._decoded: tuple[StoredResult, Meta] | None = None

    # ------------------------------------------------------------------------------ identity

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(
            self.id, None, None, self.app, self.parent, queue=self._queue, ignored=self.ignored
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its app: it comes back with the one that is current there."""
        state = {"_queue": self._queue, "ignored": self.ignored}
        return type(self), (self.id, None, None, None, self.parent), state

    def as_tuple(self) -> ResultTuple:
        """`((id, parent's tuple or None), None)`, what `result_from_tuple` reads."""
        return (self.id, None if self.parent is None else self.parent.as_tuple()), None

    def __json__(self) -> ResultTuple:
        """A task may return a result: its tuple is stored."""
        return self.as_tuple()

    def as_list(self) -> list[str]:
        """The ids of this task and of the steps before it, latest first."""
        return [self.id, *([] if self.parent is None else self.parent.as_list())]

    def _parents(self) -> Iterator[AsyncResult[Any]]:
        # Not those of a chord's header: whether the body runs when one of them fails is the
        # chord's to say, and if it does not, its result is the error.
        node = self.parent
        while node is not None:
            if isinstance(node, AsyncResult):
                yield node
            node = node.parent

    # -------------------------------------------------------------------------- what is stored

    def _ended(self) -> bool:
        """Whether the end is known here already, without a look into the store."""
        return self._stored is not None and self._stored.status in states.READY_STATES

    def _last_state(self) -> str:
        """The state as it is known here, without a look into the store."""
        return states.PENDING if self._stored is None else self._stored.status

    def _look(self) -> StoredResult | None:
        if not self._ended():
            self._stored = result_store(self.app).get([self.id]).get(self.id)
        return self._stored

    def _meta(self) -> Meta | None:
        stored = self._look()
        if stored is None:
            return None
        if self._decoded is None or self._decoded[0] is not stored:
            self._decoded = stored, decode(self.app, stored)
        return self._decoded[1]

    @property
    def state(self) -> str:
        """One of `umbel.states`, or one that the task has set (`Task.update_state`).

        PENDING also for an id that nobody ever sent: `exists` tells.
        """
        self._look()
        return self._last_state()

    @property
    def status(self) -> str:
        """The same as `state`."""
        return self.state

    def exists(self) -> bool:
        """Whether the store knows the id: a result, a message that waits or runs, a dead letter.

        False for an id that nobody sent, or whose result has expired or was forgotten.
        """
        engine = self.app.engine
        # A task moves from message to result and dead letter: in this order it cannot be missed.
        return bool(
            (engine.broker.browsable and engine.broker.browse(id=self.id, limit=1))
            or (self.app.keeps_results and self._look() is not None)
            or ((letter := engine.state.dead_letter(self.id)) and letter.id == self.id)
        )

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
        """The return value, or the exception; before that, what `update_state` has stored."""
        meta = self._meta()
        return None if meta is None else cast("R | Exception", stored_value(self.app, meta))

    @property
    def info(self) -> Any:
        """The same as `result`, for states of your own: the `meta` of `update_state`."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task, as text."""
        meta = self._meta()
        return None if meta is None else meta.traceback

    @property
    def children(self) -> list[Any] | None:
        """The tasks that this one has sent, as far as it kept the trail; None: not known yet."""
        meta = self._meta()
        if meta is None:
            return None
        return [result_from_tuple(child, self.app) for child in meta.children]

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, with its zone; None while it has not."""
        meta = self._meta()
        if meta is None or meta.date_done is None:
            return None
        moment = datetime.fromisoformat(meta.date_done)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def name(self) -> str | None:
        """The task's name, if stored: with `result_extended`, as the five that follow."""
        meta = self._meta()
        return None if meta is None else meta.name

    @property
    def args(self) -> list[Any] | None:
        """The task's arguments."""
        meta = self._meta()
        return None if meta is None else meta.args

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The task's keyword arguments."""
        meta = self._meta()
        return None if meta is None else meta.kwargs

    @property
    def worker(self) -> str | None:
        """The node name of the worker that ran it."""
        meta = self._meta()
        return None if meta is None else meta.worker

    @property
    def retries(self) -> int | None:
        """How often it had been retried."""
        meta = self._meta()
        return None if meta is None else meta.retries

    @property
    def queue(self) -> str | None:
        """The queue it came from."""
        meta = self._meta()
        return None if meta is None else meta.queue

    @property
    def supports_native_join(self) -> bool:
        """True: one wait serves any number of results, on every engine."""
        return True

    # -------------------------------------------------------------------------------- waiting

    @overload
    def get(
        self, timeout: float | None = None, propagate: Literal[True] = True, interval: float = 0.5,
        no_ack: bool = True, follow_parents: bool = True,
        callback: Callable[[str, R], object] | None = None,
        on_message: Callable[[MetaDict], object] | None = None,
        on_interval: Callable[[], object] | None = None, disable_sync_subtasks: bool = True, *,
        progress: bool = False,
    ) -> R: ...  # fmt: skip
    @overload
    def get(
        self, timeout: float | None = None, *, propagate: bool, interval: float = 0.5,
        no_ack: bool = True, follow_parents: bool = True,
        callback: Callable[[str, R], object] | None = None,
        on_message: Callable[[MetaDict], object] | None = None,
        on_interval: Callable[[], object] | None = None, disable_sync_subtasks: bool = True,
        progress: bool = False,
    ) -> R | Exception: ...  # fmt: skip
    @overload
    def get(
        self, timeout: float | None, propagate: bool, interval: float = 0.5, no_ack: bool = True,
        follow_parents: bool = True, callback: Callable[[str, R], object] | None = None,
        on_message: Callable[[MetaDict], object] | None = None,
        on_interval: Callable[[], object] | None = None, disable_sync_subtasks: bool = True, *,
        progress: bool = False,
    ) -> R | Exception: ...  # fmt: skip

    def get(  # noqa: C901  (flat: an option after the other)
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002  (nothing is acknowledged)
        follow_parents: bool = True,
        callback: Callable[[str, R], object] | None = None,
        on_message: Callable[[MetaDict], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        *,
        progress: bool = False,
    ) -> R | Exception:
        """Wait for the task to end and return its value.

        None at once if the task was sent with its result ignored: nobody will ever know.

        Raises what the task raised (with `propagate=False` returns it), `TaskRevokedError`, or
        `umbel.exceptions.TimeoutError` after `timeout` seconds (None: no limit; 0: one look).
        Inside a task it raises `RuntimeError` unless `disable_sync_subtasks=False`. With
        `follow_parents` the error of a failed step before this one is raised first.

        `callback` is called with id and value; `on_interval` every `interval` seconds meanwhile;
        `on_message` with each state as it is stored, progress too. Logs one warning when after
        2 s no live worker serves the queue. `progress` shows in a terminal how many tasks of its
        chord's header have ended.
        """
        if self.ignored:
            return cast("R", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        follow = propagate and follow_parents and self.parent is not None
        if follow:
            self._raise_parents_error()
        if not self._ended():
            with Meter() as meter:

                def tick() -> None:
                    if follow:
                        self._raise_parents_error()
                    if on_interval is not None:
                        on_interval()
                    if progress:
                        self._show_progress(meter)

                ticks = follow or progress or on_interval is not None
                self._wait(timeout, interval, tick if ticks else None, on_message)
                if progress:
                    self._show_progress(meter)
        value = self._value(propagate=propagate)
        if callback is not None:
            callback(self.id, cast("R", value))
        return value

    wait = get

    def _show_progress(self, meter: Meter) -> None:
        count = getattr(self.parent, "progress", None)
        if count is not None:
            meter.show(*count())

    def _wait(
        self,
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], object] | None,
        on_message: Callable[[MetaDict], object] | None,
    ) -> None:
        from umbel.engines.waiting import check_timeout, wait_for_results

        check_timeout(timeout)
        ends = wait_for_results(
            result_store(self.app),
            (self.id,),
            timeout,
            quiet=self._warn_if_nobody_works,
            after=QUIET_AFTER,
            interval=interval,
            on_interval=on_interval,
            on_change=None if on_message is None else message_watch(self.app, on_message),
        )
        with closing(ends):
            for (self._stored,) in ends:
                return
        raise self._timed_out(timeout)

    @overload
    async def aget(
        self, timeout: float | None = None, propagate: Literal[True] = True, *,
        disable_sync_subtasks: bool = True,
    ) -> R: ...  # fmt: skip
    @overload
    async def aget(
        self, timeout: float | None = None, *, propagate: bool, disable_sync_subtasks: bool = True
    ) -> R | Exception: ...

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> R | Exception:
        """`get` for coroutines: the event loop goes on meanwhile."""
        if self.ignored:
            return cast("R", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        import asyncio

        if propagate and self.parent is not None:
            await asyncio.to_thread(self._raise_parents_error)
        if not self._ended():
            await self._await_end(timeout)
        return self._value(propagate=propagate)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    async def _await_end(self, timeout: float | None) -> None:
        import asyncio

        from umbel.engines.waiting import check_timeout

        check_timeout(timeout)
        if timeout is not None and timeout <= 0:
            await asyncio.to_thread(self._look)
        else:
            waiting = asyncio.ensure_future(self.app.waiter.wait(self.id))
            quiet = QUIET_AFTER if timeout is None else min(QUIET_AFTER, timeout)
            try:
                done, _ = await asyncio.wait({waiting}, timeout=quiet)
                if not done and quiet == QUIET_AFTER:
                    await asyncio.to_thread(self._warn_if_nobody_works)
                    rest = None if timeout is None else timeout - quiet
                    done, _ = await asyncio.wait({waiting}, timeout=rest)
                if done:
                    self._stored = await waiting
            finally:
                waiting.cancel()
        if not self._ended():
            raise await asyncio.to_thread(self._timed_out, timeout)

    def _value(self, *, propagate: bool) -> R | Exception:
        meta = self._meta()
        if meta is None:
            raise exceptions.TimeoutError(
                f"The result of task {self.id} has expired or was removed."
            )
        value = stored_value(self.app, meta)
        if propagate and meta.status in states.PROPAGATE_STATES:
            raise cast("Exception", value)
        return cast("R | Exception", value)

    def _timed_out(self, timeout: float | None) -> exceptions.TimeoutError:
        advice = locate(self.app, self.id, self._queue)
        return exceptions.TimeoutError(
            f"Task {self.id} has not ended after {timeout or 0:g} s. {advice}"
        )

    def then(
        self,
        callback: Callable[[AsyncResult[R]], object],
        on_error: Callable[[BaseException], object] | None = None,
        weak: bool = False,  # noqa: ARG002  (held until it is called)
    ) -> AsyncResult[R]:
        """Call `callback(result)` once the task has ended, however that was.

        At once if it has ended, else in a background thread. `on_error` is called if `callback`
        raises, or if the store cannot be read any more; without it the error is logged.
        """

        def watch(stored: StoredResult | None, error: BaseException | None) -> None:
            try:
                if error is not None:
                    raise error
                self._stored = stored
                callback(self)
            except Exception as failure:
                if on_error is None:
                    logger.exception("A callback of task %s failed", self.id)
                else:
                    on_error(failure)

        if self.ready():
            watch(self._stored, None)
        else:
            self.app.waiter.watch(self.id, watch)
        return self

    # ------------------------------------------------------------------------ errors and steps

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> Any:
        """Raise the task's error if it has failed; else what is stored so far. It does not wait."""
        meta = self._meta()
        value = None if meta is None else stored_value(self.app, meta)
        if propagate and meta is not None and meta.status in states.PROPAGATE_STATES:
            raise cast("Exception", value)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, exc: BaseException, tb: TracebackType | None = None) -> NoReturn:
        """Raise an exception, with a traceback."""
        raise exc if tb is None else exc.with_traceback(tb)

    def _raise_if_ended(self) -> None:
        """Raise the task's error if it is known here that it has failed."""
        if self._ended():
            self._value(propagate=True)

    def _raise_parents_error(self) -> None:
        for node in reversed(list(self._parents())):
            node.maybe_throw()

    def iterdeps(
        self, intermediate: bool = False
    ) -> Iterator[tuple[AsyncResult[Any] | None, AsyncResult[Any]]]:
        """This result and all that it led to: pairs of a result's sender and the result.

        `IncompleteStream` at one that has not ended, unless `intermediate`.
        """
        waiting: deque[tuple[AsyncResult[Any] | None, AsyncResult[Any]]] = deque([(None, self)])
        while waiting:
            sender, node = waiting.popleft()
            yield sender, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream(
                    f"Task {node.id} has not ended, so what it led to is not known yet. Wait for "
                    "it, or say intermediate=True."
                )

    def collect(
        self, intermediate: bool = False, **options: Any
    ) -> Iterator[tuple[AsyncResult[Any], Any]]:
        """Wait for this task and all that it led to: pairs of result and value.

        `options` as of `get`.
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**options)

    def get_leaf(self) -> Any:
        """Wait for this task and all that it led to; the last one's value."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(
        self, intermediate: bool = False, formatter: Callable[[Any], str] | None = None
    ) -> DependencyGraph:
        """What this task led to, as a graph: `result.build_graph().to_dot(file)`.

        `IncompleteStream` at a task that has not ended, unless `intermediate`.
        """
        from umbel.result.graph import DependencyGraph

        graph = DependencyGraph(formatter)
        for sender, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if sender is not None:
                graph.add_edge(sender, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """`build_graph()`."""
        return self.build_graph()

    # ------------------------------------------------------------------------- taking it back

    def forget(self) -> None:
        """Remove the stored result, and those of the steps before."""
        self._stored = self._decoded = None
        result_store(self.app).forget(self.as_list())

    def revoke(
        self,
        connection: None = None,  # noqa: ARG002
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        *,
        workflow: bool = False,
    ) -> bool:
        """Do not run the task; True if it was still waiting and is now taken out.

        Works with all workers down too: when this returns, it is in the store, so there is
        nothing to `wait` for. A task that runs goes on, and its retries are refused.

        With `terminate` one that runs ends, too: its worker stores it as revoked at once, and sends
        its process `signal`, a name or a number, by default SIGTERM; `ValueError` for what is none.
        Where its process runs others (all pools but prefork and solo), `SoftTimeLimitExceeded` is
        raised in it instead, as SIGUSR1 does in every pool. If it goes on all the same, its process
        is ended as at a hard time limit: beside others after a second, else, and after a SIGUSR1,
        after `task_soft_time_limit_grace`. SIGKILL waits for nothing.

        What follows it in its workflow does not run either: a step after it is revoked too, and a
        chord ends as if the task had failed. `workflow`: revoke the steps before it as well.
        """
        ids = self.as_list() if workflow else [self.id]
        return bool(revoke_all(self.app, ids, terminate=terminate, signal=signal))

    # ----------------------------------------------------------------------------- async twins

    async def aready(self) -> bool:
        """`ready` for coroutines."""
        return await _in_thread(self.ready)

    async def asuccessful(self) -> bool:
        """`successful` for coroutines."""
        return await _in_thread(self.successful)

    async def afailed(self) -> bool:
        """`failed` for coroutines."""
        return await _in_thread(self.failed)

    async def aexists(self) -> bool:
        """`exists` for coroutines."""
        return await _in_thread(self.exists)

    async def astate(self) -> str:
        """`state` for coroutines."""
        return await _in_thread(lambda: self.state)

    async def aresult(self) -> R | Exception | None:
        """`result` for coroutines."""
        return await _in_thread(lambda: self.result)

    async def aforget(self) -> None:
        """`forget` for coroutines."""
        await _in_thread(self.forget)

    async def arevoke(
        self,
        terminate: bool = False,
        signal: str | int | None = None,
        *,
        workflow: bool = False,
    ) -> bool:
        """`revoke` for coroutines."""
        return await _in_thread(
            lambda: self.revoke(terminate=terminate, signal=signal, workflow=workflow)
        )

    def _warn_if_nobody_works(self) -> None:
        advice = advise(self.app, self.id, self._queue)
        if advice:
            logger.warning("Task %s waits. %s", self.id, advice)


def result_from_tuple(r: Any, app: App | None = None) -> Any:
    """A result, of a task or a group, from what `as_tuple` made, also after a trip through JSON.

    `ValueError` for what is none.
    """
    if isinstance(r, ResultBase):
        return r
    try:
        head, nodes = r
        id, parent = head if isinstance(head, (list, tuple)) else (head, None)
        if not isinstance(id, str):
            raise ValueError("its id is no text")  # noqa: TRY004  (one error for all)
        if not isinstance(nodes, (list, tuple, type(None))):
            raise ValueError("its second item is no list")  # noqa: TRY004
    except (TypeError, ValueError) as error:
        raise ValueError(f"{r!r} is no result's tuple: {error}") from None
    before = None if parent is None else result_from_tuple(parent, app)
    if nodes is None:
        return AsyncResult(id, app=app, parent=before)
    owner = current_app() if app is None else app
    return owner.GroupResult(id, [result_from_tuple(node, app) for node in nodes], parent=before)


async def _in_thread(function: Callable[[], R]) -> R:
    import asyncio

    return await asyncio.to_thread(function)
