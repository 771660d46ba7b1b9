"""Tasks that are terminated while they run: all that is heard of them goes to the file $TOLD."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from umbel import App, Task, signals
from umbel.exceptions import SoftTimeLimitExceeded

app = App("terminated")
app.conf.task_soft_time_limit_grace = float(os.environ.get("GRACE", "10"))


def tell(what: str, *details: Any) -> None:
    line = json.dumps([what, *details]) + "\n"
    with Path(os.environ["TOLD"]).open("a", encoding="utf-8") as file:
        file.write(line)


@signals.task_revoked.connect
def on_revoked(sender: Any, request: Any, **named: Any) -> None:
    assert sorted(named) == ["expired", "signal", "signum", "terminated"]
    told = (named["terminated"], named["signum"], named["expired"])
    tell("revoked", request.id, sender.name, *told)


@signals.task_failure.connect
def on_task_failure(task_id: str, **_: Any) -> None:
    tell("failure", task_id)


@signals.task_success.connect
def on_task_success(sender: Any, **_: Any) -> None:
    tell("success", sender.request.id)


@signals.task_postrun.connect
def on_postrun(task_id: str, **_: Any) -> None:
    tell("postrun", task_id)


class Telling(Task[..., Any]):
    def on_failure(self, exc: Any, task_id: str, *_: Any) -> None:
        tell("on_failure", task_id)

    def on_success(self, retval: Any, task_id: str, *_: Any) -> None:
        tell("on_success", task_id)

    def after_return(self, status: str, retval: Any, task_id: str, *_: Any) -> None:
        tell("after_return", task_id)


@app.task(bind=True, base=Telling)
def sleep(self: Any, seconds: float) -> int:
    tell("begun", self.request.id, os.getpid())
    time.sleep(seconds)
    return os.getpid()


@app.task(bind=True, base=Telling)
async def sleep_async(self: Any, seconds: float) -> int:
    tell("begun", self.request.id, os.getpid())
    await asyncio.sleep(seconds)
    return os.getpid()


@app.task(bind=True, base=Telling)
def nap(self: Any, seconds: float) -> int:
    """Sleeps so that a thread of its own can be interrupted."""
    tell("begun", self.request.id, os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return os.getpid()


@app.task(bind=True)
def count_in_c(self: Any) -> None:
    """No code of Python runs beside it, not even the handler of a signal."""
    tell("begun", self.request.id, os.getpid())
    sum(itertools.repeat(1, 1 << 40))


@app.task(bind=True)
def swallow(self: Any) -> None:
    tell("begun", self.request.id, os.getpid())
    while True:
        with contextlib.suppress(BaseException):
            while True:
                time.sleep(0.01)


@app.task(bind=True, base=Telling)
def clean_up(self: Any) -> str:
    """Ends well at its soft limit."""
    tell("begun", self.request.id, os.getpid())
    with contextlib.suppress(SoftTimeLimitExceeded):
        while True:
            time.sleep(0.01)
    tell("cleaned", self.request.id)
    return "cleaned up"


@app.task(bind=True)
def own_handler(self: Any) -> None:
    """Has something to do first when it is terminated."""

    def leave(*_: Any) -> None:
        tell("handled", self.request.id)
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    tell("begun", self.request.id, os.getpid())
    time.sleep(60)


@app.task
def pid() -> int:
    return os.getpid()
