"""The bare limit on Redis: the shape of a worker without any of its features."""

from benchmarks.peer import Peer


def worker(processes: int) -> tuple[str, ...]:
    return ("python", "-m", "on_prototype", str(processes))


LIMIT = Peer(
    name="prototype",
    environment="prototype",
    requirements=("redis", "hiredis", "msgspec"),
    package="redis",
    tasks="on_prototype",
    worker=worker,
    application="",
    scenarios=frozenset({"drain", "drain-results", "enqueue"}),
)
