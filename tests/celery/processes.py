"""Workers of Umbel and of the real Celery, as processes on one Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]


def url_of(server: RedisServer, database: int) -> str:
    return f"redis://127.0.0.1:{server.port}/{database}"


class Peer:
    """A worker of one of the two, as a process."""

    def __init__(self, which: str, url: str, folder: Path, *options: str) -> None:
        environment = {
            **os.environ, "INTEROP_PEER": which, "INTEROP_URL": url, "PYTHONPATH": str(ROOT),
            "C_FORCE_ROOT": "1",  # the suite may run as root, and pickle is accepted
        }  # fmt: skip
        self.log = folder / f"{which}-{uuid.uuid4()}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", which, "-A", "tests.celery.peers", "worker", "-c", "1",
                 *options],
                env=environment, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
