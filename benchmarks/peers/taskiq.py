"""taskiq on Redis."""

from benchmarks.peer import EVERYTHING, Peer

APPLICATION = """\
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker("redis://127.0.0.1:6379/0")


@broker.task
async def add(x: int, y: int) -> int:
    return x + y


@broker.task
async def mail(address: str) -> None:
    pass


@broker.task(max_retries=3)
async def charge(order: int) -> None:
    pass
"""


def worker(processes: int) -> tuple[str, ...]:
    return ("taskiq", "worker", "on_taskiq:broker", "-w", str(processes), "--log-level", "WARNING")


REDIS = Peer(
    name="taskiq",
    environment="taskiq",
    requirements=("taskiq", "taskiq-redis", "msgspec", "uvloop", "setuptools<81"),
    package="taskiq",
    tasks="on_taskiq",
    worker=worker,
    application=APPLICATION,
    scenarios=EVERYTHING,
)
