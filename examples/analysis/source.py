"""What there is to know about one file of Python source. Nothing here knows of Umbel."""

from __future__ import annotations

import ast
import hashlib
import io
import keyword
import tokenize
import warnings
from collections import Counter
from pathlib import Path
from typing import Final, TypedDict

LONGEST: Final = 10
"""So many functions of each file are reported, the longest ones."""
LAYOUT: Final = frozenset(
    {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


class Function(TypedDict):
    """A function or method."""

    name: str
    line: int
    lines: int


class Report(TypedDict):
    """One file. What could not be read or parsed has zeros from there on."""

    broken: str
    """Empty, or: unreadable, undecodable, unparsable."""
    lines: int
    code: int
    """Lines that hold code, strings included."""
    comments: int
    """Lines that hold a comment and no code."""
    functions: int
    classes: int
    imports: list[str]
    """Top-level modules that it imports, each once; relative imports are left out."""
    names: dict[str, int]
    """How often each identifier stands there."""
    longest: list[Function]


def measure(path: str) -> Report:
    """Parse a file and count what is in it. A broken file is reported as such."""
    report: Report = {
        "broken": "", "lines": 0, "code": 0, "comments": 0, "functions": 0, "classes": 0,
        "imports": [], "names": {}, "longest": [],
    }  # fmt: skip
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except OSError:
        report["broken"] = "unreadable"
    except (SyntaxError, LookupError, UnicodeError):  # an encoding unknown, or not the file's
        report["broken"] = "undecodable"
    else:
        report["lines"] = text.count("\n") + (text[-1:] not in {"", "\n"})
        try:
            count_nodes(text, report)
            count_tokens(text, report)
        except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
            report["broken"] = "unparsable"
    return report


def count_nodes(text: str, report: Report) -> None:
    """Functions, classes and imports, from the syntax tree."""
    with warnings.catch_warnings(action="ignore"):  # of invalid escapes, in others' code
        tree = ast.parse(text)
    functions: list[Function] = []
    imports = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append({"name": name, "line": node.lineno, "lines": lines})
            case ast.ClassDef():
                report["classes"] += 1
            case ast.Import(names=names):
                imports |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
    functions.sort(key=lambda function: (-function["lines"], function["line"]))
    report["functions"] = len(functions)
    report["longest"] = functions[:LONGEST]
    report["imports"] = sorted(imports)


def count_tokens(text: str, report: Report) -> None:
    """Identifiers, and lines of code and of comments, from the tokens."""
    names: Counter[str] = Counter()
    code: set[int] = set()
    comments: set[int] = set()
    for kind, word, (first, _), (last, _), _ in tokenize.generate_tokens(
        io.StringIO(text).readline
    ):
        if kind == tokenize.COMMENT:
            comments.add(first)
        elif kind not in LAYOUT:
            code.update(range(first, last + 1))
            if kind == tokenize.NAME and not keyword.iskeyword(word):
                names[word] += 1
    report["names"] = dict(names)
    report["code"] = len(code)
    report["comments"] = len(comments - code)


def digest(path: str) -> str:
    """SHA-256 of a file's content; empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""
