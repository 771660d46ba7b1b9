"""A worker inside another process: one slot in the very thread that works it.

It registers, claims, decides, executes and settles by the code of any worker, one delivery at a
time, so that it never holds what it has not started. It has no children, installs no signal
handlers and enforces no time limits: in a thread of the host's a task cannot be killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any, Final, Self

from umbel import clock
from umbel.app import App, Task
from umbel.app.coroutines import Loop
from umbel.app.pipeline import Pipeline, Rest
from umbel.engines.broker import Bury, Delivery, LeaseLost, PutBack, Settlement
from umbel.exceptions import DecodeError, OperationalError
from umbel.message import task as task_message
from umbel.message.task import Headers
from umbel.worker.gate import Gate, Held
from umbel.worker.leases import Incarnation, LeaseKeeper
from umbel.worker.settle import Settler

logger: logging.Logger = logging.getLogger("umbel.worker")

SLOW_LOOK: Final = 1.0
"""Seconds after which an idle worker looks for work even if nobody woke it."""
STORE_RETRY: Final = 0.5
"""Seconds between two tries when the store cannot be used."""


class Bench:
    """What the deliveries of one app go through."""

    def __init__(self, app: App, node: str) -> None:
        self.app = app
        self.gate: Gate = Gate(app, Settler(app, node), None, None)
        self.pipeline: Pipeline = Pipeline(app, node)


class Ended:
    """What became of one delivery."""

    def __init__(
        self,
        app: App,
        delivery: Delivery,
        settlement: Settlement,
        value: object,
        error: BaseException | None,
        *,
        ran: bool,
    ) -> None:
        self.app = app
        """Whose task it is, as far as that can be told."""
        self.delivery = delivery
        self.settlement = settlement
        self.value = value
        """What the function returned, the object itself."""
        self.error = error
        """What the function raised, as it was raised here."""
        self.ran = ran
        """False: it was decided without running it (expired, revoked, unknown, unreadable)."""

    @property
    def headers(self) -> Headers | None:
        """The message's; None if they cannot be read."""
        with contextlib.suppress(DecodeError):
            return task_message.decode_headers(self.delivery.payload)
        return None

    @property
    def state(self) -> str:
        """The state that was recorded; empty for a message that went back."""
        history, end = self.settlement.history, self.settlement.end
        if isinstance(end, PutBack) or history is None:
            return ""
        return history.state

    @property
    def letter(self) -> Bury | None:
        """Why it became a dead letter, if it did."""
        end = self.settlement.end
        return end if isinstance(end, Bury) else None


class EmbeddedWorker:
    """One slot of an app, or of several that share a store.

    `queues`: those to serve, by default the app's. `home_of` names the app whose task a message
    is for, by the task's name; by default all are for `app`.
    """

    def __init__(
        self,
        app: App,
        *,
        node: str | None = None,
        queues: Sequence[str] = (),
        home_of: Callable[[str], App] | None = None,
    ) -> None:
        self.app = app
        self.queues: Sequence[str] = tuple(queues) or tuple(app.amqp.queues.consume_from)
        self.next_due: float | None = None
        """Unix time at which the next delayed message becomes ready, as of the last claim."""
        self._home_of = home_of or (lambda _: app)
        self._lease = app.conf.worker_lease
        self._engine = app.engine
        self.incarnation: Incarnation = Incarnation(app, node, self.queues, 1, self._lease)
        self._benches: dict[int, Bench] = {}
        self._loop = Loop()
        self._value: object = None
        self._raised: BaseException | None = None

    @property
    def hostname(self) -> str:
        """Its node name (Celery's word)."""
        return self.incarnation.node

    def __enter__(self) -> Self:
        self.incarnation.register()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()
        self.incarnation.leave()

    def work_one(self) -> Ended | None:
        """Claim one delivery and see it to its end; None if nothing is due."""
        claim = self._engine.broker.claim(self.incarnation.number, self.queues, 1)
        self.next_due = claim.next_due
        if not claim.deliveries:
            return None
        delivery = claim.deliveries[0]
        bench = self._bench_for(delivery)
        bench.gate.learn_revocations(claim.revocations)
        decision = bench.gate.decide(delivery)
        ran = isinstance(decision, Held)
        rest: Rest | None = None
        if isinstance(decision, Held):
            settlement, rest = self._run(bench, decision)
        else:
            settlement = decision
        value, self._value = self._value, None
        raised, self._raised = self._raised, None
        if self._engine.broker.settle([settlement]):
            logger.warning("An outcome was refused: its message had been taken over")
        if rest is not None:
            rest()
        return Ended(bench.app, delivery, settlement, value, raised, ran=ran)

    def _bench_for(self, delivery: Delivery) -> Bench:
        try:
            app = self._home_of(task_message.decode_headers(delivery.payload).task)
        except DecodeError:
            app = self.app
        bench = self._benches.get(id(app))
        if bench is None:
            bench = self._benches[id(app)] = Bench(app, self.incarnation.node)
        return bench

    def _run(self, bench: Bench, held: Held) -> tuple[Settlement, Rest | None]:
        delivery = held.delivery
        if held.early:
            self._engine.broker.accept([delivery])
        outcome, rest = bench.pipeline.execute(
            delivery.number, delivery.payload, delivery.deliveries, self._call
        )
        return bench.gate.ended(held, outcome), rest

    def _call(self, _: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        self._value = self._raised = None
        try:
            value = (task if task.overrides_call else task.run)(*args, **kwargs)
            if isinstance(value, CoroutineType):
                value = self._loop.run(value)
        except BaseException as error:
            self._raised = error
            raise
        self._value = value
        return value


class WorkerThread(threading.Thread):
    """An embedded worker in a thread of its own, from `start` until `stop`."""

    def __init__(self, worker: EmbeddedWorker) -> None:
        super().__init__(name="umbel-embedded", daemon=True)
        self.worker = worker
        self.error: BaseException | None = None
        """What ended the thread before its time."""
        self._app = worker.app
        self._started_working = threading.Event()
        self._stopping = threading.Event()
        self._nudged, self._nudge = os.pipe()

    def wait_until_ready(self) -> None:
        """Return once it takes work; raises what kept it from that."""
        self._started_working.wait()
        if self.error is not None:
            raise self.error

    def end(self, timeout: float) -> None:
        """Let the running task end, and stop; raises what the thread failed with.

        `RuntimeError` if it has not ended after `timeout` seconds; it ends when its task does.
        """
        self._stopping.set()
        os.write(self._nudge, b"!")
        self.join(timeout)
        if self.is_alive():
            raise RuntimeError(
                f"The worker's thread has not ended after {timeout:g} s: its task goes on. Give it "
                "longer with shutdown_timeout=…, or let the task end."
            )
        os.close(self._nudge)
        os.close(self._nudged)
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        """Work until `stop`."""
        try:
            with self.worker:
                self._work()
        except BaseException as error:  # noqa: BLE001  (raised where the worker was started)
            self.error = error
        finally:
            self._started_working.set()

    def _work(self) -> None:
        engine, worker = self._app.engine, self.worker
        lost = threading.Event()
        keeper = LeaseKeeper(
            self._app, worker.incarnation, engine, self._app.conf.worker_lease, lost.set
        )
        waker = engine.broker.listen(worker.queues)
        poll = select.poll()
        for source in (self._nudged, waker.fileno()):
            poll.register(source, select.POLLIN)
        keeper.start()
        try:
            self._started_working.set()
            while not self._stopping.is_set():
                waker.drain()
                pause = self._turn(lost)
                if pause:
                    poll.poll(pause * 1000 + 0.5)
        finally:
            keeper.stop()
            waker.close()

    def _turn(self, lost: threading.Event) -> float:
        """Work one delivery; seconds to wait for the next."""
        worker = self.worker
        try:
            if lost.is_set():
                lost.clear()
                worker.incarnation.register()
            if worker.work_one() is not None:
                return 0.0
        except LeaseLost:
            lost.set()
            return 0.0
        except OperationalError as error:
            logger.warning("%s Trying again every %g s", error, STORE_RETRY)
            return STORE_RETRY
        if worker.next_due is None:
            return SLOW_LOOK
        return min(SLOW_LOOK, max(0.0, worker.next_due - clock.time()))
