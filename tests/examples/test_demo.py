"""The demo as a person runs it: a program over a real tree, and what it leaves behind."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.py"
STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("asyncio", "collections", "email", "encodings", "importlib", "json", "unittest")

pytestmark = pytest.mark.timeout(180)


@dataclass
class Place:
    """Where a demo runs: a home of its own for whatever it may leave behind."""

    temp: Path
    cwd: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, **environment: object) -> subprocess.Popen[str]:
        env = os.environ | {"TMPDIR": str(self.temp)}
        env |= {name: str(value) for name, value in environment.items()}
        demo = subprocess.Popen(
            [sys.executable, "-u", str(DEMO), *map(str, arguments)],
            cwd=self.cwd, env=env, text=True, errors="surrogateescape",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(demo)
        return demo

    def run(self, *arguments: object, **environment: object) -> tuple[int, str, str]:
        demo = self.start(*arguments, **environment)
        out, err = demo.communicate()
        return demo.returncode, out, err

    def processes(self) -> set[int]:
        """All processes that were started from here, however far down."""
        mark = f"TMPDIR={self.temp}\0".encode()
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):  # nothing where there is no /proc
            try:
                if mark in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue  # it has ended, or is another user's
        return found

    def left_behind(self) -> list[object]:
        return [*self.processes(), *self.temp.iterdir(), *self.cwd.iterdir()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "temp", tmp_path / "cwd")
    place.temp.mkdir()
    place.cwd.mkdir()
    yield place
    for demo in place.started:
        for stream in (demo.stdout, demo.stderr):
            if stream is not None:
                stream.close()
        demo.kill()
        demo.wait()
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some packages of the standard library, and what the demo has to pass over."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(STDLIB / package, tree / package, ignore=ignore)
    for hidden in (".venv", "lib/site-packages", "json/__pycache__"):
        (tree / hidden).mkdir(parents=True)
        (tree / hidden / "passed_over.py").write_text("import passed_over\n" * 1000)
    return tree


def count(root: Path) -> Counter[str]:
    """The totals by a loop that shares nothing with the demo's."""
    totals: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        if {"__pycache__", "site-packages", ".venv"} & {*path.relative_to(root).parts}:
            continue
        if path.is_dir() or path.is_fifo():
            continue
        totals["files"] += 1
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except OSError:
            totals["unreadable"] += 1
            continue
        except (SyntaxError, ValueError, LookupError):
            totals["undecodable"] += 1
            continue
        totals["lines"] += len(io.StringIO(text).readlines())
        try:
            with warnings.catch_warnings(action="ignore"):
                nodes = list(ast.walk(ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            totals["unparsable"] += 1
            continue
        totals["functions"] += sum("FunctionDef" in type(node).__name__ for node in nodes)
        totals["classes"] += sum(isinstance(node, ast.ClassDef) for node in nodes)
        totals.update({f"import {name}" for node in nodes for name in imported(node)})
    return totals


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {str(node.module).split(".")[0]}
    return set()


def read_totals(output: str) -> Counter[str]:
    """The same figures from what the demo printed."""
    _, tables = output.split("added up from the results of the tasks\n")
    totals: Counter[str] = Counter()
    for name in ("files", "lines", "functions", "classes"):
        totals[name] = number(rf"^  {name} +([\d,]+)", tables)
    broken = re.search(r"broken: (.*)", tables)
    assert broken is not None
    for amount, kind in re.findall(r"(\d+) (\w+)", broken[1]):
        totals[kind] = int(amount)
    return totals


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text, flags=re.MULTILINE)
    assert match is not None, f"{pattern} is not in:\n{text}"
    return int(match[1].replace(",", ""))


def without_imports(totals: Counter[str]) -> Counter[str]:
    return Counter({key: value for key, value in totals.items() if not key.startswith("import ")})


# ------------------------------------------------------------------------------- what it shows


def test_totals_are_those_of_a_loop_and_the_kill_loses_nothing(place: Place, tree: Path) -> None:
    real = tree / "real.db"
    code, out, err = place.run(tree, UMBEL_HOME=tree, UMBEL_BROKER_URL=f"sqlite:///{real}")
    assert (code, err) == (0, "")
    assert not real.exists(), "somebody's own queue"
    assert not (tree / "queue.db").exists(), "somebody's own queue"
    expected = count(tree)
    assert expected["files"] > 200
    assert expected["unparsable"] + expected["undecodable"] + expected["unreadable"] == 0
    assert read_totals(out) == without_imports(expected)
    first_import = re.search(r"most imported.*\n  (\S+) +(\d+)", out)
    assert first_import is not None
    assert int(first_import[2]) == expected[f"import {first_import[1]}"]
    assert int(first_import[2]) == max(n for k, n in expected.items() if k.startswith("import "))
    assert "totals of both: the same" in out

    killed = re.findall(r"^kill -9 (\d+)", out, flags=re.MULTILINE)
    at = re.findall(r"^  process (\d+) was killed at (\S+)$", out, flags=re.MULTILINE)
    assert killed
    assert [pid for pid, _ in at] == [killed[-1]], "the last kill hit a process at work"
    assert (tree / at[0][1]).exists()
    folders = len({path.parent for path in tree.rglob("*.py")}) - 3  # the ones passed over
    tasks = expected["files"] + folders
    assert f"{tasks:,} tasks, {tasks + 1:,} attempts, 1 repeated, 0 dead letters" in out
    assert f"{tasks:,} of {tasks:,} tasks have exactly one result: nothing was lost" in out
    assert place.left_behind() == []


def test_default_tree_makes_500_tasks_in_a_minute_and_is_never_silent(place: Place) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    demo = place.start()
    assert demo.stdout is not None
    lines, silence, last = [], 0.0, time.monotonic()
    for line in demo.stdout:
        lines.append(line)
        silence, last = max(silence, time.monotonic() - last), time.monotonic()
    assert demo.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = "".join(lines)
    assert number(r"^  tasks +([\d,]+):", out) >= 500
    assert number(r"([\d,]+) repeated", out) == 1
    assert silence < 2
    # It always computes, so on two free cores it takes less time than this of all its processes.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert place.left_behind() == []


@pytest.mark.parametrize("no_color", [False, True])
def test_terminal_gets_one_live_line(place: Place, tree: Path, no_color: bool) -> None:
    leader, follower = pty.openpty()
    env = os.environ | {"TMPDIR": str(place.temp), "TERM": "xterm", "COLUMNS": "60"}
    env.pop("NO_COLOR", None)
    if no_color:
        env["NO_COLOR"] = "1"
    demo = subprocess.Popen(
        [sys.executable, str(DEMO), str(tree / "json")], stdout=follower, env=env, cwd=place.cwd
    )
    os.close(follower)
    output = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(leader)
    assert demo.wait() == 0
    live = re.findall(rb"\rumbel \[([^\r\n]*)\x1b\[K", output)
    assert live
    assert max(map(len, live)) <= 60
    assert (b"\x1b[1m" in output) is not no_color
    assert b"nothing was lost" in output


# ---------------------------------------------------------------------------- what it gets to eat


def test_broken_files_are_counted_and_none_is_lost(place: Place, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(STDLIB / "email", tree)
    contents = {
        "empty.py": b"",
        "no_newline.py": b"x = 1",
        "syntax.py": b"def broken(:\n",
        "python2.py": b"print 'hello'\n",
        "latin1.py": "name = 'Grün'\n".encode("latin-1"),
        "latin1_declared.py": "# coding: latin-1\nname = 'Grün'\n".encode("latin-1"),
        "unknown_encoding.py": b"# coding: klingon\nx = 1\n",
        "no_text_encoding.py": b"# coding: hex\nx = 1\n",
        "bom.py": b"\xef\xbb\xbfx = 1\r\ny = 2\r\n",
        "binary.py": bytes(range(256)) * 400,
        "null.py": b"x = 1\0\n",
        "huge_line.py": b"x = [" + b"1, " * 200_000 + b"]\n",
        "deep.py": b"x = " + b"(" * 5000 + b")" * 5000 + b"\n",
        "deeper.py": b"x = " + b"-" * 100_000 + b"1\n",
        "escapes.py": b"x = '\\d'\n",
        "invisible\x1b[31m\nname.py": b"def " + b"f" * 500 + b"():\n" + b"    x = 1\n" * 5000,
    }
    for name, content in contents.items():
        (tree / name).write_bytes(content)
    with contextlib.suppress(OSError):  # a file system that takes UTF-8 only
        Path(os.fsdecode(os.fsencode(tree) + b"/not_\xff_utf8.py")).write_bytes(b"import json\n")
    (tree / "loop.py").symlink_to("loop.py")
    (tree / "nowhere.py").symlink_to("missing.py")
    (tree / "around").symlink_to(tree, target_is_directory=True)
    (tree / "folder.py").mkdir()
    os.mkfifo(tree / "pipe.py")
    (tree / "secret.py").write_bytes(b"x = 1\n")
    (tree / "secret.py").chmod(0)
    code, out, err = place.run(tree, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, err) == (0, "")
    expected = count(tree)
    assert expected["unreadable"] >= 2
    assert expected["undecodable"] >= 4
    assert expected["unparsable"] >= 4
    assert read_totals(out) == without_imports(expected)
    assert "nothing was lost" in out
    assert "totals of both: the same" in out
    assert "\x1b" not in out


def test_one_file_is_a_tree_too(place: Place, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "one.py").write_text("def f(): ...\n")
    code, out, err = place.run(tmp_path / "tree")
    assert (code, err) == (0, "")
    assert read_totals(out) == Counter(files=1, lines=1, functions=1, classes=0)
    assert "no process was killed" in out


def test_commands_that_it_names_at_the_end_work_as_written(place: Place, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("x = 1\n")
    code, out, _ = place.run(tmp_path)
    assert code == 0
    commands = re.findall(r"^  (\S.*?) +# ", out.partition("Next:")[2], re.MULTILINE)
    enter, serve, *calls = commands
    assert len(calls) == 2
    env = os.environ | {"UMBEL_HOME": str(place.temp)}
    worker = subprocess.Popen(f"{enter} && exec {serve}", shell=True, cwd=place.cwd, env=env)
    try:
        printed = subprocess.check_output(
            " && ".join([enter, *calls]),
            shell=True,
            cwd=place.cwd,
            env=env,
            text=True,
            timeout=30,
        )
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait()
    assert printed.split() == ["5", "5"]


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_folder_that_cannot_be_analysed_is_refused(place: Place, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "given"
    if kind == "empty":
        folder.mkdir()
    if kind == "file":
        folder.write_text("x = 1\n")
    code, out, err = place.run(folder)
    assert (code, out) == (2, "")
    reason = {"missing": "does not exist", "empty": "no .py file", "file": "is not a folder"}[kind]
    assert reason in err
    assert str(folder) in err
    assert "Nothing was done; name" in err
    assert place.left_behind() == []


# ---------------------------------------------------------------------------- what it leaves behind


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look")
@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        (r"^  worker", signal.SIGINT, 130),
        (r"^umbel .* by pid", signal.SIGINT, 130),
        (r"^umbel .* by pid", signal.SIGTERM, 143),
        (r"^  it was", signal.SIGINT, 130),
        (r"^plain", signal.SIGHUP, 129),
    ],
)
def test_ended_by_a_signal_it_leaves_nothing_behind(
    place: Place, tree: Path, moment: str, number: signal.Signals, code: int
) -> None:
    demo = place.start(tree)
    assert demo.stdout is not None
    for line in demo.stdout:
        if re.search(moment, line):
            break
    if not moment.startswith("^plain"):
        assert len(place.processes()) >= 2
        assert list(place.temp.iterdir())
    while demo.poll() is None:  # an impatient person's further ones do not spoil the tidying up
        demo.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            demo.wait(0.02)
    _, err = demo.communicate()
    assert (demo.returncode, err) == (code, "")
    assert place.left_behind() == []


def test_reader_that_goes_away_leaves_nothing_behind(place: Place, tree: Path) -> None:
    demo = place.start(tree)
    assert demo.stdout is not None
    demo.stdout.readline()
    demo.stdout.close()
    assert demo.stderr is not None
    assert demo.stderr.read() == ""
    assert demo.wait(20) == 1
    assert place.left_behind() == []


def test_worker_that_dies_is_told_with_its_last_words(place: Place) -> None:
    demo = place.start()
    assert demo.stdout is not None
    for line in demo.stdout:
        if worker := re.search(r"^  worker .* process (\d+)$", line):
            os.kill(int(worker[1]), signal.SIGKILL)
            break
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert "The worker has ended too early" in err
    assert place.left_behind() == []
