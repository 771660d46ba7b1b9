"""The suite's own machinery: full counts, proofs that resume, the table at the end.

Each test lays out a small suite beside copies of this project's `pyproject.toml` and
`tests/conftest.py`, and runs pytest on it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

COUNTED = """
def test_counts(rounds, record_proof):
    count = rounds(short=5, full=200)
    record_proof(kills=count)
    record_proof(lost=0)
    assert count in (5, 200)
"""


class Suite:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.proofs = root / "benchmarks" / "results" / "prove.jsonl"
        self.write("tests/conftest.py", (ROOT / "tests" / "conftest.py").read_text())
        shutil.copy(ROOT / "pyproject.toml", root)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "pytest_timeout", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stdout + ended.stderr

    def proven(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.proofs.read_text().splitlines()]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def rows(output: str) -> dict[str, list[str]]:
    """Return the table's rows by suite: [passed, failed, skipped, seconds, why]."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("suite  "))
    table = [line.split(None, 5) for line in lines[start + 1 :] if not line.startswith("=")]
    return {row[0]: row[1:] for row in table}


def test_short_run_takes_short_counts_and_writes_no_proof(suite: Suite) -> None:
    suite.write("tests/faults/test_x.py", COUNTED + "    assert count == 5\n")
    assert "1 passed" in suite.run()
    assert not suite.proofs.exists()


def test_prove_takes_full_counts_and_writes_a_line_for_each_proof(suite: Suite) -> None:
    suite.write("tests/faults/test_x.py", COUNTED)
    suite.run("--prove")
    (line,) = suite.proven()
    assert line["test"] == "tests/faults/test_x.py::test_counts"
    assert line["outcome"] == "passed"
    assert line["figures"] == {"kills": 200, "lost": 0}


def test_prove_skips_what_is_proven_until_a_source_changes(suite: Suite) -> None:
    suite.write("src/umbel/worker.py", "lease = 30\n")
    suite.write("tests/faults/oracle.py", "seen = set()\n")
    suite.write("tests/faults/test_x.py", COUNTED)
    suite.write("tests/faults/test_other.py", "def test_other(): pass\n")
    assert "2 passed" in suite.run("--prove")
    assert "1 passed, 1 skipped" in suite.run("--prove")
    suite.write("tests/faults/test_other.py", "def test_other(): assert True\n")
    assert "1 passed, 1 skipped" in suite.run("--prove")
    for path in ("src/umbel/worker.py", "tests/faults/oracle.py", "tests/faults/test_x.py"):
        suite.write(path, (suite.root / path).read_text() + "# changed\n")
        assert "2 passed" in suite.run("--prove"), path


def test_failed_or_half_written_proof_is_run_again(suite: Suite) -> None:
    suite.write("tests/faults/test_x.py", COUNTED + "    assert count == 5\n")
    suite.run("--prove")
    assert [line["outcome"] for line in suite.proven()] == ["failed"]
    assert "1 failed" in suite.run("--prove")

    suite.write("tests/faults/test_x.py", COUNTED)
    assert "1 passed" in suite.run("--prove")
    suite.proofs.write_text(suite.proofs.read_text().splitlines()[-1][:-20] + "\n")
    assert "1 passed" in suite.run("--prove")


def test_table_counts_each_test_once_by_its_worst_outcome(suite: Suite) -> None:
    suite.write("tests/unit/test_good.py", "def test_a(): pass\ndef test_b(): pass\n")
    suite.write(
        "tests/faults/test_bad.py",
        """
import pytest

@pytest.fixture
def leaves_a_process():
    yield
    raise RuntimeError("still there")

def test_torn_down_badly(leaves_a_process): pass
def test_fails(): assert 0
@pytest.mark.skip(reason="no second host")
def test_skipped(): pass
def test_skipped_too(): pytest.skip("no second host")
@pytest.mark.xfail(reason="known")
def test_known(): assert 0
""",
    )
    suite.write("tests/celery/test_broken.py", "import nothing_of_this_name\n")
    output = suite.run("--continue-on-collection-errors")
    table = rows(output)
    assert table["unit"][:3] == ["2", "0", "0"]
    assert table["faults"][:3] == ["0", "2", "3"]
    assert table["faults"][4] == "no second host (2); known (1)"
    assert table["celery"][:3] == ["0", "1", "0"]
    assert output.splitlines()[-1].startswith("==")  # pytest's own totals stay the last line
