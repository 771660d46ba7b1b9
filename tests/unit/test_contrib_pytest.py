"""Celery's fixtures and marker, in a pytest of their own; the Manager."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from umbel import shared_task
from umbel.app.current import State
from umbel.contrib.testing.app import TestApp, Trap, set_trap, setup_default_app
from umbel.contrib.testing.manager import Manager, Sentinel
from umbel.contrib.testing.tasks import ping
from umbel.contrib.testing.worker import start_worker
from umbel.exceptions import ImproperlyConfigured, TimeoutError  # noqa: A004

CONFTEST = """
import pytest
import umbel

pytest_plugins = ["umbel.contrib.pytest"]

class Doubled(umbel.Task):
    name = "doubled"

    def run(self, x):
        return 2 * x

@pytest.fixture(scope="session")
def celery_config():
    return {"timezone": "Asia/Shanghai", "task_default_queue": "mine"}

@pytest.fixture(scope="session")
def celery_parameters():
    return {"strict_typing": False}

@pytest.fixture(scope="session")
def celery_includes():
    return ["included"]

@pytest.fixture(scope="session")
def celery_class_tasks():
    return [Doubled]

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"queues": ["mine", "other"]}

@pytest.fixture(scope="session")
def celery_enable_logging():
    return True
"""
INCLUDED = """
from umbel import shared_task

@shared_task
def tripled(x):
    return 3 * x
"""
TESTS = """
import logging
import pytest
from umbel import current_app, shared_task

@shared_task
def shared(x):
    return -x

def test_a_task_of_the_tests_own(celery_app, celery_worker):
    @celery_app.task
    def multiply(x, y):
        return x * y

    celery_worker.reload()
    assert multiply.delay(4, 4).get(timeout=10) == 16
    assert multiply.apply_async((4, 5), queue="other").get(timeout=10) == 20

def test_shared_and_included_tasks(celery_app, celery_worker, depends_on_current_app):
    from included import tripled
    assert current_app.main == celery_app.main
    assert (shared.delay(5).get(timeout=10), tripled.delay(5).get(timeout=10)) == (-5, 15)

def test_the_overridden_fixtures_count(celery_app, caplog):
    conf = celery_app.conf
    assert (conf.timezone, conf.task_default_queue) == ("Asia/Shanghai", "mine")
    assert celery_app.strict_typing is False

@pytest.mark.celery(timezone="UTC", result_backend="disabled")
def test_the_marker_outweighs_them(celery_app):
    assert celery_app.conf.timezone == "UTC"
    assert not celery_app.keeps_results

def test_nothing_is_left_of_another_test(celery_app):
    assert celery_app.engine.broker.counts() == []
    celery_app.send_task("nobodys")
    assert celery_app.engine.broker.counts()

def test_nothing_is_left_again(celery_app):
    assert celery_app.engine.broker.counts() == []

def test_the_session_has_a_worker(celery_session_app, celery_session_worker):
    doubled = celery_session_app.tasks["doubled"]
    assert doubled.delay(21).get(timeout=10) == 42
    assert current_app.main == celery_session_app.main

def test_the_sessions_app_is_current(celery_session_app):
    assert current_app.oid == celery_session_app.oid

def test_the_log_is_at_info(celery_app, celery_worker):
    assert logging.getLogger("umbel").level == logging.INFO

def test_the_pool_is_solo(celery_worker_pool):
    assert celery_worker_pool == "solo"

def test_our_own_fixture_is_there_too(umbel, celery_app):
    result = celery_app.send_task("celery.ping")
    assert len(umbel.queued) == 1
"""
TRAPPED = """
import pytest
from umbel import current_app

pytest_plugins = ["umbel.contrib.pytest"]

@pytest.fixture(scope="session")
def use_celery_app_trap():
    return True

def test_the_trap(celery_app, celery_worker):
    with pytest.raises(RuntimeError, match="depends on the current app"):
        current_app.main
"""


def run(folder: Path, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error",
         "--strict-markers", "."],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_thirteen_fixtures_and_the_marker(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "included.py").write_text(INCLUDED)
    (tmp_path / "test_fixtures.py").write_text(TESTS)
    assert "11 passed" in run(tmp_path)
    assert "7 passed, 4 skipped" in run(tmp_path, NO_WORKER="1")


def test_the_app_trap(tmp_path: Path) -> None:
    (tmp_path / "test_trap.py").write_text(TRAPPED)
    assert "1 passed" in run(tmp_path)


def test_a_tests_app_has_a_store_of_its_own_and_leaves_no_trace() -> None:
    before = State.current, State.default
    app = TestApp("one", {"task_default_queue": "here"}, set_as_current=True)
    app.send_task("anything")
    with setup_default_app(app):
        other = TestApp(backend="cache+memory://")
        with setup_default_app(other):
            assert (other.main, other.engine.broker.counts()) == ("celery.tests", [])
            other.set_current()
            assert other.keeps_results
        assert State.current is app
        assert [count.queue for count in app.engine.broker.counts()] == ["here"]
        with set_trap(app):
            assert isinstance(State.current, Trap)
            assert not hasattr(State.current, "__wrapped__")  # as unittest.mock asks
            with pytest.raises(RuntimeError, match="app trap"):
                shared_task(lambda: None).delay()
    State.current, State.default = before


def test_a_backend_elsewhere_is_told() -> None:
    app = TestApp(backend="mongodb://")
    with setup_default_app(app), pytest.raises(ImproperlyConfigured, match="result_backend"):
        app.send_task("anything")


def test_the_manager_waits_for_what_tasks_do() -> None:
    app = TestApp("managed")

    @app.task
    def double(x: int) -> int:
        return 2 * x

    manager = Manager(app, block_timeout=10)
    with setup_default_app(app):
        result = double.delay(4)
        assert not manager.is_received([result.id])
        with pytest.raises(Sentinel):
            manager.assert_received([result.id], max_retries=1)
        manager.ensure_not_for_a_while(
            lambda: result.get(timeout=0), (TimeoutError,), max_retries=1, interval_start=0.01
        )
        with pytest.raises(AssertionError, match="Missing task results"):
            manager.join(result, max_retries=1, timeout=0)
        with start_worker(app):
            assert manager.join(result) == [8]
            assert ping.delay().get(timeout=10) == "pong"
            assert manager.assert_accepted([result.id])
            assert manager.assert_result_tasks_in_progress_or_completed([result])
            manager.wait_until_idle()
        assert manager.missing_results([result]) == []
        double.apply_async((1,), countdown=3600)
        manager.wait_until_idle()
        assert app.engine.broker.counts() == []
