"""What the suite's tests are made of: short ways to make values and to look at an engine."""

# ruff: noqa: S101, S106  (tests)

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import pytest

from umbel.engines.broker import (
    Acknowledge,
    Broker,
    Bury,
    Delivery,
    HistoryEntry,
    Message,
    PutBack,
    Settlement,
    StoredResult,
    Waiting,
    Waker,
    Workflow,
)
from umbel.engines.results import ResultStore
from umbel.engines.state import DeadLetter, Engine, StateStore, WorkerRecord
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.task import DeliveryInfo, Headers, Properties

FAR: Final = 3600.0
"""Seconds that no test lasts."""
PATIENCE: Final = 20.0
"""Seconds after which something that should have happened at once is held not to happen."""


class EngineContract:
    """The fixtures that all classes of the suite share; the subclass provides `engine`."""

    @pytest.fixture
    def broker(self, engine: Engine) -> Broker:
        """The engine's messages."""
        return engine.broker

    @pytest.fixture
    def results(self, engine: Engine) -> ResultStore:
        """The engine's results."""
        return engine.results

    @pytest.fixture
    def state(self, engine: Engine) -> StateStore:
        """The engine's shared state."""
        return engine.state

    @pytest.fixture
    def worker(self, engine: Engine) -> int:
        """A live worker."""
        return engine.state.register(record())


def message(
    id: str = "task",
    *,
    nonce: str = "1",
    queue: str = "q",
    priority: int = 0,
    due: float | None = None,
) -> Message:
    """A message of a task without arguments."""
    tag = f"{id}:{nonce}"
    properties = Properties(id, None, 2, DeliveryInfo("", queue), priority, delivery_tag=tag)
    payload = task_message.encode(Headers("app.add", id), b"[[],{},{}]", properties)
    return Message(tag, id, queue, payload, priority, due)


def messages(ids: Iterable[str]) -> list[Message]:
    """A message for each task id."""
    return [message(id) for id in ids]


def record(node: str = "celery@host", *, queues: tuple[str, ...] = ("q",)) -> WorkerRecord:
    """A worker as it registers."""
    return WorkerRecord(
        node=node, host="host", pid=4242, queues=queues, slots=2, lease=30.0, boot="b00t",
        run_file="w.run", device=7, inode=8, token="t0ken", started=1_700_000_000.5,
    )  # fmt: skip


def result(
    id: str = "task",
    status: str = "SUCCESS",
    meta: bytes | None = None,
    expires: float | None = None,
) -> StoredResult:
    """A result; without `meta`, whose first bytes may be anything, one in JSON."""
    if meta is None:
        meta = result_message.encode_state(id, status, 3, 1_700_000_000.5)
    return StoredResult(id, status, meta, expires)


def timeless(stored: StoredResult) -> StoredResult:
    """A result without its expiry, which some engines' servers keep to themselves."""
    return msgspec.structs.replace(stored, expires=None)


def look_up(results: ResultStore, *ids: str) -> dict[str, StoredResult]:
    """The results that are there, without their expiries."""
    return {id: timeless(stored) for id, stored in results.get(ids).items()}


def entry(
    id: str = "task",
    *,
    at: float | None = None,
    task: str = "app.add",
    state: str = "SUCCESS",
) -> HistoryEntry:
    """An ended attempt, of now by default."""
    return HistoryEntry(
        id=id, task=task, queue="q", state=state, at=time.time() if at is None else at,
        runtime=0.25, worker="celery@host", retries=1, error="oh",
    )  # fmt: skip


def bury(id: str = "task", *, task: str = "app.add", deliveries: int | None = 3) -> Bury:
    """The end of a message that goes to the dead letters."""
    return Bury(id=id, task=task, reason="lost", detail="signal 9", deliveries=deliveries)


def settlement(
    delivery: Delivery,
    end: Acknowledge | PutBack | Bury | None = None,
    *,
    result: StoredResult | None = None,
    follow_ups: tuple[Message, ...] = (),
    history: HistoryEntry | None = None,
    workflow: Workflow | None = None,
) -> Settlement:
    """The end of a claim; without `end` the message is done."""
    return Settlement(
        delivery.number, delivery.worker, delivery.attempt, end or Acknowledge(), result,
        follow_ups, history, workflow,
    )  # fmt: skip


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    """The task ids of claimed messages."""
    return [id_of(delivery) for delivery in deliveries]


def id_of(message: Delivery | Waiting | DeadLetter) -> str:
    """The task id that a message's headers tell."""
    return task_message.decode_headers(message.payload).id


def claim_one(broker: Broker, worker: int, queue: str = "q") -> Delivery:
    """Claim the one message that a queue holds ready."""
    (delivery,) = broker.claim(worker, [queue], 2).deliveries
    return delivery


def claim_ids(
    broker: Broker, worker: int, queues: Sequence[str] = ("q",), limit: int = 100
) -> list[str]:
    """Claim, and return the task ids."""
    return ids_of(broker.claim(worker, queues, limit).deliveries)


def take_over(engine: Engine, worker: int, *, node: str = "celery@next") -> int:
    """Declare a worker dead, put its claims back, and register its successor."""
    assert engine.state.declare_dead(worker)
    engine.broker.settle([settlement(held, PutBack()) for held in engine.state.claims(worker)])
    return engine.state.register(record(node))


def fires(waker: Waker, timeout: float = PATIENCE) -> bool:
    """Whether a waker is readable within so many seconds."""
    return bool(select.select([waker], [], [], timeout)[0])
