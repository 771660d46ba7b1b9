"""Tasks that look at the slot they run in, and at what runs beside them."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from umbel import App, Task
from umbel.app.current import get_current_task

app = App("slots")
mark: ContextVar[str] = ContextVar("mark", default="clean")


def meet(folder: str, name: str, count: int) -> bool:
    """Whether so many have come to a place."""
    Path(folder, name).touch()
    return len(list(Path(folder).iterdir())) >= count


def look(task: Any) -> tuple[Any, Any, str]:
    current = get_current_task()
    assert current is not None
    return task.request.id, current.request.id, mark.get()


@app.task(bind=True)
def together(self: Any, folder: str, count: int) -> list[Any]:
    """Ends when so many run at the same time; what it saw of itself before and after."""
    before = look(self)
    mark.set(self.request.id)
    while not meet(folder, self.request.id, count):
        time.sleep(0.005)
    return [*before, *look(self), os.getpid()]


@app.task(bind=True)
async def together_async(self: Any, folder: str, count: int) -> list[Any]:
    import asyncio

    before = look(self)
    mark.set(self.request.id)
    while not meet(folder, self.request.id, count):  # noqa: ASYNC110  (for other processes)
        await asyncio.sleep(0.005)
    return [*before, *look(self), os.getpid()]


@app.task
async def loop_identity() -> int:
    import asyncio

    return id(asyncio.get_running_loop())


@app.task
def imported() -> list[str]:
    return [name for name in ("asyncio", "sqlite3", "click") if name in sys.modules]


@app.task
def thread() -> list[Any]:
    return [threading.current_thread() is threading.main_thread(), threading.active_count()]


@app.task
def stdin() -> str:
    return sys.stdin.readline()


@app.task
def stop_here() -> int:
    number = 41
    breakpoint()  # noqa: T100
    return number


@app.task
def fork_and_return() -> str:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return "parent" if pid else "child"


@app.task
def makes_coroutine() -> Any:
    """A function that is no `async def` and returns what one made."""

    async def made() -> str:
        import asyncio

        await asyncio.sleep(0)
        return "made"

    return made()


class Traced(Task[..., Any]):
    """Its handlers note in which task's context they run."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        mark.set("begun")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        current = get_current_task()
        assert current is not None
        with Path(args[0]).open("a") as file:
            file.write(f"{task_id} {current.request.id} {mark.get()}\n")


@app.task(base=Traced)
def traced(_: str) -> str:
    return mark.get()


@app.task(base=Traced)
async def traced_async(_: str) -> str:
    import asyncio

    await asyncio.sleep(0.01)
    return mark.get()


@app.task
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


@app.task
async def sleep_async(seconds: float) -> float:
    import asyncio

    await asyncio.sleep(seconds)
    return time.time()
