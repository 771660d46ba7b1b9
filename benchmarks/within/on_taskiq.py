# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
"""The tasks of the benchmark for taskiq."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import record
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

URL = os.environ["BENCH_REDIS"]
broker = ListQueueBroker(URL)
if os.environ["BENCH_SCENARIO"] in {"drain-results", "roundtrip"}:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL))


@broker.task
async def noop(index: int) -> None:
    record.done(index)


@broker.task
async def kept(index: int) -> int:
    record.done(index)
    return index


@broker.task
async def mixed(index: int) -> None:
    if record.is_long(index):
        await asyncio.sleep(0.005)
    record.done(index)


@broker.task
async def busy(index: int) -> None:
    record.spin()
    record.done(index)


runner = asyncio.Runner()


def send(task: Any, index: int) -> Any:
    return runner.run(task.kiq(index))


SEND: dict[str, Callable[[int], Any]] = {
    task.task_name.rpartition(":")[2]: partial(send, task) for task in (noop, kept, mixed, busy)
}


def wait(handle: Any, timeout: float) -> object:
    # It asks each 0.2 s by default; a millisecond is kinder.
    result = runner.run(handle.wait_result(check_interval=0.001, timeout=timeout))
    return result.return_value


def identity(handle: Any) -> str:
    return str(handle.task_id)


def fetch(name: str, timeout: float) -> object:  # noqa: ARG001  (its results are there or not)
    return runner.run(broker.result_backend.get_result(name)).return_value
