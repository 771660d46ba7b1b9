"""The tables: machine, medians, and how they compare; and the same as JSON."""

import json
import os
import platform
import sqlite3
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scenarios import Metric, Sample, Scenario

BASELINE = "celery"
OWN = "umbel"


@dataclass
class Table:
    """What one scenario gave: samples by peer, or what went wrong."""

    scenario: Scenario
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str, metric: Metric) -> float | None:
        """The median of a peer's rounds; None without one, or when one of them must not count."""
        if peer in self.errors or not self.samples.get(peer):
            return None
        return statistics.median(sample[metric.key] for sample in self.samples[peer])

    def baseline(self, metric: Metric) -> float | None:
        """The better of Celery's rows."""
        rows = [self.median(peer, metric) for peer in self.samples if peer.startswith(BASELINE)]
        known = [value for value in rows if value is not None]
        if not known:
            return None
        return max(known) if metric.more_is_better else min(known)


def machine(place: Path, redis: str | None) -> dict[str, str]:
    """What the figures depend on."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": f"{os.cpu_count()} cores, {model}",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": f"{sqlite3.sqlite_version} on {filesystem(place)}",
        "redis": f"{redis}, same machine, no persistence" if redis else "not used",
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def filesystem(place: Path) -> str:
    """The type of the file system that a folder lies on."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        inside = place == Path(point) or Path(point) in place.parents
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def ratio(value: float | None, other: float | None, metric: Metric) -> str:
    """How many times as good `value` is as `other`."""
    if not value or not other:
        return ""
    times = value / other if metric.more_is_better else other / value
    return f"{times:.2f} ×" if times < 10 else f"{times:.1f} ×"


def number(value: float | None, metric: Metric) -> str:
    return "" if value is None else f"{value:,.{metric.digits}f}"


def spread(samples: list[Sample], metric: Metric) -> str:
    values = [sample[metric.key] for sample in samples]
    return f"{number(min(values), metric)} – {number(max(values), metric)}"


def rows(table: Table) -> list[list[str]]:
    """Heading and one row for each peer."""
    first, *others = table.scenario.metrics
    heading = ["", first.label, "min – max", f"÷ {BASELINE}", f"{OWN} is"]
    heading += [metric.label for metric in others]
    lines = [heading]
    own = table.median(OWN, first)
    for peer, samples in table.samples.items():
        if peer in table.errors:
            lines.append([peer, f"ERROR: {table.errors[peer]}"])
            continue
        value = table.median(peer, first)
        line = [peer, number(value, first), spread(samples, first)]
        line += [ratio(value, table.baseline(first), first)]
        line += ["" if peer == OWN else ratio(own, value, first)]
        line += [number(table.median(peer, metric), metric) for metric in others]
        lines.append(line)
    return lines


def text(table: Table) -> str:
    """A scenario's table as plain text."""
    lines = rows(table)
    widths = [
        max(len(line[column]) for line in lines if len(line) == len(lines[0]))
        for column in range(len(lines[0]))
    ]
    widths[0] = max(widths[0], *(len(line[0]) for line in lines))
    out = [f"{table.scenario.name}: {table.scenario.title}"]
    for line in lines:
        if len(line) < len(widths):
            out.append(f"  {line[0]:<{widths[0]}}  {line[1]}")
            continue
        cells = [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        out.append(f"  {line[0]:<{widths[0]}}  {'  '.join(cells)}".rstrip())
    return "\n".join(out)


def heading(about: dict[str, str], versions: dict[str, str], command: str) -> str:
    """The lines above the tables."""
    lines = [f"{name:<9}{value}" for name, value in about.items()]
    lines.append("packages " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    lines.append(f"command  {command}")
    return "\n".join(lines)


def as_json(
    about: dict[str, str],
    versions: dict[str, str],
    command: str,
    settings: dict[str, float],
    tables: list[Table],
) -> str:
    """Everything measured, round by round."""
    scenarios = {}
    for table in tables:
        peers: dict[str, object] = {}
        for peer, samples in table.samples.items():
            peers[peer] = {
                "median": {m.key: table.median(peer, m) for m in table.scenario.metrics},
                "rounds": samples,
                "error": table.errors.get(peer),
            }
        scenarios[table.scenario.name] = peers
    whole = {
        "machine": about,
        "versions": versions,
        "command": command,
        "settings": settings,
        "scenarios": scenarios,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
