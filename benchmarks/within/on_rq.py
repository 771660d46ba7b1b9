# mypy: disable-error-code="import-not-found, misc"
"""The tasks of the benchmark for rq; run as a program, rq's command line."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import record
from redis import Redis
from rq import Queue
from rq.job import Job

connection = Redis.from_url(os.environ["BENCH_REDIS"])
queue = Queue("benchmark", connection=connection)


def noop(index: int) -> None:
    record.done(index)


def kept(index: int) -> int:
    record.done(index)
    return index


def mixed(index: int) -> None:
    if record.is_long(index):
        time.sleep(0.005)
    record.done(index)


def busy(index: int) -> None:
    record.spin()
    record.done(index)


def send(name: str, index: int, **options: Any) -> Any:
    return queue.enqueue(f"on_rq.{name}", index, **options)


SEND: dict[str, Callable[[int], Any]] = {
    "noop": partial(send, "noop", result_ttl=0),
    "kept": partial(send, "kept"),
    "mixed": partial(send, "mixed", result_ttl=0),
    "busy": partial(send, "busy", result_ttl=0),
}


def wait(handle: Any, timeout: float) -> object:
    result = handle.latest_result(timeout=int(timeout))
    return None if result is None else result.return_value


def identity(handle: Any) -> str:
    return str(handle.id)


def fetch(name: str, timeout: float) -> object:
    return wait(Job.fetch(name, connection=connection), timeout)


if __name__ == "__main__":
    import sys

    from rq.cli import main

    sys.argv[1:] = [*sys.argv[1:], "-u", os.environ["BENCH_REDIS"]]
    sys.argv.append("benchmark")
    main()
