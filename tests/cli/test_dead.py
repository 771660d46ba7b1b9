"""`umbel dead`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Project


@pytest.fixture
def graves(project: Project) -> Project:
    """Three dead letters: ids a and b of tasks.add, c of tasks.greet."""
    project.send("tasks.add", 1, 2, id="a")
    project.send("tasks.add", 3, 4, id="b")
    project.send("tasks.greet", "Ann", id="c")
    project.bury()
    return project


def ids(project: Project) -> list[str]:
    return [letter["id"] for letter in project.ask("dead")["dead_letters"]]


def test_list(graves: Project) -> None:
    assert ids(graves) == ["c", "b", "a"]
    text = graves.say("dead")
    assert text == graves.say("dead", "list")
    assert text.splitlines()[0].split()[:3] == ["NUMBER", "ID", "TASK"]
    assert text.splitlines()[1].endswith("killed by SIGSEGV")
    few = graves.ask("dead", "list", "--task", "tasks.add", "-n", "1")["dead_letters"]
    assert [(letter["id"], letter["reason"]) for letter in few] == [("b", "lost")]
    report = graves.ask("result", "c")
    assert report["dead_letter"]["number"] == 3
    assert "run it again: umbel dead replay 3" in graves.say("result", "c")


def test_show(graves: Project) -> None:
    text = graves.say("dead", "show", "c")
    assert "File 'x.c'" in text
    assert "umbel dead replay 3" in text
    letter = graves.ask("dead", "show", "3")
    assert (letter["id"], letter["kwargs"], letter["args"]) == ("c", {}, ["Ann"])
    assert "no dead letter 99" in graves.refuse("dead", "show", "99", code=1)


def test_show_what_cannot_be_read(project: Project) -> None:
    project.send("tasks.greet")
    with project.engine() as engine, engine._database.write() as connection:
        connection.execute(
            "INSERT INTO dead (id, task, tag, queue, priority, reason, detail, at, deliveries, "
            "payload) VALUES ('', '', 't', 'celery', 0, 'undecodable', 'why', 1, 0, ?)",
            (b"\xff{not json",),
        )
    assert project.ask("dead", "show", "1")["payload"] == "\\xff{not json"
    assert "undecodable" in project.say("dead", "show", "1")


def test_replay(graves: Project) -> None:
    assert graves.ask("dead", "replay", "a")["replayed"] == 1  # named: no question
    assert ids(graves) == ["c", "b"]
    with graves.worker():
        assert graves.ask("result", "a", "--wait")["result"] == 3
        assert graves.run("dead", "replay", "--all", answer="n\n").returncode == 1
        assert graves.ask("dead", "replay", "--task", "tasks.add", code=64)["error"]
        assert ids(graves) == ["c", "b"]
        assert graves.say("dead", "replay", "--task", "tasks.add", "-f") == (
            "1 dead letter replayed\n"
        )
        assert graves.ask("result", "b", "--wait")["result"] == 7
        done = graves.run("dead", "replay", "--all", answer="y\n")
        assert f"Replay 1 dead letter of {graves.store}?" in done.stderr
        assert graves.ask("result", "c", "--wait")["result"] == "hello Ann"
    assert ids(graves) == []
    assert graves.say("dead") == "No dead letters.\n"


def test_drop(graves: Project) -> None:
    assert graves.run("dead", "drop", "a", answer="n\n").returncode == 1
    assert ids(graves) == ["c", "b", "a"]
    assert graves.say("dead", "drop", "a", "1", answer="y\n") == "1 dead letter dropped\n"
    assert graves.ask("dead", "drop", "--task", "tasks.greet", "-f")["dropped"] == 1
    assert ids(graves) == ["b"]
    assert graves.ask("dead", "drop", "--all", "-f")["dropped"] == 1
    assert graves.ask("queues")["queues"] == []


def test_say_which(graves: Project) -> None:
    for line in ([], ["a", "--all"], ["--all", "--task", "x"]):
        error = graves.ask("dead", "drop", *line, code=64)["error"]["message"]
        assert "either ids, or --all, or --task NAME" in error
    assert "no dead letter nobody" in graves.refuse("dead", "replay", "b", "nobody", code=1)
    assert ids(graves) == ["c", "b", "a"]
