"""What a worker logs, where, and how it leaves alone what the app has set up."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Project, end, read_until_ready

TASKS = """
import logging, os, sys
from umbel import App
from umbel.utils.log import get_task_logger

app = App("tasks")
logger = get_task_logger("tasks")
plain = logging.getLogger("library")


@app.task
def add(x, y):
    return x + y


@app.task
def tell():
    logger.info("from the task")
    plain.warning("from a library", extra={"size": 3})
    logger.debug("too fine")
    return "x" * 2000


@app.task
def shout():
    print("printed", "in pieces")
    print("an error", file=sys.stderr)
    os.write(sys.stdout.fileno(), b"raw\\n")
    sys.stdout.flush()


@app.task
def fail():
    raise ValueError("no such luck")


@app.task(throws=(KeyError,))
def fail_as_expected():
    raise KeyError("k")


@app.task(bind=True, max_retries=1)
def flaky(self):
    if not self.request.retries:
        raise self.retry(exc=OSError("busy"), countdown=0.01)


@app.task(bind=True)
def whoami(self):
    return self.request.id


@app.task(reject_on_worker_lost=False, time_limit=0.3)
def end(how):
    if how == "die":
        os.kill(os.getpid(), 9)
    while True:
        pass


@app.task(bind=True)
def where(self):
    return [self.request.loglevel, self.request.logfile]
"""


class Log:
    """A log file, and waiting for its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def wait_for(self, pattern: str) -> list[str]:
        """The lines that match, once there is one."""
        deadline = time.monotonic() + 20
        while True:
            found = [line for line in self.lines() if re.search(pattern, line)]
            if found:
                return found
            assert time.monotonic() < deadline, f"no line {pattern!r} in {self.lines()}"
            time.sleep(0.01)


def make(tmp_path: Path, name: str, text: str = TASKS) -> Project:
    folder = tmp_path / name
    folder.mkdir()
    project = Project(folder, tmp_path / f"{name}-home")
    project.write("tasks.py", text)
    return project


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Log]]:
    """A worker that logs into a file at INFO."""
    project = make(tmp_path_factory.mktemp("logging"), "code")
    with project.worker("-l", "info", "-f", "w.log", "-n", "w1@box"):
        yield project, Log(project.folder / "w.log")


STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: "


def test_the_lines_that_people_look_for(live: tuple[Project, Log]) -> None:
    project, log = live
    sent = project.send("tasks.add", 2, 3)
    (line,) = log.wait_for(rf"add\[{sent}\] received")
    assert re.fullmatch(rf"{STAMP}INFO/MainProcess\] Task tasks\.add\[{sent}\] received", line)
    (line,) = log.wait_for(rf"add\[{sent}\] succeeded")
    assert re.fullmatch(
        rf"{STAMP}INFO/ForkPoolWorker-1\] Task tasks\.add\[{sent}\] succeeded in [\d.e-]+s: 5", line
    )
    sent = project.send("tasks.fail")
    (line,) = log.wait_for(rf"{sent}\] raised")
    assert line.endswith(f"Task tasks.fail[{sent}] raised unexpected: ValueError('no such luck')")
    assert "ERROR" in line
    after = log.lines()[log.lines().index(line) + 1 :]
    assert after[0] == "Traceback (most recent call last):"
    assert after[1].endswith("in fail")
    sent = project.send("tasks.fail_as_expected")
    (line,) = log.wait_for(rf"{sent}\] raised")
    assert line.endswith(f"Task tasks.fail_as_expected[{sent}] raised expected: KeyError('k')")
    assert "INFO" in line
    sent = project.send("tasks.flaky")
    (line,) = log.wait_for(rf"{sent}\] retry")
    assert re.search(rf"{sent}\] retry: Retry in 0\.0\ds: OSError\('busy'\)$", line)
    log.wait_for(rf"flaky\[{sent}\] succeeded")
    sent = project.send("tasks.add", 1, 1, expires=-1.0)
    (line,) = log.wait_for(f"Discarding revoked task: tasks.add.{sent}")
    assert line.endswith("(expired)")


def test_a_shadow_stands_in_the_lines_for_the_name(live: tuple[Project, Log]) -> None:
    project, log = live
    sent = project.send("tasks.add", 2, 3, shadow="sums")
    (line,) = log.wait_for(rf"\[{sent}\] received")
    assert line.endswith(f"Task sums[{sent}] received")
    (line,) = log.wait_for(rf"\[{sent}\] succeeded")
    assert re.search(rf"Task sums\[{sent}\] succeeded in [\d.e-]+s: 5$", line)


def test_a_task_sees_where_its_worker_logs(live: tuple[Project, Log]) -> None:
    project, log = live
    sent = project.send("tasks.where")
    (line,) = log.wait_for(rf"{sent}\] succeeded")
    assert line.endswith("s: [20, 'w.log']")


def test_a_tasks_own_lines_name_it(live: tuple[Project, Log]) -> None:
    project, log = live
    sent = project.send("tasks.tell")
    (line,) = log.wait_for("from the task")
    assert re.fullmatch(
        rf"{STAMP}INFO/ForkPoolWorker-1\] tasks\.tell\[{sent}\]: from the task", line
    )
    assert log.wait_for("from a library")[0].endswith("WARNING/ForkPoolWorker-1] from a library")
    (line,) = log.wait_for(rf"{sent}\] succeeded")
    assert line.endswith("x...")
    assert len(line) < 1300
    assert not [line for line in log.lines() if "too fine" in line]


def test_what_a_task_prints_is_logged(live: tuple[Project, Log]) -> None:
    project, log = live
    sent = project.send("tasks.shout")
    log.wait_for(rf"{sent}\] succeeded")
    assert log.wait_for("printed")[0].endswith("WARNING/ForkPoolWorker-1] printed in pieces")
    assert log.wait_for("an error")[0].endswith("] an error")
    assert not [line for line in log.lines() if "raw" in line]


def test_a_rotated_file_is_opened_anew(live: tuple[Project, Log]) -> None:
    project, log = live
    project.send("tasks.add", 1, 1)
    log.wait_for("succeeded")
    log.path.rename(log.path.with_suffix(".1"))
    sent = project.send("tasks.tell")
    log.wait_for(rf"{sent}\] received")
    log.wait_for(rf"{sent}\]: from the task")
    log.wait_for(rf"{sent}\] succeeded")


def test_the_name_that_a_second_worker_gets_is_in_its_lines(tmp_path: Path) -> None:
    project = make(tmp_path, "code")
    host = socket.gethostname()
    with project.worker(), project.worker("-l", "INFO", "-f", "%n.log", "--log-json", "-Q", "two"):
        log = Log(project.folder / "celery2.log")
        sent = project.send("tasks.tell", queue="two")
        log.wait_for(f"{sent}.*succeeded")
    assert {json.loads(line)["worker"] for line in log.lines()} == {f"celery2@{host}"}
    assert not (project.folder / "celery.log").exists()


def test_an_end_that_no_child_could_tell_is_told_under_its_shadow(
    live: tuple[Project, Log],
) -> None:
    project, log = live
    sent = project.send("tasks.end", "die", shadow="short")
    (line,) = log.wait_for(rf"\[{sent}\] was lost")
    assert f"Task short[{sent}] was lost with its process: killed by SIGKILL" in line
    assert re.search(r"ERROR/MainProcess\] Child \d+ \(slot 0\) was lost: ", "\n".join(log.lines()))
    sent = project.send("tasks.end", "spin", shadow="short")
    (line,) = log.wait_for(rf"\[{sent}\]: TimeLimit")
    assert f"Task short[{sent}]: TimeLimitExceeded" in line


def test_json_lines(tmp_path: Path) -> None:
    project = make(tmp_path, "code")
    with project.worker("-l", "INFO", "-f", "w.log", "--log-json", "-n", "w1@box"):
        log = Log(project.folder / "w.log")
        told, failed = project.send("tasks.tell"), project.send("tasks.fail")
        log.wait_for(f"{told}.*succeeded")
        log.wait_for(f"{failed}.*raised")
    records = [json.loads(line) for line in log.lines()]
    assert {record["worker"] for record in records} == {"w1@box"}
    own = {"worker": "w1@box", "task": "tasks.tell", "task_id": told, "level": "INFO"}
    by_message = {record["message"]: record for record in records}
    assert by_message["from the task"].items() >= (own | {"logger": "tasks"}).items()
    assert by_message["from a library"].items() >= {"size": 3, "task_id": told}.items()
    error = by_message[f"Task tasks.fail[{failed}] raised unexpected: ValueError('no such luck')"]
    assert (error["level"], error["logger"]) == ("ERROR", "umbel.app.trace")
    assert error["task_id"] == failed
    assert error["exc"].startswith("Traceback (most recent call last):\n")
    assert error["exc"].endswith("ValueError: no such luck")
    received = by_message[f"Task tasks.fail[{failed}] received"]
    assert "task_id" not in received
    assert received["logger"] == "umbel.worker.strategy"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", received["time"])


SET_UP = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "OWN %(name)s %(message)s"}},
    "handlers": {"own": {"class": "logging.FileHandler", "filename": "own.log",
                         "formatter": "own"}},
    "root": {"handlers": ["own"], "level": "INFO"},
})
"""
STATE = """

def state():
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(n) for n in sorted(root.manager.loggerDict))]
    return [(l.name, l.level, l.propagate, [repr(h) for h in l.handlers]) for l in loggers
            if l.handlers or l.level or not l.propagate], repr(sys.stdout)

BEFORE = state()

@app.task
def compare():
    return [BEFORE, state()]
"""


def test_logging_that_the_app_has_set_up_is_left_alone(tmp_path: Path) -> None:
    project = make(tmp_path, "code", SET_UP + TASKS + STATE)
    with project.worker("-l", "DEBUG"):
        before, after = project.ask("call", "tasks.compare", "--wait")["result"]
        assert before == after
        sent = project.ask("call", "tasks.tell", "--wait")["id"]
        own = Log(project.folder / "own.log")
        own.wait_for(f"^OWN umbel.app.trace Task tasks.tell.{sent}. succeeded")
        own.wait_for(f"^OWN umbel.worker.strategy Task tasks.tell.{sent}. received")
        own.wait_for("^OWN tasks from the task$")


def test_the_root_logger_is_taken_over_where_the_setting_says_so(tmp_path: Path) -> None:
    text = SET_UP + TASKS + "app.conf.worker_hijack_root_logger = True\n"
    project = make(tmp_path, "code", text)
    with project.worker("-l", "INFO", "-f", "w-%n%I.log", "-n", "w1@box"):
        sent = project.ask("call", "tasks.tell", "--wait")["id"]
        Log(project.folder / "w-w1.log").wait_for(f"{sent}. received")
        Log(project.folder / "w-w1-1.log").wait_for(f"{sent}.: from the task")
    assert not Log(project.folder / "own.log").lines()


FORMATS = """
app.conf.worker_log_format = "OWN %(asctime)s %(levelname)s %(message)s"
app.conf.worker_log_datefmt = "day %j"
app.conf.worker_task_log_format = "TASK %(asctime)s %(task_name)s %(message)s"
app.conf.worker_task_log_datefmt = "week %U"
app.conf.worker_redirect_stdouts_level = "ERROR"
app.conf.worker_log_color = True
"""


def test_the_settings_say_how_lines_look(tmp_path: Path) -> None:
    project = make(tmp_path, "code", TASKS + FORMATS)
    process = project.popen("worker", "-c", "1", "-l", "INFO")
    try:
        lines = read_until_ready(process)
        sent = project.send("tasks.shout")
        project.send("tasks.tell")
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if "tasks.tell" in line and "succeeded" in line:
                break
    finally:
        end(process)

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, line) is not None for line in lines)

    assert count(rf"OWN day \d{{3}} INFO Task tasks.shout.{sent}. received")
    assert count(r"TASK week \d\d tasks.tell from the task")
    assert count(r"\x1b\[1;31mOWN day \d{3} ERROR printed in pieces\x1b\[0m")


def test_of_two_workers_that_start_at_once_each_has_its_own_log(tmp_path: Path) -> None:
    text = TASKS + (
        "\n\nimport time\nfrom pathlib import Path\nfrom umbel.signals import celeryd_init\n"
        "\n@celeryd_init.connect\ndef wait(**_):\n"
        "    if not Path('named').exists():\n        Path('named').touch()\n"
        "        while not Path('go').exists():\n            time.sleep(0.01)\n"
    )
    project = make(tmp_path, "code", text)
    options = ("-c", "1", "-l", "info", "-f", "%n.log")
    slow = project.popen("worker", *options)
    try:
        deadline = time.monotonic() + 20
        while not (project.folder / "named").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with project.worker(*options):
            (project.folder / "go").touch()
            (line,) = Log(project.folder / "celery2.log").wait_for(" ready")
            assert f"celery2@{socket.gethostname()} ready" in line
            assert sum(" ready" in one for one in Log(project.folder / "celery.log").lines()) == 1
    finally:
        end(slow)


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_line_that_a_task_does_not_end_is_its_own(tmp_path: Path, pool: str) -> None:
    text = TASKS + (
        "\n\nclass Loud(app.Task):\n"
        "    def on_success(self, *_):\n        print('and after', end='')\n"
        "\n@app.task(base=Loud)\ndef begin():\n    print('half', end='')\n    add(1, 2)\n"
        "    print(' a line', end='')\n"
        "\n@app.task\nasync def hold(name):\n    import asyncio\n    print(name, end='')\n"
        "    await asyncio.sleep(0.2)\n    print(' holds')\n"
    )
    project = make(tmp_path, pool, text)
    with project.worker("-l", "info", "-f", "w.log", "--log-json", "-P", pool, "-c", "2"):
        first = project.send("tasks.begin")
        project.ask("result", first, "--wait")
        held = [project.send("tasks.hold", name) for name in ("one", "two")]
        second = project.send("tasks.shout")
        log = Log(project.folder / "w.log")
        for id in (*held, second):
            log.wait_for(f"{id}.* succeeded")
    told = [json.loads(line) for line in log.lines()]
    printed = [(one["message"], one["task_id"]) for one in told if "redirected" in one["logger"]]
    assert set(printed) == {
        ("half a line", first), ("and after", first), ("one holds", held[0]),
        ("two holds", held[1]), ("printed in pieces", second), ("an error", second),
    }  # fmt: skip


def test_what_tasks_print_stays_where_it_is_printed(tmp_path: Path) -> None:
    project = make(tmp_path, "code", TASKS + "app.conf.worker_redirect_stdouts = False\n")
    with project.worker("-l", "INFO", "-f", "w.log"):
        sent = project.send("tasks.shout")
        log = Log(project.folder / "w.log")
        log.wait_for(rf"{sent}\] succeeded")
    assert not [line for line in log.lines() if "printed" in line]


SIGNALS = """
from umbel import signals
from umbel.app.log import TaskFormatter

@signals.after_setup_logger.connect
def add(logger, loglevel, **kwargs):
    handler = logging.FileHandler("more.log")
    handler.setFormatter(logging.Formatter(f"MORE {loglevel} %(message)s"))
    logger.addHandler(handler)

@signals.after_setup_task_logger.connect
def format(logger, **kwargs):
    for handler in logger.handlers:
        handler.setFormatter(TaskFormatter("%(task_id)s|%(task_name)s|%(message)s"))
"""


def test_the_signals_of_logging(tmp_path: Path) -> None:
    project = make(tmp_path, "code", TASKS + SIGNALS)
    with project.worker("-l", "INFO", "-f", "w.log"):
        sent = project.ask("call", "tasks.tell", "--wait")["id"]
        Log(project.folder / "w.log").wait_for(rf"^{sent}\|tasks\.tell\|from the task$")
        Log(project.folder / "more.log").wait_for("^MORE 20 from a library$")
    instead = (
        SIGNALS.replace("after_setup_logger", "setup_logging")
        .replace("logger, loglevel", "loglevel")
        .replace("    logger.", "    logging.getLogger().")
    )
    project = make(tmp_path, "other", TASKS + instead)
    with project.worker("-l", "INFO", "-f", "w.log"):
        project.ask("call", "tasks.tell", "--wait")
        Log(project.folder / "more.log").wait_for("^MORE 20 ")
    assert not (project.folder / "w.log").exists()


SENTRY = """
import warnings
# Sentry looks into eventlet where that is installed, and all warnings are errors here.
warnings.filterwarnings("ignore", "(?s).*Eventlet is deprecated")

import json, sentry_sdk
from sentry_sdk.transport import Transport

class Keep(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            with open("sentry.jsonl", "a") as file:
                file.write(json.dumps(event, default=str) + "\\n")

sentry_sdk.init("http://key@localhost/1", transport=Keep, auto_enabling_integrations=False)
"""


def test_sentry_is_told_of_failures_with_the_task(tmp_path: Path) -> None:
    project = make(tmp_path, "code", SENTRY + TASKS)
    with project.worker():
        sent = project.ask("call", "tasks.fail", "--wait", code=1)["id"]
        project.ask("call", "tasks.fail_as_expected", "--wait", code=1)
        (line,) = Log(project.folder / "sentry.jsonl").wait_for("raised")
    event: dict[str, Any] = json.loads(line)
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ValueError", "no such luck")
    assert exception["stacktrace"]["frames"][-1]["function"] == "fail"
    assert event["level"] == "error"
    assert event["extra"].items() >= {"task_id": sent, "task_name": "tasks.fail"}.items()


def test_nothing_is_written_for_a_task_at_the_usual_level(tmp_path: Path) -> None:
    project = make(tmp_path, "code")
    with project.worker("-f", "w.log"):
        project.ask("call", "tasks.add", "1", "1", "--wait")
        project.ask("call", "tasks.tell", "--wait")
    assert [line[line.index("]") :] for line in Log(project.folder / "w.log").lines()[:1]] == [
        "] from a library"
    ]
