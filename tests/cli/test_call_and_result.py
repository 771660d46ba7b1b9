"""`umbel call` and `umbel result`."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TASKS, Project, read_until_ready
from umbel.engines.broker import HistoryEntry, StoredResult
from umbel.message import task as task_message

ROUTED = """
from umbel import Exchange, Queue

app.conf.task_queues = [Queue("outbox", Exchange("mail"), routing_key="out")]
"""


def stored(project: Project, id: str) -> task_message.Task:
    with project.engine() as engine:
        (message,) = engine.broker.browse(id=id)
        return task_message.decode(message.payload)


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        (["2", "3"], [2, 3], {}),
        (["-1", "-.5"], [-1, "-.5"], {}),
        (["word", "y=[1, null]"], ["word"], {"y": [1, None]}),
        (["x=a=b", 'y="5"'], [], {"x": "a=b", "y": "5"}),
        (["-a", "[1]", "{}"], [1, {}], {}),
        (["-k", '{"x": 1}', "y=2"], [], {"x": 1, "y": 2}),
        (["--", "-x", "--json"], ["-x", "--json"], {}),
    ],
)
def test_arguments(
    project: Project, words: list[str], args: list[Any], kwargs: dict[str, Any]
) -> None:
    id = project.say("call", "tasks.add", *words).strip()
    message = stored(project, id)
    assert (message.args, message.kwargs) == (args, kwargs)


def test_celerys_options(project: Project) -> None:
    project.write("tasks.py", TASKS + ROUTED)
    line = ["-a", "[1, 2]", "--exchange", "mail", "--routing-key", "out", "--serializer", "yaml"]
    id = project.say("call", "tasks.add", *line).strip()
    with project.engine() as engine:
        (message,) = engine.broker.browse(id=id)
    assert message.queue == "outbox"
    assert task_message.decode_headers(message.payload).task == "tasks.add"
    assert b'"content-type":"application/x-yaml"' in message.payload.replace(b": ", b":")
    assert "No queue is bound" in project.refuse(
        "call", "tasks.add", "1", "2", "--exchange", "mail", "--routing-key", "nowhere", code=64
    )
    assert project.ask("result", id, "-t", "tasks.add")["task"] == "tasks.add"
    wrong = project.refuse("result", id, "--task", "tasks.greet", code=1)
    assert f"{id} is of the task tasks.add, not of tasks.greet" in wrong


def test_progress_and_arguments_are_shown(project: Project) -> None:
    extended = {"name": "tasks.add", "args": [1, 2], "kwargs": {}, "worker": "w@h"}
    fields: dict[str, Any] = {
        "status": "PROGRESS", "result": {"done": 3}, "traceback": None, "children": [],
        "date_done": None, "task_id": "x", "retries": 0, "queue": "celery",
    }  # fmt: skip
    with project.engine() as engine:
        meta = json.dumps({**fields, **extended}).encode()
        engine.results.put([StoredResult("x", "PROGRESS", meta)])
    shown = project.say("result", "x")
    for line in ("task    tasks.add", "state   PROGRESS", "args    [1, 2]", 'meta    {"done": 3}'):
        assert line in shown
    assert project.ask("result", "x")["args"] == [1, 2]


def test_options(project: Project) -> None:
    line = ["--queue", "slow", "--priority", "7", "--task-id", "mine", "--countdown", "50",
            "--expires", "99"]  # fmt: skip
    before = time.time()
    assert project.ask("call", "tasks.add", "1", "2", *line)["id"] == "mine"
    headers = stored(project, "mine").headers
    assert headers.expires is not None
    expires = task_message.parse_time(headers.expires)
    assert expires is not None
    assert 99 <= expires - before < 120
    with project.engine() as engine:
        (message,) = engine.broker.browse(id="mine")
    assert (message.queue, message.priority) == ("slow", 7)
    assert message.due is not None
    assert 50 <= message.due - before < 71
    project.say("call", "tasks.add", "1", "2", "--task-id", "at", "--eta", "2099-01-01T00:00:00Z")
    with project.engine() as engine:
        (message,) = engine.broker.browse(id="at")
    assert message.due == 4070908800.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["tasks.add", "1"], "missing a required argument: 'y'. Nothing was queued."),
        (["tasks.add", "1", "2", "--eta", "soon"], "'soon' is neither a number of seconds"),
        (["tasks.add", "1", "2", "--priority", "10"], "10 is not in the range"),
        (["tasks.add", "-a", "{}"], "{} is no array"),
        (["tasks.add", "-k", "{"], "'{' is not JSON"),
        (["tasks.add", "x=1", "x=2"], "'x' is given twice"),
        (["tasks.add", "x=1", "-k", '{"x": 2}'], "'x' is given twice"),
        (["tasks.add", "1", "2", "--queue", "a,b"], "'a,b' cannot be a queue's name"),
        ([""], "A task is sent by its name"),
        (["tasks.add", "1", "--counntdown=2"], "No such option '--counntdown'"),
        (["tasks.add", "1", "2", "--timeout", "2"], "--timeout says how long to --wait"),
        (["tasks.add", "1", "2", "--wait", "--timeout", "nan"], "'nan' is no number of seconds"),
    ],
)
def test_usage_errors(project: Project, line: list[str], words: str) -> None:
    assert words in project.ask("call", *line, code=64)["error"]["message"]
    assert not project.store.exists() or project.ask("queues")["queues"] == []


def test_an_unknown_task_is_sent_with_a_warning(project: Project) -> None:
    done = project.run("call", "add", "1")
    assert done.returncode == 0
    assert "no task 'add'. The nearest that it has: tasks.add." in done.stderr
    assert stored(project, done.stdout.strip()).headers.task == "add"
    assert project.ask("call", "nowhere.at_all")["known"] is False
    assert project.ask("call", "tasks.greet")["known"] is True


def test_nothing_is_made_by_looking(project: Project) -> None:
    for line in (["queues"], ["dead"], ["dead", "list"], ["result", "x"], ["purge", "-f"]):
        assert project.say(*line).startswith(f"no store yet at {project.store}")
        assert project.ask(*line)["exists"] is False
    assert not project.store.parent.exists()


def test_where_a_waiting_task_is(project: Project) -> None:
    id = project.send("tasks.add", 1, 2)
    text = project.say("result", id)
    assert "PENDING" in text
    assert "waiting in the queue celery for" in text
    assert "no live worker serves it; start one: umbel worker -Q celery" in text
    (place,) = project.ask("result", id)["messages"]
    assert (place["where"], place["queue"], place["served"]) == ("ready", "celery", False)
    project.say("queues", "--pause", "celery")
    text = project.say("result", id, "-A", "tasks")
    assert "is paused; go on: umbel -A tasks queues --resume celery" in text


def test_where_a_delayed_task_is(project: Project) -> None:
    id = project.say("call", "tasks.add", "1", "2", "--countdown", "500").strip()
    assert "due at " in project.say("result", id)
    (place,) = project.ask("result", id)["messages"]
    assert place["where"] == "delayed"
    assert 400 < place["due"] - time.time() < 500


def test_nobody_waits_where_no_results_are_kept(project: Project) -> None:
    project.environment["UMBEL_RESULT_BACKEND"] = "disabled://"
    complaint = project.refuse("call", "tasks.add", "1", "2", "--wait", code=64)
    assert "keeps no results" in complaint
    assert complaint.endswith("Nothing was queued.\n")
    assert not project.store.exists()
    complaint = project.refuse("call", "tasks.add", "1", "2", "--serializer", "nope", code=64)
    assert "There is no serializer 'nope'" in complaint


def test_an_id_never_heard_of(project: Project) -> None:
    project.say("call", "tasks.add", "1", "2")
    id = str(uuid.uuid4())
    assert "never sent, or expired" in project.say("result", id)
    report = project.ask("result", id)
    assert (report["state"], report["messages"], report["attempts"]) == ("UNKNOWN", [], [])
    assert "Nothing to wait for" in project.refuse("result", id, "--wait", code=1)
    quiet = project.say("call", "tasks.quiet").strip()
    assert "sent with ignore_result" in project.refuse("result", quiet, "--wait", code=1)


def test_a_task_in_the_hands_of_a_worker(project: Project, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    begun = tmp_path / "begun"
    project.write("slow.py", "import os, time\nfrom tasks import app\n\n@app.task\n"
                  f"def hold():\n    open({str(begun)!r}, 'w').close()\n"
                  f"    while not os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
                  )  # fmt: skip
    with project.worker("-A", "slow", "-n", "w1@here"):
        id = project.say("call", "slow.hold", "-A", "slow").strip()
        while not begun.exists():
            time.sleep(0.01)
        assert "claimed by w1@here from the queue celery" in project.say("result", id)
        (place,) = project.ask("result", id)["messages"]
        assert (place["where"], place["worker_lives"]) == ("claimed", True)
        assert 0 <= place["running_for"] < 20
        assert ", running for " in project.say("result", id)
        assert project.ask("status")["workers"][0]["running"] == 1
        (queue,) = project.ask("queues")["queues"]
        assert (queue["claimed"], queue["workers"]) == (1, ["w1@here"])
        complaint = project.refuse("result", id, "--wait", "--timeout", "0.1", code=1)
        assert "has not ended after 0.1 s" in complaint
        gate.touch()
        assert project.ask("result", id, "--wait")["state"] == "SUCCESS"


def test_a_task_whose_worker_was_killed(project: Project, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    project.write("slow.py", "import time\nfrom tasks import app\n\n@app.task\n"
                  f"def hold():\n    open({str(begun)!r}, 'w').close()\n    time.sleep(60)\n"
                  )  # fmt: skip
    process = project.popen("worker", "-c", "1", "-A", "slow", "-n", "w1@here")
    read_until_ready(process)
    id = project.send("slow.hold")
    while not begun.exists():
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=10)  # its children hold the pipes: they have gone too
    text = project.say("result", id)
    assert "claimed by w1@here, which is dead; a live worker takes it over\n" in text
    assert "no live worker serves it; start one: umbel worker -Q celery\n" in text
    (place,) = project.ask("result", id)["messages"]
    assert (place["worker"], place["worker_lives"], place["served"]) == ("w1@here", False, False)
    (queue,) = project.ask("queues")["queues"]
    assert (queue["claimed"], queue["workers"]) == (1, [])


def test_a_command_as_people_start_it(project: Project) -> None:
    id, _ = project.popen("call", "tasks.add", "2", "3").communicate(timeout=30)
    out, err = project.popen("result", "--json", id.strip()).communicate(timeout=30)
    assert json.loads(out)["messages"][0]["where"] == "ready"
    assert err == ""


def test_results_of_a_worker(project: Project) -> None:
    with project.worker():
        done = project.run("call", "tasks.add", "2", "3", "--wait")
        assert (done.returncode, done.stdout) == (0, "5\n")
        id = done.stderr.strip()
        assert project.say("call", "tasks.greet", "name=Ann", "--wait") == "hello Ann\n"

        failed = project.run("call", "tasks.fail", "--wait")
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.rstrip().endswith("ValueError: no such luck")
        assert "in fail" in failed.stderr
        report = project.ask("call", "tasks.fail", "--wait", code=1)
        assert report["error"]["message"] == "no such luck"
        assert report["state"] == "FAILURE"

        quiet = project.say("call", "tasks.quiet").strip()
        project.say("call", "tasks.greet", "--wait")  # one slot: quiet has ended

    text = project.say("result", id)
    assert "SUCCESS" in text
    assert "result  5\n" in text
    shown = project.ask("result", id)
    assert (shown["task"], shown["result"], shown["error"]) == ("tasks.add", 5, None)
    assert abs(shown["ended"] - time.time()) < 60
    (attempt,) = shown["attempts"]
    assert (attempt["state"], attempt["retries"]) == ("SUCCESS", 0)
    assert attempt["runtime"] < 1

    id = report["id"]
    text = project.say("result", id)
    assert "ValueError: no such luck" in text
    assert "in fail" not in text
    assert "in fail" in project.say("result", id, "--traceback")
    assert project.ask("result", id)["error"] == {"type": "ValueError", "message": "no such luck"}
    assert project.ask("result", id, "--wait", code=1)["state"] == "FAILURE"

    shown = project.ask("result", quiet)  # no result was kept, but what it did is known
    assert (shown["state"], shown["result"], shown["task"]) == ("SUCCESS", None, "tasks.quiet")


def test_attempts_come_oldest_first(project: Project) -> None:
    id = project.send("tasks.add", 1, 2)
    with project.engine() as engine, engine._database.write() as connection:
        for retries, state in enumerate(("RETRY", "FAILURE")):
            entry = HistoryEntry(id, "tasks.add", "celery", state, 1e9 + retries, 0.5, "w1",
                                 retries, "ValueError: x\nmore")  # fmt: skip
            fields = [name for name in entry.__struct_fields__ if getattr(entry, name) is not None]
            values = tuple(getattr(entry, name) for name in fields)
            names = ", ".join(fields)
            marks = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO history ({names}) VALUES ({marks})", values)
    states = [attempt["state"] for attempt in project.ask("result", id)["attempts"]]
    assert states == ["RETRY", "FAILURE"]
    lines = project.say("result", id).splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["1", "RETRY"], ["2", "FAILURE"]]
    assert lines[-1].endswith("ValueError: x")


def test_errors_are_json_before_the_command_too(project: Project) -> None:
    done = project.run("--json", "call")
    assert done.returncode == 64
    assert json.loads(done.stdout)["error"]["exit_code"] == 64
    assert done.stderr == ""


def test_whoever_waits_is_told_the_id_and_may_leave(project: Project) -> None:
    error = project.ask("call", "tasks.add", "1", "2", "--wait", "--timeout", "0.1", code=1)
    id = error["error"]["id"]
    assert project.ask("result", id)["state"] == "PENDING"
    for line in (["result", id, "--wait"], ["call", "tasks.add", "1", "2", "--wait"]):
        process = project.popen(*line)
        assert process.stderr is not None
        if line[0] == "call":
            id = process.stderr.readline().strip()
        assert "Nobody works" in process.stderr.readline()  # by now it waits
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert told.splitlines()[-1] == (
            f"Error: Interrupted. The task {id} stays as it is: umbel result {id} --wait"
        )


def test_a_task_that_asked_to_be_ignored_has_ended(project: Project) -> None:
    project.write("tasks.py", TASKS + IGNORED)
    with project.worker():
        id = project.say("call", "tasks.ignored").strip()
        while project.ask("result", id)["state"] != "IGNORED":
            time.sleep(0.05)
        assert "IGNORED" in project.say("result", id, "--wait")


IGNORED = """
@app.task
def ignored():
    from umbel.exceptions import Ignore
    raise Ignore
"""


def test_a_workflow_as_a_tree(project: Project) -> None:
    id = project.send("tasks.add", 1, 2)
    said = project.say("result", id, "--tree")
    assert f"· tasks.add {id}  WAITS  in the queue celery  ← this one" in said
    assert 'n0["tasks.add<br/>WAITS<br/>in the queue celery"]' in project.say(
        "result", id, "--mermaid"
    )
    found = project.ask("result", id, "--tree")
    assert [(step["id"], step["state"]) for step in found["steps"]] == [(id, "WAITS")]
    assert found["groups"] == []
    told = project.ask("result", id, "--tree", "--wait", code=64)["error"]["message"]
    assert "as it is" in told
