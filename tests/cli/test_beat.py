"""`umbel beat` and `umbel worker -B`, as they are started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Project, end, read_until_ready
from umbel.engines.sqlite import SqliteEngine

TICKING = """
from umbel import App

app = App("tasks")
app.conf.beat_schedule = {
    "often": {"task": "tasks.note", "schedule": 0.1, "args": ("often",), "misfire": "all"},
    "later": {"task": "tasks.note", "schedule": 3600, "args": ("later",)},
}


@app.task(bind=True)
def note(self, word):
    with open("ran", "a") as file:
        file.write(f"{word} {self.request.periodic_task_due}\\n")
"""


@pytest.fixture
def ticking(project: Project) -> Project:
    project.write("tasks.py", TICKING)
    return project


def wait_for(found: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"never seen: {what}"
        time.sleep(0.02)


def waiting(project: Project) -> int:
    with project.engine() as engine:
        return sum(count.ready for count in engine.broker.counts())


def runs(project: Project) -> list[str]:
    file = project.folder / "ran"
    return file.read_text().splitlines() if file.exists() else []


def test_beat_sends_what_is_due_until_it_is_told_to_stop(ticking: Project) -> None:
    process = ticking.popen("beat", "-l", "INFO")
    lines = read_until_ready(process)
    assert "schedule  " + str(ticking.store) in lines
    assert "entries   2 in the code; umbel schedule" in lines
    wait_for(lambda: waiting(ticking) >= 3, "three ticks")
    _, rest = end(process)
    assert process.returncode == 0
    assert rest.splitlines()[-1] == "stopped"
    sent = [line for line in rest.splitlines() if "Scheduler: Sending due task often" in line]
    assert len(sent) == waiting(ticking)


LISTENING = """
from umbel import signals


def note(signal, sender, **_):
    with open("heard", "a") as file:
        file.write(f"{signal.name} {type(sender).__name__}\\n")


for signal in (signals.beat_init, signals.beat_embedded_init):
    signal.connect(note)
"""


def test_signals_tell_that_a_scheduler_runs(ticking: Project) -> None:
    """`beat_init`, and `beat_embedded_init` in a worker."""
    ticking.write("tasks.py", TICKING + LISTENING)
    heard = ticking.folder / "heard"
    for words, line in (
        (["beat"], "beat_init Scheduler"),
        (["worker", "-B", "-c", "1"], "beat_embedded_init Scheduler"),
    ):
        process = ticking.popen(*words)
        read_until_ready(process)
        wait_for(heard.exists, f"a signal of {words[0]}")
        end(process)
        assert heard.read_text().splitlines() == [line]
        heard.unlink()


def test_beat_in_json(ticking: Project) -> None:
    process = ticking.popen("beat", "--json")
    assert process.stdout is not None
    starting, ready = (json.loads(process.stdout.readline()) for _ in range(2))
    assert (starting["event"], starting["entries"]) == ("starting", 2)
    assert (ready["event"], ready["pid"]) == ("ready", process.pid)
    wait_for(lambda: waiting(ticking) >= 1, "a tick")
    output, _ = end(process)
    (stopped,) = (json.loads(line) for line in output.splitlines())
    assert stopped == {"event": "stopped", "fired": waiting(ticking)}


def test_any_number_of_workers_may_be_schedulers(ticking: Project) -> None:
    workers = [ticking.popen("worker", "-B", "-c", "1", "-n", f"w{n}") for n in range(2)]
    workers.append(ticking.popen("beat"))
    for worker in workers:
        read_until_ready(worker)
    wait_for(lambda: len(runs(ticking)) >= 5, "five runs")
    workers[0].kill()
    before = len(runs(ticking))
    wait_for(lambda: len(runs(ticking)) >= before + 5, "five more runs")
    for worker in workers:
        end(worker)
    assert [worker.returncode for worker in workers[1:]] == [0, 0]
    # The killed worker may have run one without having told.
    again = [run for run, times in Counter(runs(ticking)).items() if times > 1]
    assert len(again) <= 1


def test_a_worker_without_b_schedules_nothing(ticking: Project) -> None:
    with ticking.worker():
        time.sleep(0.3)
        assert ticking.ask("schedule", "list")["schedule"] == []


def test_beat_in_the_background(ticking: Project) -> None:
    ticking.say("beat", "--detach", "-f", "beat.log", "--pidfile", "beat.pid", "-l", "INFO")
    wait_for((ticking.folder / "beat.pid").exists, "the pid file")
    pid = int((ticking.folder / "beat.pid").read_text())
    complaint = ticking.refuse("beat", "--pidfile", "beat.pid", code=73)
    assert f"names the process {pid}, which runs" in complaint
    wait_for(lambda: waiting(ticking) >= 1, "a tick")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not (ticking.folder / "beat.pid").exists(), "its end")
    assert "Sending due task often (tasks.note)" in (ticking.folder / "beat.log").read_text()
    assert "--detach needs a log file" in ticking.refuse("beat", "--detach", code=64)


def test_a_schedule_that_is_wrong_is_told_before_anything_starts(project: Project) -> None:
    project.write("tasks.py", TICKING.replace('"schedule": 3600', '"shedule": 3600'))
    for command in (("beat",), ("worker", "-B", "-c", "1")):
        complaint = project.refuse(*command, code=64)
        assert "beat_schedule['later'] has an unknown key 'shedule'. Did you mean" in complaint


def test_options_of_celery(ticking: Project) -> None:
    process = ticking.popen(
        "beat", "-S", "django", "--max-interval", "5", "--no-enable-remote-control",
        "beat.sync_every=1",
    )  # fmt: skip
    lines = read_until_ready(process)
    end(process)
    notes = [line for line in lines if line.startswith("note")]
    assert [note.split()[1] for note in notes] == [
        "--scheduler", "--max-interval", "--no-enable-remote-control",
    ]  # fmt: skip
    for option in ("--uid", "--umask", "--executable"):
        assert f"{option} is refused" in ticking.refuse("beat", option, "1", code=64)


def test_the_state_in_a_file_of_its_own(ticking: Project, tmp_path: Path) -> None:
    place = tmp_path / "var" / "celerybeat-schedule"
    place.parent.mkdir()
    place.write_bytes(b"\x00a shelf of Celery's" * 99)
    process = ticking.popen("beat", "-s", str(place), "-l", "INFO")
    lines = read_until_ready(process)
    assert f"schedule  {place}.db" in lines
    assert any(f"{place} is a file of another program and was left as it is" in line
               for line in lines)  # fmt: skip
    wait_for(lambda: waiting(ticking) >= 2, "two ticks")
    end(process)
    assert place.read_bytes() == b"\x00a shelf of Celery's" * 99
    assert ticking.ask("schedule", "list")["schedule"] == []
    listed = ticking.ask("schedule", "list", "-s", str(place))["schedule"]
    assert [task["name"] for task in listed] == ["later", "often"]
    engine = SqliteEngine(Path(f"{place}.db"))
    assert engine.broker.counts() == []  # all have gone on into the app's store
    engine.close()


# ----------------------------------------------------------------- a project of Celery 3

CONFIG = """\
from datetime import timedelta

from umbel.schedules import crontab

CELERY_TIMEZONE = "Asia/Shanghai"
CELERY_IMPORTS = ("jobs",)
CELERYBEAT_SCHEDULE = {
    "every-10-seconds": {
        "task": "jobs.report",
        "schedule": timedelta(seconds=10),
        "args": (16, "x"),
        "options": {"queue": "reports"},
    },
    "bare-number": {"task": "jobs.report", "schedule": 10, "args": (1, "y")},
    "office-hours": {
        "task": "jobs.report",
        "schedule": crontab(
            minute='*/10', hour='8-18', day_of_month='*', day_of_week='*', month_of_year='*'
        ),
        "args": (2, "z"),
    },
}
"""
JOBS = """\
from umbel import Celery

app = Celery("jobs")
app.config_from_object("celeryconfig")


@app.task
def report(number, text):
    return f"{number}{text}"
"""


def test_a_schedule_of_celery_3_as_it_stands(empty: Project, tmp_path: Path) -> None:
    empty.write("celeryconfig.py", CONFIG)
    empty.write("jobs.py", JOBS)
    umbel = Path(sys.executable).with_name("umbel")
    place, log = tmp_path / "celerybeat-schedule", tmp_path / "beat.log"
    line = f"nohup {umbel} beat -s {place} --logfile={log} -l info >nohup.out 2>&1 & echo $!"
    shell = subprocess.run(
        ["sh", "-c", line], cwd=empty.folder, env=empty.environment, capture_output=True,
        text=True, check=True, timeout=30,
    )  # fmt: skip
    pid = int(shell.stdout)
    try:
        wait_for(lambda: empty.store.exists() and waiting(empty) >= 2, "ticks", 25)
        os.kill(pid, signal.SIGHUP)  # the terminal is closed
        with empty.engine() as engine:
            counts = {count.queue: count.ready for count in engine.broker.counts()}
        assert counts.keys() == {"celery", "reports"}
        text = log.read_text()
        assert (
            "INFO/MainProcess] Scheduler: Sending due task every-10-seconds (jobs.report)" in text
        )
        assert "Sending due task bare-number (jobs.report)" in text
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGTERM)
    with empty.worker("-Q", "celery,reports"):
        wait_for(lambda: waiting(empty) == 0, "the worker to run them")
    times = empty.say("schedule", "next", "-s", str(place), "office-hours", "-n", "80").splitlines()
    assert all(time.endswith("+08:00 CST") for time in times)
    assert {int(time[11:13]) for time in times} == set(range(8, 19))
    assert {int(time[14:16]) for time in times} == {0, 10, 20, 30, 40, 50}


def test_a_second_signal_ends_a_scheduler_that_waits_for_an_argument(ticking: Project) -> None:
    code = TICKING.replace(
        '"args": ("often",)',
        '"args": [BeatLazyFunc(lambda: open("asked", "w") and __import__("time").sleep(60))]',
    )
    ticking.write("tasks.py", f"from umbel.beat import BeatLazyFunc\n{code}")
    process = ticking.popen("beat")
    try:
        wait_for((ticking.folder / "asked").exists, "the argument")
        deadline = time.monotonic() + 15
        while process.poll() is None:
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
    finally:
        end(process)
    assert process.returncode == -signal.SIGTERM
