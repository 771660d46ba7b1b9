"""Tasks that look at the process they run in."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

import umbel
from umbel import App

PACKAGE = str(Path(umbel.__file__).parent)
app = App("pools")
mark: ContextVar[str] = ContextVar("mark", default="clean")


def count_own_frames() -> int:
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(PACKAGE)
        frame = frame.f_back
    return count


@app.task
def frames() -> int:
    return count_own_frames()


@app.task
async def frames_async() -> int:
    return count_own_frames()


@app.task(bind=True)
def request(self: Any) -> list[Any]:
    r = self.request
    return [r.id, r.retries, r.deliveries, r.called_directly, r.delivery_info["routing_key"]]


@app.task
def stdin() -> str:
    return sys.stdin.read()


@app.task
def say(text: str) -> None:
    print(text)


@app.task
def survive_sigterm() -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    return "here"


@app.task
def end_a_process() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@app.task
def end_a_program() -> int:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    program.terminate()
    return program.wait()


@app.task
def fork_and_return() -> str:
    """Both processes leave the function; only one of them is the worker's."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return "parent" if pid else "child"


@app.task
def raise_what_is_no_text() -> None:
    raise ValueError("a file named \udce4")


@app.task
def leave() -> None:
    raise SystemExit(3)


@app.task
def set_mark() -> str:
    before = mark.get()
    mark.set("dirty")
    return before


@app.task(bind=True)
async def request_async(self: Any) -> str:
    before = mark.get()
    mark.set("dirty")
    return f"{self.request.id} {before}"


@app.task
async def loop_identity() -> int:
    import asyncio

    return id(asyncio.get_running_loop())


@app.task
def nested(depth: int) -> str:
    nested.apply_async((depth - 1,), queue="later") if depth else None
    return "sent" if depth else "end"


@app.task
def returns_object() -> object:
    return object()


@app.task(bind=True, max_retries=3)
def retry_with_object(self: Any) -> None:
    self.retry(args=[object()], countdown=0)


@app.task
def own_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@app.task
def imported() -> list[str]:
    return [name for name in ("asyncio", "sqlite3", "click") if name in sys.modules]


@app.task
def close_the_loop() -> None:
    """The idiom of code for older Pythons."""
    import asyncio

    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.close()


went_on: list[str] = []


@app.task
async def stop_the_loop() -> None:
    import asyncio

    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    went_on.append("after its failure")


@app.task
async def what_went_on() -> list[str]:
    import asyncio

    for _ in range(3):
        await asyncio.sleep(0)
    return went_on


@app.task
def descriptors_of_a_program() -> list[str]:
    """What a program that a task starts carelessly has inherited."""
    import subprocess

    listed = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


@app.task
def stop_the_clock() -> None:
    import time

    time.perf_counter = lambda: float("nan")
