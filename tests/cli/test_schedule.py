"""`umbel schedule`: periodic tasks at run time."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Project, end, read_until_ready
from tests.cli.test_beat import ticking, wait_for, waiting

__all__ = ["ticking"]


def names(project: Project) -> list[str]:
    return [task["name"] for task in project.ask("schedule", "list")["schedule"]]


def test_nothing_yet(project: Project) -> None:
    assert "no store yet" in project.say("schedule")
    assert project.ask("schedule", "next") == {
        "store": str(project.store), "exists": False, "next": {},
    }  # fmt: skip
    assert not project.store.exists()


def test_adding_editing_and_removing(project: Project) -> None:
    said = project.say(
        "schedule", "add", "sum", "tasks.add", "1", "2", "--every", "90", "--queue", "q",
        "--timezone", "Asia/Shanghai", "--misfire", "skip", "--jitter", "5",
    )  # fmt: skip
    assert said.startswith("sum added: every 0:01:30, next ")
    (task,) = project.ask("schedule", "list")["schedule"]
    assert (task["task"], task["args"], task["options"]) == ("tasks.add", [1, 2], {"queue": "q"})
    assert (task["timezone"], task["misfire"], task["jitter"]) == ("Asia/Shanghai", "skip", 5)
    assert task["due"].endswith("+08:00")
    edited = project.ask(
        "schedule", "edit", "sum", "--cron", "0 4 * * mon-fri", "--expires", "60", "5", "6"
    )
    assert (edited["schedule"], edited["args"]) == ("cron 0 4 * * mon-fri", [5, 6])
    assert edited["options"] == {"queue": "q", "expires": 60}
    assert edited["due"][11:16] == "04:00"
    assert "say -f" in project.ask("schedule", "remove", "sum", code=64)["error"]["message"]
    assert project.say("schedule", "remove", "sum", answer="y\n").endswith("sum removed\n")
    assert names(project) == []


def test_each_way_to_say_when(project: Project) -> None:
    for n, when in enumerate([
        ("--every", "0.5"), ("--cron", "@daily"), ("--crontab", "*/10 8-18 * * *"),
        ("--at", "2099-01-01T00:00:00+08:00"), ("--solar", "sunset", "48.2", "16.4"),
    ]):  # fmt: skip
        project.say("schedule", "add", f"e{n}", "tasks.greet", "name=Ann", *when)
    found = project.ask("schedule", "list")["schedule"]
    assert [task["schedule"] for task in found] == [
        "every 0.5 s", "cron @daily", "crontab */10 8-18 * * *",
        "clocked 2099-01-01T00:00:00+08:00", "solar sunset 48.2 16.4",
    ]  # fmt: skip
    assert {str(task["kwargs"]) for task in found} == {"{'name': 'Ann'}"}
    text = project.say("schedule")
    assert text.splitlines()[0].split() == [
        "NAME", "TASK", "SCHEDULE", "NEXT", "LAST", "RUNS", "MISSED", "FROM",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("add", "a", "tasks.add"), 64, "Say when: one of --every"),
        (("add", "a", "tasks.add", "--every", "1", "--cron", "@daily"), 64, "Only one of"),
        (("add", "a", "tasks.add", "--cron", "61 * * * *"), 64, "no line of cron"),
        (("add", "a", "tasks.add", "--crontab", "* * *"), 64, "has 3 fields"),
        (("add", "a", "tasks.add", "--at", "noon"), 64, "--at: Invalid isoformat"),
        (("add", "a", "tasks.add", "--at", "2020-01-01"), 1, "has passed"),
        (
            ("add", "a", "tasks.add", "--every", "1", "--timezone", "Mars"),
            64,
            "no time zone 'Mars'",
        ),
        (("add", "there", "tasks.add", "--every", "1"), 1, "already"),
        (("edit", "there"), 64, "Say what to change"),
        (("edit", "b", "--every", "1"), 1, "no periodic task 'b'"),
        (("pause", "there", "b"), 1, "no periodic task 'b'"),
        (("run", "b"), 1, "no periodic task 'b'"),
        (("next", "b"), 1, "no periodic task 'b'"),
    ],
)
def test_what_is_refused(project: Project, words: tuple[str, ...], code: int, why: str) -> None:
    project.say("schedule", "add", "there", "tasks.add", "--every", "1")
    assert why in project.refuse("schedule", *words, code=code)
    (task,) = project.ask("schedule", "list")["schedule"]
    assert (task["name"], task["paused"]) == ("there", False)


def test_a_task_that_the_app_does_not_know_is_told(project: Project) -> None:
    done = project.run("schedule", "add", "a", "tasks.ad", "--every", "1")
    assert (done.returncode, "knows no task 'tasks.ad'" in done.stderr) == (0, True)


def test_coming_times(project: Project) -> None:
    project.say("schedule", "add", "a", "tasks.add", "--cron", "0 4 * * *", "--timezone",
                "America/New_York")  # fmt: skip
    lines = project.say("schedule", "next", "a", "-n", "3").splitlines()
    assert len(lines) == 3
    assert all(" 04:00:00-0" in line for line in lines)
    project.say("schedule", "add", "b", "tasks.add", "--every", "10")
    assert project.say("schedule", "next", "-n", "1").splitlines()[0] == "a"
    coming = project.ask("schedule", "next")["next"]
    assert (len(coming["a"]), len(coming["b"])) == (5, 5)


def test_what_is_overdue_is_counted(project: Project) -> None:
    project.say("schedule", "add", "a", "tasks.add", "--every", "60")
    with project.engine() as engine:
        from msgspec.structs import replace

        from umbel.engines.state import ScheduleChange

        (record,) = engine.state.schedules()
        late = replace(record, version=1, due=1_700_000_000.0)
        assert engine.state.change_schedules([ScheduleChange("a", record.version, late)]) == []
    assert project.ask("schedule", "list")["overdue"] == 1
    text = project.say("schedule")
    assert "1 periodic task overdue. Is a scheduler running? Start one: umbel beat" in text
    assert "overdue since" in text


def test_schedulers_follow_within_a_second(ticking: Project) -> None:
    schedulers = [ticking.popen("beat") for _ in range(2)]
    for scheduler in schedulers:
        read_until_ready(scheduler)
    ticking.say("schedule", "pause", "often")
    before = waiting(ticking)
    ticking.say("schedule", "add", "new", "tasks.greet", "--every", "0.1")
    wait_for(lambda: waiting(ticking) > before, "a tick of the new one", 1.0)
    ticking.say("schedule", "remove", "-f", "new")
    left = waiting(ticking)
    id = ticking.say("schedule", "run", "later").strip()
    assert waiting(ticking) == left + 1
    with ticking.engine() as engine:
        assert engine.broker.browse(id=id)
    ticking.say("schedule", "resume", "often")
    wait_for(lambda: waiting(ticking) > left + 1, "ticks again", 1.0)
    for scheduler in schedulers:
        end(scheduler)


def test_what_the_code_declares_is_not_edited(ticking: Project) -> None:
    process = ticking.popen("beat")
    read_until_ready(process)
    end(process)
    complaint = ticking.refuse("schedule", "edit", "later", "--every", "1", code=1)
    assert "declared by the code of tasks" in complaint


def test_a_file_that_is_not_there_is_not_made_by_asking_for_it(project: Project) -> None:
    for words in (["list"], ["next"], ["pause", "x"], ["run", "x"]):
        told = project.ask("schedule", *words, "-s", "typo", code=1)["error"]["message"]
        assert told.startswith("There is no schedule at ")
    assert not (project.folder / "typo").exists()
    project.say("schedule", "add", "x", "tasks.add", "1", "2", "--every", "9", "-s", "file")
    rows = project.ask("schedule", "list", "-s", "file")["schedule"]
    assert [row["name"] for row in rows] == ["x"]
