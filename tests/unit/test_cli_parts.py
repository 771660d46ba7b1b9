"""Parts of the command line that need no store, and what it costs to start."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from umbel import App, cli
from umbel.cli.errors import UNAVAILABLE, Refusal
from umbel.cli.invocation import Target
from umbel.cli.output import describe_duration, describe_moment, print_table
from umbel.cli.worker import expand_node_name, refuse_pickle_as_root


def modules_of(*args: str) -> set[str]:
    """The modules that a command line has imported when it ends."""
    program = (
        "import sys, json\n"
        "from umbel.cli import run\n"
        f"run({list(args)!r})\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_next_to_nothing() -> None:
    modules = modules_of("--help")
    ours = {name for name in modules if name.partition(".")[0] == "umbel"}
    parts = ("errors", "invocation", "options", "output")
    assert ours == {"umbel", "umbel.cli", *(f"umbel.cli.{part}" for part in parts)}
    assert not modules & {"msgspec", "sqlite3", "asyncio", "logging", "subprocess", "difflib"}
    program = "import sys, json, click; click.echo(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    bare = set(json.loads(done.stdout.splitlines()[-1]))
    assert len(modules - bare - ours) < 25


def test_a_command_imports_what_it_needs() -> None:
    worker = modules_of("worker", "--help")
    assert not {name for name in worker if name.startswith(("umbel.app", "umbel.worker"))}
    for name in cli.COMMANDS:
        modules = modules_of(name, "--help")
        heavy = {"sqlite3", "asyncio", "subprocess", "msgspec", "logging"}
        assert not modules & heavy, name
    broken = modules_of("-A", "nowhere.at.all", "queues")
    assert not {name for name in broken if name.startswith(("umbel.worker", "umbel.pools"))}
    assert "umbel.cli.worker" not in broken
    assert "sqlite3" not in broken


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-h"]) == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text
        assert cli.run([name, "-h"]) == 0
        assert cli.COMMANDS[name].removesuffix(".").partition(",")[0] in capsys.readouterr().out


def test_the_examples_of_a_command_have_lines_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["worker", "-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  umbel worker -l INFO" in lines
    assert "  nohup umbel worker -f worker.log -l INFO &" in lines


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"umbel \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert cli.run(["wroker"]) == 64
    assert "Did you mean worker?" in capsys.readouterr().err
    assert cli.run(["--json", "xyz"]) == 64
    assert "There are: worker, beat," in json.loads(capsys.readouterr().out)["error"]["message"]
    assert cli.run([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_a_defect_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(cli.commands, "main", break_down)
    with pytest.raises(KeyError, match="oops"):
        cli.run(["queues", "--json"])


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("w1@%h", "w1@box.example.org"),
        ("w1", "celery@w1"),
        ("%n-%d@x", "box-example.org@x"),
        ("w1@", "w1@box.example.org"),
        ("@there", "celery@there"),
        ("100%%@h", "100%@h"),
    ],
)
def test_node_names(monkeypatch: pytest.MonkeyPatch, given: str, expanded: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")
    assert expand_node_name(None, None, given) == expanded  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["%x@h", "w@h%"])
def test_node_names_that_mean_nothing(given: str) -> None:
    with pytest.raises(click.BadParameter, match="is unknown; there are %h"):
        expand_node_name(None, None, given)  # type: ignore[arg-type]


def test_durations_and_moments() -> None:
    lengths = {0.4: "0 s", 119: "119 s", 120: "2 min", 7200: "2 h", 200_000: "2 d", -5: "0 s"}
    assert {length: describe_duration(length) for length in lengths} == lengths
    assert describe_moment(time.time() - 300).endswith("(5 min ago)")
    assert describe_moment(time.time() + 3600.5).endswith("(in 60 min)")


def test_tables_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [("a", 5), ("long name", 1000)])
    assert capsys.readouterr().out == "NAME          N\na             5\nlong name  1000\n"


@pytest.mark.parametrize(
    ("user", "accept", "forced", "refused"),
    [
        (0, ["json", "pickle"], "", True),
        (0, ["application/x-python-serialize"], "", True),
        (0, ["json", "pickle"], "1", False),
        (0, ["json"], "", False),
        (1000, ["json", "pickle"], "", False),
    ],
)
def test_root_does_not_read_pickles(
    monkeypatch: pytest.MonkeyPatch, user: int, accept: list[str], forced: str, refused: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("C_FORCE_ROOT", forced)
    app = App("pickles", accept_content=accept, set_as_current=False)
    if not refused:
        refuse_pickle_as_root(app)
        return
    with pytest.raises(Refusal, match="C_FORCE_ROOT=1"):
        refuse_pickle_as_root(app)


def test_a_store_of_another_user_is_not_taken_for_none(tmp_path: Path) -> None:
    folder = tmp_path / ".umbel"
    folder.mkdir(mode=0o700)
    (folder / "queue.db").touch()
    app = App("denied", broker=f"sqlite:///{folder}/queue.db", set_as_current=False)
    target = Target(app, "denied:app", app.engine, ())
    assert target.exists
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    else:
        folder.chmod(0)
    try:
        with pytest.raises(Refusal, match=r"belongs to .*Run this as that user") as caught:
            _ = target.exists
    finally:
        if is_root:
            os.seteuid(0)
        else:
            folder.chmod(0o700)
    assert caught.value.code == UNAVAILABLE
    (folder / "queue.db").unlink()
    assert not target.exists
