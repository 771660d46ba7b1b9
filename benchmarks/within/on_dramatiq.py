# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
"""The tasks of the benchmark for dramatiq."""

import os
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import record
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["BENCH_REDIS"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_REDIS"])))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(index: int) -> None:
    record.done(index)


@dramatiq.actor(store_results=True)
def kept(index: int) -> int:
    record.done(index)
    return index


@dramatiq.actor
def mixed(index: int) -> None:
    if record.is_long(index):
        time.sleep(0.005)
    record.done(index)


@dramatiq.actor
def busy(index: int) -> None:
    record.spin()
    record.done(index)


SEND: dict[str, Callable[[int], Any]] = {
    "noop": noop.send,
    "kept": kept.send,
    "mixed": mixed.send,
    "busy": busy.send,
}


def wait(handle: Any, timeout: float) -> object:
    return handle.get_result(block=True, timeout=int(timeout * 1000))


def identity(handle: Any) -> str:
    return str(handle.message_id)


def fetch(name: str, timeout: float) -> object:
    message = kept.message(0).copy(message_id=name)
    return message.get_result(block=True, timeout=int(timeout * 1000))
