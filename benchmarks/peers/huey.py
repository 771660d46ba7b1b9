"""huey, on an SQLite file and on Redis."""

import signal
from dataclasses import replace

from benchmarks.peer import Peer

APPLICATION = """\
from huey import RedisHuey

huey = RedisHuey("shop")


@huey.task()
def add(x, y):
    return x + y


@huey.task()
def mail(address):
    pass


@huey.task(retries=3)
def charge(order):
    pass
"""


def worker(processes: int) -> tuple[str, ...]:
    # -q: warnings only, which is what Celery's worker and ours log when nobody asks.
    return ("huey_consumer", "on_huey.huey", "-w", str(processes), "-k", "process", "-q")


REDIS = Peer(
    name="huey-redis",
    environment="huey",
    requirements=("huey", "redis"),
    package="huey",
    tasks="on_huey",
    worker=worker,
    application=APPLICATION,
    stop=signal.SIGINT,  # huey's word for a warm shutdown
)

SQLITE = replace(
    REDIS,
    name="huey-sqlite",
    application=APPLICATION.replace("RedisHuey", "SqliteHuey"),
    redis=False,
    variables=(("BENCH_HUEY_SQLITE", "1"),),
)
