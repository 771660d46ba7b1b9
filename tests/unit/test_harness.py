"""The fixture `umbel`: what was sent is seen, runs here, and time is the test's."""

import asyncio
import resource
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from umbel import App, Task, clock, exceptions, shared_task
from umbel.app.current import State
from umbel.app.sending.publish import build_message
from umbel.exceptions import EncodeError, ImproperlyConfigured, NotRegistered, UmbelError
from umbel.testing import Harness

app = App("shop")
sent: list[tuple[str, int]] = []


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def add_later(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task
def mail(address: str, orders: list[Any]) -> None:
    sent.append((address, threading.get_ident()))


@app.task(ignore_result=True)
def forgetful() -> None:
    raise KeyError("key")


@app.task(bind=True, max_retries=2, default_retry_delay=60)
def flaky(self: Task[..., Any], fails: int) -> str:
    if self.request.retries < fails:
        raise self.retry(exc=ValueError(f"attempt {self.request.retries}"))
    return f"after {self.request.retries}"


@app.task
def order(number: int) -> None:
    for _ in range(number):
        mail.apply_async(("a@b", [(1, 2)]), queue="mail")


@app.task
def for_ever() -> None:
    for_ever.delay()


@app.task
def gives_up() -> None:
    pytest.fail("from inside a task")


@app.task
def unwritable() -> object:
    return object()


@pytest.fixture(autouse=True)
def _nothing_sent() -> None:
    sent.clear()


def test_what_waits_is_seen_as_the_task_will_get_it(umbel: Harness) -> None:
    add.delay(1, y=2)
    mail.apply_async(("a@b", [(1, 2)]), queue="mail", priority=7, countdown=60)
    first, second = umbel.queued
    assert (first.name, first.args, first.kwargs) == (add.name, (1,), {"y": 2})
    assert (first.queue, first.eta, first.retries) == ("celery", None, 0)
    assert second.args == ("a@b", [[1, 2]])
    assert (second.queue, second.priority) == ("mail", 7)
    assert second.eta is not None
    assert timedelta(seconds=50) < second.eta - umbel.now < timedelta(seconds=60)
    assert umbel.queued.of(add) == umbel.queued.of(add.name) == [first]
    assert umbel.queued.of(queue="mail") == [second]
    assert umbel.queued.of(add, queue="mail") == []


def test_what_an_app_accepts_is_seen(umbel: Harness) -> None:
    pickling = App("pickling", broker="memory://pickling", accept_content=["json", "pickle"])

    @pickling.task
    def size(things: set[int]) -> int:
        return len(things)

    size.apply_async(({1, 2},), serializer="pickle")
    assert [one.args for one in umbel.queued] == [({1, 2},)]
    assert [one.get() for one in umbel.run()] == [2]


def test_run_works_it_off_in_this_thread(umbel: Harness) -> None:
    result = add.delay(1, 2)
    order.delay(2)
    ended = umbel.run()
    assert [(one.name, one.state, one.get()) for one in ended] == [
        (add.name, "SUCCESS", 3),
        (order.name, "SUCCESS", None),
        (mail.name, "SUCCESS", None),
        (mail.name, "SUCCESS", None),
    ]
    assert sent == [("a@b", threading.get_ident())] * 2
    assert result.get() == 3
    assert (umbel.queued, umbel.run()) == ([], [])


def test_limit_leaves_the_rest(umbel: Harness) -> None:
    order.delay(2)
    assert [one.name for one in umbel.run(limit=2)] == [order.name, mail.name]
    assert len(umbel.queued) == 1


def test_mocks_apply(umbel: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "sent", [])
    mail.delay("c@d", [])
    umbel.run()
    assert [address for address, _ in sent] == ["c@d"]


def test_a_failure_raises_with_the_tasks_own_traceback(umbel: Harness) -> None:
    forgetful.delay()
    add.delay(1, 2)
    with pytest.raises(KeyError, match="key") as raised:
        umbel.run()
    assert raised.traceback[-1].name == "forgetful"
    shown = [entry.name for entry in raised.traceback.filter(raised)]
    assert shown == ["test_a_failure_raises_with_the_tasks_own_traceback", "forgetful"]
    assert [one.get() for one in umbel.run()] == [3]


def test_a_failure_is_a_result_when_asked_for(umbel: Harness) -> None:
    forgetful.delay()
    failing = flaky.apply_async((9,))
    (first, second) = umbel.run(propagate=False)
    assert (first.state, second.state) == ("FAILURE", "RETRY")
    assert isinstance(first.result, KeyError)
    assert failing.state == "RETRY"


def test_what_ends_the_test_ends_it_from_inside_a_task(umbel: Harness) -> None:
    gives_up.delay()
    with pytest.raises(pytest.fail.Exception, match="from inside"):
        umbel.run(propagate=False)


def test_a_result_that_cannot_be_stored_raises(umbel: Harness) -> None:
    unwritable.delay()
    with pytest.raises(EncodeError, match=f"return value of {unwritable.name}"):
        umbel.run()


def test_retries_and_countdowns_become_due_as_time_passes(umbel: Harness) -> None:
    result = flaky.delay(2)
    add.apply_async((1, 2), countdown=3600)
    assert [one.state for one in umbel.run()] == ["RETRY"]
    assert [(one.name, one.retries) for one in umbel.queued] == [(add.name, 0), (flaky.name, 1)]
    umbel.advance(59)
    assert umbel.run() == []
    umbel.advance(seconds=2)
    assert [one.state for one in umbel.run()] == ["RETRY"]
    umbel.advance(timedelta(minutes=2))
    assert [one.get() for one in umbel.run()] == ["after 2"]
    umbel.advance(hours=1)
    assert [one.get() for one in umbel.run()] == [3]
    assert result.get() == "after 2"


def test_the_last_retry_raises_what_the_task_raised(umbel: Harness) -> None:
    flaky.delay(9)
    for _ in range(2):
        umbel.run()
        umbel.advance(hours=1)
    with pytest.raises(ValueError, match="attempt 2"):
        umbel.run()


def test_an_expired_task_is_revoked(umbel: Harness) -> None:
    result = add.apply_async((1, 2), expires=60)
    umbel.advance(minutes=2)
    assert [one.state for one in umbel.run()] == ["REVOKED"]
    assert result.state == "REVOKED"


def test_an_unknown_task_is_told_and_becomes_a_dead_letter(umbel: Harness) -> None:
    app.send_task("shop", (1, 2))
    with pytest.raises(NotRegistered, match="No app here has a task 'shop'"):
        umbel.run()
    umbel.advance(minutes=2)
    with pytest.raises(NotRegistered, match="No task 'shop'"):
        umbel.run()
    assert [(letter.task, letter.reason) for letter in umbel.dead] == [("shop", "unknown")]


def test_tasks_that_send_each_other_for_ever_are_stopped(umbel: Harness) -> None:
    for_ever.delay()
    assert len(umbel.run(limit=5)) == 5
    with pytest.raises(UmbelError, match="for ever"):
        umbel.run()


def test_waiting_for_what_nobody_runs_is_told_at_once(umbel: Harness) -> None:
    result = add.delay(1, 2)
    with pytest.raises(exceptions.TimeoutError, match=r"call umbel\.run\(\) first"):
        result.get()


def test_coroutines_run_from_plain_code_and_from_a_running_loop(umbel: Harness) -> None:
    async def main() -> list[int]:
        result = await add_later.adelay(1, 2)
        values = [one.get() for one in umbel.run()]
        return [*values, await result.aget()]

    assert asyncio.run(main()) == [3, 3]
    add_later.delay(2, 3)
    assert [one.get() for one in umbel.run()] == [5]


def test_no_thread_is_left_of_a_test() -> None:
    async def main(other: App) -> None:
        result = await add_later.adelay(1, 2)
        await other.apublish(build_message(other.conf, add.name, (1, 2), None))
        with pytest.raises(exceptions.TimeoutError, match=r"call umbel\.run\(\) first"):
            await result.aget()
        harness.run(limit=1)
        assert await result.aget() == 3

    before = set(threading.enumerate())
    with Harness() as harness:
        asyncio.run(main(App("new", set_as_current=False)))
        assert any(thread.name == "umbel-sender" for thread in threading.enumerate())
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("umbel")]
    for thread in left:
        thread.join(10)
        assert not thread.is_alive(), thread


def test_several_apps_with_stores_of_their_own_and_shared(umbel: Harness) -> None:
    producer = App("producer", broker="redis://:secret@host/0", backend="broker")
    consumer = App("consumer", broker="redis://:secret@host/0", backend="broker")
    other = App("other", broker="redis://elsewhere/0", backend="broker")

    @consumer.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @other.task(name="triple")
    def triple(x: int) -> int:
        return 3 * x

    producer.send_task("double", (4,))
    triple.delay(5)
    add.delay(1, 2)
    assert sorted(one.get() for one in umbel.run()) == [3, 8, 15]
    assert "secret" not in producer.engine.name


def test_an_app_that_cannot_be_configured_is_none_of_a_tests_business(umbel: Harness) -> None:
    broken = App("broken", config_source="no_such_module", set_as_current=False)
    app = App("whole")
    result = app.task(lambda: 3).delay()
    umbel.run()
    assert result.result == 3
    with pytest.raises(ImproperlyConfigured):
        broken.conf.read()


def test_shared_tasks_go_where_the_current_app_sends(umbel: Harness) -> None:
    @shared_task
    def halve(x: int) -> float:
        return x / 2

    before = State.current
    try:
        project = App("project")
        halve.delay(3)
        assert [one.get() for one in umbel.run()] == [1.5]
        assert project.opened is not None
    finally:
        State.current = before


def test_all_is_as_before_afterwards(tmp_path: Path) -> None:
    mine = App("mine", broker=f"sqlite:///{tmp_path}/queue.db")
    before, waiter = mine.engine, mine.waiter
    with Harness() as harness:
        assert mine.engine is not before
        harness.advance(days=1)
        assert clock.time() > time.time() + 3600
        new = App("new", broker=f"sqlite:///{tmp_path}/queue.db")
        new.send_task("anything")
        assert len(harness.queued) == 1
    assert mine.engine is new.engine is before
    assert before.broker.counts() == []
    assert mine.waiter is waiter  # whoever waited outside goes on waiting
    assert clock.time is time.time


GENERATED = """
from umbel import App

app = App("shop")

@app.task
def add(x, y):
    return x + y

def check(umbel, number):
    result = add.delay(number, y=1)
    assert [one.args for one in umbel.queued] == [(number,)]
    umbel.run()
    assert result.get() == number + 1
    assert not umbel.queued
"""


def test_a_thousand_tests_take_less_than_ten_seconds(tmp_path: Path) -> None:
    lines = [f"def test_{number}(umbel): check(umbel, {number})" for number in range(1000)]
    file = tmp_path / "test_generated.py"
    file.write_text(GENERATED + "\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        str(file),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert "1000 passed" in run.stdout, run.stdout + run.stderr
    # What it costs the processor: on a machine that is busy otherwise, time alone says nothing.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_time_does_not_go_back(umbel: Harness) -> None:
    with pytest.raises(ValueError, match="forward only"):
        umbel.advance(days=-1)
    umbel.advance(0)
