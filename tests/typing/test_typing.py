"""What type checkers say of programs: right ones pass, and every wrong line is flagged by both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
from __future__ import annotations
import asyncio
from datetime import datetime, timedelta
from typing import Any
from umbel import App, AsyncResult, AsyncTask, Queue, Task, current_app, current_task, shared_task

app = App("proj", broker="memory://", task_time_limit=5)

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y

@app.task(bind=True, max_retries=5)
def bound(self: Task[..., Any], name: str) -> str:
    return name

@app.task
async def fetch(url: str) -> bytes:
    return b""

@app.task(bind=True)
async def abound(self: Task[..., Any], url: str) -> bytes:
    return b""

@shared_task
def shared(n: int) -> float:
    return n / 2

@shared_task(bind=True, queue="q")
def shared_bound(self: Task[..., Any], n: int) -> list[int]:
    return [n]

@app.task
def keyed(x: int, *, key: str) -> str:
    return key

@app.task
def summed(*numbers: float) -> float:
    return sum(numbers)

@app.task
def beat() -> None: ...

@app.task
def long(a: int, b: str, c: bytes, d: float, e: bool, f: int, g: str) -> int:
    return a

@app.task(pydantic=True, pydantic_strict=True)
def modelled(user: datetime) -> datetime:
    return user

class Sub(Task[[int, int], int]):
    name = "sub"
    max_retries = None
    def run(self, x: int, y: int) -> int:
        return x - y

class Get(AsyncTask[[str], bytes]):
    name = "get"
    async def run(self, url: str) -> bytes:
        return b""

class Loose(Task):
    def run(self, anything: object) -> None: ...

sub = app.register_task(Sub())
get = app.register_task(Get())
loose = app.register_task(Loose)

"""

RIGHT = """
add.delay(1, 2)
add.delay(1)
add.delay(x=1, y=2)
add(1, 2).bit_length()
add.delay(1, 2).get().bit_length()
r1: AsyncResult[int] = add.delay(1)
r2: AsyncResult[int] = add.apply_async((1, 2), countdown=3)
add.apply_async((1,), eta=datetime.now())
add.apply_async((1,), eta=1e9)
add.apply_async((1,), eta="2030-01-01T00:00:00+00:00")
add.apply_async((1,), expires=timedelta(hours=1))
add.apply_async(args=[1, 2], kwargs={}, queue="q", priority=9)
add.apply_async((1,), time_limit=5, soft_time_limit=4.5)
add.apply_async((1,), ignore_result=True)
bound.delay("x").get().upper()
bound("x").upper()
bound.delay(name="x")
fetch.delay("u").get().hex()
abound.delay("u").get().hex()
asyncio.run(fetch("u")).hex()
shared.delay(3).get().is_integer()
shared(3).is_integer()
shared_bound.delay(3).get().append(1)
shared_bound.apply_async((3,))
sub.delay(1, 2).get().bit_length()
sub(1, 2).bit_length()
get.delay("u").get().hex()
loose.delay(1)
loose.delay("x")
s1: Task[[int, int], int] = sub
t1: Task[..., Any] = add
n1: str = add.name
m1: int | None = add.max_retries
ar: AsyncResult[Any] = app.AsyncResult("id")
sr: AsyncResult[Any] = app.send_task("name", (1,), {"x": 2}, countdown=1)
current_app.send_task("x")
app.conf.task_time_limit = 7.5
app.conf.task_default_queue = "q"
app.tasks["add"].delay(1, 2)
app.add_defaults({"task_time_limit": 3})
app.autodiscover_tasks(["a", "b"], related_name="jobs")
app.autodiscover_tasks(lambda: ["a"])
app.set_current()
app.task(name="n", base=Loose, throws=(ValueError,))(print)
app.task(autoretry_for=(OSError,), retry_backoff=True)(print)
asyncio.run(add.adelay(1, y=2))
add.retry(countdown=5, max_retries=None)
rid: str | None = current_task.request.id
ready: bool = add.delay(1).ready()
state: str = add.delay(1).state
many: list[AsyncResult[int]] = add.apply_many([(1, 2), (3, 4)])
add.apply_many([(1,), (3,)], queue="q", countdown=5)[0].get().bit_length()
add.apply_many((n, n) for n in range(9))
fetch.apply_many([("u",)])[0].get().hex()
bound.apply_many({("u",), ("v",)})
keyed.apply_many([(1,), (2,)], {"key": "k"})
summed.apply_many([(1, 2.5, 3), (4, 5, 6)])
beat.apply_many([()] * 3)
long.apply_many([(1, "b", b"c", 4.5, True, 6, "g")])
sub.apply_many([(1, 2)])
get.apply_many([("u",)])
loose.apply_many([(1, "x", None)])
shared_bound.apply_many([(3,)])
add.apply_many(list[tuple[Any, ...]]())
asyncio.run(add.aapply_many([(1, 2)]))[0].get().bit_length()
modelled.delay({"name": "plain"}).get()["name"]
modelled.apply_many([({"name": "plain"},)])
app.task(pydantic=True, bind=True, pydantic_context={"a": 1}, pydantic_dump_kwargs={})(print)
add.retry(queue="q", priority=3, expires=None, headers={"a": 1}, serializer="json", link=None)
app.task(filter=lambda task: task, lazy=False)(print)
""".strip().splitlines()

WRONG = """
add.delay("x")
add.delay()
add.delay(1, 2, 3)
add.delay(z=1)
add.delay(x="1")
add("x")
add()
add(1, 2, 3)
add.delay(1).get().upper()
w1: AsyncResult[str] = add.delay(1)
w2: AsyncResult[bytes] = add.apply_async((1,))
add.apply_async(5)
add.apply_async((1,), countdwon=3)
add.apply_async((1,), countdown="soon")
add.apply_async((1,), priority="high")
add.apply_async((1,), queue=3.5)
add.apply_async((1,), ignore_result="no")
add.apply_async((1,), expires=[1])
add.apply_async((1,), kwargs=[1])
add.apply_async((1,), task_id=7)
bound.delay(5)
bound.delay()
bound.delay("x", "y")
bound(5)
bound.delay("x").get().bit_length()
fetch.delay(5)
fetch.delay()
fetch.delay("u").get().upper2()
fetch("u").hex()
abound.delay(1)
shared.delay("x")
shared.delay()
shared("x")
shared.delay(3).get().append(1)
shared_bound.delay("x")
shared_bound.delay(1, 2)
sub.delay("x", 2)
sub.delay(1)
sub(1)
sub.delay(1, 2).get().upper()
get.delay(5)
w3: Task[[str], int] = sub
app.task(max_retries="many")(print)
app.task(throws="ValueError")(print)
app.send_task(5)
app.conf.task_time_limit = "long"
app.conf.task_default_queue = 5
app.autodiscover_tasks([1, 2])
add.adelay("x")
add.delay(1).redy()
add.apply_many([("x", 2)])
add.apply_many([(1, "y")])
add.apply_many([(1, 2, 3)])
add.apply_many([()])
add.apply_many([1, 2])
add.apply_many([(1, 2)], quue="q")
add.apply_many([(1, 2)], task_id="t")
add.apply_many([(1, 2)], countdown="soon")
add.apply_many([(1,)])[0].get().upper()
wm: list[AsyncResult[str]] = add.apply_many([(1, 2)])
fetch.apply_many([(3,)])
bound.apply_many([(3,)])
keyed.apply_many([(1,)])
keyed.apply_many([(1,)], ["k"])
summed.apply_many([(1, "x")])
beat.apply_many([(1,)])
long.apply_many([(1, "b", b"c", 4.5, True, 6, 7)])
sub.apply_many([(1,)])
get.apply_many([(b"u",)])
shared_bound.apply_many([("x",)])
asyncio.run(add.aapply_many([("x",)]))
app.task(pydantic="yes")(print)
app.task(pydantic=True, pydantic_context=3)(print)
add.retry(quue="q")
add.retry(task_id="t")
add.retry(priority="high")
add.retry(retry_policy={})
""".strip().splitlines()

SETTINGS_RIGHT = """
App("x", task_time_limit=5, timezone="UTC", worker_concurrency=None)
App("x", result_expires=timedelta(hours=1))
App("x", accept_content={"json", "yaml"}, include=["a"])
App("x", task_routes={"shop.*": {"queue": "mail"}, "other": "queue"})
App("x", task_queues=[Queue("a"), "b"])
App("x", broker_connection_retry_on_startup=True)
App("x", changes={"CELERY_TIMEZONE": "UTC"})
app.conf.update(task_acks_late=False, include=("a",))
app.conf.update({"CELERYD_CONCURRENCY": 3})
app.conf["CELERYD_CONCURRENCY"] = 3
app.conf.beat_schedule = {"a": {"task": "b", "schedule": 10}}
app.conf.imports = ["a"]
app.conf.task_routes = (lambda name, args, kwargs, options, task=None, **kw: {"queue": "q"},)
limit: float | None = app.conf.task_time_limit
late: bool = app.conf.task_acks_late
""".strip().splitlines()

SETTINGS_WRONG = """
App("x", task_time_limt=5)
App("x", task_time_limit="5")
App("x", task_acks_late="no")
App("x", accept_content=5)
App("x", task_routes=5)
App("x", CELERY_TIMEZONE="UTC")
App("x", task_protocol=1)
App("x", loader="x")
app.conf.update(task_publsh_timeout=5)
app.conf.update(result_expires="soon")
app.conf.task_time_limt = 5
app.conf.task_acks_late = None
app.conf.worker_concurrency = 2.5
app.conf.task_routes = 5
app.conf.task_serialiser.upper()
name: str = app.conf.task_time_limit
""".strip().splitlines()
RIGHT += SETTINGS_RIGHT
WRONG += SETTINGS_WRONG


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("typing") / "program.py"
    file.write_text(PREAMBLE + "\n".join([*RIGHT, *WRONG]) + "\n")
    return file


def judge(flagged: set[int]) -> tuple[list[str], list[str]]:
    """Right lines that are flagged, with what precedes them, and wrong ones that are not."""
    first = PREAMBLE.count("\n") + 1
    lines = [*RIGHT, *WRONG]
    refused = [lines[n - first] if n >= first else f"line {n}" for n in sorted(flagged)
               if n < first + len(RIGHT)]  # fmt: skip
    missed = [line for n, line in enumerate(WRONG, first + len(RIGHT)) if n not in flagged]
    return refused, missed


def test_there_are_fifty_of_each_and_none_twice() -> None:
    for lines in (RIGHT, WRONG):
        assert len(set(lines)) == len(lines) >= 50


def test_mypy_flags_the_wrong_lines_alone(program: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes",
         "--config-file=", "--python-executable", sys.executable, program.name],
        cwd=program.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    flagged = {int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error:" in line}
    assert judge(flagged) == ([], []), run.stdout


def test_pyright_flags_the_wrong_lines_alone(program: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable,
         program.name],
        cwd=program.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(run.stdout)["generalDiagnostics"]
    flagged = {d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"}
    assert judge(flagged) == ([], []), run.stdout
