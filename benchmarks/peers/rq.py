"""rq on Redis."""

from benchmarks.peer import EVERYTHING, Peer

APPLICATION = """\
from redis import Redis
from rq import Queue

queue = Queue(connection=Redis())


def add(x, y):
    return x + y


def mail(address):
    pass


def charge(order):
    pass
"""


def worker(processes: int) -> tuple[str, ...]:
    # SimpleWorker forks for no job, which is many times as fast as rq's default.
    command = ("python", "-m", "on_rq", "worker-pool", "-n", str(processes))
    return (*command, "-w", "rq.worker.SimpleWorker", "-q", "benchmark")


REDIS = Peer(
    name="rq",
    environment="rq",
    requirements=("rq",),
    package="rq",
    tasks="on_rq",
    worker=worker,
    application=APPLICATION,
    scenarios=EVERYTHING,
)
