# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
"""The tasks of the benchmark for huey, on Redis or on an SQLite file."""

import os
import time
from collections.abc import Callable
from typing import Any

import record
from huey import RedisHuey, SqliteHuey

if "BENCH_HUEY_SQLITE" in os.environ:
    huey = SqliteHuey("benchmark", filename=os.path.join(os.environ["BENCH_HOME"], "huey.db"))
else:
    # Off by default. It is the faster setting for whoever waits for a result, and costs a command
    # per stored result, so it is on only where results are waited for.
    waits = os.environ["BENCH_SCENARIO"] == "roundtrip"
    huey = RedisHuey("benchmark", url=os.environ["BENCH_REDIS"], notify_result=waits)


# huey stores no result that is None: these are huey's "results off".
@huey.task()
def noop(index: int) -> None:
    record.done(index)


@huey.task()
def kept(index: int) -> int:
    record.done(index)
    return index


@huey.task()
def mixed(index: int) -> None:
    if record.is_long(index):
        time.sleep(0.005)
    record.done(index)


@huey.task()
def busy(index: int) -> None:
    record.spin()
    record.done(index)


SEND: dict[str, Callable[[int], Any]] = {
    "noop": noop,
    "kept": kept,
    "mixed": mixed,
    "busy": busy,
}


def wait(handle: Any, timeout: float) -> object:
    if "BENCH_HUEY_SQLITE" not in os.environ:
        return handle.get(blocking=True, timeout=timeout)
    # huey's own wait looks again after 50 ms at the earliest; asking every millisecond is kinder.
    return fetch(handle.id, timeout)


def identity(handle: Any) -> str:
    return str(handle.id)


def fetch(name: str, timeout: float) -> object:
    deadline = time.monotonic() + timeout
    while (value := huey.result(name)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no result of task {name} after {timeout} s")
        time.sleep(0.001)
    return value
