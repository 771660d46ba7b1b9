"""Tasks that wait for a word, in workers whose size changes, by orders or by themselves."""

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from umbel import App, signals

app = App("scaled")
app.conf.worker_autoscale_keepalive = float(os.environ.get("KEEPALIVE", "30"))
folder = Path(os.environ.get("FOLDER", "."))


def begin(id: str) -> None:
    with (folder / f"begun-{id}").open("a") as file:
        file.write(f"{os.getpid()}\n")


def may_end(id: str) -> bool:
    return (folder / "go").exists() or (folder / f"go-{id}").exists()


@app.task(bind=True)
def hold(self: Any) -> int:
    begin(self.request.id)
    while not may_end(self.request.id):
        time.sleep(0.01)
    return os.getpid()


@app.task(bind=True)
async def hold_async(self: Any) -> int:
    begin(self.request.id)
    while not may_end(self.request.id):  # noqa: ASYNC110  (for other processes)
        await asyncio.sleep(0.01)
    return os.getpid()


beside: list[str] = []


@app.task(bind=True)
def blink(self: Any) -> int:
    """How many ran at the same time in this process when it began."""
    beside.append(self.request.id)
    count = len(beside)
    time.sleep(0.003)
    beside.remove(self.request.id)
    return count


def obey(scale: Any) -> None:
    """Carry out the orders in a file, each once, and tell what came of it."""
    done = 0
    while True:
        orders = (
            (folder / "orders").read_text().splitlines() if (folder / "orders").exists() else []
        )
        for order in orders[done:]:
            name, *numbers = order.split()
            try:
                answer = repr(getattr(scale, name)(*map(int, numbers)))
            except ValueError as error:
                answer = str(error)
            with (folder / "answers").open("a") as file:
                file.write(answer + "\n")
        done = len(orders)
        time.sleep(0.01)


@signals.worker_ready.connect
def on_ready(sender: Any, **_: Any) -> None:
    threading.Thread(target=obey, args=(sender.scale,), daemon=True).start()
