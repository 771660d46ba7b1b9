"""From the reports of all files to totals, and to the tables that show them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from analysis.source import Report

TOP: Final = 10
FIGURES: Final = ("lines", "code", "comments", "functions", "classes")


@dataclass
class Totals:
    """All files together. Two ways to the same totals compare equal only if all of it is."""

    files: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    """Sums of FIGURES."""
    broken: Counter[str] = field(default_factory=Counter)
    imports: Counter[str] = field(default_factory=Counter)
    """How many files import a module."""
    names: Counter[str] = field(default_factory=Counter)
    longest: list[tuple[int, str, int, str]] = field(default_factory=list)
    """The longest functions: lines, file, first line, name."""
    twins: int = 0
    """Files with content that another one has too."""


def add_up(reports: Mapping[str, Report], digests: Mapping[str, str]) -> Totals:
    """Sum up the reports and digests, each by its file's name."""
    totals = Totals(files=len(reports))
    for file, report in reports.items():
        totals.figures.update({name: report[name] for name in FIGURES})
        if report["broken"]:
            totals.broken[report["broken"]] += 1
        totals.imports.update(report["imports"])
        totals.names.update(report["names"])
        totals.longest += [(f["lines"], file, f["line"], f["name"]) for f in report["longest"]]
    totals.longest.sort(key=lambda function: (-function[0], *function[1:]))
    del totals.longest[TOP:]
    copies = Counter(content for content in digests.values() if content)
    totals.twins = sum(count for count in copies.values() if count > 1)
    return totals


def describe(totals: Totals, root: Path) -> Iterator[str]:
    """The totals as lines of text."""
    broken = ", ".join(f"{count} {kind}" for kind, count in sorted(totals.broken.items()))
    yield f"  {'files':<10} {totals.files:>11,}   broken: {broken or 'none'}"
    for name in FIGURES:
        yield f"  {name:<10} {totals.figures[name]:>11,}"
    yield f"  {'twins':<10} {totals.twins:>11,}   files with content that another one has too"
    yield ""
    yield f"  {'most imported':<18} {'files':>7}     {'most frequent name':<18} {'times':>9}"
    imports, names = ranking(totals.imports), ranking(totals.names)
    for place in range(max(len(imports), len(names))):
        left, right = imports[place : place + 1], names[place : place + 1]
        line = "".join(f"  {shorten(word, 18):<18} {count:>7,}   " for word, count in left)
        line = f"{line:<32}" + "".join(f"{shorten(w, 18):<18} {n:>9,}" for w, n in right)
        yield line.rstrip()
    yield ""
    yield f"  {'longest functions':<28} lines"
    for lines, file, first, name in totals.longest:
        where = f"{shorten(os.path.relpath(file, root), 50)}:{first}"
        yield f"  {shorten(name, 28):<28} {lines:>5,}   {where}"


def ranking(counts: Counter[str]) -> list[tuple[str, int]]:
    """The first ten; equal counts by the alphabet."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]


def shorten(text: str, width: int) -> str:
    """A text on one line, printable, its beginning cut off if it is too long."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= width else f"...{text[3 - width :]}"
