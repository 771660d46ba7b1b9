"""The app that the workers and producers of this suite run.

Every run of a body leaves lines in a log outside the store (`tests.faults.oracle` reads it), and
returns the token of that run, so that a stored result tells whose it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from umbel import App
from umbel.app.execution.outcome import Outcome
from umbel.app.execution.pipeline import Pipeline, Run
from umbel.exceptions import Retry, SoftTimeLimitExceeded

app = App("workload", **json.loads(os.environ.get("WORKLOAD_SETTINGS", "{}")))

_log = -1


def note(entry: dict[str, object]) -> None:
    """Append one line in one write; lines of several processes never mix."""
    global _log  # noqa: PLW0603
    if _log < 0:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        _log = os.open(os.environ["WORKLOAD_LOG"], flags, 0o600)
    os.write(_log, json.dumps(entry).encode() + b"\n")


_open = Pipeline.open


def _note_opening(self: Pipeline, number: int, payload: bytes, deliveries: int) -> Run | Outcome:
    """`Pipeline.open`, of which a run knows when it ended: just before its limits begin."""
    opened = _open(self, number, payload, deliveries)
    if isinstance(opened, Run):
        vars(opened.request)["opened"] = time.monotonic()
    return opened


Pipeline.open = _note_opening  # type: ignore[method-assign]


@contextlib.contextmanager
def run(task: Any) -> Iterator[str]:
    """Note the start and the end of one run of a body; yields the run's token."""
    start = time.monotonic()  # before anything that lets other threads run
    request = task.request
    token = secrets.token_hex(8)
    note(
        {
            "event": "start", "job": request.id, "retries": request.retries, "token": token,
            "pid": os.getpid(), "server": os.getppid(), "charged": request.deliveries,
            "task": task.name, "opened": vars(request)["opened"], "t": start,
        }
    )  # fmt: skip
    try:
        yield token
    finally:
        note({"event": "end", "token": token, "t": time.monotonic()})


# ----------------------------------------------------------------------------------- ordinary work


@app.task(bind=True)
def work(self: Any, seconds: float = 0.0) -> str:
    with run(self) as token:
        if seconds:
            time.sleep(seconds)
        return token


@app.task(bind=True)
async def awork(self: Any, seconds: float = 0.0) -> str:
    with run(self) as token:
        await asyncio.sleep(seconds)
        return token


@app.task(bind=True)
def wait_for_file(self: Any, name: str) -> str:
    with run(self) as token:
        while not Path(name).exists():
            time.sleep(0.01)
        return token


@app.task(bind=True, max_retries=None)
def thrice(self: Any) -> str:
    """Retries twice, then ends."""
    with run(self) as token:
        if self.request.retries < 2:
            self.retry(countdown=0)
        return token


@app.task(bind=True, acks_late=False)
def early(self: Any, seconds: float = 0.0) -> str:
    with run(self) as token:
        time.sleep(seconds)
        return token


@app.task(bind=True)
def measure(self: Any, text: str) -> int:
    with run(self):
        return len(text)


@app.task(bind=True)
def eat(self: Any, mebibytes: int) -> str:
    with run(self) as token:
        bytearray(mebibytes << 20)
        return token


# ---------------------------------------------------------------------------------------- workflows


@app.task(bind=True)
def member(self: Any, number: int, seconds: float = 0.0) -> int:
    with run(self):
        time.sleep(seconds)
        return number


@app.task(bind=True)
def body(self: Any, numbers: list[Any]) -> list[Any]:
    """How many numbers there are, their sum, and what else there is."""
    with run(self):
        plain = [number for number in numbers if isinstance(number, int)]
        return [len(plain), sum(plain), sorted({repr(n) for n in numbers if n not in plain})]


@app.task(bind=True)
def tell_failure(self: Any, id: str) -> str:
    with run(self):
        return id


if os.environ.get("WORKLOAD_KNOWS_MORE"):

    @app.task(bind=True)
    def newcomer(self: Any) -> str:
        """Only a worker of the new release knows it."""
        with run(self) as token:
            return token


# ------------------------------------------------------------------------------- what kills itself


def exhaust_memory() -> NoReturn:
    """Enter the group of processes whose memory is limited, and take more than that."""
    Path(os.environ["WORKLOAD_MEMORY_GROUP"], "cgroup.procs").write_text(str(os.getpid()))
    hoard = []
    while True:
        hoard.append(b"\1" * (4 << 20))


WAYS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "exit quietly": lambda: os._exit(0),
    "memory": exhaust_memory,
}


@app.task(bind=True)
def die(self: Any, way: str) -> NoReturn:
    with run(self):
        WAYS[way]()
        raise AssertionError(f"the process outlived {way!r}")


# ----------------------------------------------------------------------------------- what hangs on


@app.task(bind=True)
async def block_loop(self: Any, seconds: float) -> str:
    """A coroutine that gives no other one a turn."""
    with run(self) as token:
        time.sleep(seconds)  # noqa: ASYNC251  (what is not to be done)
        return token


@app.task(bind=True)
def hold_gil(self: Any, seconds: int) -> str:
    """One C call that keeps the GIL: no other thread, no signal handler of Python's runs."""
    with run(self) as token:
        ctypes.PyDLL(None).sleep(seconds)
        return token


@app.task(bind=True)
def hang_asleep(self: Any) -> None:
    with run(self):
        time.sleep(60)  # hangs here


@app.task(bind=True)
def hang_spinning(self: Any) -> None:
    with run(self):
        while True: pass  # noqa: E701  # hangs here  # fmt: skip


@app.task(bind=True)
def hang_in_c(self: Any) -> None:
    with run(self):
        sum(itertools.repeat(1, 1 << 40))  # hangs here


@app.task(bind=True)
def hang_swallowing(self: Any) -> None:
    with run(self):
        while True:
            with contextlib.suppress(BaseException):
                while True: pass  # noqa: E701  # hangs here  # fmt: skip


@app.task(bind=True)
async def hang_awaiting(self: Any) -> None:
    with run(self):
        await asyncio.sleep(60)  # hangs here


@app.task(bind=True)
async def hang_swallowing_cancellation(self: Any) -> None:
    with run(self):
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(60)  # hangs here


@app.task(bind=True)
def hang_reading(self: Any) -> None:
    """From somebody who says nothing."""
    ours, theirs = socket.socketpair()
    with run(self), ours, theirs:
        ours.recv(1)  # hangs here


@app.task(bind=True)
def catch_soft_limit(self: Any) -> str:
    with run(self):
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            return "cleaned up"
    return "never"


@app.task(bind=True)
def catch_soft_limit_busy(self: Any) -> str:
    with run(self):
        try:
            while True:
                pass
        except SoftTimeLimitExceeded:
            return "cleaned up"


@app.task(bind=True)
async def catch_soft_limit_async(self: Any) -> str:
    with run(self):
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return "cleaned up"
    return "never"


@app.task(bind=True)
async def catch_soft_limit_async_busy(self: Any) -> str:
    with run(self):
        try:
            while True:
                pass
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            return "cleaned up"


@app.task(bind=True)
def spin(self: Any, seconds: float) -> str:
    """End after so many seconds to the microsecond."""
    with run(self) as token:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return token


# ------------------------------------------------------------------------------------------ retries


@app.task(bind=True, max_retries=3)
def retry_twice_over(self: Any) -> None:
    with run(self):
        with contextlib.suppress(Retry):
            self.retry(countdown=0.05)
        self.retry(countdown=0.05)


@app.task(bind=True, max_retries=3)
def retry_swallowed(self: Any) -> str:
    with run(self) as token:
        with contextlib.suppress(Exception):
            self.retry(countdown=0.05)
        return token


@app.task(bind=True, max_retries=3)
def retry_without_throw(self: Any) -> str:
    with run(self) as token:
        self.retry(countdown=0.05, throw=False)
        return token


# -------------------------------------------------------------------------------- strange outcomes


class NastyError(Exception):
    """Nothing that one may want to know of it can be asked."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first, second, self)

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no pickle")


@app.task(bind=True)
def raise_nasty(self: Any) -> None:
    with run(self):
        raise NastyError(object(), lambda: None)


@app.task(bind=True)
def leave(self: Any) -> None:
    with run(self):
        sys.exit(5)


@app.task(bind=True)
def return_object(self: Any) -> object:
    with run(self):
        return {"rows": [1, object()]}


@app.task(bind=True)
def return_much(self: Any, mebibytes: int) -> str:
    with run(self):
        return "x" * (mebibytes << 20)
