"""The peers by the names that `--peers` takes; one name may stand for several rows."""

from benchmarks.peer import Peer
from benchmarks.peers import celery, dramatiq, huey, prototype, rq, taskiq, umbel

PEERS: dict[str, tuple[Peer, ...]] = {
    "umbel": (umbel.SQLITE,),
    "umbel-redis": (umbel.REDIS,),
    "celery": (celery.STOCK, celery.TUNED),
    "umbel-pools": umbel.POOLS,
    "celery-pools": celery.POOLS,
    "huey-sqlite": (huey.SQLITE,),
    "huey-redis": (huey.REDIS,),
    "dramatiq": (dramatiq.REDIS,),
    "rq": (rq.REDIS,),
    "taskiq": (taskiq.REDIS,),
    "prototype": (prototype.LIMIT,),
}
