"""What is measured, and how: each scenario measures one round of all its peers."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.harness import STALL, Bench, RunError, Trial, Worker, bare, say
from benchmarks.peer import Peer

Sample = dict[str, float]
Outcome = tuple[Peer, Sample | RunError]


@dataclass(frozen=True)
class Metric:
    """One column."""

    key: str
    label: str
    digits: int = 0
    more_is_better: bool = False


@dataclass(frozen=True)
class Scenario:
    """One table; its first metric is the one that ratios are made of."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Bench, Sequence[Peer]], Iterator[Outcome]]
    rounds: int | None = None
    """Rounds that it takes whatever the command line says."""


def each(measure: Callable[[Bench, Peer], Sample]) -> Callable[..., Iterator[Outcome]]:
    """A round that is one peer after the other."""

    def measure_all(bench: Bench, peers: Sequence[Peer]) -> Iterator[Outcome]:
        for peer in peers:
            try:
                yield peer, measure(bench, peer)
            except RunError as error:
                yield peer, error

    return measure_all


# -- throughput ------------------------------------------------------------------------------------


def drain(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "drain", bench.tasks) as trial:
        trial.fill("noop")
        trial.drain()
        count, seconds = trial.record.window()
        return {"rate": count / seconds}


def link(bench: Bench, peer: Peer) -> Sample:
    """A drain by a worker 1 ms away from its server each way, and one beside it."""
    redis = bench.redis
    assert redis is not None
    near = drain(bench, peer)["rate"]
    with bench.trial(peer, "link", bench.tasks) as trial:
        trial.fill("noop")
        redis.delay(0.001)
        try:
            trial.drain()
        finally:
            redis.undelay()
        count, seconds = trial.record.window()
        rate = count / seconds
    return {"share": 100 * rate / near, "rate": rate, "near": near}


def drain_results(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "drain-results", bench.tasks) as trial:
        trial.fill("kept")
        with trial.worker() as worker:
            worker.wait()
            results = trial.produce("results")
        trial.record.check()
        if results["wrong"]:
            raise RunError(f"{len(results['wrong'])} of {results['fetched']} results wrong")
        count, seconds = trial.record.window()
        return {"rate": count / seconds}


def waits(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "waits", max(1_000, bench.tasks // 5)) as trial:
        trial.fill("waiting")
        trial.drain()
        count, seconds = trial.record.window()
        return {"rate": count / seconds}


def enqueue(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "enqueue", max(100, bench.tasks // 4)) as trial:
        answer = trial.fill("noop")
        trial.drain()
        return {"rate": answer["sent"] / answer["seconds"]}


def bulk(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "bulk", bench.tasks) as trial:
        answer = trial.produce("bulk", trial.record.size, seconds=STALL + trial.record.size / 200)
        trial.drain()
        return {"rate": answer["sent"] / answer["seconds"]}


def share(task: str, parts: int) -> Callable[[Bench, Sequence[Peer]], Iterator[Outcome]]:
    """A round in which plain loops do the same work before and after each peer, as the whole."""

    def measure_all(bench: Bench, peers: Sequence[Peer]) -> Iterator[Outcome]:
        size = max(100, bench.tasks // parts)
        before = bare(bench, task, size)
        for peer in peers:
            try:
                with bench.trial(peer, task, size) as trial:
                    trial.fill(task)
                    trial.drain()
                    _, seconds = trial.record.window()
            except RunError as error:
                yield peer, error
                continue
            after = bare(bench, task, size)
            ideal = (before + after) / 2
            before = after
            yield peer, {"share": 100 * ideal / seconds, "seconds": seconds, "ideal": ideal}

    return measure_all


# -- latency ---------------------------------------------------------------------------------------

CALLS = 200


def roundtrip(bench: Bench, peers: Sequence[Peer]) -> Iterator[Outcome]:
    """All workers idle side by side through one silence; then each is called, one after another."""
    with ExitStack() as stack:
        idle: list[tuple[Trial, Worker, dict[str, int]]] = []
        for peer in peers:
            trial = stack.enter_context(bench.trial(peer, "roundtrip", CALLS + 1))
            worker = stack.enter_context(trial.worker())
            try:
                trial.produce("roundtrip", 0, 1)
                worker.wait(1)
            except RunError as error:
                yield peer, worker.ended() or error
                continue
            idle.append((trial, worker, {}))
        time.sleep(2)  # what a worker does right after its first task is not idleness
        idle = [(trial, worker, processes.cpu(worker.tree())) for trial, worker, _ in idle]
        start = time.monotonic()
        time.sleep(bench.silence)
        after = [processes.cpu(worker.tree()) for _, worker, _ in idle]
        seconds = time.monotonic() - start
        for (trial, _, before), now in zip(idle, after, strict=True):
            used = processes.cpu_between(before, now)
            try:
                yield trial.peer, called(trial) | {"idle": 100 * used / seconds}
            except RunError as error:
                yield trial.peer, error


def called(trial: Trial) -> Sample:
    answer = trial.produce("roundtrip", 1, CALLS, seconds=4 * STALL)
    trial.record.check()
    if answer["wrong"]:
        raise RunError(f"{len(answer['wrong'])} of {CALLS} results wrong")
    ms = [1000 * seconds for seconds in answer["seconds"]]
    ranked = sorted(ms)
    return {
        "p50": statistics.median(ranked),
        "p99": ranked[CALLS * 99 // 100 - 1],
        "first": ms[0],
    }


def first_task(bench: Bench, peer: Peer) -> Sample:
    with bench.trial(peer, "first-task", 2) as trial:
        trial.fill("noop")
        with trial.worker() as worker:
            worker.wait()
            time.sleep(2)
            tree = worker.tree()
            memory = processes.pss(tree)
        trial.record.check()
        first = min(trial.record.ends()) - worker.started
        return {"first": first / 1e9, "pss": memory, "processes": len(tree)}


# -- workflows -------------------------------------------------------------------------------------


def workflow(kind: str, size: int) -> Callable[[Bench, Peer], Sample]:
    """From sending a chord or chain to its result, by a worker that has already worked."""

    def measure(bench: Bench, peer: Peer) -> Sample:
        with bench.trial(peer, kind, 1 + size) as trial, trial.worker() as worker:
            trial.produce("roundtrip", 0, 1)
            worker.wait(1)
            answer = trial.produce("workflow", kind, 1, size, seconds=20 * STALL)
        trial.record.check()
        if not answer["right"]:
            raise RunError(f"the result of a {kind} of {size} is wrong")
        return {"seconds": answer["seconds"], "sent": answer["sent"]}

    return measure


WORKFLOW = (Metric("seconds", "s", 3), Metric("sent", "sending s", 3))


# -- imports ---------------------------------------------------------------------------------------


def imports(bench: Bench, peers: Sequence[Peer]) -> Iterator[Outcome]:
    for peer in peers:
        python = str(bench.binaries[peer.name] / "python")
        with tempfile.TemporaryDirectory(dir=bench.place, prefix="imports-") as folder:
            Path(folder, "application.py").write_text(peer.application)

            def ms(code: str, python: str = python, folder: str = folder) -> float:
                return 1000 * processes.wall([python, "-c", code], Path(folder), STALL)

            try:
                ms("import application")  # compiles it
                package, app = ms(f"import {peer.package}"), ms("import application")
                yield peer, {"package": package, "app": app, "bare": ms("pass")}
            except OSError as error:
                yield peer, RunError(str(error))


# -- delayed tasks ---------------------------------------------------------------------------------


def etas(bench: Bench, peer: Peer) -> Sample:
    """A store full of ETAs: 5,000 due a second, a pause of 10 s, then a burst due in one second."""
    per_second, burst = 5_000, 50_000
    seconds = max(1, bench.etas // per_second)
    steady = seconds * per_second
    warm = 1_000
    size = steady + burst + warm
    with bench.trial(peer, "etas", size) as trial, trial.worker() as worker:
        trial.fill("noop", steady + burst, warm)
        worker.wait(warm)  # memory is compared with that of a worker that has worked
        lead = publishing_time(bench, peer, steady + burst)
        epoch = time.time_ns() - time.monotonic_ns()  # from the monotonic clock to the wall's
        baseline = supervisor_memory(worker)
        start = time.time() + lead
        say(f"etas: {steady} over {seconds} s and {burst} in 1 s, the first due in {lead:.0f} s")
        answer = trial.produce("etas", start, seconds, per_second, burst, seconds=2 * lead + STALL)
        if answer["ended"] > start:
            raise RunError("the producer was too slow: tasks fell due before the last was in")
        peak = baseline
        deadline = start + seconds + 11 + 2 * STALL
        while trial.record.ran() < trial.record.size:
            if time.time() > deadline or worker.process.poll() is not None:
                raise RunError(
                    f"only {trial.record.ran()} of {trial.record.size} tasks ran in time"
                )
            peak = max(peak, supervisor_memory(worker))
            time.sleep(1)
    trial.record.check()
    ends = [(end + epoch) / 1e9 for end in trial.record.ends()]
    late = sorted(ends[i] - (start + i / per_second) for i in range(steady))
    first_due = start + seconds + 10
    return {
        "late": late[len(late) * 99 // 100],
        "burst": burst / (max(ends[steady : steady + burst]) - first_due),
        "memory": peak - baseline,
        "publish": (steady + burst) / answer["seconds"],
    }


def publishing_time(bench: Bench, peer: Peer, count: int) -> float:
    """Seconds to allow for the publishing of `count` tasks: half as much again as 2,000 promise."""
    with bench.trial(peer, "etas-rate", 2_000) as trial:
        answer = trial.produce("etas", time.time() + 10_000, 1, 1_000, 1_000)
    return float(answer["seconds"]) / 2_000 * count * 1.5 + 5


def supervisor_memory(worker: Worker) -> float:
    return processes.pss([worker.process.pid])


# -- the list --------------------------------------------------------------------------------------

RATE = Metric("rate", "tasks/s", more_is_better=True)
SHARE = (
    Metric("share", "% of ideal", 1, more_is_better=True),
    Metric("seconds", "s", 2),
    Metric("ideal", "ideal s", 2),
)

SCENARIOS = (
    Scenario("drain", "no-op tasks queued beforehand, results off", (RATE,), each(drain)),
    Scenario(
        "link",
        "the same over a link of 2 ms there and back, against the one without",
        (
            Metric("share", "% kept", 1, more_is_better=True),
            Metric("rate", "tasks/s", more_is_better=True),
            Metric("near", "without /s", more_is_better=True),
        ),
        each(link),
    ),
    Scenario(
        "drain-results",
        "the same, each result stored, a sample of 200 fetched and compared",
        (RATE,),
        each(drain_results),
    ),
    Scenario(
        "mix",
        "1 µs tasks and 5 ms tasks (sleeping), half and half; ideal: two plain loops",
        SHARE,
        share("mixed", 10),
    ),
    Scenario(
        "waits",
        "tasks that wait 50 ms, in 100 slots of one process; the ideal is 2,000 a second",
        (RATE,),
        each(waits),
    ),
    Scenario("enqueue", "`delay()` one at a time", (RATE,), each(enqueue)),
    Scenario("bulk", "many tasks in one call: `apply_many`, `group`", (RATE,), each(bulk)),
    Scenario(
        "roundtrip",
        "enqueue → result, 200 calls to a worker after a silence, and what that silence cost",
        (
            Metric("p50", "p50 ms", 2),
            Metric("p99", "p99 ms", 2),
            Metric("first", "first ms", 1),
            Metric("idle", "idle CPU %", 2),
        ),
        roundtrip,
    ),
    Scenario(
        "chord",
        "a chord of 1,000 tasks: sending it → the body's result",
        WORKFLOW,
        each(workflow("chord", 1_000)),
    ),
    Scenario(
        "chord-large",
        "the same with 10,000 tasks",
        WORKFLOW,
        each(workflow("chord", 10_000)),
        rounds=1,
    ),
    Scenario(
        "chain",
        "a chain of 100 tasks: sending it → the last result",
        WORKFLOW,
        each(workflow("chain", 100)),
    ),
    Scenario(
        "imports",
        "a whole process that imports the package; an app module with three tasks; nothing",
        (
            Metric("app", "app module ms", 1),
            Metric("package", "package ms", 1),
            Metric("bare", "bare Python ms", 1),
        ),
        imports,
        rounds=15,
    ),
    Scenario(
        "first-task",
        "start of a worker → first task's body; then the idle process tree",
        (
            Metric("first", "to first task s", 2),
            Metric("pss", "PSS MiB", 1),
            Metric("processes", "processes"),
        ),
        each(first_task),
    ),
    Scenario(
        "cpu",
        "tasks of 1 ms of CPU; ideal: two plain loops",
        SHARE,
        share("busy", 5),
    ),
    Scenario(
        "etas",
        "a store full of ETAs, 5,000 due a second; then a burst due within one second",
        (
            Metric("late", "p99 late s", 3),
            Metric("burst", "burst tasks/s", more_is_better=True),
            Metric("memory", "supervisor + MiB", 1),
            Metric("publish", "published/s", more_is_better=True),
        ),
        each(etas),
        rounds=1,
    ),
)
