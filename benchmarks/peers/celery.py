"""Celery on Redis, twice: as it comes, and with the settings its guide names for speed."""

from dataclasses import replace

from benchmarks.peer import EVERYTHING, Peer

APPLICATION = """\
from celery import Celery

app = Celery("shop", broker="redis://127.0.0.1:6379/0", backend="redis://127.0.0.1:6379/0")


@app.task
def add(x, y):
    return x + y


@app.task(ignore_result=True)
def mail(address):
    pass


@app.task(max_retries=3)
def charge(order):
    pass
"""


def worker(processes: int) -> tuple[str, ...]:
    return ("celery", "-A", "on_celery", "worker", "-P", "prefork", "-c", str(processes))


def tuned_worker(processes: int) -> tuple[str, ...]:
    # These spare start-up and background work; the rest of the tuning is in `within/on_celery.py`.
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return (*worker(processes), *quiet)


STOCK = Peer(
    name="celery",
    environment="celery",
    requirements=("celery[redis]==5.7.0",),
    package="celery",
    tasks="on_celery",
    worker=worker,
    application=APPLICATION,
    scenarios=EVERYTHING | {"bulk", "chord", "chord-large", "chain", "link"},
)


def _of_a_pool(pool: str) -> Peer:
    def pool_worker(_processes: int) -> tuple[str, ...]:
        return ("celery", "-A", "on_celery", "worker", "-P", pool, "-c", "100")

    return replace(
        STOCK,
        name=f"celery {pool}",
        environment="celery-pools",
        requirements=("celery[redis]==5.7.0", "gevent"),
        worker=pool_worker,
        scenarios=frozenset({"waits"}),
    )


POOLS = tuple(map(_of_a_pool, ("threads", "gevent")))

TUNED = replace(
    STOCK,
    name="celery tuned",
    worker=tuned_worker,
    variables=(("BENCH_CELERY_TUNED", "1"),),
    scenarios=STOCK.scenarios - {"imports", "enqueue", "bulk"},
)
