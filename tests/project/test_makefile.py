"""What `make` says and does before anything is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD_PYTHON = """#!/bin/sh
case "$1" in
--version) echo Python 3.9.18 ;;
-c) exec {python} -c "import sys; sys.version_info = (3, 9, 18); $2" ;;
esac
"""
TARGETS = {"help", "demo", "test", "prove", "lint", "bench", "clean"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder where nothing has been set up."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_make_alone_lists_every_target_with_what_it_does(checkout: Path) -> None:
    listed = re.findall(r"^  make (\w+) +\S", make(checkout).stdout, flags=re.MULTILINE)
    assert set(listed) == TARGETS
    assert make(checkout, "help").stdout == make(checkout).stdout


def test_old_python_is_refused_by_name_and_nothing_is_made(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text(OLD_PYTHON.format(python=sys.executable))
    old.chmod(0o755)
    ended = make(checkout, "test", f"PYTHON={old}")
    assert ended.returncode != 0
    assert "needs Python 3.11 or newer" in ended.stderr
    assert f"{old}: Python 3.9.18" in ended.stderr
    assert "make test PYTHON=" in ended.stderr
    assert not (checkout / ".venv").exists()


def test_clean_leaves_queued_work_alone(checkout: Path) -> None:
    for name in (".umbel", ".venv", ".mypy_cache", "src/umbel/__pycache__"):
        (checkout / name).mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    assert {path.name for path in checkout.iterdir()} == {
        ".umbel", "Makefile", "pyproject.toml", "src",
    }  # fmt: skip
    assert not list((checkout / "src" / "umbel").iterdir())
