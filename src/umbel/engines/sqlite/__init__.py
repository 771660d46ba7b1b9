"""The embedded engine: queue, schedule, results, state and history in one SQLite file.

Beside `queue.db` lies `queue.db.run/` with what belongs to live processes: the FIFOs that wake
them (wake.py), the workers' run files, and the lock for checkpoints (checkpoint.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from umbel.engines.sqlite.broker import SqliteBroker
from umbel.engines.sqlite.checkpoint import Checkpointer
from umbel.engines.sqlite.connection import Database
from umbel.engines.sqlite.results import SqliteResults
from umbel.engines.sqlite.state import SqliteState
from umbel.engines.sqlite.wake import Bell


class SqliteEngine:
    """`umbel.engines.state.Engine` on one file.

    `durability`: "process" (default) survives the death of any process, "power" also a power
    cut, at the price of a disk sync for each commit.
    """

    def __init__(self, path: Path, *, durability: str = "process") -> None:
        self.path = path
        self.run_dir: Path = Path(f"{path}.run")
        self._database = Database(path, durability=durability)
        checkpointer = Checkpointer(path, self.run_dir)
        work, results = self._bells = Bell(self.run_dir, "work"), Bell(self.run_dir, "result")
        self.results: SqliteResults = SqliteResults(self._database, results)
        self.state: SqliteState = SqliteState(self._database, checkpointer, work, results)
        self.broker: SqliteBroker = SqliteBroker(self._database, checkpointer, work, results)

    @property
    def name(self) -> str:
        """The file's path."""
        return os.fspath(self.path)

    def close(self) -> None:
        """Close this process's connection; the next use opens a new one."""
        self._database.close()
        for bell in self._bells:
            bell.close()
