"""`shared_task`, and which app is meant when none is named."""

import asyncio
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from umbel import App, Task, app_or_default, current_app, current_task, shared_task
from umbel.app.current import State
from umbel.app.shared import sharings
from umbel.exceptions import ImproperlyConfigured, UmbelWarning


class Base(Task):
    label = "base"

    def __init__(self) -> None:
        self.opened = [type(self).__name__]


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task(bind=True, queue="shared", max_retries=7)
def whoami(self: Task[..., Any]) -> Any:
    return self.app, self.request.called_directly


@shared_task(base=Base)
def held() -> int:
    return 1


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """Each test starts without an app; what it shares is gone after it."""
    saved, State.current, State.default = (State.current, State.default), None, None
    known = len(sharings)
    yield
    State.current, State.default = saved
    del sharings[known:]


def queued(app: App) -> list[str]:
    return [waiting.queue for waiting in app.engine.broker.browse(limit=50)]


def test_without_an_app_it_says_what_to_do_and_can_still_be_called() -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"test_shared\.add belongs to no app.*nothing was"
    ):
        add.delay(1, 2)
    with pytest.raises(ImproperlyConfigured, match="Import the module that makes it"):
        current_app.send_task("x")
    assert add(1, 2) == 3
    assert (add.name, whoami.max_retries) == (f"{__name__}.add", 7)
    assert bool(current_task) is False


def test_it_is_sent_by_the_current_app_and_known_to_all() -> None:
    one = App("one", broker="memory://shared-one")
    add.delay(1, 2)
    two = App("two", broker="memory://shared-two")
    whoami.delay()
    assert (queued(one), queued(two)) == (["celery"], ["shared"])
    assert add.app is two
    assert app_or_default() is two
    assert current_app == two
    one.set_current()
    assert whoami.app is one
    assert isinstance(current_app, App)
    for app in (one, two):
        assert app.tasks[add.name].app is app
        assert app.tasks[whoami.name].queue == "shared"
    late = shared_task(name="late")(lambda: 3)
    assert two.tasks["late"]() == late() == 3


def test_threads_and_coroutines_send_through_the_app_of_their_task() -> None:
    """Two apps, many threads, one event loop each: no message goes astray."""
    apps = [App(f"app{n}", broker=f"memory://shared-threads-{n}") for n in range(2)]
    for app in apps:

        @app.task(name="outer")
        def outer() -> None:
            add.delay(1, 2)

        @app.task(name="aouter")
        async def aouter() -> None:
            await asyncio.sleep(0)
            await add.adelay(1, 2)

    async def many(app: App) -> None:
        await asyncio.gather(*[app.tasks["aouter"]() for _ in range(5)])

    def work(app: App) -> None:
        for _ in range(5):
            app.tasks["outer"]()
        asyncio.run(many(app))

    threads = [threading.Thread(target=work, args=(app,)) for app in apps for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(queued(app)) for app in apps] == [20, 20]


def test_its_options_state_and_patches_are_those_of_the_apps_task() -> None:
    app = App("own", broker="memory://shared-state")
    app.conf.task_annotations = {add.name: {"queue": "annotated"}}
    add.delay(1, 2)
    assert queued(app) == ["annotated"]
    state: Any = held
    assert isinstance(held, Base)
    assert (state.label, state.opened) == ("base", ["held"])
    state.opened.append("more")
    assert app.tasks[held.name].opened == ["held", "more"]  # type: ignore[attr-defined]
    with mock.patch.object(held, "run", return_value=5):
        assert (held(), app.tasks[held.name]()) == (5, 5)
    assert held() == 1
    assert pickle.loads(pickle.dumps(add)) is app.tasks[add.name]
    assert whoami() == (app, True)


def test_applied_twice_it_is_refused() -> None:
    with pytest.raises(TypeError, match="more than once"):
        shared_task(add)
    app = App("own", broker="memory://twice")
    with pytest.raises(TypeError, match="is a task already"):
        app.task(add)
    with pytest.raises(TypeError, match="function"):
        shared_task(7)  # type: ignore[call-overload]
    with pytest.warns(UmbelWarning, match="max_retries"):
        shared_task(max_retrys=3)(abs)  # type: ignore[call-overload]


def test_an_apps_task_is_its_own_unless_it_is_shared() -> None:
    one, two = App("one", broker="memory://own-1"), App("two", broker="memory://own-2")

    @one.task(name="mine")
    def mine() -> None: ...

    @one.task(name="ours", shared=True)
    def ours() -> None: ...

    assert "mine" not in two.tasks
    assert two.tasks["ours"].app is two
    assert one.tasks["ours"] is ours


def test_the_current_task_is_the_one_that_runs() -> None:
    app = App("own", broker="memory://current-task")

    @app.task
    def inner() -> Any:
        return current_task.name, app.current_task is inner, app.current_worker_task

    @app.task
    def outer() -> Any:
        return inner(), current_task.name

    assert outer() == ((inner.name, True, None), outer.name)
    assert app.current_task is None
    outer.push_request(id="1", called_directly=False)
    try:
        assert (outer.request.id, app.current_worker_task) == ("1", outer)
    finally:
        outer.pop_request()
    assert outer.request.id != "1"


def test_a_default_app_is_current_while_no_other_is() -> None:
    app = App("default", broker="memory://default", set_as_current=False)
    with pytest.raises(ImproperlyConfigured):
        _ = current_app.conf
    app.set_default()
    assert current_app.main == "default"
    with App("other", broker="memory://other") as other:
        assert add.app is other
    assert add.app is app


@pytest.mark.parametrize(
    ("line", "name"),
    [("tasks.py", "tasks"), ("-m proj.jobs", "proj.jobs"), ("proj/jobs.py", "proj.jobs")],
)
def test_a_programs_own_tasks_are_named_as_a_worker_imports_them(
    tmp_path: Any, line: str, name: str
) -> None:
    program = (
        "from umbel import App, shared_task\n"
        "app = App('other name', broker='memory://')\n"
        "@app.task\ndef f(): ...\n"
        "@shared_task\ndef g(): ...\n"
        "if __name__ == '__main__': print(f.name, g.name, *sorted(app.tasks), app.module)\n"
    )
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "__init__.py").touch()
    for file in ("tasks.py", "proj/jobs.py"):
        (tmp_path / file).write_text(program)
    run = subprocess.run(
        [sys.executable, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    own = [word for word in run.stdout.split() if not word.startswith(("celery.", "umbel."))]
    assert own == [f"{name}.f", f"{name}.g", f"{name}.f", f"{name}.g", name]


def test_what_it_stands_for_is_told_by_its_repr() -> None:
    assert repr(add) == f"<SharedTask {add.name}>"
    assert isinstance(add.run, types.FunctionType)
