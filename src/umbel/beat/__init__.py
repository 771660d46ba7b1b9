"""Periodic tasks: the scheduler, and the entries that it fires (`celery.beat`).

An entry's life: the code declares it (`declared.py`) or somebody adds it (`schedules.py`); as a
record it lies in the store (`entries.py`, `records.py`); a scheduler finds it due (`scheduler.py`),
decides which of its ticks to fire (`ticks.py`), and publishes their messages (`sending.py`).
"""

from __future__ import annotations

from umbel.app.refusals import refuse_names
from umbel.beat.lazy import BeatLazyFunc
from umbel.beat.places import open_schedules, open_store
from umbel.beat.schedules import PeriodicTask, ScheduleError, Schedules

__all__ = [
    "BeatLazyFunc",
    "PeriodicTask",
    "ScheduleError",
    "Schedules",
    "open_schedules",
    "open_store",
]

__getattr__ = refuse_names("umbel.beat")
