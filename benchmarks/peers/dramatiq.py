"""dramatiq on Redis."""

from benchmarks.peer import EVERYTHING, Peer

APPLICATION = """\
import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url="redis://127.0.0.1:6379/0"))


@dramatiq.actor
def add(x, y):
    return x + y


@dramatiq.actor
def mail(address):
    pass


@dramatiq.actor(max_retries=3)
def charge(order):
    pass
"""


def worker(processes: int) -> tuple[str, ...]:
    # Eight threads in each process, its default, are faster here than one or two.
    return ("dramatiq", "on_dramatiq", "-p", str(processes))


REDIS = Peer(
    name="dramatiq",
    environment="dramatiq",
    requirements=("dramatiq[redis]",),
    package="dramatiq",
    tasks="on_dramatiq",
    worker=worker,
    application=APPLICATION,
    scenarios=EVERYTHING,
)
