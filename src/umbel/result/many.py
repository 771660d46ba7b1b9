"""The results of any number of tasks, waited for together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast, overload

from umbel.exceptions import TimeoutError  # noqa: A004  (Celery's name)
from umbel.result.joining import assert_will_not_block
from umbel.result.meter import Meter
from umbel.result.single import QUIET_AFTER, AsyncResult, ResultBase
from umbel.result.stored import (
    MetaDict,
    current_app,
    locate,
    message_watch,
    meta_dict,
    result_store,
    revoke_all,
)
from umbel.states import FAILURE, READY_STATES, SUCCESS

if TYPE_CHECKING:
    import asyncio

    from umbel.app import App

R = TypeVar("R")
logger: logging.Logger = logging.getLogger("umbel.result")


class ResultSet(ResultBase, Generic[R]):
    """The results of many tasks (`celery.result.ResultSet`); `results` is their list.

    All that it does is one step for all of them: one wait, one look, one removal.
    """

    def __init__(self, results: Iterable[AsyncResult[R]], app: App | None = None) -> None:
        self.results: list[AsyncResult[R]] = list(results)
        """They may be sets themselves: of a group whose tasks are chains that end in groups."""
        self._app = app

    def _leaves(self) -> list[AsyncResult[R]]:
        """The results of single tasks, those of sets in it too."""
        found: list[AsyncResult[R]] = []
        members: list[Any] = self.results
        for member in members:
            found += member._leaves() if isinstance(member, ResultSet) else [member]  # noqa: SLF001
        return found

    def _nested(self, values: dict[str, Any]) -> list[Any]:
        """Values by id as a list, in lists where results are in sets."""
        members: list[Any] = self.results
        return [
            member._nested(values) if isinstance(member, ResultSet) else values[member.id]  # noqa: SLF001
            for member in members
        ]

    @property
    def app(self) -> App:
        """The app it was given, else its results' own, else the current one."""
        if self._app is None:
            self._app = self.results[0].app if self.results else current_app()
        return self._app

    # ------------------------------------------------------------------------------- members

    def add(self, result: AsyncResult[R]) -> None:
        """Add a result that is not in the set yet."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult[R] | str) -> None:
        """Remove a result, given itself or its id; `KeyError` if it is not in the set."""
        place = next((i for i, member in enumerate(self.results) if member == result), None)
        if place is None:
            raise KeyError(result)
        del self.results[place]

    def discard(self, result: AsyncResult[R] | str) -> None:
        """Remove a result if it is in the set."""
        self.results[:] = [member for member in self.results if member != result]

    def update(self, results: Iterable[AsyncResult[R]]) -> None:
        """Add those results that are not in the set yet."""
        known = set(self.results)
        for result in results:
            if result not in known:
                known.add(result)
                self.results.append(result)

    def clear(self) -> None:
        """Remove all results from the set; in the store they stay."""
        self.results.clear()

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[AsyncResult[R]]: ...

    def __getitem__(self, index: int | slice) -> AsyncResult[R] | list[AsyncResult[R]]:
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(r.id for r in self.results)}]>"

    @property
    def supports_native_join(self) -> bool:
        """True: one wait serves any number of results, on every engine."""
        return True

    # -------------------------------------------------------------------------- how they stand

    def _look(self) -> list[AsyncResult[R]]:
        """All results, after one look into the store for those that have not ended."""
        for app, members in self._unended().items():
            found = result_store(app).get(list(members))
            for id, stored in found.items():
                for member in members[id]:
                    member._stored = stored  # noqa: SLF001
        return self._leaves()

    def _unended(self) -> dict[App, dict[str, list[AsyncResult[R]]]]:
        """By app and id, the members whose end is not known here."""
        unended: dict[App, dict[str, list[AsyncResult[R]]]] = {}
        for member in self._leaves():
            if not (member.ignored or member._ended()):  # noqa: SLF001
                unended.setdefault(member.app, {}).setdefault(member.id, []).append(member)
        return unended

    def _states(self) -> list[str]:
        return [member._last_state() for member in self._look()]  # noqa: SLF001

    def ready(self) -> bool:
        """Whether all tasks have ended."""
        return all(state in READY_STATES for state in self._states())

    def waiting(self) -> bool:
        """Whether any task has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all tasks have returned."""
        return all(state == SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Whether any task has failed."""
        return FAILURE in self._states()

    def completed_count(self) -> int:
        """How many tasks have returned."""
        return self._states().count(SUCCESS)

    def maybe_throw(
        self, callback: Callable[[str, Any], object] | None = None, propagate: bool = True
    ) -> None:
        """Raise the error of the first task that has failed. It does not wait."""
        for member in self._look():
            member.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    # -------------------------------------------------------------------------------- waiting

    @overload
    def get(
        self, timeout: float | None = None, propagate: Literal[True] = True, interval: float = 0.5,
        callback: Callable[[str, R], object] | None = None, no_ack: bool = True,
        on_message: Callable[[MetaDict], object] | None = None, disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None, *, progress: bool = False,
    ) -> list[R]: ...  # fmt: skip
    @overload
    def get(
        self, timeout: float | None = None, *, propagate: bool, interval: float = 0.5,
        callback: Callable[[str, R], object] | None = None, no_ack: bool = True,
        on_message: Callable[[MetaDict], object] | None = None, disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None, progress: bool = False,
    ) -> list[R | Exception]: ...  # fmt: skip

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, R], object] | None = None,
        no_ack: bool = True,  # noqa: ARG002  (nothing is acknowledged)
        on_message: Callable[[MetaDict], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        *,
        progress: bool = False,
    ) -> list[R] | list[R | Exception]:
        """Wait for all tasks to end; their values in the set's order.

        Raises the first error as soon as it is known (with `propagate=False` errors stand in the
        list), or `TimeoutError` when `timeout` seconds for all of them together are over. With
        `callback` it is called with id and value as they come, and the list is empty. `progress`
        shows in a terminal how many have ended. The other arguments as of `AsyncResult.get`.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        values: dict[str, Any] = {}
        with Meter() if progress else nullcontext() as meter:
            size = len(self._leaves()) if meter is not None else 0
            ends = self._ends(timeout, interval, on_message, on_interval)
            for count, member in enumerate(ends, start=1):
                value = None if member.ignored else member._value(propagate=propagate)  # noqa: SLF001
                if callback is None:
                    values[member.id] = value
                else:
                    callback(member.id, cast("R", value))
                if meter is not None:
                    meter.show(count, size)
        return [] if callback is not None else self._nested(values)

    join = get
    join_native = get

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,  # noqa: ARG002
        on_message: Callable[[MetaDict], object] | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, MetaDict]]:
        """Id and stored state of each task, as they end: the first to end comes first."""
        for member in self._ends(timeout, interval, on_message, on_interval):
            meta = None if member.ignored else member._meta()  # noqa: SLF001
            if meta is not None:
                yield member.id, meta_dict(member.app, meta)

    def _ends(
        self,
        timeout: float | None,
        interval: float,
        on_message: Callable[[MetaDict], object] | None,
        on_interval: Callable[[], object] | None,
    ) -> Iterator[AsyncResult[R]]:
        """The members as they end; `TimeoutError` if not all of them do in time."""
        from umbel.engines.waiting import check_timeout, wait_for_results

        check_timeout(timeout)
        unended = self._unended()
        waited_for = {id(m) for ids in unended.values() for ms in ids.values() for m in ms}
        yield from [member for member in self._leaves() if id(member) not in waited_for]
        end = None if timeout is None else time.monotonic() + timeout
        for app, members in unended.items():
            ends = wait_for_results(
                result_store(app),
                list(members),
                None if end is None else max(end - time.monotonic(), 0.0),
                quiet=self._warn_if_nobody_works,
                after=QUIET_AFTER,
                interval=interval,
                on_interval=on_interval,
                on_change=None if on_message is None else message_watch(app, on_message),
            )
            with closing(ends):
                for batch in ends:
                    for stored in batch:
                        for member in members.pop(stored.id):
                            member._stored = stored  # noqa: SLF001
                            yield member
            if members:
                raise self._timed_out(timeout)

    def _warn_if_nobody_works(self) -> None:
        """Say so if nobody serves the queue of what is missing; one task stands for all."""
        for ids in self._unended().values():
            next(iter(ids.values()))[0]._warn_if_nobody_works()  # noqa: SLF001

    def _timed_out(self, timeout: float | None) -> TimeoutError:
        missing = [m for ids in self._unended().values() for ms in ids.values() for m in ms]
        names = ", ".join(member.id for member in missing[:3])
        names += f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        first = missing[0]
        where = locate(first.app, first.id, first._queue)  # noqa: SLF001
        return TimeoutError(
            f"{len(missing)} of {len(self._leaves())} tasks have not ended after "
            f"{timeout or 0:g} s ({names}). {first.id}: {where}"
        )

    @overload
    async def aget(
        self, timeout: float | None = None, propagate: Literal[True] = True, *,
        disable_sync_subtasks: bool = True,
    ) -> list[R]: ...  # fmt: skip
    @overload
    async def aget(
        self, timeout: float | None = None, *, propagate: bool, disable_sync_subtasks: bool = True
    ) -> list[R | Exception]: ...

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[R] | list[R | Exception]:
        """`get` for coroutines: the event loop goes on meanwhile."""
        if disable_sync_subtasks:
            assert_will_not_block()
        import asyncio

        from umbel.engines.waiting import check_timeout

        check_timeout(timeout)

        async def arrive(members: list[AsyncResult[R]]) -> None:
            stored = await members[0].app.waiter.wait(members[0].id)
            for member in members:
                member._stored = stored  # noqa: SLF001
            members[0]._value(propagate=propagate)  # noqa: SLF001  (raises)

        await asyncio.to_thread(self._look)
        unended = self._unended()
        if propagate and unended:
            for member in self._leaves():
                member._raise_if_ended()  # noqa: SLF001
        if unended and (timeout is None or timeout > 0):
            tasks = [
                asyncio.ensure_future(arrive(members))
                for ids in unended.values()
                for members in ids.values()
            ]
            try:
                await self._await_all(tasks, timeout)
            finally:
                for task in tasks:
                    task.cancel()
        if self._unended():
            raise await asyncio.to_thread(self._timed_out, timeout)
        return self._nested({
            member.id: None if member.ignored else member._value(propagate=propagate)  # noqa: SLF001
            for member in self._leaves()
        })  # fmt: skip

    async def _await_all(self, tasks: list[asyncio.Task[None]], timeout: float | None) -> None:
        """Wait for all, or for the first error, which is raised; not beyond the timeout."""
        import asyncio

        quiet = QUIET_AFTER if timeout is None else min(QUIET_AFTER, timeout)
        until = asyncio.FIRST_EXCEPTION
        done, late = await asyncio.wait(tasks, timeout=quiet, return_when=until)
        failed = [error for task in done if (error := task.exception())]
        if late and not failed and quiet == QUIET_AFTER:
            await asyncio.to_thread(self._warn_if_nobody_works)
            rest = None if timeout is None else timeout - quiet
            done, _ = await asyncio.wait(late, timeout=rest, return_when=until)
            failed = [error for task in done if (error := task.exception())]
        for error in failed:
            raise error

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    def then(
        self,
        callback: Callable[[ResultSet[R]], object],
        on_error: Callable[[BaseException], object] | None = None,
        weak: bool = False,  # noqa: ARG002  (held until it is called)
    ) -> ResultSet[R]:
        """Call `callback(set)` once all tasks have ended, as `AsyncResult.then` does for one."""
        lock = threading.Lock()
        left = len(self._leaves()) + 1

        def count(_: object = None) -> None:
            nonlocal left
            with lock:
                left -= 1
                if left:
                    return
            try:
                callback(self)
            except Exception as failure:
                if on_error is None:
                    logger.exception("A callback of %r failed", self)
                else:
                    on_error(failure)

        for member in self._look():
            if member.ignored:
                count()
            else:
                member.then(count, on_error)
        count()
        return self

    # ------------------------------------------------------------------------- taking it back

    def forget(self) -> None:
        """Remove all stored results."""
        apps: dict[App, list[str]] = {}
        for member in self._leaves():
            if not member.eager:
                apps.setdefault(member.app, []).extend(member.as_list())
                member._stored = member._decoded = None  # noqa: SLF001
        for app, ids in apps.items():
            result_store(app).forget(ids)

    def revoke(
        self,
        connection: None = None,  # noqa: ARG002
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
        *,
        workflow: bool = False,
    ) -> int:
        """Do not run the tasks, in one step; how many were still waiting and are now taken out.

        The rest as of `AsyncResult.revoke`.
        """
        apps: dict[App, list[str]] = {}
        for member in self._leaves():
            if member.eager:
                member.revoke()
            else:
                apps.setdefault(member.app, []).append(member.id)
        if workflow and self.parent is not None:
            apps.setdefault(self.app, []).extend(self.parent.as_list())
        return sum(
            len(revoke_all(app, ids, terminate=terminate, signal=signal))
            for app, ids in apps.items()
        )
