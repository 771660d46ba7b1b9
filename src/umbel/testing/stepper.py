"""A worker that works when it is told to: one delivery, in the calling thread.

It registers, claims, decides, executes and settles by the code of any worker, one delivery at a
time, so that it never holds what it has not started. It has no children and enforces no time
limits: the thread is the caller's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any, Self

from umbel.app import App, Task
from umbel.app.execution.coroutines import Loop
from umbel.app.execution.pipeline import Pipeline, Rest
from umbel.engines.broker import Bury, Delivery, PutBack, Settlement
from umbel.exceptions import DecodeError
from umbel.message import task as task_message
from umbel.message.task import Headers
from umbel.worker.gate import Gate, Held
from umbel.worker.leases import Incarnation
from umbel.worker.settle import Settler

logger: logging.Logger = logging.getLogger("umbel.worker")


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


class Stepper:
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
        bench.gate.receive(held)
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
