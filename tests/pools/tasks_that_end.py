"""Tasks that end in every way there is: each handler and signal of a task writes a line to $TOLD.

`python -m umbel -A tasks_that_end worker` runs them; `docs/reference/endings.md` says what is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from umbel import App, Task, signals
from umbel.exceptions import Ignore, Reject

ATTEMPTS = 2
"""Of a task that kills its process: one less than by default."""
app = App(
    "ends",
    task_unknown_timeout=0.1,
    task_max_deliveries=ATTEMPTS,
    task_soft_time_limit_grace=1.5,
)


def tell(event: str, id: str, attempt: int = 0) -> None:
    with Path(os.environ["TOLD"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([event, id, attempt, os.getpid()]) + "\n")


class Telling(Task[..., Any]):
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        tell("before_start", task_id, self.request.deliveries)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        tell("on_success", task_id, self.request.deliveries)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        tell("on_failure", task_id, self.request.deliveries)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        tell("on_retry", task_id, self.request.deliveries)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        tell("after_return", task_id, self.request.deliveries)


def hear(name: str) -> None:
    def receive(sender: Any, **named: Any) -> None:
        if "request" in named:
            tell(name, named["request"].id, named["request"].deliveries)
        elif "message" in named:  # no worker has a request of it
            tell(name, named.get("id", ""), named["message"].deliveries)
        else:
            tell(name, sender.request.id, sender.request.deliveries)

    getattr(signals, name).connect(receive, weak=False)


if "TOLD" in os.environ:  # else the tests themselves have imported it
    for name in signals.__all__:
        if name.startswith("task_") and name != "task_sent":
            hear(name)


def return_value(_: Any) -> str:
    return "a value"


def return_object(_: Any) -> object:
    return object()


def raise_error(_: Any) -> NoReturn:
    raise ValueError("what it raises")


def retry(task: Any) -> None:
    task.retry(exc=ValueError("why"), countdown=10_000)


def ignore(_: Any) -> NoReturn:
    raise Ignore("nothing to do")


def reject(_: Any) -> NoReturn:
    raise Reject("not here")


def die(task: Any, how: Callable[[], object]) -> NoReturn:
    assert task.AsyncResult(task.request.id).state == "PENDING", "the attempt before was no end"
    how()
    raise AssertionError("the process outlived it")


def take_all_memory() -> NoReturn:
    """In a group of processes whose memory is limited, so that the kernel kills this one."""
    Path(os.environ["MEMORY_GROUP"], "cgroup.procs").write_text(f"{os.getpid()}")
    hoard = []
    while True:
        hoard.append(b"\1" * (4 << 20))


def swallow(_: Any) -> NoReturn:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.01)


WAYS: dict[str, Callable[[Any], object]] = {
    "return": return_value,
    "return an object": return_object,
    "raise": raise_error,
    "retry": retry,
    "swallow": swallow,
    "ignore": ignore,
    "reject": reject,
    "kill": lambda task: die(task, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "segfault": lambda task: die(task, lambda: ctypes.string_at(0)),
    "memory": lambda task: die(task, take_all_memory),
}


@app.task(base=Telling, bind=True)
def ends(self: Any, way: str) -> object:
    tell("function", self.request.id, self.request.deliveries)
    while way == "sleep":
        time.sleep(0.01)
    return WAYS[way](self)


@app.task(base=Telling, bind=True)
async def ends_async(self: Any, way: str) -> object:
    tell("function", self.request.id, self.request.deliveries)
    await asyncio.sleep(60 if way == "sleep" else 0)
    return WAYS[way](self)
