# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
"""The tasks of the benchmark for Celery."""

import os
import time
from collections.abc import Callable
from typing import Any

import record
from celery import Celery, chain, chord, group

app = Celery("benchmark", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])

if "BENCH_CELERY_TUNED" in os.environ:
    # "Optimizing" in Celery's user guide: many short tasks want a large multiplier.
    app.conf.worker_prefetch_multiplier = 128


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


@app.task(ignore_result=True)
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
    calls = group(noop.s(index) for index in range(first, first + count))
    return list(calls.apply_async().results)


def wait(handle: Any, timeout: float) -> object:
    return handle.get(timeout=timeout)


def identity(handle: Any) -> str:
    return str(handle.id)


def fetch(name: str, timeout: float) -> object:
    return app.AsyncResult(name).get(timeout=timeout)
