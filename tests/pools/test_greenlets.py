"""The pools of greenlets: what is patched, what may wait, and what an own pool is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import umbel
from tests.pools.test_slots import Worker
from tests.servers import RedisServer
from umbel.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from umbel.pools.kinds import find_pool

POOLS = ["gevent", "eventlet"]
MODULE = "tasks_in_greenlets"


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def worker(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("home")
    worker = Worker(home, "-P", pool, "-c", "8", module=MODULE)
    yield worker
    worker.stop()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --------------------------------------------------------------------------------------- patching


def test_only_the_child_is_patched_and_before_the_app(pool: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    worker = Worker(tmp_path, "-P", pool, "-c", "2", module=MODULE, WITNESS=os.fspath(witness))
    patched, child = worker.run("patched")
    worker.stop()
    assert patched == pool
    modules = dict(line.split() for line in witness.read_text().splitlines())
    assert modules == {f"{worker.process.pid}": "socket", f"{child}": pool}


def test_what_a_task_leaves_behind_in_its_greenlet_meets_no_other(
    pool: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path, "-P", pool, "-c", "1", module=MODULE)
    _, child = worker.run("patched")
    assert [worker.run("keep", number) for number in (1, 2)] == [None, None]
    worker.run("arm_a_timeout", 0.2)
    assert worker.run("rest", 0.5) == "rested"
    worker.run("arm_a_timeout", 0.2)
    time.sleep(0.4)  # it strikes while nothing runs
    assert worker.run("patched")[1] == child
    worker.stop()


def test_eventlet_is_said_to_retire(pool: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, "-P", pool, module=MODULE)
    worker.stop()
    told = [line for line in [*worker.lines, *worker.rest.splitlines()] if "retire" in line]
    assert len(told) == (1 if pool == "eventlet" else 0)
    assert "Deprecat" not in "".join([*worker.lines, worker.rest])


@pytest.mark.parametrize("name", POOLS)
def test_a_library_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImproperlyConfigured, match=rf'pip install "umbel\[{name}\]"'):
        find_pool(f"celery.concurrency.{name}:TaskPool")


@pytest.mark.parametrize("line", [["-P", "gevent"], ["--pool=gevent"], ["--pool", "gevent"]])
def test_maybe_patch_concurrency_patches_nothing_here(
    line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only tells of a pool that cannot run."""
    import socket

    before = socket.socket
    umbel.maybe_patch_concurrency(["worker", *line])
    umbel.maybe_patch_concurrency(["worker", "-c", "2"])
    assert socket.socket is before
    monkeypatch.setitem(sys.modules, "gevent", None)
    with pytest.raises(ImproperlyConfigured, match="umbel\\[gevent\\]"):
        umbel.maybe_patch_concurrency(["worker", *line])


def test_eventlets_signals_are_sent_in_order(tmp_path: Path) -> None:
    told = tmp_path / "told"
    worker = Worker(tmp_path, "-P", "eventlet", module=MODULE, SIGNALS=os.fspath(told))
    worker.run("add", 1, 2)
    worker.stop()
    assert told.read_text().splitlines() == [
        "eventlet_pool_started Eventlet -",
        "eventlet_pool_apply Eventlet tasks_in_greenlets.add",
        "eventlet_pool_preshutdown Eventlet -",
        "eventlet_pool_postshutdown Eventlet -",
    ]


# ---------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("name", ["add_elsewhere", "aadd_elsewhere"])
def test_a_task_waits_for_others_in_its_own_process(worker: Worker, name: str) -> None:
    expected = [n + 1 for n in range(5) for _ in range(2)]
    results = [worker.send(name, 5) for _ in range(4)]
    assert [result.get(timeout=20) for result in results] == [expected] * 4


def test_tasks_wait_for_each_other_on_redis(
    pool: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    try:
        worker = Worker(tmp_path, "-P", pool, "-c", "4", module=MODULE, url=server.url)
        for name in ("add_elsewhere", "aadd_elsewhere"):
            results = [worker.send(name, 3) for _ in range(2)]
            assert [r.get(timeout=20) for r in results] == [[1, 1, 2, 2, 3, 3]] * 2
        waiting = worker.app.send_task(f"{MODULE}.wait_for_nobody", soft_time_limit=0.3)
        with pytest.raises(SoftTimeLimitExceeded):
            waiting.get(timeout=5)
        worker.stop()
    finally:
        server.kill()


def test_each_greenlet_may_have_its_own_event_loop(worker: Worker) -> None:
    start = time.monotonic()
    own = [worker.send("run_a_loop", 0.3) for _ in range(3)]
    shared = [worker.send("wait_beside", 0.2 + n / 10) for n in range(3)]
    loops = {result.get(timeout=20) for result in shared}
    assert len(loops) == 1
    assert loops.isdisjoint(result.get(timeout=20) for result in own)
    assert time.monotonic() - start < 0.3 * 3 + 0.8, "one waited for the other"


def test_an_idle_child_rests(worker: Worker) -> None:
    before = worker.run("processor_time")
    time.sleep(1.0)
    assert worker.run("processor_time") - before < 0.1


def test_a_soft_limit_comes_at_once_while_all_wait(worker: Worker) -> None:
    """A loop that waits in C sees no signal by itself."""
    start = time.monotonic()
    results = [
        worker.app.send_task(f"{MODULE}.read_from_silence", soft_time_limit=0.3) for _ in range(2)
    ]
    for result in results:
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=5)
    assert time.monotonic() - start < 1.5
    assert worker.run("add", 1, 1) == 2


def test_no_soft_limit_is_raised_where_loops_are_parted(pool: str) -> None:
    """A tracer that raises is taken away, and no later coroutine would find its loop."""
    program = f"""
import sys
from umbel.pools.kinds import load_pool
pool = object.__new__(load_pool("{pool}"))
from asyncio import events
from umbel.pools.greenlets import part_loops
seen, ask = [], events._get_running_loop

def look():
    seen.append(pool._is_sacred(sys._getframe()))
    return ask()

part_loops()
events._get_running_loop = look
pool.pause()
assert seen and all(seen), seen
"""
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)


# ------------------------------------------------------------------------------------------ forks


def test_a_fork_takes_no_tasks_and_runs_no_neighbours(worker: Worker, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    neighbours = [worker.send("nap_and_note", os.fspath(notes), 0.4) for _ in range(3)]
    forking = worker.send("fork_and_wait", os.fspath(tmp_path), 0.8)
    wait_for(tmp_path / "forked")
    during = [worker.send("nap_and_note", os.fspath(notes), 0.0) for _ in range(10)]
    (pid,) = {result.get(timeout=10) for result in [*neighbours, *during]}
    assert forking.get(timeout=10) != pid
    assert (tmp_path / "waited").exists()
    assert notes.read_text().splitlines() == [f"{pid}"] * 13


@pytest.mark.parametrize("name", POOLS)
def test_a_forked_process_that_ends_at_once_is_waited_for(name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, "-P", name, "-c", "2", module=MODULE)
    try:
        assert worker.run("fork_a_short_life") == 3
    finally:
        worker.stop()


# --------------------------------------------------------------------------------------- own pools

OWN_POOL = '''
import os
import threading

from umbel.pools.slots import Pool


class Odd(Pool):
    """Daemon threads, each with a name."""

    def __init__(self, bench):
        self.bench = bench
        self.calls = {}

    def run(self):
        threads = [
            threading.Thread(target=self.bench.work, args=(slot, self.call), name=f"odd-{n}")
            for n, slot in enumerate(self.bench.slots)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def call(self, number, task, args, kwargs):
        return f"{threading.current_thread().name[:3]}: {task.run(*args, **kwargs)}"

    def interrupt(self, slot, frame):
        return False

    def stack(self, slot):
        return []

    def close(self):
        os.write(2, b"closed\\n")
'''


def test_a_package_offers_a_pool(tmp_path: Path) -> None:
    site = tmp_path / "site"
    information = site / "oddpool-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "oddpool.py").write_text(OWN_POOL)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: oddpool\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[umbel.pools]\nodd = oddpool:Odd\n")
    path = os.pathsep.join(filter(None, [os.fspath(site), os.environ.get("PYTHONPATH")]))
    worker = Worker(tmp_path, "-P", "odd", "-c", "3", module=MODULE, PYTHONPATH=path)
    assert "pool    odd, 3 slots in 1 process\n" in worker.lines
    assert worker.run("add", 1, 2) == "odd: 3"
    worker.stop()
    assert "closed\n" in worker.rest
