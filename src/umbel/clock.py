"""The clock by which everything that has a date is told: due times, expiries, ends, ages.

Call it as `clock.time()`. It is the system's function itself, so it costs what that costs; tests
put another in its place (`shift`), and all of the package goes by that one. Leases, limits and
timeouts are durations and go by the monotonic clock, which nobody sets.
"""

from __future__ import annotations

import time as system
from collections.abc import Callable

time: Callable[[], float] = system.time
"""The Unix time in seconds."""


def shift(seconds: float) -> None:
    """For tests: let the clock run so many seconds ahead of the system's; 0 undoes it."""
    global time  # noqa: PLW0603  (one clock for the process is the point)
    read = system.time
    time = (lambda: read() + seconds) if seconds else read
