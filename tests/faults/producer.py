"""A process that sends numbered jobs until it is killed or told to stop.

It notes each job before it sends it and again once it was told that the job is safe.
"""

from __future__ import annotations

import random
import signal
import sys

from tests.faults.workload import app, note

BACKLOG = 400
"""Jobs that may wait before the producer pauses."""


def main(name: str, seed: str) -> None:
    stop = False

    def end(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, end)
    chance = random.Random(seed)
    number = 0
    while not stop:
        if number % 50 == 0:
            while sum(count.ready for count in app.engine.broker.counts()) > BACKLOG and not stop:
                signal.sigtimedwait([], 0.01)
        job = f"{name}.{number}"
        number += 1
        task, arguments = choose(chance)
        note({"event": "sending", "job": job})
        app.tasks[f"tests.faults.workload.{task}"].apply_async(arguments, task_id=job)
        note({"event": "acknowledged", "job": job})


def choose(chance: random.Random) -> tuple[str, tuple[float, ...]]:
    """A mix of lengths from nothing to 50 ms, of kinds of functions, and of retries."""
    kind = chance.random()
    if kind < 0.1:
        return "thrice", ()
    task = "awork" if kind < 0.2 else "work"
    length = chance.random()
    if length < 0.7:
        return task, (0.0,)
    return task, (chance.uniform(0.001, 0.005 if length < 0.9 else 0.05),)


if __name__ == "__main__":
    main(*sys.argv[1:])
