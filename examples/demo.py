"""Analyse a tree of Python files with Umbel on two processes, and kill one of them half-way.

Run it by `make demo`, or `make demo DIR=folder`. The tasks are in analysis/tasks.py, and how they
are sent and fetched in run.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn

from analysis.source import digest, measure
from analysis.tasks import app
from analysis.totals import Totals, add_up, describe, shorten
from run import COMMAND, Ledger, Run, Worker, WorkerEnded
from terminal import Terminal

from umbel.exceptions import UmbelError

PASSED_OVER: Final = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
TESTS: Final = frozenset({"test", "tests", "idle_test"})
"""Passed over in the standard library too: not every Python brings its tests along."""
QUICKSTART: Final = Path(__file__).resolve().parent / "quickstart"


def main() -> int:
    """Run the demo; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", nargs="?", type=Path, help="default: the standard library")
    root: Path | None = parser.parse_args().dir
    passed_over = PASSED_OVER
    if root is None:
        root, passed_over = Path(sysconfig.get_path("stdlib")), PASSED_OVER | TESTS
    root = root.absolute()
    if not root.is_dir():
        why = "is not a folder" if root.exists() else "does not exist"
        return refuse(f"{root} {why}. Nothing was done; name a folder: make demo DIR=folder")
    folders = find_files(root, passed_over)
    if not folders:
        return refuse(f"There is no .py file in {root}. Nothing was done; name another folder.")
    end_on_signals()
    try:
        return run_demo(root, folders)
    except BrokenPipeError:  # nobody reads on: demo.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UmbelError, WorkerEnded, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def refuse(message: str) -> int:
    """Say why there is nothing to do; the exit code of a wrong argument."""
    print(f"demo: {message}", file=sys.stderr)
    return 2


def end_on_signals() -> None:
    """Let signals raise, so that every `with` block tidies up; a second one cannot disturb it."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
        signals.append(signal.SIGHUP)

    def leave(number: int, _: object) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, leave)


def find_files(root: Path, passed_over: frozenset[str]) -> list[list[str]]:
    """The .py files of each folder that has any; hidden folders are passed over as well."""
    folders = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in passed_over)
        paths = [Path(folder, file) for file in sorted(files) if file.endswith(".py")]
        found = [str(path) for path in paths if not is_special(path)]
        if found:
            folders.append(found)
    return folders


def is_special(path: Path) -> bool:
    """Whether it is a pipe or a device. A link that leads nowhere is a broken file, not special."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def run_demo(root: Path, folders: list[list[str]]) -> int:
    """Go both ways to the totals, and show what they have to show; the exit code."""
    terminal = Terminal()
    files, tasks = sum(map(len, folders)), sum(map(len, folders)) + len(folders)
    terminal.say(f"Umbel analyses {files:,} Python files in {shorten(str(root), 60)}", "bold")
    with TemporaryDirectory(prefix="umbel-demo-") as home:
        os.environ["UMBEL_HOME"] = home  # where the app's store lies, here and in the worker
        os.environ.pop("UMBEL_BROKER_URL", None)  # never in the queue of somebody's real work
        terminal.say(f"  tasks   {tasks:,}: one for each file, one for each folder")
        terminal.say(f"  store   {app.engine.name}, removed at the end")
        run = Run(root, folders, terminal)
        run.send()
        with Worker(Path(home)) as worker:
            terminal.say(f"  worker  python {' '.join(COMMAND)}, process {worker.pid}")
            run.collect(worker)
            umbel_seconds = time.monotonic() - run.start
            ledger = run.ledger()
        app.engine.close()
    start = time.monotonic()
    plain = run_plain_loop(folders, terminal)
    plain_seconds = time.monotonic() - start
    totals = add_up(run.reports, run.digests)

    terminal.say("\nWhat is in these files, added up from the results of the tasks", "bold")
    for line in describe(totals, root):
        terminal.say(line)
    show_ledger(run, ledger)
    terminal.say("\nHow fast it went", "bold")
    for name, seconds, remark in (
        ("Umbel", umbel_seconds, "2 processes; sending, start of the worker and kill included"),
        ("plain loop", plain_seconds, f"1 process; this machine has {os.cpu_count()} cores"),
    ):
        terminal.say(f"  {name:<11} {seconds:5.1f} s  {tasks / seconds:>5,.0f} tasks/s  {remark}")
    same = totals == plain
    verdict = "the same" if same else "NOT the same: that is a bug in Umbel or in this demo"
    terminal.say(f"  totals of both: {verdict}", "green" if same else "red")
    show_next(terminal)
    return 0 if same and ledger.balanced else 1


def run_plain_loop(folders: list[list[str]], terminal: Terminal) -> Totals:
    """The same work without Umbel, in this process."""
    start = time.monotonic()
    files = [path for folder in folders for path in folder]
    reports, digests = {}, {}
    terminal.say("The same work by a plain loop, to compare the totals", "bold")
    for path in files:
        reports[path], digests[path] = measure(path), digest(path)
        terminal.show("plain", len(reports), len(files), start)
    return add_up(reports, digests)


def show_ledger(run: Run, ledger: Ledger) -> None:
    """What the kill did, and whether anything is missing."""
    say = run.terminal.say
    say("\nWhat the kill did, by Umbel's history", "bold")
    if not run.killed:
        say("  no process was killed: the work was done too soon", "yellow")
    for process, file in run.killed.items():
        at = f"at {run.name_of(file)}" if file else "between two files"
        say(f"  process {process} was killed {at}")
    verdict = "nothing was lost" if ledger.balanced else "NOT balanced: that is a bug in Umbel"
    say(
        f"  {ledger.sent:,} tasks, {ledger.attempts:,} attempts, {len(ledger.lost)} repeated, "
        f"{ledger.dead} dead letters"
    )
    say(
        f"  {ledger.once:,} of {ledger.sent:,} tasks have exactly one result: {verdict}",
        "green" if ledger.balanced else "red",
    )


def show_next(terminal: Terminal) -> None:
    """What to type for a queue of one's own."""
    folder = os.path.relpath(QUICKSTART)
    umbel = os.path.relpath(Path(sys.executable).with_name("umbel"), QUICKSTART)
    terminal.say(f"\nNext: two tasks of your own, in {folder}/tasks.py", "bold")
    for command, remark in (
        (f"cd {folder}", "in each of two terminals"),
        (f"{umbel} worker", "in the first one"),
        (f"{umbel} call tasks.add 2 3 --wait", "in the second: prints 5"),
        (f"{umbel} call tasks.add_later 2 3 --wait", "the same, an async def task"),
    ):
        terminal.say(f"  {command:<56} # {remark}")


if __name__ == "__main__":
    sys.exit(main())
