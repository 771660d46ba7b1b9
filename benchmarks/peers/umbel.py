"""This checkout, built and installed as its users install it: on its embedded store, on Redis."""

from dataclasses import replace

from benchmarks.peer import EVERYTHING, Peer

APPLICATION = """\
from umbel import App

app = App("shop")


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
    return ("umbel", "-A", "on_umbel", "worker", "-c", str(processes))


SQLITE = Peer(
    name="umbel",
    environment="umbel",
    requirements=(".",),
    package="umbel",
    tasks="on_umbel",
    worker=worker,
    application=APPLICATION,
    redis=False,
    scenarios=EVERYTHING | {"bulk", "etas", "chord", "chord-large", "chain"},
)


def _of_a_pool(pool: str) -> Peer:
    def pool_worker(_processes: int) -> tuple[str, ...]:
        return ("umbel", "-A", "on_umbel", "worker", "-P", pool, "-c", "100")

    return replace(
        SQLITE,
        name=f"umbel {pool}",
        environment="umbel-pools",
        requirements=(".[gevent,eventlet]",),
        worker=pool_worker,
        variables=(("BENCH_POOL", pool),),
        scenarios=frozenset({"waits"}),
    )


POOLS = tuple(map(_of_a_pool, ("threads", "asyncio", "gevent", "eventlet")))

REDIS = replace(
    SQLITE,
    name="umbel-redis",
    environment="umbel-redis",
    requirements=(".[redis]",),
    application=APPLICATION.replace(
        'App("shop")',
        'App("shop", broker="redis://127.0.0.1:6379/0", backend="redis://127.0.0.1:6379/0")',
    ),
    redis=True,
    scenarios=SQLITE.scenarios | {"link"},
)
