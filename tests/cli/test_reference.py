"""`docs/reference/cli.md` says what the commands answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Project
from umbel.cli import errors

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
ROWS = {
    row[1]: re.findall(r"`(\w+)`", row[2])
    for row in re.finditer(r"^\| `([^`]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
}
ARGUMENTS = {
    "call": ["tasks.add", "1", "2"],
    "call --wait": ["tasks.add", "1", "2"],
    "result": ["x"],
    "purge": ["-f"],
}


@pytest.mark.parametrize("command", ROWS)
def test_a_document_has_the_keys_that_the_page_names(project: Project, command: str) -> None:
    line = [*command.split(), *ARGUMENTS.get(command, [])]
    if command == "call --wait":
        with project.worker():
            assert set(project.ask(*line)) == set(ROWS[command]) - {"error"}
        assert set(project.ask(*line, "--timeout", "0.1", code=1)["error"]) == {
            "type", "message", "exit_code", "id",
        }  # fmt: skip
        return
    code = errors.UNAVAILABLE if command == "status" else 0
    assert set(project.ask(*line, code=code)) == set(ROWS[command])


def test_the_page_names_every_exit_code() -> None:
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    own = {value for name, value in vars(errors).items() if name.isupper() and type(value) is int}
    assert named == own | {0}
