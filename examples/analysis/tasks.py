"""The demo's tasks. A worker for them, from the folder above: umbel -A analysis.tasks worker."""

from __future__ import annotations

import asyncio
import os
from typing import TypedDict

from analysis.source import Report, digest, measure

from umbel import App

app = App("analysis")


class Measured(TypedDict):
    """What `measure_file` returns."""

    report: Report
    process: int
    """The process that did it."""


@app.task
def measure_file(path: str) -> Measured:
    """Parse one file and count what is in it."""
    return {"report": measure(path), "process": os.getpid()}


@app.task
async def digest_folder(paths: list[str]) -> list[str]:
    """Read the files of one folder side by side; a digest of each one's content."""
    return await asyncio.gather(*(asyncio.to_thread(digest, path) for path in paths))
