"""The tasks of the README's quickstart."""

import asyncio

from umbel import App

app = App("tasks")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def add_later(x: int, y: int) -> int:
    await asyncio.sleep(0.1)
    return x + y
