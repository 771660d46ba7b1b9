"""`umbel completion`: what a shell offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Project


def complete(project: Project, *words: str) -> list[str]:
    """What bash offers when the last word is half typed."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        'eval "$(umbel completion bash)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        "_umbel_completion umbel\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}:{project.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=project.folder, env={**project.environment, "PATH": path},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_names(project: Project) -> None:
    project.write("tasks.py", "print('loud')\n" + (project.folder / "tasks.py").read_text())
    project.send("tasks.add", 1, 2, queue="emails")
    assert complete(project, "umbel", "st") == ["status"]
    assert complete(project, "umbel", "worker", "--max-t") == ["--max-tasks-per-child"]
    assert complete(project, "umbel", "-A", "") == ["tasks:app"]
    assert complete(project, "umbel", "call", "tasks.") == [
        "tasks.add", "tasks.fail", "tasks.greet", "tasks.quiet",
    ]  # fmt: skip
    assert complete(project, "umbel", "-A", "tasks", "worker", "-Q", "") == ["celery", "emails"]
    project.write("tasks.py", "raise ImportError('broken')\n")
    assert complete(project, "umbel", "-A", "tasks", "call", "") == []


def test_the_other_shells(project: Project) -> None:
    assert project.say("completion", "zsh").startswith("#compdef umbel\n")
    assert "complete --no-files --command umbel" in project.say("completion", "fish")
    assert "'bash', 'zsh', 'fish'" in project.refuse("completion", "tcsh", code=64)
