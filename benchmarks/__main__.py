"""The command line: python -m benchmarks [SCENARIO …] [options]."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import (
    PLACE,
    Bench,
    Redis,
    RunError,
    checkout,
    install,
    say,
    spins_per_ms,
    versions,
)
from benchmarks.peer import Peer
from benchmarks.peers import PEERS
from benchmarks.report import Table
from benchmarks.scenarios import SCENARIOS, Scenario

RESULTS = Path(__file__).resolve().parent / "results"


def arguments(words: Sequence[str]) -> argparse.Namespace:
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this checkout and its peers in one run: interleaved rounds, medians "
        "and ratios, two worker processes each, every task checked to have run exactly once.",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{names} (default: all)")
    parser.add_argument("--n", type=int, help="tasks of a drain (default 20000); others follow it")
    parser.add_argument("--etas", type=int, help="tasks waiting in `etas` (default 1000000)")
    parser.add_argument("--rounds", type=int, help="rounds (default 5)")
    parser.add_argument("--silence", type=float, help="idle seconds in `roundtrip` (default 60)")
    parser.add_argument(
        "--peers", default=",".join(PEERS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2000 tasks, 3 rounds, 5 s of silence, 50000 ETAs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument(
        "--save",
        nargs="?",
        const="latest",
        metavar="NAME",
        help="keep tables and figures as benchmarks/results/NAME.txt and .json (default: latest)",
    )
    given = parser.parse_args(words)
    known = {scenario.name for scenario in SCENARIOS}
    for name in given.scenarios:
        if name not in known:
            parser.error(f"no scenario {name!r}; there are {names}")
    for name in given.peers.split(","):
        if name not in PEERS:
            parser.error(f"no peer {name!r}; there are {', '.join(PEERS)}")
    defaults = (2_000, 50_000, 3, 5.0) if given.quick else (20_000, 1_000_000, 5, 60.0)
    for option, default in zip(("n", "etas", "rounds", "silence"), defaults, strict=True):
        if getattr(given, option) is None:
            setattr(given, option, default)
    return given


def measure(bench: Bench, scenario: Scenario, peers: Sequence[Peer], rounds: int) -> Table:
    """All rounds of a scenario; a peer that failed in one is left out of the rest."""
    table, going = Table(scenario), [p for p in peers if scenario.name in p.scenarios]
    for peer in going:
        table.samples[peer.name] = []
    rounds = scenario.rounds or rounds
    for turn in range(rounds):
        # Each round begins with another peer: what a neighbour leaves behind is shared out.
        order = going[turn % max(1, len(going)) :] + going[: turn % max(1, len(going))]
        for peer, outcome in scenario.measure(bench, order):
            if isinstance(outcome, RunError):
                table.errors[peer.name] = f"{outcome} (round {turn + 1})"
                say(f"{scenario.name} {turn + 1}/{rounds} {peer.name}: ERROR {outcome}")
            else:
                table.samples[peer.name].append(outcome)
                figures = ", ".join(f"{key} {value:,.2f}" for key, value in outcome.items())
                say(f"{scenario.name} {turn + 1}/{rounds} {peer.name}: {figures}")
        going = [peer for peer in going if peer.name not in table.errors]
    return table


def main(words: Sequence[str]) -> int:
    given = arguments(words)
    peers = [peer for name in given.peers.split(",") for peer in PEERS[name]]
    chosen = [s for s in SCENARIOS if not given.scenarios or s.name in given.scenarios]
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="run-") as folder:
        redis = None
        try:
            if any(peer.redis for peer in peers):
                redis = Redis(Path(folder))
        except FileNotFoundError:
            peers = [peer for peer in peers if not peer.redis]
            rest = ", ".join(peer.name for peer in peers) or "nothing"
            say(f"redis-server is not installed; what needs it is left out, so this runs {rest}")
            say("to compare with Celery and the rest: apt install redis-server (or brew, dnf)")
        try:
            tables = run(given, redis, peers, chosen, Path(folder))
        finally:
            if redis is not None:
                redis.stop()
    return 1 if not peers or any(table.errors for table in tables) else 0


def run(
    given: argparse.Namespace,
    redis: Redis | None,
    peers: list[Peer],
    chosen: list[Scenario],
    place: Path,
) -> list[Table]:
    about = report.machine(PLACE, redis.version if redis else None)
    about["checkout"] = checkout()
    binaries: dict[str, Path] = {}
    found: dict[str, str] = {}
    for peer in list(peers):
        try:
            binaries[peer.name] = install(peer)
        except RunError as error:
            say(f"{peer.name} is left out: {error}")
            peers.remove(peer)
            continue
        found |= versions(binaries[peer.name], [peer.package])
    command = "python -m benchmarks " + " ".join(sys.argv[1:])
    bench = Bench(
        place=place,
        redis=redis,
        binaries=binaries,
        databases={peer.name: number for number, peer in enumerate(peers)},
        tasks=given.n,
        etas=given.etas,
        silence=given.silence,
        spins=spins_per_ms(),
    )
    lines, tables = [report.heading(about, found, command)], []
    print(lines[0], flush=True)
    for scenario in chosen:
        if not any(scenario.name in peer.scenarios for peer in peers):
            continue
        tables.append(measure(bench, scenario, peers, given.rounds))
        lines.append(report.text(tables[-1]))
        print("\n" + lines[-1], flush=True)
    settings = {"n": given.n, "etas": given.etas, "rounds": given.rounds, "silence": given.silence}
    figures = report.as_json(about, found, command, settings, tables)
    if given.json:
        given.json.write_text(figures)
    if given.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{given.save}.txt").write_text("\n\n".join(lines) + "\n")
        (RESULTS / f"{given.save}.json").write_text(figures)
    return tables


def interrupt(*_: object) -> None:
    """SIGTERM ends the harness as Ctrl-C does, through every `finally`."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted; workers, Redis and files are gone")
        sys.exit(130)
