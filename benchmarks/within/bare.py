"""The tasks of one run in plain loops, one in each of N processes: the ideal of `mix` and `cpu`.

python bare.py mixed|busy PROCESSES
"""

import os
import sys
import time

import record


def mixed(index: int) -> None:
    if record.is_long(index):
        time.sleep(0.005)
    record.done(index)


def busy(index: int) -> None:
    record.spin()
    record.done(index)


def main(name: str, processes: int) -> None:
    # Sorted, so that each process gets as many long tasks as the other; and then mixed up again,
    # so that each tenth of the run is like the others.
    order = sorted(range(record.SIZE), key=record.is_long if name == "mixed" else None)
    body = {"mixed": mixed, "busy": busy}[name]
    children = []
    for number in range(processes):
        if pid := os.fork():
            children.append(pid)
            continue
        for index in sorted(order[number::processes]):
            body(index)
        os._exit(0)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
