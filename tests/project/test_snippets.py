"""Every Python block of the documents runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import snippets

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    if any(snippets.read(path))
]


def run(folder: Path, *command: str) -> None:
    environment = os.environ | {"UMBEL_HOME": str(folder / "home")}
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of(document: Path, tmp_path: Path) -> None:
    run(tmp_path, "-W", "error", snippets.__file__, str(document))
    if any(snippet.is_test for snippet in snippets.read(document)):
        run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", ".")


def test_a_wrong_block_is_found(tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text("One\n\n```python\nx = 1\n```\n\nTwo\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError, match=r'wrong\.md", line 10'):
        run(tmp_path, snippets.__file__, str(document))


def test_a_note_says_how_a_block_is_run(tmp_path: Path) -> None:
    document = tmp_path / "notes.md"
    document.write_text(
        "```python\n# shop/tasks.py\nfrom umbel import App\napp = App('shop')\n"
        "@app.task\ndef add(x, y):\n    return x + y\n```\n"
        "<!-- a worker runs -->\n```python\nassert add.delay(1, 2).get(timeout=10) == 3\n```\n"
        "<!-- not run: it is wrong -->\n```python\nassert False\n```\n"
    )
    run(tmp_path, snippets.__file__, str(document))
