"""Tasks that keep from running what shares their loop, and tasks that only last."""

from __future__ import annotations

import asyncio
import time

from umbel import App

app = App("blocking")


def stand_still(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass  # the line where it stands


@app.task
async def block(seconds: float, times: int) -> None:
    for _ in range(times):
        stand_still(seconds)
        await asyncio.sleep(0)


@app.task
async def block_in_another(seconds: float, times: int) -> None:
    """In a coroutine that asyncio runs as a task of its own."""

    async def other() -> None:
        for _ in range(times):
            stand_still(seconds)
            await asyncio.sleep(0)

    await asyncio.gather(other(), asyncio.sleep(0))


@app.task
def block_greenlets(seconds: float, times: int) -> None:
    for _ in range(times):
        stand_still(seconds)
        time.sleep(0)


@app.task
async def block_a_little(seconds: float) -> None:
    """Much work, in steps between which others may run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stand_still(0.01)
        await asyncio.sleep(0)


@app.task
async def last(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task
def last_beside(seconds: float) -> None:
    """Code in a thread, or in a greenlet that waits."""
    time.sleep(seconds)
