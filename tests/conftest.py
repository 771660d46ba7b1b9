"""How the suite runs: short or full counts, the file of proofs, and the table at the end."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
PROVE_TIMEOUT = 4 * 3600.0
"""Seconds that one test may take at its full count."""

_reports = pytest.StashKey[dict[str, pytest.TestReport]]()
_sources = pytest.StashKey[dict[Path, str]]()


class Rounds(Protocol):
    """Chooses how often a test repeats what it shows."""

    def __call__(self, short: int, full: int) -> int:
        """Return `short`, or `full` under `--prove`."""


class RecordProof(Protocol):
    """Takes what a test measured."""

    def __call__(self, **figures: object) -> None:
        """Keep `figures` for the test's line in the file of proofs; later calls add to them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--prove",
        action="store_true",
        help="run full counts and append each proof to --proofs; what the file proves is skipped",
    )
    parser.addoption(
        "--proofs",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "prove.jsonl",
        metavar="FILE",
        help="where --prove keeps its results (default: benchmarks/results/prove.jsonl)",
    )
    parser.addoption(
        "--on",
        choices=["sqlite", "redis"],
        default="sqlite",
        help="the engine under tests/faults (default: sqlite)",
    )
    parser.addoption(
        "--seed",
        default=secrets.token_hex(4),
        metavar="TEXT",
        help="what decides the random moments and choices (default: a new one, printed)",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('seed')}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a case that only --prove runs")
    # No deadline for an example: the machine may be busy, and a test's timeout bounds it anyway.
    examples = 2000 if config.getoption("prove") else 100
    hypothesis.settings.register_profile("umbel", deadline=None, max_examples=examples)
    hypothesis.settings.load_profile("umbel")


# ------------------------------------------------------------------------------------- full counts


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> Rounds:
    """`rounds(short=5, full=200)`: how often to repeat; the short count unless `--prove`."""
    prove = bool(pytestconfig.getoption("prove"))

    def choose(short: int, full: int) -> int:
        return full if prove else short

    return choose


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """This test's share of `--seed`."""
    return f"{request.config.getoption('seed')}:{request.node.name}"


@pytest.fixture
def record_proof(request: pytest.FixtureRequest) -> Iterator[RecordProof]:
    """`record_proof(kills=200, lost=0)`: what the test showed.

    Under `--prove` its line is written when the test has ended, with its outcome.
    """
    figures: dict[str, object] = {}
    started = time.monotonic()
    yield figures.update
    if not request.config.getoption("prove"):
        return
    report = request.node.stash[_reports].get("call")
    if report is None or report.skipped:
        return
    line = {
        "test": request.node.nodeid,
        "outcome": report.outcome,
        "figures": figures,
        "seconds": round(time.monotonic() - started, 1),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "source": _source_of(request.config, request.path),
        "machine": (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores,"
            f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
        ),
    }
    proofs: Path = request.config.getoption("proofs")
    proofs.parent.mkdir(parents=True, exist_ok=True)
    with proofs.open("a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("prove"):
        # That a fault test sees a planted bug is shown with the full counts: it costs as much time
        # as the test itself.
        later = [
            item
            for item in items
            if item.get_closest_marker("full") or item.name.startswith("test_planted")
        ]
        if later:
            config.hook.pytest_deselected(items=later)
            items[:] = [item for item in items if item not in later]
        return
    proven = _read_proofs(config.getoption("proofs"))
    for item in items:
        item.add_marker(pytest.mark.timeout(PROVE_TIMEOUT), append=False)
        if "record_proof" not in getattr(item, "fixturenames", ()):
            continue
        if (item.nodeid, _source_of(config, item.path)) in proven:
            item.add_marker(pytest.mark.skip(reason="proven for this source: see the proofs file"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash.setdefault(_reports, {})[report.when] = report
    return report


def _read_proofs(proofs: Path) -> set[tuple[str, str]]:
    """Return (test, source) of each passed proof; a line cut short by a kill proves nothing."""
    proven = set()
    for line in proofs.read_text().splitlines() if proofs.exists() else ():
        try:
            proof = json.loads(line)
        except ValueError:
            continue
        if proof["outcome"] == "passed":
            proven.add((proof["test"], proof["source"]))
    return proven


def _source_of(config: pytest.Config, test: Path) -> str:
    """Name the state of the package, of what tests share, and of one file of tests."""
    sources = config.stash.setdefault(_sources, {})
    if test not in sources:
        shared = [path for path in ROOT.glob("tests/**/*.py") if not path.match("test_*.py")]
        package = [path for path in ROOT.glob("src/umbel/**/*.*") if path.suffix != ".pyc"]
        digest = hashlib.sha256()
        for path in sorted({*package, *shared, test}):
            digest.update(f"{path.relative_to(ROOT)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        sources[test] = digest.hexdigest()[:12]
    return sources[test]


# --------------------------------------------------------------------------------------- the table


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    yield
    outcomes: dict[str, str] = {}
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seconds: defaultdict[str, float] = defaultdict(float)
    # The later category wins: a test that passed and then failed in its tear-down has failed.
    for category in ("passed", "xfailed", "skipped", "xpassed", "failed", "error"):
        for report in terminalreporter.stats.get(category, ()):
            suite = _suite_of(report.nodeid)
            outcomes[report.nodeid] = {"xfailed": "skipped"}.get(category, category)
            seconds[suite] += getattr(report, "duration", 0.0)
            if category in ("skipped", "xfailed"):
                reasons[suite][_reason_of(report)] += 1
    if not outcomes:
        return
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for nodeid, outcome in outcomes.items():
        column = outcome if outcome in ("passed", "skipped") else "failed"
        counts[_suite_of(nodeid)][column] += 1

    terminalreporter.ensure_newline()
    terminalreporter.section("suites", sep="=")
    width = max(len(suite) for suite in [*counts, "suite"])
    row = f"{{:<{width}}}  {{:>6}}  {{:>6}}  {{:>7}}  {{:>7}}  {{}}"
    terminalreporter.write_line(
        row.format("suite", "passed", "failed", "skipped", "seconds", "why skipped")
    )
    for suite, count in sorted(counts.items()):
        why = [f"{reason} ({n})" for reason, n in reasons[suite].most_common()]
        columns = (count["passed"], count["failed"], count["skipped"], f"{seconds[suite]:.1f}")
        terminalreporter.write_line(row.format(suite, *columns, "; ".join(why)).rstrip())


def _suite_of(nodeid: str) -> str:
    """Return the folder under `tests/` that holds a test."""
    folders = nodeid.partition("::")[0].split("/")[:-1]
    return folders[1] if len(folders) > 1 else "."


def _reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason: str = getattr(report, "wasxfail", "")
    if not reason and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    return reason.removeprefix("Skipped: ").removeprefix("reason: ") or "no reason given"
