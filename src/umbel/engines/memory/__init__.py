"""The engine in memory, for tests and embedded workers: one process, nothing on disk.

It keeps every promise of the contracts but one: what it holds ends with the process. A forked child
has a copy of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path

from umbel.engines.memory.broker import MemoryBroker
from umbel.engines.memory.results import MemoryResults
from umbel.engines.memory.state import MemoryState
from umbel.engines.memory.store import Store


class MemoryEngine:
    """`umbel.engines.state.Engine` inside one process; its URL is `memory://name`."""

    def __init__(self, name: str = "") -> None:
        store = Store()
        self.store: Store = store
        self.name: str = f"memory://{name}"
        self.broker: MemoryBroker = MemoryBroker(store)
        self.results: MemoryResults = MemoryResults(store)
        self.state: MemoryState = MemoryState(store)

    @cached_property
    def run_dir(self) -> Path:
        """A directory for run files, made at its first use and removed by `close`."""
        return Path(tempfile.mkdtemp(prefix="umbel-"))

    def close(self) -> None:
        """Remove the directory. Messages, results and state stay as long as the process."""
        run_dir = self.__dict__.pop("run_dir", None)
        if run_dir is not None:
            shutil.rmtree(run_dir, ignore_errors=True)
