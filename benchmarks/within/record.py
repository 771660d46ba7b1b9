"""What every peer's tasks do: mark in a file shared with the harness that they ran, and when.

The same few instructions for every peer (0.2 µs a task), so that the harness learns of each task
from the worker's side without asking any peer's queue: a task that ran never or twice shows, and
all times come from one clock, the system-wide monotonic one. Imported by producers too.
"""

import mmap
import os
from time import monotonic_ns

SIZE = int(os.environ["BENCH_SIZE"])
"""Number of tasks of this run; they are numbered from 0."""

SPINS = int(os.environ.get("BENCH_SPINS", "0"))
"""Turns of a loop that take 1 ms on this machine, as the harness measured them."""

with open(os.environ["BENCH_RECORD"], "r+b") as _file:
    _memory = memoryview(mmap.mmap(_file.fileno(), 0))
_ends = _memory[: 8 * SIZE].cast("Q")
_counts = _memory[8 * SIZE :]


def done(index: int) -> None:
    """Mark that task `index` has done its work."""
    _ends[index] = monotonic_ns()
    _counts[index] += 1


def is_long(index: int) -> bool:
    """Whether task `index` of the mix is a long one: half are, in no regular order."""
    return bool((index * 2654435761) >> 13 & 1)


def spin() -> None:
    """Keep the processor busy for 1 ms; a fixed amount of work, not of time."""
    for _ in range(SPINS):
        pass
