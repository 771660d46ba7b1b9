"""Tasks whose ends are told: every signal and handler writes a line to the file $TOLD."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from umbel import App, Task, signals

app = App("telling", task_unknown_timeout=0.1)


def tell(what: str, *details: Any) -> None:
    with Path(os.environ["TOLD"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([what, os.getpid(), *details]) + "\n")


def connect(name: str, *keys: str) -> None:
    def receive(sender: Any, **named: Any) -> None:
        tell(name, *(str(named[key]) for key in keys))

    getattr(signals, name).connect(receive, weak=False)


connect("celeryd_init")
connect("worker_init")
connect("celeryd_after_setup")
connect("worker_before_create_process")
connect("worker_process_init")
connect("worker_process_shutdown", "pid", "exitcode")
connect("worker_ready")
connect("worker_shutting_down", "sig", "how", "exitcode")
connect("worker_shutdown")
connect("task_unknown", "name", "id")
connect("task_revoked", "terminated", "expired")
connect("task_failure", "task_id", "exception", "args")


@signals.task_received.connect
def on_received(request: Any, **_: Any) -> None:
    tell("task_received", request.name, request.id, request.args)


@signals.task_rejected.connect
def on_rejected(message: Any, exc: BaseException, **_: Any) -> None:
    tell("task_rejected", message.queue, str(exc))


@signals.task_retry.connect
def on_retry(request: Any, reason: BaseException, **_: Any) -> None:
    tell("task_retry", request.id, str(reason))


class Telling(Task[..., Any]):
    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        tell("on_success", task_id)
        if retval == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if retval == "linger":
            while True:
                time.sleep(0.01)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        tell("on_failure", task_id, type(exc).__name__, args, "tasks_that_tell" in str(einfo))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        tell("on_retry", task_id, type(exc).__name__)


@app.task(base=Telling)
def say(what: str) -> str:
    tell("say", what)
    return what


@app.task(base=Telling, time_limit=0.3)
def limited(what: str) -> str:
    while what == "spin":
        time.sleep(0.01)
    return what


@app.task(base=Telling, time_limit=0.3, acks_on_timeout=False)
def limited_and_kept() -> None:
    tell("limited_and_kept")
    while True:
        time.sleep(0.01)


@app.task(base=Telling, reject_on_worker_lost=False)
def killed() -> None:
    tell("killed")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=Telling, retry_on_worker_lost=True, max_retries=1, default_retry_delay=0.01)
def killed_and_retried() -> None:
    tell("killed_and_retried")
    os.kill(os.getpid(), signal.SIGKILL)
