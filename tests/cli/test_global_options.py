"""Celery's global options and variables, and its commands that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Project, end
from tests.cli.test_shell import on_a_terminal
from umbel.cli.absent import ABSENT


def test_the_result_backend_of_the_line_outweighs_the_code(project: Project) -> None:
    project.write("tasks.py", "from umbel import App\napp = App('tasks', backend='broker')\n")
    assert project.ask("report")["results"] == "with the messages"
    document = project.ask("report", "--result-backend", "disabled://")
    assert document["results"] == "not kept"
    document = project.ask("--result-backend", "disabled://", "report")
    (given,) = document["settings"]
    assert (given["name"], given["value"]) == ("result_backend", "disabled://")
    complaint = project.refuse("--result-backend", "mongodb://me:hunter2@h/0", "queues", code=64)
    assert "hunter2" not in complaint


def test_no_help_shows_marks_of_its_source(empty: Project) -> None:
    listed = empty.say("--help").partition("Commands:")[2].splitlines()
    commands = [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]
    assert {"worker", "beat", "schedule"} <= set(commands)
    shown = {command: empty.say(command, "--help") for command in commands}
    assert [command for command, text in shown.items() if "\\b" in text or "\b" in text] == []


def test_the_configuration_of_an_app_that_has_none(project: Project) -> None:
    project.write("deep/config.py", "task_default_queue = 'deep'\n")
    project.write("deep/__init__.py", "")
    (given,) = project.ask("--config", "deep.config", "report")["settings"]
    assert (given["name"], given["place"]) == ("task_default_queue",
                                               "deep.config: task_default_queue")  # fmt: skip
    with project.worker("--config", "deep.config") as lines:
        assert "queues  deep" in lines
    complaint = project.refuse("--config", "deep.cfg", "queues", code=64)
    assert "The configuration 'deep.cfg' cannot be found" in complaint


def test_a_configuration_alone_makes_an_app(empty: Project) -> None:
    empty.write("config.py", "imports = ['jobs']\n")
    empty.write("jobs.py", "from umbel import shared_task\n\n@shared_task\ndef one():\n"
                "    return 1\n")  # fmt: skip
    assert "--config MODULE" in empty.refuse("queues", code=64)
    with empty.worker("--config", "config"):
        assert empty.ask("--config", "config", "call", "jobs.one", "--wait")["result"] == 1
    # As people start it: in a process forked from this one pytest has a hand in imports.
    process = empty.popen("--config", "confg", "queues")
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 64
    assert complaint.startswith("Error: The configuration 'confg' cannot be found")


def test_colours_can_be_off(project: Project) -> None:
    project.send("tasks.add", 1, 2)
    assert "\x1b[" in on_a_terminal(project, "queues", typed="")
    for line in (["-C", "queues"], ["queues", "--no-color"]):
        text = on_a_terminal(project, *line, typed="")
        assert "\x1b[" not in text
        assert f"store {project.store}" in text


def test_skip_checks_says_that_it_does_nothing(project: Project) -> None:
    assert project.ask("--skip-checks", "queues")["exists"] is False
    with project.worker("--skip-checks") as lines:
        (note,) = [line for line in lines if "--skip-checks" in line]
        assert "has no effect: Django's checks come with the Django integration" in note


def test_variables_stand_for_options(project: Project, tmp_path: Path) -> None:
    project.environment |= {
        "CELERY_WORKER_CONCURRENCY": "3", "CELERY_WORKER_QUEUES": "a,b",
        "CELERY_WORKER_HOSTNAME": "w7@box", "CELERY_WORKER_LOGLEVEL": "info",
        "CELERY_WORKER_WITHOUT_GOSSIP": "1", "CELERY_CALL_QUEUE": "b", "CELERY_QUIET": "1",
    }  # fmt: skip
    sent = project.ask("call", "tasks.add", "1", "2")["id"]
    assert project.ask("result", sent)["messages"][0]["queue"] == "b"
    process = project.popen("worker", "--json", "-c", "1")
    assert process.stdout is not None
    try:
        starting, ready = (json.loads(process.stdout.readline()) for _ in range(2))
    finally:
        end(process)
    assert (starting["slots"], starting["queues"]) == (1, ["a", "b"])  # the line outweighs
    assert ready["node"] == "w7@box"
    assert any("--without-gossip has no effect" in note for note in starting["notes"])
    project.environment["CELERY_WORKER_UID"] = "3"
    assert "--uid is refused" in project.refuse("worker", code=64)
    project.environment["CELERY_APP"] = "nowhere"
    assert "There is no module 'nowhere'" in project.refuse("queues", code=64)


@pytest.mark.parametrize("name", ABSENT)
def test_commands_of_celerys_that_are_not_there(empty: Project, name: str) -> None:
    for line in ([name], [name, "--help"], ["-A", "proj", name, "start", "-x"]):
        complaint = " ".join(empty.refuse(*line, code=64).split())
        verdict = "is not in this version: " if ABSENT[name].later else "is refused: "
        assert f"Error: {name} {verdict}{' '.join(ABSENT[name].instead.split())}." in complaint


def test_misspelt_commands_and_options(project: Project) -> None:
    assert "Did you mean worker?" in project.refuse("wroker", code=64)
    assert "and multi is refused: the service manager" in project.refuse("mutli", code=64)
    for near, line in (
        ("--loglevel", ["worker", "--loglvl", "info"]),
        ("--broker", ["--brokr", "x", "queues"]),
        ("--timeout", ["status", "--timout", "1"]),
        ("--queue", ["call", "tasks.add", "--qeue", "x"]),
    ):
        complaint = project.refuse(*line, code=64)
        assert "No such option" in complaint
        assert near in complaint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["-l", "info", "worker"], "-l is an option of worker: it goes after that word."),
        (["--concurrency=2", "worker"], "--concurrency is an option of worker"),
        (["-x", "worker"], "No such option"),
        (["help"], "It is an option: umbel --help."),
        (["dead", "lst"], "There is no command dead lst. Did you mean list?"),
        (["dead", "xyz"], "There are: list, show, replay, drop, recover."),
    ],
)
def test_words_in_the_wrong_place(project: Project, line: list[str], words: str) -> None:
    assert words in project.refuse(*line, code=64)


def test_lines_to_type_stand_one_below_the_other_in_help(project: Project) -> None:
    assert "\n  umbel worker -l INFO\n  umbel -A proj worker" in project.say("worker", "--help")
    assert "\n  umbel call tasks.add 2 3\n  umbel call" in project.say("call", "--help")
    assert "| umbel shell\n" in project.say("shell", "--help")
    assert "in ~/.bashrc\n  zsh:" in project.say("completion", "--help")


def test_without_a_command_the_help_is_the_answer(empty: Project) -> None:
    assert "Commands:" in empty.say()
    assert empty.say() == empty.say("--help")
