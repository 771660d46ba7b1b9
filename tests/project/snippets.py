"""Run the Python blocks of one document: `python snippets.py DOCUMENT`, in an empty folder.

Blocks run from the first to the last in one namespace. A block that opens with `# some/name.py` is
written to that file instead: one of tests (`test_….py`, `conftest.py`) is left to pytest, any other
is imported, and its names are known to the blocks that follow. What stands on the line before a
block's fence may say:

    <!-- a worker runs -->     from here on a worker of `app` takes what is sent
    <!-- not run: reason -->   the block is only compiled
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^>]*?) -->\n+)?```python\n(?P<source>.*?)^```$", re.DOTALL | re.MULTILINE
)
NAME = re.compile(r"# (\S+\.py)\n")


@dataclass(frozen=True)
class Snippet:
    """One block of a document."""

    line: int
    """Of its first line in the document."""
    source: str
    file: str | None
    note: str

    @property
    def is_test(self) -> bool:
        """Whether it is pytest's to run."""
        name = (self.file or "").rpartition("/")[2]
        return name == "conftest.py" or name.startswith("test_")


def read(document: Path) -> Iterator[Snippet]:
    """The Python blocks of a document."""
    text = document.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        source = block["source"]
        name = NAME.match(source)
        line = text.count("\n", 0, block.start("source"))
        yield Snippet(line, source, name[1] if name else None, block["note"] or "")


def main(document: Path) -> None:
    """Run the blocks; an error's traceback names the document's line."""
    sys.path.insert(0, str(Path.cwd()))
    names: dict[str, Any] = {"__name__": "snippets"}
    with contextlib.ExitStack() as ends:
        for snippet in read(document):
            code = compile("\n" * snippet.line + snippet.source, str(document), "exec")
            if snippet.note.startswith("not run: "):
                continue
            if snippet.note == "a worker runs":
                from umbel.contrib.testing.worker import start_worker

                ends.enter_context(start_worker(names["app"]))
            if snippet.file is None:
                exec(code, names)
                continue
            file = Path(snippet.file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(snippet.source, encoding="utf-8")
            if not snippet.is_test:
                module = importlib.import_module(".".join(file.with_suffix("").parts))
                names |= {name: value for name, value in vars(module).items() if name[0] != "_"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
