"""Any number of schedulers: each tick is sent once, whatever becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis

from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import wait_until
from tests.faults.processes import PLANTED, ROOT
from umbel import App
from umbel.beat import PeriodicTask
from umbel.engines.state import Engine
from umbel.engines.urls import connect_engine

MODULE = "tests.faults.ticking"
STORES = ["sqlite", "redis"]
REDIS = os.environ.get("UMBEL_TEST_REDIS", "redis://127.0.0.1:6379/11")
EVERY = 0.02
GAP = 2.0
"""Seconds for which nothing is sent, at most, after a scheduler was killed or stopped."""


@dataclass(frozen=True)
class Tick:
    """One line of the log."""

    name: str
    due: float
    pid: int
    sent: float
    """Unix time by the true clock."""


@dataclass
class Scene:
    """A store with schedulers on it, and a worker that notes what they send."""

    folder: Path
    url: str
    store: dict[str, Any]
    """`broker_transport_options`."""
    schedule: dict[str, Any]
    plants: Sequence[str] = ()
    options: Sequence[str] = ()
    """Of each scheduler."""
    schedulers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    skews: dict[int, float] = field(default_factory=dict)
    worker: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.log = self.folder / "ticks.log"
        self._started = self._offset = 0
        self._ticks: list[Tick] = []
        self.engine: Engine = connect_engine(self.url, self.store)

    def _start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        (self.folder / "schedule.json").write_text(json.dumps(self.schedule))
        self._started += 1
        said = self.folder / f"said.{self._started}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "umbel", "-A", MODULE, *words],
                cwd=self.folder,
                stderr=file,
                env={
                    **os.environ,
                    "UMBEL_HOME": str(self.folder),
                    "UMBEL_BROKER_URL": self.url,
                    "TICKING_OPTIONS": json.dumps(self.store),
                    "TICKING_LOG": str(self.log),
                    "PYTHONPATH": os.pathsep.join([str(PLANTED), str(ROOT)]),
                    **environment,
                },
            )
        wait_until(
            lambda: "ready in" in said.read_text() or process.poll() is not None, "a start", 20
        )
        assert process.poll() is None, said.read_text()
        return process

    def start_scheduler(self, skew: float = 0.0) -> int:
        """One more, whose clock is wrong by so many seconds."""
        process = self._start(
            "beat",
            *self.options,
            WORKLOAD_PLANT=",".join(["skewed_clock", *self.plants]),
            WORKLOAD_SKEW=f"{skew}",
        )
        self.schedulers[process.pid] = process
        self.skews[process.pid] = skew
        return process.pid

    def start_worker(self) -> None:
        self.worker = self._start("worker", "-c", "1", WORKLOAD_PLANT="none")

    def kill(self, pid: int) -> None:
        process = self.schedulers.pop(pid)
        process.kill()
        process.wait()

    def stop(self, pid: int) -> None:
        """SIGSTOP, but not in the midst of a commit: SQLite's lock would stop everybody."""
        while True:
            os.kill(pid, signal.SIGSTOP)
            try:
                self.engine.broker.publish([], timeout=0.25)
            except Exception:  # noqa: BLE001
                self.go_on(pid)
                time.sleep(random.uniform(0.001, 0.01))
            else:
                return

    def go_on(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def ticks(self) -> list[Tick]:
        """What has been noted so far."""
        if self.log.exists():
            with self.log.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._ticks.append(_read(line.decode()))
        return self._ticks

    def sender(self) -> int:
        """Who sent the latest tick."""
        return self.ticks()[-1].pid

    def wait_for_tick_of(self, pid: int, seconds: float) -> None:
        """Wait until that one has sent a tick from now on."""
        before = len(self.ticks())
        wait_until(
            lambda: any(tick.pid == pid for tick in self.ticks()[before:]),
            f"a tick of {pid}, {self.skews[pid]:+.2f} s", seconds,
        )  # fmt: skip

    def finish(self) -> list[Tick]:
        """End the schedulers, and let the worker note what is left."""
        for process in self.schedulers.values():
            process.send_signal(signal.SIGTERM)
        for process in self.schedulers.values():
            assert process.wait(10) == 0
        wait_until(lambda: not self.engine.broker.counts(), "an empty queue", 20)
        return self.ticks()

    def close(self) -> None:
        for process in [*self.schedulers.values(), *filter(None, [self.worker])]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.engine.close()


def _read(line: str) -> Tick:
    name, due, origin, id = line.split()
    pid = int(origin.removeprefix("gen").partition("@")[0])
    return Tick(name, datetime.fromisoformat(due).timestamp(), pid, (UUID(id).int >> 80) / 1000)


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A store of the kind that the test's parameter `store` names."""
    kind = getattr(request, "param", "sqlite")
    url = {"sqlite": f"sqlite:///{tmp_path}/queue.db", "redis": REDIS}[kind]
    prefix = f"ticks-{secrets.token_hex(4)}:"
    store = {"global_keyprefix": prefix} if kind == "redis" else {}
    schedule = {
        "tick": {"task": "ticking.note", "schedule": EVERY, "misfire": "all",
                 "misfire_limit": 1000},
    }  # fmt: skip
    made = Scene(tmp_path, url, store, schedule)
    yield made
    made.close()
    if kind == "redis":
        with redis.Redis.from_url(REDIS) as client:
            client.delete(*client.scan_iter(f"{prefix}*", count=1000), prefix)


def judge(ticks: Sequence[Tick]) -> None:
    """Each tick once: none doubled, none left out."""
    counts = Counter(round(tick.due, 6) for tick in ticks)
    doubled = [due for due, times in counts.items() if times > 1]
    assert not doubled, f"{len(doubled)} ticks were sent more than once, the first at {doubled[0]}"
    first = min(counts)
    expected = {round(first + EVERY * n, 6) for n in range(len(counts))}
    missing = sorted(expected - counts.keys())
    assert not missing, f"{len(missing)} ticks are missing, the first at {missing[0]}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", STORES, indirect=True)
def test_five_schedulers_send_each_tick_once(
    scene: Scene, rounds: Rounds, seed: str, record_proof: RecordProof
) -> None:
    chance = random.Random(seed)
    wanted = rounds(short=400, full=10_000)
    scene.start_worker()
    for _ in range(5):
        scene.start_scheduler(chance.uniform(-2, 2))
    wait_until(lambda: len(scene.ticks()) > 20, "the first ticks", 20)
    kills = stops = takeovers = 0
    while len(scene.ticks()) < wanted or kills < 2:
        victim = scene.sender() if chance.random() < 0.7 else chance.choice([*scene.schedulers])
        if victim not in scene.schedulers:
            continue
        if chance.random() < 0.5:
            scene.stop(victim)
            time.sleep(chance.uniform(0.1, 1.0))
            scene.go_on(victim)
            stops += 1
            continue
        scene.kill(victim)
        kills += 1
        # Each survivor can take over alone; first those whose clocks are ahead, or time is wasted.
        survivors = sorted(scene.schedulers, key=scene.skews.__getitem__, reverse=True)
        for pid in survivors:
            others = [other for other in survivors if other != pid]
            for other in others:
                scene.stop(other)
            behind = scene.skews[survivors[0]] - scene.skews[pid]
            scene.wait_for_tick_of(pid, behind + 2 * GAP + 2)
            for other in others:
                scene.go_on(other)
            takeovers += 1
        scene.start_scheduler(chance.uniform(-2, 2))
    found = scene.finish()
    judge(found)
    gaps = takeover_times(found, scene.skews)
    record_proof(
        ticks=len(found), kills=kills, stops=stops, takeovers=takeovers,
        senders=len({tick.pid for tick in found}), longest_gap=round(max(gaps), 2),
    )  # fmt: skip
    assert len({tick.pid for tick in found}) >= 4
    assert max(gaps) < GAP, f"nothing was sent for {max(gaps):.2f} s"
    early = [tick for tick in found if tick.sent + scene.skews[tick.pid] < tick.due - 0.002]
    assert not early, f"sent before it was due by its sender's clock: {early[0]}"


def takeover_times(ticks: Sequence[Tick], skews: Mapping[int, float]) -> list[float]:
    """Seconds between two sends, less those by which the second sender's clock is behind."""
    ordered = sorted(ticks, key=lambda tick: tick.sent)
    return [
        second.sent - first.sent - max(0.0, skews[first.pid] - skews[second.pid])
        for first, second in pairwise(ordered)
    ]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scene", STORES, indirect=True)
def test_a_tick_without_its_uniqueness_is_seen(scene: Scene) -> None:
    scene.plants = ["ticks_not_unique"]
    scene.start_worker()
    for _ in range(4):
        scene.start_scheduler()
    wait_until(lambda: len(scene.ticks()) > 200, "ticks", 20)
    with pytest.raises(AssertionError, match="more than once"):
        judge(scene.finish())


@pytest.mark.timeout(120)
def test_schedulers_of_one_file_send_each_tick_once(
    scene: Scene, rounds: Rounds, seed: str, record_proof: RecordProof
) -> None:
    """`-s FILE`: a tick goes into the file first, and from there into the store."""
    chance = random.Random(seed)
    scene.options = ["-s", str(scene.folder / "schedule")]
    scene.start_worker()
    for _ in range(3):
        scene.start_scheduler()
    kills = 0
    while len(scene.ticks()) < rounds(short=250, full=5_000) or kills < 3:
        before = len(scene.ticks())
        wait_until(lambda: len(scene.ticks()) > before, "the next tick", 20)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.2))
        victim = scene.sender()
        if victim in scene.schedulers:
            scene.kill(victim)
            kills += 1
            scene.start_scheduler()
    found = scene.finish()
    judge(found)
    gap = max(takeover_times(found, scene.skews))
    record_proof(ticks=len(found), kills=kills, longest_gap=round(gap, 2))
    assert gap < GAP, f"nothing was sent for {gap:.2f} s"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scene", STORES, indirect=True)
def test_ten_thousand_entries_and_a_hundred_edits_a_second(
    scene: Scene, rounds: Rounds, seed: str, record_proof: RecordProof
) -> None:
    chance = random.Random(seed)
    seconds = rounds(short=6, full=120)
    scene.schedule = {
        f"declared{n:04}": {"task": "t", "schedule": chance.randint(20, 60), "misfire": "all"}
        for n in range(9_000)
    }
    app = App(
        "editor",
        broker=scene.url,
        backend="disabled://",
        set_as_current=False,
        broker_transport_options=scene.store,
    )
    added = [f"added{n:04}" for n in range(1_000)]
    for name in added:
        app.schedules.add(name, chance.randint(20, 60), "t", misfire="all")
    pid = scene.start_scheduler()
    edits: defaultdict[str, list[tuple[float, PeriodicTask, float]]] = defaultdict(list)
    start, used = time.time(), cpu_seconds(pid)
    count = 0
    while (now := time.time()) < start + seconds:
        name, every = chance.choice(added), chance.choice((2, 5, 10, 30))
        edits[name].append((now, app.schedules.edit(name, schedule=every), every))
        count += 1
        time.sleep(max(0.0, start + count / 100 - time.time()))
    end = time.time()
    share = (cpu_seconds(pid) - used) / (end - start)
    wait_until(
        lambda: not any(end - task.due.timestamp() > 0 for task in app.schedules.list()
                        if task.due is not None), "the last ticks", 10,
    )  # fmt: skip
    scene.schedulers[pid].send_signal(signal.SIGTERM)
    assert scene.schedulers[pid].wait(10) == 0
    fired: defaultdict[str, list[float]] = defaultdict(list)
    for waiting in scene.engine.broker.browse(limit=1_000_000):
        headers = json.loads(waiting.payload)["headers"]
        due = datetime.fromisoformat(headers["periodic_task_due"]).timestamp()
        fired[headers["periodic_task_name"]].append(round(due, 6))
    app.close()
    total = sum(map(len, fired.values()))
    record_proof(edits=count, seconds=seconds, ticks=total, share_of_a_core=round(share, 3))
    for name, times in fired.items():
        assert len(times) == len(set(times)), f"doubled: {name}"
        if name not in edits:
            fixed: float | None = scene.schedule.get(name, {}).get("schedule")
            gaps = {round(b - a, 3) for a, b in pairwise(sorted(times))}
            assert len(gaps) <= 1, f"missed: {name} {gaps}"
            assert fixed is None or gaps <= {float(fixed)}
    for name, history in edits.items():
        expect_ticks_between_edits(name, history, fired[name], end)
    assert count > 90 * seconds
    assert share < 0.10, f"the scheduler used {share:.1%} of a core"


def expect_ticks_between_edits(
    name: str, history: Sequence[tuple[float, PeriodicTask, float]], fired: list[float], end: float
) -> None:
    """What was due before an edit was fired, and what comes after it is the edit's."""
    possible: set[float] = set()
    until = [at for at, _, _ in history[1:]]
    for (_, task, every), edited in zip(history, [*until, end], strict=True):
        assert task.due is not None
        due = task.due.timestamp()
        times = [round(due + n * every, 6) for n in range(int((edited + 1 - due) / every) + 1)]
        possible.update(times)
        missed = [time for time in times if time < edited and time not in fired]
        assert not missed, f"missed: {name} {missed[0]}"
    start = history[0][0]
    extra = [time for time in fired if time > start and time not in possible]
    assert len(extra) <= 1, f"not due: {name} {extra}"  # the one that was due at the first edit
