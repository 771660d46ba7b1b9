"""A configuration module of Celery 3, as it stands."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Project, end, read_until_ready
from tests.servers import RedisServer

CONFIG = """\
from settings import REDIS_DB, REDIS_HOST, REDIS_PORT
from umbel.schedules import crontab

CELERY_CREATE_MISSING_QUEUES = True
CELERY_IMPORTS = ("jobs",)
BROKER_URL = "redis://%s:%d/%d" % (REDIS_HOST, REDIS_PORT, REDIS_DB)
CELERY_RESULT_BACKEND = BROKER_URL
CELERYD_CONCURRENCY = 2
CELERY_TIMEZONE = "Asia/Shanghai"
CELERYD_FORCE_EXECV = True
CELERYD_PREFETCH_MULTIPLIER = 1
CELERYD_MAX_TASKS_PER_CHILD = 1
CELERYD_TASK_TIME_LIMIT = 60
BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 90}
CELERY_DISABLE_RATE_LIMITS = True
CELERYBEAT_SCHEDULE = {
    "every-night": {
        "task": "jobs.who",
        "schedule": crontab(minute=30, hour=3),
        "args": (),
    },
}
"""
JOBS = """\
import datetime, os, time
from umbel import Celery, current_app

app = Celery("jobs")
app.config_from_object("celeryconfig")


@app.task
def who():
    return os.getpid()


@app.task
def zone():
    moment = datetime.datetime.fromtimestamp(1767225600, current_app.timezone)
    return [str(current_app.timezone), moment.isoformat()]


@app.task
def sleep():
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
    yield server
    server.kill()


@pytest.fixture
def old(empty: Project, server: RedisServer) -> Project:
    """A project of Celery 3 whose only change is the name in its imports."""
    server.empty(server.url)
    where = f"'127.0.0.1', {server.port}, 0"
    empty.write("settings.py", f"REDIS_HOST, REDIS_PORT, REDIS_DB = {where}\n")
    empty.write("celeryconfig.py", CONFIG)
    empty.write("jobs.py", JOBS)
    return empty


def test_its_redis_is_where_its_worker_goes(old: Project) -> None:
    old.write("settings.py", "REDIS_HOST, REDIS_PORT, REDIS_DB = '127.0.0.1', 1, 0\n")
    complaint = old.refuse("-A", "jobs", "worker", code=69)
    assert "redis://127.0.0.1:1/0 cannot be reached" in complaint


def test_each_setting_has_its_effect_or_one_line_that_says_why_not(
    old: Project, server: RedisServer
) -> None:
    document = old.ask("report", "--check")
    settings = {one["name"]: one for one in document["settings"]}
    for name, key, value in (
        ("task_create_missing_queues", "CELERY_CREATE_MISSING_QUEUES", True),
        ("imports", "CELERY_IMPORTS", ["jobs"]),
        ("broker_url", "BROKER_URL", server.url),
        ("result_backend", "CELERY_RESULT_BACKEND", server.url),
        ("worker_concurrency", "CELERYD_CONCURRENCY", 2),
        ("timezone", "CELERY_TIMEZONE", "Asia/Shanghai"),
        ("worker_max_tasks_per_child", "CELERYD_MAX_TASKS_PER_CHILD", 1),
        ("task_time_limit", "CELERYD_TASK_TIME_LIMIT", 60),
    ):
        assert settings[name]["value"] == value
        assert settings[name]["place"] == f"celeryconfig: {key}"
    assert document["store"] == server.url
    assert document["results"] == "with the messages"
    idle = {
        "CELERYD_FORCE_EXECV": "exec'd afresh",
        "CELERYD_PREFETCH_MULTIPLIER": "claimed for free slots",
        "CELERY_DISABLE_RATE_LIMITS": "nothing limits rates",
    }
    process = old.popen("worker", "-l", "INFO")
    try:
        lines = read_until_ready(process)
        assert "pool    prefork, 2 slots" in lines
        assert "tasks   3" in lines
        for name, reason in idle.items():
            (told,) = [line for line in lines if f": {name}) has no effect" in line]
            assert reason in told
            assert "INFO" in told
            (noted,) = [note for note in document["notes"] if f": {name})" in note]
            assert noted in told
        pids = {old.ask("call", "jobs.who", "--wait")["result"] for _ in range(2)}
        assert len(pids) == 2  # CELERYD_MAX_TASKS_PER_CHILD = 1
        assert old.ask("call", "jobs.zone", "--wait")["result"] == [
            "Asia/Shanghai", "2026-01-01T08:00:00+08:00",
        ]  # fmt: skip
        old.say("call", "jobs.who", "--queue", "made_when_named")
    finally:
        end(process)


def test_what_its_settings_do_when_they_say_otherwise(old: Project) -> None:
    text = CONFIG
    for setting, value in (
        ("CELERY_CREATE_MISSING_QUEUES = True", "False"),
        ("CELERYD_TASK_TIME_LIMIT = 60", "0.3"),
        ("CELERY_RESULT_BACKEND = BROKER_URL", "'disabled://'"),
        ("CELERYD_MAX_TASKS_PER_CHILD = 1", "None"),
    ):
        assert setting in text
        text = text.replace(setting, f"{setting.partition(' = ')[0]} = {value}")
    old.write("celeryconfig.py", text)
    complaint = old.refuse("call", "jobs.who", "--queue", "made_when_named", code=64)
    assert "made_when_named" in complaint
    with old.worker():
        sent = old.ask("call", "jobs.sleep")["id"]
        deadline = time.monotonic() + 20
        while not (attempts := old.ask("result", sent)["attempts"]):
            assert time.monotonic() < deadline
        assert attempts[0]["state"] == "FAILURE"
        assert attempts[0]["error"] == "TimeLimitExceeded: 0.3"
        complaint = old.refuse("call", "jobs.who", "--wait", code=64)
        assert "keeps no results" in complaint


@pytest.mark.parametrize("app", ["of its own", "of the configuration"])
def test_nohup_in_a_terminal_that_is_closed(
    old: Project, app: str, request: pytest.FixtureRequest
) -> None:
    if app == "of the configuration":  # the tasks are found by CELERY_IMPORTS alone
        imports, _, tasks = JOBS.partition('app = Celery("jobs")')
        shared = imports.replace("Celery,", "shared_task,") + tasks.partition("\n\n\n")[2]
        old.write("jobs.py", shared.replace("@app.task", "@shared_task"))
    with terminal(old) as type_line:
        type_line("nohup umbel worker -f LOG -l INFO &")
        wait_for(lambda: "ready." in read(old, "LOG"), "the worker")
        pid = only_worker(old, request)
    # The terminal has hung up on everything that was started in it.
    sent = old.ask("call", "jobs.who", "--wait")
    assert sent["state"] == "SUCCESS"
    assert [one["pid"] for one in old.ask("status")["workers"]] == [pid]
    log = old.folder / "LOG"
    log.rename(old.folder / "LOG.1")
    again = old.ask("call", "jobs.who", "--wait")["id"]
    wait_for(lambda: f"{again}] succeeded" in read(old, "LOG"), "the new file")
    assert f"{again}] received" in read(old, "LOG")
    assert again not in read(old, "LOG.1")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: '"workers": []' in old.run("status", "-j").stdout, "its end")
    assert "Warm shutdown" in read(old, "LOG")


@pytest.mark.parametrize("streams", ["", "> OUT 2>&1 < /dev/null"])
def test_a_closed_terminal_ends_a_worker_without_nohup(
    old: Project, streams: str, request: pytest.FixtureRequest
) -> None:
    with terminal(old) as type_line:
        type_line(f"umbel worker -f LOG -l INFO {streams} &")
        wait_for(lambda: "ready." in read(old, "LOG"), "the worker")
        only_worker(old, request)
    wait_for(lambda: '"workers": []' in old.run("status", "-j").stdout, "its end")
    assert "Cold shutdown" in read(old, "LOG")
    assert read(old, "LOG").count("ready.") == 1  # it has not started anew


def only_worker(project: Project, request: pytest.FixtureRequest) -> int:
    """The process of the one worker that lives; it does not outlive the test."""
    (worker,) = project.ask("status")["workers"]
    pid: int = worker["pid"]

    def end_it() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    request.addfinalizer(end_it)
    return pid


def read(project: Project, name: str) -> str:
    path = project.folder / name
    return path.read_text() if path.exists() else ""


def wait_for(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def terminal(project: Project) -> Iterator[Callable[[str], None]]:
    """A shell in a terminal of its own, which is closed at the end; what is given is typed."""
    pid, ours = pty.fork()
    if pid == 0:
        os.chdir(project.folder)
        path = f"{Path(sys.executable).parent}:{project.environment['PATH']}"
        os.execvpe("bash", ["bash", "--norc", "-i"], {**project.environment, "PATH": path})
    try:
        yield lambda line: print(line, file=open(ours, "w", closefd=False))  # noqa: SIM115
    finally:
        os.close(ours)
        os.waitpid(pid, 0)


def test_its_typos_are_found_at_the_start(old: Project) -> None:
    old.write("celeryconfig.py", CONFIG + "CELERY_TASK_SERIALISER = 'json'\n")
    complaint = old.refuse("-A", "jobs", "worker", code=64)
    assert "'CELERY_TASK_SERIALISER' (celeryconfig)" in complaint
    assert "(task_serializer)" in complaint
