"""The producer of the benchmark: one process in the peer's own environment, one JSON line out.

python produce.py MODULE fill TASK FIRST COUNT      queue COUNT tasks, one at a time
python produce.py MODULE bulk COUNT                 queue COUNT no-op tasks in one call
python produce.py MODULE results                    fetch a sample of the results of `fill`
python produce.py MODULE roundtrip FIRST COUNT      COUNT tasks, each sent when the last is back
python produce.py MODULE workflow KIND FIRST COUNT  a chord or chain of COUNT tasks, to its result
python produce.py MODULE etas START SECONDS PER_SECOND BURST
"""

import importlib
import json
import os
import sys
import time
from typing import Any

SAMPLE = 200
HANDLES = "handles.json"


def fill(peer: Any, task: str, first: int, count: int) -> dict[str, object]:
    send, step, handles = peer.SEND[task], max(1, count // SAMPLE), []
    send(first)  # opens the connection; not timed
    start = time.perf_counter()
    for index in range(first + 1, first + count):
        handle = send(index)
        if index % step == 0:
            handles.append((index, handle))
    seconds = time.perf_counter() - start
    with open(HANDLES, "w") as file:
        json.dump([(index, peer.identity(handle)) for index, handle in handles], file)
    return {"seconds": seconds, "sent": count - 1}


def bulk(peer: Any, count: int) -> dict[str, object]:
    peer.send_many(0, 1)  # opens the connection; not timed
    start = time.perf_counter()
    handles = peer.send_many(1, count - 1)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "sent": len(handles)}


def results(peer: Any) -> dict[str, object]:
    with open(HANDLES) as file:
        handles = json.load(file)
    wrong = [index for index, name in handles if peer.fetch(name, 10.0) != index]
    return {"fetched": len(handles), "wrong": wrong}


def roundtrip(peer: Any, first: int, count: int) -> dict[str, object]:
    send, wait, seconds, wrong = peer.SEND["kept"], peer.wait, [], []
    for index in range(first, first + count):
        start = time.perf_counter()
        value = wait(send(index), 30.0)
        seconds.append(time.perf_counter() - start)
        if value != index:
            wrong.append(index)
    return {"seconds": seconds, "wrong": wrong}


def workflow(peer: Any, kind: str, first: int, count: int) -> dict[str, object]:
    start = time.perf_counter()
    handle = peer.WORKFLOWS[kind](first, count)
    sent = time.perf_counter()
    value = peer.wait(handle, 600.0)
    seconds = time.perf_counter() - start
    numbers = range(first, first + count)
    return {
        "seconds": seconds,
        "sent": sent - start,
        "right": value == (sum(numbers) if kind == "chord" else numbers[-1]),
    }


def etas(peer: Any, start: float, seconds: int, per_second: int, burst: int) -> dict[str, object]:
    """`per_second` tasks due in each of `seconds` seconds from `start` on, and then `burst` tasks
    due evenly over the second that begins 10 s later."""
    began = time.perf_counter()
    for second in range(seconds):
        due = [start + second + i / per_second for i in range(per_second)]
        peer.publish_many(second * per_second, due)
    late = start + seconds + 10
    peer.publish_many(seconds * per_second, [late + i / burst for i in range(burst)])
    return {"seconds": time.perf_counter() - began, "ended": time.time()}


def main(module: str, command: str, *rest: str) -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    peer = importlib.import_module(module)
    if command == "fill":
        answer = fill(peer, rest[0], int(rest[1]), int(rest[2]))
    elif command == "bulk":
        answer = bulk(peer, int(rest[0]))
    elif command == "results":
        answer = results(peer)
    elif command == "roundtrip":
        answer = roundtrip(peer, int(rest[0]), int(rest[1]))
    elif command == "workflow":
        answer = workflow(peer, rest[0], int(rest[1]), int(rest[2]))
    elif command == "etas":
        answer = etas(peer, float(rest[0]), int(rest[1]), int(rest[2]), int(rest[3]))
    else:
        raise SystemExit(__doc__)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
