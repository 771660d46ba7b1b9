"""Every Python and console block of the documents runs, and prints what is shown."""

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
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"UMBEL_HOME": str(folder / "home"), "PATH": path}
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


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("$ true\n$ false\n", "line 5: it exits with 1"),
        ("$ seq 3\n1\n3\n", "line 4: it prints something else"),
        ("$ sh -c 'echo one; sleep 60'\ntwo\n", "line 4: it does not print what is shown"),
        ("$ echo one\ntwo\n", "line 4: it has ended"),
    ],
)
def test_a_wrong_command_is_found(
    block: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snippets, "PATIENCE", 0.5)
    note = "<!-- another terminal -->\n" if "two" in block else "\n"
    document = tmp_path / "wrong.md"
    document.write_text(f"One\n{note}```console\n{block}```\n")
    with pytest.raises(AssertionError, match=complaint):
        snippets.main(document)


def test_commands_are_run_and_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "right.md"
    document.write_text(
        "<!-- another terminal -->\n```console\n$ sh -c 'echo at $$; sleep 60'\nat …\n```\n"
        "```console\n$ export X=1  # kept\n\n$ seq 9; echo $X $PWD\n1\n…\n8\n…9…\n1 /home/me\n```\n"
        "```python\nopen('made', 'w').close()\n```\n"
        "<!-- exits with 2 -->\n```console\n$ ls made\nmade\n$ exit_with() { return $1; }\n"
        "$ exit_with 2\n```\n"
    )
    snippets.main(document)
