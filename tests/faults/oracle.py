"""The kill oracle: what ran, as the bodies themselves noted it, against what was promised.

It knows three things that do not come from the queue: what producers were told is safe, which
bodies ran (a log outside the store, one line for each start and end), and which processes were
killed. It compares them with the store's own results and history.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from umbel.engines.state import Engine
from umbel.message import result as result_message
from umbel.states import READY_STATES, SUCCESS

BATCH = 64
"""Most bodies of one child whose ends one commit may lose."""


@dataclass
class Run:
    """One run of a body."""

    job: str
    retries: int
    token: str
    pid: int
    server: int
    """The pid of the fork server above it."""
    charged: int
    task: str
    opened: float
    """Just before its limits began to count."""
    start: float
    end: float | None = None


@dataclass
class Kill:
    """Something that was done to processes."""

    what: str
    at: float
    pids: frozenset[int] = frozenset()
    """Children it ended."""
    servers: frozenset[int] = frozenset()
    """Fork servers all of whose children it ended, or whose claims it had others take over."""
    most: int = 1
    """Bodies that may run again because of it."""

    def explains(self, run: Run) -> bool:
        """Whether it hit the process that ran it.

        Children may start a few bodies more before their supervisor's death reaches them; the
        time only tells another process apart that was given the same pid much later.
        """
        hit = run.pid in self.pids or run.server in self.servers
        return hit and run.start <= self.at + 2.0


@dataclass
class Verdict:
    """What the oracle found. Everything in `problems` is a broken promise."""

    acknowledged: int
    runs: int
    again: int
    """Bodies that ran again."""
    most_again: int
    """The most that one kill made run again."""
    kills: int
    charged: int
    problems: dict[str, list[str]] = field(default_factory=dict)

    def figures(self) -> dict[str, object]:
        return {
            "kills": self.kills, "acknowledged": self.acknowledged, "runs": self.runs,
            "again": self.again, "most_again": self.most_again, "charged": self.charged,
            **{name: len(found) for name, found in self.problems.items()},
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [", ".join(f"{name} {value}" for name, value in self.figures().items())]
        for name, found in self.problems.items():
            lines += [f"{name}: {one}" for one in found[:10]]
            if len(found) > 10:
                lines.append(f"{name}: … {len(found) - 10} more")
        return "\n".join(lines)

    def demand_soundness(self) -> None:
        """Fail unless every promise was kept."""
        assert not any(self.problems.values()), f"broken promises:\n{self}"


class Oracle:
    """Follows one log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._offset = 0
        self.sending: set[str] = set()
        self.acknowledged: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.kills: list[Kill] = []

    def read(self) -> None:
        """Take in the lines that were added."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        event = entry["event"]
        if event == "start":
            run = Run(
                entry["job"], entry["retries"], entry["token"], entry["pid"], entry["server"],
                entry["charged"], entry["task"], entry["opened"], entry["t"],
            )  # fmt: skip
            self.runs[run.token] = run
        elif event == "end":
            self.runs[entry["token"]].end = entry["t"]
        elif event == "sending":
            self.sending.add(entry["job"])
        elif event == "acknowledged":
            self.acknowledged.add(entry["job"])

    def runs_of(self, job: str) -> list[Run]:
        """The runs of one job so far, in order of their starts."""
        self.read()
        return sorted((r for r in self.runs.values() if r.job == job), key=lambda r: r.start)

    def by_job(self) -> defaultdict[str, list[Run]]:
        """The runs of each job so far, in order of their starts."""
        runs: defaultdict[str, list[Run]] = defaultdict(list)
        for run in self.ordered():
            runs[run.job].append(run)
        return runs

    def ordered(self) -> list[Run]:
        """All runs so far, in order of their starts."""
        self.read()
        return sorted(self.runs.values(), key=lambda run: run.start)

    def expect(self, jobs: Iterable[str]) -> None:
        """Take jobs as acknowledged that the test itself has sent."""
        self.sending.update(jobs)
        self.acknowledged.update(jobs)

    def judge(self, engine: Engine, *, ends: dict[str, str] | None = None) -> Verdict:
        """Compare. `ends` names the jobs that are to end otherwise than in SUCCESS."""
        self.read()
        ends = ends or {}
        jobs = sorted(self.acknowledged)
        stored = engine.results.get(jobs)
        lost = [
            f"{job}: {stored[job].status if job in stored else 'no result'}"
            for job in jobs
            if job not in stored or stored[job].status != ends.get(job, SUCCESS)
        ]
        again, unexplained = self._repeated()
        excess = []
        for number, count in Counter(again.values()).items():
            kill = self.kills[number]
            if count > kill.most:
                excess.append(f"{count} bodies ran again for one kill of {kill.what}")
        return Verdict(
            acknowledged=len(jobs),
            runs=len(self.runs),
            again=len(again) + len(unexplained),
            most_again=max(Counter(again.values()).values(), default=0),
            kills=len(self.kills),
            charged=sum(self.charges().values()),
            problems={
                "lost": lost,
                "unexpected": sorted({r.job for r in self.runs.values()} - self.sending),
                "settled_twice": self._settled_twice(engine),
                "unexplained": unexplained,
                "too_many_again": excess,
                "false_results": self._false_results(engine, jobs),
            },
        )

    def charges(self) -> dict[str, int]:
        """The attempts that each job had been charged when it last started."""
        self.read()
        charges: dict[str, int] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.start):
            charges[run.job] = run.charged
        return charges

    def unfounded_charges(self) -> int:
        """Charges of jobs beyond the runs of theirs that some kill ended.

        A few are right: a child may be killed after its task has started and before the body has
        noted it.
        """
        ended: Counter[str] = Counter()
        for run in self.runs.values():
            ended[run.job] += any(kill.explains(run) for kill in self.kills)
        return sum(max(0, charged - ended[job]) for job, charged in self.charges().items())

    def _repeated(self) -> tuple[dict[str, int], list[str]]:
        """Runs that were not the only one of their attempt: (token: kill), and the unexplained."""
        attempts: defaultdict[tuple[str, int], list[Run]] = defaultdict(list)
        for run in sorted(self.runs.values(), key=lambda run: run.start):
            attempts[run.job, run.retries].append(run)
        again: dict[str, int] = {}
        unexplained: list[str] = []
        for (job, retries), runs in attempts.items():
            without_cause = []
            for run in runs:
                causes = (n for n, kill in enumerate(self.kills) if kill.explains(run))
                cause = next(causes, None)
                if cause is None:
                    without_cause.append(run)
                elif run is not runs[-1]:
                    again[run.token] = cause
            # One run of each attempt needs no cause: the one whose end was settled.
            if len(without_cause) > 1:
                pids = [run.pid for run in without_cause]
                unexplained.append(f"{job} (retry {retries}) ran in {pids}")
        return again, unexplained

    def _settled_twice(self, engine: Engine) -> list[str]:
        ends: Counter[str] = Counter()
        attempts: Counter[tuple[str, int]] = Counter()
        for entry in engine.state.history(limit=1_000_000):
            ends[entry.id] += entry.state in READY_STATES
            attempts[entry.id, entry.retries] += entry.state != "LOST"
        found = [f"{job} ended {count} times" for job, count in ends.items() if count > 1]
        found += [f"{job} ended {n} times in try {i}" for (job, i), n in attempts.items() if n > 1]
        return found

    def _false_results(self, engine: Engine, jobs: list[str]) -> list[str]:
        """A job's stored SUCCESS must be the token of one of its runs, and that run has ended."""
        found = []
        tokens = {token for token, run in self.runs.items() if run.end is not None}
        for job, stored in engine.results.get(jobs).items():
            if stored.status != SUCCESS:
                continue
            value = result_message.decode(stored.meta).result
            if isinstance(value, str) and value in self.runs:
                if self.runs[value].job != job or value not in tokens:
                    found.append(f"{job} has the result of a run that did not end as its own")
            elif any(run.job == job and run.task.endswith("work") for run in self.runs.values()):
                found.append(f"{job} has a result that no run returned: {value!r}")
        return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Look until something holds; fail, naming it, if it does not come to."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
