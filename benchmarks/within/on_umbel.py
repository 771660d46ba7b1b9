"""The tasks of the benchmark for Umbel."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import record

from umbel import App, chain, chord

redis = os.environ.get("BENCH_REDIS")
app = App("benchmark", broker=redis, backend=redis and "broker")


@app.task(ignore_result=True)
def noop(index: int) -> None:
    record.done(index)


@app.task
def kept(index: int) -> int:
    record.done(index)
    return index


@app.task(ignore_result=True)
def mixed(index: int) -> None:
    if record.is_long(index):
        time.sleep(0.005)
    record.done(index)


@app.task(ignore_result=True)
def busy(index: int) -> None:
    record.spin()
    record.done(index)


if os.environ.get("BENCH_POOL") == "asyncio":

    @app.task(name="waiting", ignore_result=True)
    async def waiting(index: int) -> None:
        await asyncio.sleep(0.05)
        record.done(index)

else:

    @app.task(name="waiting", ignore_result=True)
    def waiting(index: int) -> None:
        time.sleep(0.05)
        record.done(index)


@app.task
def total(values: list[int]) -> int:
    return sum(values)


WORKFLOWS: dict[str, Callable[[int, int], Any]] = {
    "chord": lambda first, count: chord(
        [kept.s(index) for index in range(first, first + count)], total.s()
    ).apply_async(),
    "chain": lambda first, count: chain(
        *(kept.si(index) for index in range(first, first + count))
    ).apply_async(),
}


SEND: dict[str, Callable[[int], Any]] = {
    "noop": noop.delay,
    "kept": kept.delay,
    "mixed": mixed.delay,
    "busy": busy.delay,
    "waiting": waiting.delay,
}


def send_many(first: int, count: int) -> list[Any]:
    return noop.apply_many([(index,) for index in range(first, first + count)])


def wait(handle: Any, timeout: float) -> object:
    return handle.get(timeout=timeout)


def identity(handle: Any) -> str:
    return str(handle.id)


def fetch(name: str, timeout: float) -> object:
    return app.AsyncResult(name).get(timeout=timeout)


def publish_many(first: int, etas: Sequence[float]) -> None:
    """Queue one no-op task for each of `etas` (seconds since the epoch), numbered from `first`."""
    from umbel.app.sending.publish import build_message

    for start in range(0, len(etas), 500):
        app.engine.broker.publish(
            [
                build_message(app.conf, noop.name, (first + start + i,), {}, noop, eta=eta)
                for i, eta in enumerate(etas[start : start + 500])
            ],
            timeout=60.0,
        )
