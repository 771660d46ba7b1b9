"""The log names who blocks a loop that others need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pools.test_slots import Worker

MODULE = "tasks_that_block"
WARNING = re.compile(r"WARNING/\S+ (\S+)\[(\S+)\] blocks the event loop: ")


def log_of(worker: Worker) -> str:
    worker.stop()
    return "".join(worker.lines) + worker.rest


@pytest.mark.parametrize(
    ("pool", "name", "way"),
    [
        ("asyncio", "block", ["block", "stand_still"]),
        ("asyncio", "block_in_another", ["other", "stand_still"]),
        ("threads", "block", ["block", "stand_still"]),
        ("gevent", "block_greenlets", ["block_greenlets", "stand_still"]),
    ],
)
def test_who_blocks_the_loop_is_named_once(
    pool: str, name: str, way: list[str], tmp_path: Path
) -> None:
    worker = Worker(tmp_path, "-P", pool, "-c", "8", "-l", "INFO", module=MODULE)
    if name != "block_in_another":
        others = ("last", "last_beside", "block_a_little")
        for result in [worker.send(other, 0.9) for other in others]:
            result.get(timeout=20)
    blocking = worker.send(name, 0.8, 2)
    blocking.get(timeout=20)
    log = log_of(worker)
    assert WARNING.findall(log) == [(f"{MODULE}.{name}", blocking.id)]
    frames = re.findall(rf"^  File .*{MODULE}\.py\", line \d+ in (\w+)$", log, re.MULTILINE)
    assert frames == way
    ended = re.findall(rf"{name}\[{blocking.id}\] blocked the event loop for ([\d.]+) s", log)
    assert [float(seconds) >= 0.5 for seconds in ended] == [True]
