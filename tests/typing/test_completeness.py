"""The types of the package's public names are known to type checkers without guessing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENOUGH = 0.99


def completeness(folder: Path) -> tuple[float, list[str]]:
    """The share of names whose types are known, and what pyright says of the others."""
    # It asks the first python on PATH where the package is.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "umbel", "--ignoreexternal",
         "--outputjson"],
        cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(run.stdout)["typeCompleteness"]
    unknown = [
        f"{symbol['name']}: {remark['message']}"
        for symbol in report["symbols"]
        for remark in symbol["diagnostics"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
    ]
    return report["completenessScore"], unknown


def test_nearly_all_types_are_known(tmp_path: Path) -> None:
    score, unknown = completeness(tmp_path)
    assert score >= ENOUGH, "\n".join(unknown)


def test_an_untyped_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "umbel"
    package.mkdir(parents=True)
    (package / "py.typed").touch()
    (package / "__init__.py").write_text("def known() -> int: ...\n\ndef guessed(x): ...\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    score, unknown = completeness(tmp_path)
    assert score == 0.5
    assert unknown[0].startswith("umbel.guessed: ")
