"""The README says what is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quickstarts_file_is_the_one_shown() -> None:
    shown = re.search(r"```python\n# (\S+)\n(.*?)```", README, re.DOTALL)
    assert shown
    text = (ROOT / shown[1]).read_text(encoding="utf-8")
    assert text.partition('"""\n\n')[2] == shown[2]


@pytest.mark.parametrize(("name", "file"), re.findall(r"\[(test_\w+)\]\((\S+)\)", README))
def test_each_promise_has_its_test(name: str, file: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_quickstart_prints_five_each_time(tmp_path: Path) -> None:
    block = re.search(r"\$ cd (\S+)\n(.*?)```", README, re.DOTALL)
    assert block
    lines = block[2].splitlines()
    commands = [line.removeprefix("$ ").partition(" #")[0] for line in lines if line[0] == "$"]
    assert commands[0].strip() == "umbel worker &"
    commands[-1] = "kill %1; wait"
    script = "set -m\n" + "\n".join(commands)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"UMBEL_HOME": str(tmp_path), "PATH": path}
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT / block[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    printed = [line for line in lines if line[0] != "$"]
    assert printed == ["5", "5", "5"]
    assert run.stdout.split("\n")[:3] == printed, run.stderr
    assert "ready in" in run.stderr
