"""How commands write: JSON, tables, times."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click


def print_json(document: dict[str, Any]) -> None:
    """Write one JSON document on a line of standard output."""
    click.echo(json.dumps(document, default=str, ensure_ascii=False))


def print_dim(text: str) -> None:
    """Write a line for people who watch, and for them only."""
    if sys.stdout.isatty():
        click.echo(click.style(text, dim=True))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows under a head; numbers stand on the right."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(head))
    ]
    for line in (head, *texts):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def print_pairs(pairs: Sequence[tuple[str, object]], *, err: bool = False) -> None:
    """Write names and values one below the other, those that are None left out."""
    shown = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *more = str(value).splitlines() or [""]
        click.echo(f"{name.ljust(width)}  {first}", err=err)
        for line in more:
            click.echo(f"{' ' * width}  {line}", err=err)


def describe_value(value: object) -> str:
    """A result for people: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def describe_duration(seconds: float) -> str:
    """A length of time in its largest fitting unit: "3 s", "5 min", "2 h", "4 d"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def describe_moment(at: float) -> str:
    """A Unix time as local time, with how long ago it was or how soon it will be."""
    from umbel import clock

    text = datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    distance = at - clock.time()
    if distance > 0:
        return f"{text} (in {describe_duration(distance)})"
    return f"{text} ({describe_duration(-distance)} ago)"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 message", "2 messages"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
