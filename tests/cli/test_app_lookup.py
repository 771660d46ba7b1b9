"""Which app a command works on, named or not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Project
from umbel.app.loading import survey

APP = "from umbel import App\n\napp = App('x')\n"
CELERY = "from umbel import Celery\n\ncelery = Celery('proj')\n"


def test_the_only_app_of_the_folder_is_taken(project: Project) -> None:
    assert project.ask("queues")["store"] == str(project.store)
    project.say("call", "tasks.add", "1", "2")


def test_a_package_with_celery_py(empty: Project) -> None:
    empty.write("proj/__init__.py", "from .celery import celery\n")
    empty.write("proj/celery.py", CELERY)
    for line in (
        ["queues"],
        ["-A", "proj", "queues"],
        ["queues", "-A", "proj"],
        ["queues", "--app", "proj.celery"],
        ["queues", "--app=proj.celery:celery"],
    ):
        assert empty.ask(*line)["queues"] == []


def test_none(empty: Project) -> None:
    empty.write("m.py", "x = 1\n")
    empty.write("old.py", "from celery import Celery\napp = Celery('old')\n")
    complaint = empty.refuse("worker", "-c", "2", code=64)
    assert str(empty.folder) in complaint
    assert "m.py, old.py" in complaint
    assert "old.py (line 2) makes an app of celery" in complaint
    assert "umbel -A MODULE:APP worker -c 2" in complaint
    assert "Traceback" not in complaint


def test_two(project: Project) -> None:
    project.write("other/app.py", APP)
    complaint = project.refuse("queues", "--pause", "a b", code=64)
    lines = [line.partition("#")[0].strip() for line in complaint.splitlines()[1:]]
    assert lines == [
        "umbel -A tasks:app queues --pause 'a b'",
        "umbel -A other.app:app queues --pause 'a b'",
    ]
    assert "other/app.py, line 3" in complaint
    # The line to type does what it says; only, there is nothing to pause yet.
    words = shlex.split(lines[1])[1:]
    assert "no store yet" in project.refuse(*words, code=1)


def test_a_name_that_is_not_there(project: Project) -> None:
    complaint = project.refuse("-A", "taks", "queues", code=64)
    assert "There is no module 'taks'" in complaint
    assert "umbel -A tasks:app queues" in complaint
    complaint = project.refuse("-A", "tasks:ap", "queues", code=64)
    assert "-A tasks:app" in complaint
    error = project.ask("-A", "json", "queues", code=64)["error"]
    assert error["type"] == "AppNotFound"
    assert error["message"].startswith("There is no app in the module json")


def test_the_users_import_error_is_shown_as_it_is(empty: Project) -> None:
    empty.write("tasks.py", "import helper\n" + APP)
    empty.write("helper.py", "def go():\n    import nowhere\n\n\ngo()\n")
    complaint = empty.refuse("queues", code=1)
    frames = [line for line in complaint.splitlines() if line.startswith("  File")]
    assert [Path(frame.split('"')[1]).name for frame in frames] == [
        "tasks.py", "helper.py", "helper.py",
    ]  # fmt: skip
    assert "ModuleNotFoundError: No module named 'nowhere'" in complaint
    error = empty.ask("queues", code=1)["error"]
    assert error["type"] == "ModuleNotFoundError"
    assert error["traceback"] in complaint


def test_an_error_of_the_configuration_is_shown_as_it_is(empty: Project) -> None:
    empty.write("tasks.py", APP + "app.config_from_object('celeryconfig')\n")
    empty.write("celeryconfig.py", "print('loud')\nTIMEOUT = 1 / 0\n")
    for command in ("worker", "queues", "report", "status"):
        process = empty.popen(command)  # as people start it: here pytest has a hand in imports
        _, complaint = process.communicate(timeout=30)
        assert process.returncode == 1
        frames = [line for line in complaint.splitlines() if line.startswith("  File")]
        assert [Path(frame.split('"')[1]).name for frame in frames] == ["celeryconfig.py"]
        assert "The configuration of tasks:app could not be read" in complaint
    assert empty.ask("queues", code=1)["error"]["type"] == "ZeroDivisionError"


def test_a_module_that_exits_or_does_not_parse(empty: Project) -> None:
    empty.write("tasks.py", APP + "raise SystemExit(0)\n")
    assert "SystemExit: 0" in empty.refuse("queues", code=1)
    empty.write("tasks.py", APP + "def (:\n")
    assert "SyntaxError" in empty.refuse("-A", "tasks", "queues", code=1)


def test_what_a_module_prints_is_no_part_of_the_answer(empty: Project) -> None:
    empty.write("tasks.py", "print('loud')\n" + APP)
    assert empty.ask("queues")["exists"] is False


def test_workdir(project: Project, tmp_path: Path) -> None:
    elsewhere = type(project)(tmp_path, project.store.parent)
    assert elsewhere.ask("--workdir", "code", "queues")["store"] == str(project.store)
    assert elsewhere.ask("queues", "--workdir", "code")["store"] == str(project.store)
    assert "nowhere" in elsewhere.refuse("queues", "--workdir", "nowhere", code=64)
    project.write("place.py", "import os\nfrom tasks import app\n\n@app.task\n"
                  "def cwd():\n    return os.getcwd()\n")  # fmt: skip
    with elsewhere.worker("-A", "place", "--workdir", "code"):
        answer = elsewhere.ask("call", "place.cwd", "-A", "place", "--workdir", "code", "--wait")
        assert answer["result"] == str(project.folder)


def test_the_broker_option_goes_before_the_apps_own(project: Project, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    assert project.ask("-b", url, "queues")["store"] == str(tmp_path / "other.db")
    sent = project.ask("call", "tasks.add", "1", "2", "-b", url)
    assert sent["store"] == str(tmp_path / "other.db")
    assert not project.store.exists()
    project.write("where.py", "from tasks import app\n\n@app.task\n"
                  "def url():\n    return app.broker_url\n")  # fmt: skip
    with project.worker("-b", url, "-A", "where") as lines:
        assert any(str(tmp_path / "other.db") in line for line in lines)
        assert project.ask("result", sent["id"], "--wait", "-b", url)["result"] == 3
        # Where a task of this worker would publish.
        place = project.ask("call", "where.url", "-A", "where", "-b", url, "--wait")
        assert place["result"] == url


def test_a_store_can_be_looked_at_without_an_app(
    empty: Project, project: Project, tmp_path: Path
) -> None:
    project.say("call", "tasks.add", "1", "2")
    (empty.folder / "tasks.py").unlink()
    url = f"sqlite:///{project.store}"
    assert empty.ask("-b", url, "queues")["queues"][0]["ready"] == 1
    assert empty.refuse("-b", url, "worker", code=64)
    for secret, code in (("ftp://me:hunter2@host/0", 64), ("redis://me:hunter2@localhost:1/0", 69)):
        assert "hunter2" not in empty.refuse("-b", secret, "queues", code=code)
    assert "inside one process" in empty.refuse("-b", "memory://x", "call", "f", code=64)


def test_looking_reads_and_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    texts = {
        "a.py": "import umbel as u\nif True:\n    one = u.Celery('a')\nraise SystemExit\n",
        "b.py": "from umbel.app import App as A\ntwo: A = A('b')\n",
        "c.py": "from umbel import App\ndef make():\n    app = App('c')\n",
        "d.py": "class App: ...\napp = App('not ours')\n",
        "e.py": "from umbel import App\nthis is no python, App(\n",
        "not-a-module.py": APP,
        "setup.py": APP,
        "pkg/tasks.py": "try:\n    from umbel import App\nfinally:\n    three = App()\n",
        "pkg/deep.py": APP,
        "f.py": "from umbel import *\n# = App(\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = survey(tmp_path)
    assert {(app.name, app.line) for app in found.apps} == {
        ("a:one", 3), ("b:two", 2), ("pkg.tasks:three", 4),
    }  # fmt: skip
    assert "deep.py" not in {path.name for path in found.files}


def test_the_app_that_pyproject_names(project: Project) -> None:
    project.write("other.py", APP)
    project.write("deep/er/x.py", "")
    project.write("pyproject.toml", '[tool.umbel]\napp = "tasks:app"\n')
    assert project.ask("call", "tasks.add", "1", "2")["known"] is True
    assert project.ask("--workdir", "deep/er", "call", "tasks.add", "1", "2")["known"] is True
    assert project.ask("-A", "other", "call", "tasks.add", "1", "2")["known"] is False
    project.environment["CELERY_APP"] = "other"
    assert project.ask("call", "tasks.add", "1", "2")["known"] is False
    del project.environment["CELERY_APP"]
    project.write("pyproject.toml", "[tool.umbel]\napp = 3\n")
    assert "[tool.umbel] app must be text" in project.refuse("queues", code=73)
    project.write("pyproject.toml", "[tool.umbel\n")
    assert "cannot be read" in project.refuse("queues", code=73)


def test_a_celery_3_project_needs_no_app_and_no_option(empty: Project) -> None:
    empty.write("celeryconfig.py", "CELERY_IMPORTS = ('work',)\nCELERYD_CONCURRENCY = 1\n")
    empty.write("work.py", "from umbel import shared_task\n\n@shared_task\ndef add(x, y):\n"
                "    return x + y\n")  # fmt: skip
    with empty.worker("-f", "w.log", "-l", "INFO") as lines:
        assert any(line.split()[:2] == ["app", "umbel.app.default:app"] for line in lines)
        sent = empty.ask("call", "work.add", "2", "3", "--wait")
        assert sent["result"] == 5
    assert f"Task work.add[{sent['id']}] succeeded" in (empty.folder / "w.log").read_text()


def test_what_a_celery_3_project_sends_without_an_app_its_worker_runs(empty: Project) -> None:
    empty.write("celeryconfig.py", "CELERY_IMPORTS = ('work',)\nCELERYD_CONCURRENCY = 1\n")
    empty.write("work.py", "from umbel import shared_task\n@shared_task\n"
                "def triple(x): return 3 * x\n")  # fmt: skip
    with empty.worker():
        code = "from work import triple; print(triple.delay(7).get(timeout=10))"
        sender = subprocess.run(
            [sys.executable, "-c", code], cwd=empty.folder, env=empty.environment,
            text=True, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
    assert (sender.stdout, sender.stderr) == ("21\n", "")


def test_a_module_of_the_line_with_an_error_shows_it(project: Project) -> None:
    project.write("more.py", "import nowhere\n")
    complaint = project.refuse("worker", "-I", "more", code=1)
    assert "more.py" in complaint
    assert "No module named 'nowhere'" in complaint


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("./tasks", "-A tasks"),
        ("tasks.py", "-A tasks"),
        ("x/tasks.py", "-A x.tasks"),
        ("x/tasks.py:app", "-A x.tasks:app"),
        ("../x/tasks.py", "--workdir ../x -A tasks"),
        (":app", "-A MODULE:app"),
        ("x/my-tasks.py", "-A MODULE:APP"),
    ],
)
def test_a_path_is_answered_with_the_right_spelling(
    project: Project, given: str, right: str
) -> None:
    complaint = project.refuse("-A", given, "queues", code=64)
    assert re.search(rf"rite {re.escape(right)}\.?$", complaint.splitlines()[0]), complaint


def test_a_file_that_does_not_parse_is_named(empty: Project) -> None:
    empty.write("tasks.py", "from umbel import App\napp = App('x')\n\ndef add(:\n")
    complaint = empty.refuse("queues", code=64)
    assert "\ntasks.py, line 4: invalid syntax\n" in complaint


def test_a_configuration_beside_one_that_the_app_names_is_refused(empty: Project) -> None:
    empty.write("one.py", "task_time_limit = 5\n")
    empty.write("two.py", "task_time_limit = 6\n")
    empty.write("tasks.py", "from umbel import App\napp = App('x', config_source='one')\n")
    complaint = empty.refuse("--config", "two", "report", code=64)
    assert "--config two would have no effect: the app tasks:app names its own" in complaint
    empty.write("tasks.py", "from umbel import App\napp = App('x')\n")
    assert "task_time_limit" in empty.say("--config", "two", "report")
