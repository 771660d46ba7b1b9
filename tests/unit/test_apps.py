"""An app's arguments, its lifetime, and how it finds its tasks."""

import os
import pickle
import sys
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import umbel
from umbel import App, Task, current_app
from umbel.app import refusals
from umbel.app.current import State
from umbel.exceptions import ImproperlyConfigured, OperationalError


class Own(Task):
    pass


def make(**options: Any) -> App:
    return App("apps", broker="memory://apps", set_as_current=False, **options)


@pytest.mark.parametrize("name", refusals.CLASSES)
def test_classes_that_replace_parts_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"Mine\.{name}: .{{20}}"):
        type("Mine", (App,), {name: "proj:Class"})


def test_an_argument_that_replaces_nothing_is_passed_over() -> None:
    assert make(loader=None, log=None).main == "apps"
    with pytest.raises(AttributeError, match="no attribute 'wrker'"):
        _ = make().wrker  # type: ignore[attr-defined]


def test_a_subclass_names_tasks_and_chooses_their_class() -> None:
    class Mine(App):
        task_cls = Own

        def on_init(self) -> None:
            self.begun = True

        def gen_task_name(self, name: str, module: str) -> str:
            return f"mine.{name}"

    app = Mine(broker="memory://mine", set_as_current=False)
    task = app.task(lambda: None)
    assert (task.name, isinstance(task, Own), app.begun) == ("mine.<lambda>", True, True)


def test_it_knows_how_it_was_made() -> None:
    before = State.current
    app = App(main="own", namespace="CELERY", autofinalize=False, set_as_current=False)
    assert (app.main, app.namespace, app.autofinalize) == ("own", "CELERY", False)
    assert (app.set_as_current, app.strict_typing) == (False, True)
    assert umbel.Celery is App
    assert State.current is before
    assert make(changes={"task_default_queue": "own"}).conf.task_default_queue == "own"
    made_current = App("current", broker="memory://apps")
    assert made_current.set_as_current
    assert current_app.main == "current"
    made_current.close()


def test_it_tells_whether_its_settings_were_read() -> None:
    app = make()
    app.conf.task_default_queue = "own"
    assert not app.configured
    assert app.conf.task_default_queue == "own"
    assert app.configured


def test_either_a_value_or_the_setting() -> None:
    app = make(task_default_queue="own")
    assert app.either("task_default_queue", None, None) == "own"
    assert app.either("task_default_queue", None, 0, "x") == 0
    assert app.either("no_such_setting") is None


def test_it_is_pickled_by_its_configuration() -> None:
    app = make(task_cls=Own, task_time_limit=5)
    copy = pickle.loads(pickle.dumps(app))
    assert (copy.main, copy.task_cls, copy.conf.task_time_limit) == ("apps", Own, 5)
    assert copy.broker_url == app.broker_url


def test_a_registry_can_be_given() -> None:
    class Add(Task):
        name = "add"

        def run(self) -> int:
            return 1

    first = make()
    add = first.register_task(Add())
    assert make(tasks=first.tasks).tasks["add"] is add


def test_it_finalizes_by_itself_or_when_told() -> None:
    told = []
    app = make()
    app.on_after_finalize.connect(lambda sender, **_: told.append(sender), weak=False)
    app.task(name="f")(lambda: None)
    assert (app.finalized, told) == (False, [])
    assert "f" in app.tasks
    assert (app.finalized, told) == (True, [app])
    app.finalize()
    assert told == [app]
    held = make(autofinalize=False)
    with pytest.raises(RuntimeError, match="autofinalize=False"):
        _ = held.tasks
    held.finalize()
    assert held.tasks is held.tasks


def test_it_tells_when_its_settings_were_read() -> None:
    told: list[Any] = []
    app = make()
    app.on_configure.connect(lambda sender, **_: told.append("configure"), weak=False)
    app.on_after_configure.connect(lambda sender, source, **_: told.append(source), weak=False)
    assert told == []
    assert app.conf.task_default_queue == "celery"
    assert told == ["configure", app.conf]


def test_it_tells_a_forked_process() -> None:
    app = make()
    reading, writing = os.pipe()
    app.on_after_fork.connect(lambda **_: os.write(writing, b"forked"), weak=False)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"forked"


def test_modules_with_tasks_are_found_and_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("found_a/tasks", "found_a/jobs", "found_b/other", "found_c", "found_d"):
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    for name in ("found_a", "found_b"):
        (tmp_path / name / "__init__.py").touch()
    app = make(include=["found_c"], imports=("found_d",))
    app.autodiscover_tasks(["found_a", "found_b"])
    app.autodiscover_tasks(lambda: ["found_a"], related_name="jobs")
    assert "found_a" not in sys.modules
    names = [module.__name__ for module in app.import_default_modules()]
    assert names == ["found_a.tasks", "found_a.jobs", "found_d", "found_c"]
    app.autodiscover_tasks(["found_b"], related_name="other", force=True)
    assert "found_b.other" in sys.modules
    with pytest.raises(ModuleNotFoundError, match="found_e"):
        app.autodiscover_tasks(["found_e"], force=True)
    (tmp_path / "found_b" / "tasks.py").write_text("import found_f")
    with pytest.raises(ModuleNotFoundError, match="found_f"):
        app.autodiscover_tasks(["found_b"], force=True)
    with pytest.raises(TypeError, match=r"\['found_a'\]"):
        app.autodiscover_tasks("found_a", force=True)
    app.autodiscover_tasks()
    assert len(app.import_default_modules()) == 2


def test_its_time_is_in_its_zone() -> None:
    app = make()
    assert (app.timezone, app.uses_utc_timezone, app.now().tzinfo) == (UTC, True, UTC)
    east = make(timezone="Asia/Shanghai")
    assert (east.timezone, east.uses_utc_timezone) == (ZoneInfo("Asia/Shanghai"), False)
    assert abs((east.now() - app.now()).total_seconds()) < 5
    assert app.oid == app.oid != east.oid
    assert app.thread_oid == app.thread_oid


def test_a_connection_tells_whether_the_broker_answers(tmp_path: Path) -> None:
    app = make()
    with app.connection() as connection:
        assert connection.ensure_connection(max_retries=1) is connection
        assert connection.connected
    for ask in (
        app.connection_for_read,
        app.connection_for_write,
        app.connection_or_acquire,
        app.broker_connection,
        app.default_connection,
    ):
        with ask() as connection:
            assert connection.ensure_connection(max_retries=1).as_uri() == "memory://apps"
    broken = App(broker=f"sqlite:///{tmp_path}/none/q.db", set_as_current=False)
    (tmp_path / "none").write_text("a file where a folder should be")
    pauses: list[float] = []
    with pytest.raises((OperationalError, ImproperlyConfigured)):
        broken.connection().ensure_connection(
            lambda _, pause: pauses.append(pause), max_retries=2, interval_start=0, interval_step=0
        )
    assert pauses in ([], [0, 0])


def test_a_closed_app_opens_its_store_again() -> None:
    with make() as app:
        app.send_task("x")
        app.set_current()
    assert app.opened is None
    assert State.current is not app
    assert app.send_task("y").id


startable = make()


def test_it_starts_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        startable.start(["report"])
    assert ended.value.code == 0
    assert "memory://apps" in capfd.readouterr().out
    with pytest.raises(SystemExit) as ended:
        startable.start(["no-such-command"])
    assert ended.value.code == 64
    with pytest.raises(SystemExit) as ended:
        startable.worker_main(["worker", "--concurrency", "none"])
    assert ended.value.code == 64
    assert "concurrency" in capfd.readouterr().err


def test_worker_main_wants_to_be_told() -> None:
    with pytest.raises(ValueError, match="worker_main runs the command worker"):
        make().worker_main(["-l", "INFO"])
    with pytest.raises(ImproperlyConfigured, match="no global variable"):
        make().worker_main(["worker"])


def test_its_versions_can_be_told() -> None:
    assert umbel.__version__ in umbel.bugreport(make())
    assert umbel.version_info(*umbel.VERSION) == umbel.VERSION
    assert umbel.VERSION[:2] == (umbel.VERSION.major, umbel.VERSION.minor)
    assert f"{umbel.__version__} ({umbel.SERIES})" == umbel.VERSION_BANNER
    assert umbel.uuid() != umbel.uuid()
