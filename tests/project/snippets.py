"""Run the blocks of one document: `python snippets.py DOCUMENT`, in an empty folder.

Python blocks run from the first to the last in one namespace. A block that opens with
`# some/name.py` is written to that file instead: one of tests (`test_….py`, `conftest.py`) is left
to pytest, any other is imported, and its names are known to the blocks that follow.

Of console blocks the lines that begin with `$ ` run in one shell, and what follows such a line is
what it prints, where `…` stands for anything, on a line by itself for any lines, and where what
differs from run to run (`VOLATILE`) need not be the same. If nothing follows, it may print what it
wants. What stands on the line before a block's fence may say:

    <!-- a worker runs -->      from here on a worker of `app` takes what is sent
    <!-- another terminal -->   its one command goes on, beside the blocks that follow, once it
                                has printed what is shown
    <!-- exits with 1 -->       its last command does; all others exit with 0
    <!-- not imported -->       the file is only written
    <!-- not run: reason -->    Python is only compiled
"""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^>]*?) -->\n+)?```(?P<language>python|console)\n(?P<source>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
NAME = re.compile(r"# (\S+\.py)\n")
VOLATILE = re.compile(
    r"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22})|(?<=[ (])(?P<path>/[^ )\n]+)"
    r"|(?P<number>\d+(?:\.\d+)+|\d+(?= (?:slots|s)\b))|(?<=@)(?P<host>\w+)|(?P<any>…)"
)
FORMS = {
    "id": "[0-9a-f-]{36}",
    "path": "/[^ )\n]+",
    "number": r"\d+(?:\.\d+)*",
    "host": r"[\w-]+",
    "any": ".*",
}
ENDED = "-- the command has ended with"
PATIENCE = 20.0


@dataclass(frozen=True)
class Snippet:
    """One block of a document."""

    line: int
    """Of its first line in the document."""
    language: str
    source: str
    file: str | None
    note: str

    @property
    def is_test(self) -> bool:
        """Whether it is pytest's to run."""
        name = (self.file or "").rpartition("/")[2]
        return name == "conftest.py" or name.startswith("test_")

    def commands(self) -> Iterator[tuple[int, str, str]]:
        """Line, command and what it prints, of a console block."""
        lines = self.source.splitlines()
        starts = [n for n, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            printed = "".join(f"{line}\n" for line in lines[start + 1 : end] if line)
            yield self.line + 1 + start, lines[start][2:], printed


def read(document: Path) -> Iterator[Snippet]:
    """The blocks of a document that can be run."""
    text = document.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        source = block["source"]
        name = NAME.match(source)
        line = text.count("\n", 0, block.start("source"))
        yield Snippet(
            line, block["language"], source, name[1] if name else None, block["note"] or ""
        )


class Terminals:
    """A shell, and what was started beside it."""

    def __init__(self, document: Path, ends: contextlib.ExitStack) -> None:
        self._document = document
        self._ends = ends
        self._shell: subprocess.Popen[str] | None = None

    def run(self, snippet: Snippet) -> None:
        """Run the commands of a block; `AssertionError` names the line of one that is wrong."""
        commands = list(snippet.commands())
        for line, command, expected in commands:
            if snippet.note == "another terminal":
                self._start(line, command, expected)
                continue
            printed, status = self._ask(command)
            is_last = line == commands[-1][0]
            failing = snippet.note.startswith("exits with ") and is_last
            wanted = int(snippet.note.rpartition(" ")[2]) if failing else 0
            self._judge(line, status == wanted, f"it exits with {status}", printed)
            if expected:
                as_shown = pattern(expected).fullmatch(printed) is not None
                self._judge(line, as_shown, "it prints something else", printed)

    def _ask(self, command: str) -> tuple[str, int]:
        if self._shell is None:
            self._shell = self._ends.enter_context(
                subprocess.Popen(
                    ["bash"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        shell = self._shell
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{command}\nprintf '\\n%s %s\\n' {ENDED!r} $?\n")
        shell.stdin.flush()
        lines: list[str] = []
        for line in shell.stdout:
            if line.startswith(ENDED):
                return "".join(lines).strip("\n") + "\n", int(line.rpartition(" ")[2])
            lines.append(line)
        raise AssertionError("The shell is gone.")

    def _start(self, line: int, command: str, expected: str) -> None:
        folder = self._ends.enter_context(tempfile.TemporaryDirectory())
        log = Path(folder, "log")
        with log.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], stdout=file, stderr=subprocess.STDOUT
            )
        self._ends.callback(process.wait)
        self._ends.callback(process.terminate)
        end = time.monotonic() + PATIENCE
        while True:
            printed = log.read_text(encoding="utf-8")
            if pattern(expected).match(printed):
                break
            self._judge(line, process.poll() is None, "it has ended", printed)
            self._judge(line, time.monotonic() < end, "it does not print what is shown", printed)
            time.sleep(0.02)

    def _judge(self, line: int, good: bool, complaint: str, printed: str) -> None:
        assert good, f"{self._document}, line {line}: {complaint}. It printed:\n{printed}"


def pattern(expected: str) -> re.Pattern[str]:
    """What is shown of a command, as an expression for what it prints."""
    parts = []
    for line in expected.splitlines(keepends=True):
        end = 0
        for thing in () if line == "…\n" else VOLATILE.finditer(line):
            parts += [re.escape(line[end : thing.start()]), FORMS[thing.lastgroup or ""]]
            end = thing.end()
        parts.append("(?:.*\n)*?" if line == "…\n" else re.escape(line[end:]))
    return re.compile("".join(parts))


def main(document: Path) -> None:
    """Run the blocks; an error's traceback names the document's line."""
    sys.path.insert(0, str(Path.cwd()))
    names: dict[str, Any] = {"__name__": "snippets"}
    with contextlib.ExitStack() as ends:
        terminals = Terminals(document, ends)
        for snippet in read(document):
            if snippet.language == "console":
                if not snippet.note.startswith("not run: "):
                    terminals.run(snippet)
                continue
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
            if not snippet.is_test and snippet.note != "not imported":
                module = importlib.import_module(".".join(file.with_suffix("").parts))
                names |= {name: value for name, value in vars(module).items() if name[0] != "_"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
