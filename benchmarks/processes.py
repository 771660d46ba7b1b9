"""Process trees: who belongs to a worker, what they cost, and how they end (Linux, /proc)."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "BENCH_TREE"
"""Environment variable by which a worker's processes are found even when their parent is gone."""


def mark(token: str) -> dict[str, str]:
    """The environment variable that makes a process and its descendants part of `tree(token)`."""
    return {MARK: token}


def tree(token: str) -> list[int]:
    """Every process that inherited the token, or descends from one that did."""
    wanted = f"{MARK}={token}".encode()
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            environment = Path("/proc", entry, "environ").read_bytes()
        except (OSError, IndexError):
            continue  # ended meanwhile, or another user's
        children.setdefault(parent, []).append(int(entry))
        if wanted in environment.split(b"\0"):
            found.append(int(entry))
    members, waiting = set(found), list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in members:
                members.add(child)
                waiting.append(child)
    return sorted(members)


def pss(pids: Sequence[int]) -> float:
    """Proportional set size of these processes together, MiB: shared pages count once."""
    kib = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # ended meanwhile
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib / 1024


def cpu(pids: Sequence[int]) -> dict[str, int]:
    """Nanoseconds on a processor so far, by thread (`pid/tid`)."""
    spent = {}
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for tid in threads:
            try:
                line = Path(f"/proc/{pid}/task/{tid}/schedstat").read_text()
            except OSError:
                continue
            spent[f"{pid}/{tid}"] = int(line.split()[0])
    return spent


def cpu_between(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Seconds on a processor between two answers of `cpu`."""
    return sum(spent - before.get(thread, 0) for thread, spent in after.items()) / 1e9


def wall(command: Sequence[str], place: Path, patience: float) -> float:
    """Seconds that a whole process takes; waited for by its pidfd, as `subprocess` with a timeout
    only looks every 50 ms. `TimeoutError` past `patience`."""
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=place) as process:
        fd = os.pidfd_open(process.pid)
        try:
            ended = bool(select.select([fd], [], [], patience)[0])
            seconds = time.perf_counter() - start
        finally:
            os.close(fd)
            process.kill()  # does nothing to one that has ended
    if not ended:
        raise TimeoutError(f"it took more than {patience:.0f} s")
    if process.returncode:
        raise ChildProcessError(f"it ended with status {process.returncode}")
    return seconds


def end(
    process: "subprocess.Popen[bytes]", token: str, stop: signal.Signals, patience: float
) -> bool:
    """Ask a worker to stop, wait, kill what is left of its tree; whether it went by itself."""
    if process.poll() is None:
        process.send_signal(stop)
    went = True
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        went = False
    finally:
        deadline = time.monotonic() + (1 if went else 0)
        while (left := tree(token)) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            went = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    return went
