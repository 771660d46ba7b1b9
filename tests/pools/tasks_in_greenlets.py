"""Tasks that show what a process of greenlets is like, and an app that is imported in one."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

from umbel import App, signals

app = App("greenlets")
PATCHED = socket.socket.__module__.partition(".")[0]
"""Whose sockets there were when the app was imported."""

if "WITNESS" in os.environ:
    with Path(os.environ["WITNESS"]).open("a") as witness:
        witness.write(f"{os.getpid()} {PATCHED}\n")


@app.task
def patched() -> list[Any]:
    return [PATCHED, os.getpid()]


kept = threading.local()


@app.task
def keep(value: int) -> int | None:
    before: int | None = getattr(kept, "value", None)
    kept.value = value
    return before


@app.task
def arm_a_timeout(seconds: float) -> None:
    if PATCHED == "gevent":
        import gevent

        gevent.Timeout(seconds).start()
    else:
        import eventlet

        eventlet.Timeout(seconds)


@app.task
def rest(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def aadd(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task
def add_elsewhere(count: int) -> list[int]:
    """Sends others and waits for them, in the process that is to run them."""
    results = [task.delay(n, 1) for n in range(count) for task in (add, aadd)]
    return [result.get(timeout=10, disable_sync_subtasks=False) for result in results]


@app.task
async def aadd_elsewhere(count: int) -> list[int]:
    """The same on the event loop that they share."""
    results = [await task.adelay(n, 1) for n in range(count) for task in (add, aadd)]
    return [await result.aget(timeout=10, disable_sync_subtasks=False) for result in results]


@app.task
def run_a_loop(seconds: float) -> int:
    """What no task beside an event loop of its thread's could do."""

    async def main() -> int:
        await asyncio.sleep(seconds)
        return id(asyncio.get_running_loop())

    return asyncio.run(main())


@app.task
async def wait_beside(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return id(asyncio.get_running_loop())


@app.task
def fork_and_wait(folder: str, seconds: float) -> int:
    """Its fork waits as a greenlet does, while tasks come for the parent's other slots."""
    pid = os.fork()
    if pid == 0:
        Path(folder, "forked").touch()
        time.sleep(seconds)
        Path(folder, "waited").touch()
        os._exit(0)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        time.sleep(0.01)
    return pid


@app.task
def fork_a_short_life() -> int:
    """The forked process has ended before fork() returns in its parent."""

    def wait_for_its_end() -> None:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # it can be waited for again

    os.register_at_fork(after_in_parent=wait_for_its_end)
    pid = os.fork()
    if not pid:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@app.task
def nap_and_note(path: str, seconds: float) -> int:
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


@app.task
def read_from_silence() -> str:
    ours, _theirs = socket.socketpair()
    return ours.recv(1).decode()


@app.task
def wait_for_nobody() -> str:
    return str(nobody.delay().get(timeout=60, disable_sync_subtasks=False))


@app.task(queue="nobody")
def nobody() -> None: ...


@app.task
def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def note(signal: Any, sender: Any, **kwargs: Any) -> None:
    if "SIGNALS" in os.environ:
        target = kwargs["target"].name if "target" in kwargs else "-"
        with Path(os.environ["SIGNALS"]).open("a") as file:
            file.write(f"{signal.name} {type(sender).__name__} {target}\n")


signals.eventlet_pool_started.connect(note)
signals.eventlet_pool_apply.connect(note)
signals.eventlet_pool_preshutdown.connect(note)
signals.eventlet_pool_postshutdown.connect(note)
