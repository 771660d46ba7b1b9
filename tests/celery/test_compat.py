"""`compat="celery"` on Redis: all that is written is Celery's, and the way back is open."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.celery.peers import make_app
from tests.celery.processes import Peer, url_of
from tests.conftest import RecordProof, Rounds
from tests.faults.oracle import wait_until
from tests.servers import RedisServer
from umbel import App
from umbel.engines.redis import RedisEngine
from umbel.testing.contracts.values import message, record, settlement

pytestmark = pytest.mark.timeout(120)


Opener = Callable[..., RedisEngine]


@pytest.fixture
def opener(server: RedisServer) -> Iterator[Opener]:
    made: list[RedisEngine] = []

    def open_engine(**options: Any) -> RedisEngine:
        made.append(RedisEngine(url_of(server, 1), "redis", options))
        return made[-1]

    yield open_engine
    for engine in made:
        engine.close()


def test_what_is_due_later_is_written_as_celery_does(
    client: redis.Redis, opener: Opener, server: RedisServer
) -> None:
    opener().state.register(record())  # somebody who would make it ready
    later = time.time() + 3600
    ours, celerys = opener(), opener(write_eta="celery")
    for engine in (ours, celerys):
        engine.broker.publish([message("a", due=later)])
    assert client.zcard("umbel:due:q") == 1
    assert client.llen("q") == 1
    app = App("x", broker=url_of(server, 1), compat="celery", set_as_current=False)
    app.send_task("nobody.knows", queue="q", countdown=3600)
    assert client.llen("q") == 2
    app.engine.close()


def test_a_retry_is_too(client: redis.Redis, opener: Opener) -> None:
    engine = opener(write_eta="celery")
    worker = engine.state.register(record())
    engine.broker.publish([message("a")])
    (held,) = engine.broker.claim(worker, ["q"], 1).deliveries
    again = (message("a", due=time.time() + 3600),)
    assert engine.broker.settle([settlement(held, follow_ups=again)]) == []
    assert client.llen("q") == 1
    assert client.zcard("umbel:due:q") == 0


def test_without_a_live_worker_an_eta_goes_into_the_list_until_one_is_there(
    client: redis.Redis, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up, and believed for 30 s if there is one, for 5 s if there is none."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    engine = opener()
    later = time.time() + 3600

    def where() -> tuple[int, int]:
        return client.llen("q"), client.zcard("umbel:due:q")

    engine.broker.publish([message("a", due=later)])
    assert where() == (1, 0)
    opener().state.register(record())
    engine.broker.publish([message("b", due=later)])
    assert where() == (2, 0)
    now += 5.1
    engine.broker.publish([message("c", due=later)])
    assert where() == (2, 1)
    client.delete("umbel:promoter")
    now += 29
    engine.broker.publish([message("d", due=later)])
    assert where() == (2, 2)
    now += 1.1
    engine.broker.publish([message("e", due=later)])
    assert where() == (3, 2)


def test_who_ends_as_the_last_puts_all_into_the_lists(client: redis.Redis, opener: Opener) -> None:
    later = time.time() + 3600
    engine = opener(write_eta="celery")
    workers = [engine.state.register(record(f"celery@{n}")) for n in range(2)]
    opener().broker.publish([message("a", due=later, priority=6)])
    assert engine.state.unregister(workers[0])
    assert client.zcard("umbel:due:q") == 1
    assert engine.state.unregister(workers[1])
    assert client.llen("q\x06\x166") == 1
    assert client.hlen("umbel:later:q") == client.zcard("umbel:tags:q") == 0


def test_there_and_back(
    server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
    rounds: Rounds,
    record_proof: RecordProof,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mixed messages under the switch; Umbel stopped in their midst, Celery started: each once."""
    number, url = rounds(short=90, full=10_000), url_of(server, 1)
    monkeypatch.setenv("UMBEL_COMPAT", "celery")
    log = tmp_path / "runs"
    app = make_app("umbel", url)
    ours = Peer("umbel", url, tmp_path)
    sent = []
    for n in range(number):
        options: dict[str, Any] = {}
        if n % 3 == 1:
            options["countdown"] = 2 + n % 3
        name = "interop.noted_again" if n % 5 == 4 else "interop.noted"
        sent.append(app.send_task(name, (str(log),), **options))
    wait_until(lambda: log.exists() and len(log.read_text().split()) > number // 10, "some run", 60)
    ours.stop()
    done = len(client.keys("celery-task-meta-*"))
    assert not client.keys("umbel:due:*")
    monkeypatch.delenv("UMBEL_COMPAT")
    theirs = Peer("celery", url, tmp_path)
    celery = make_app("celery", url)
    try:
        for result in sent:
            assert celery.AsyncResult(result.id).get(timeout=90) == "done"
    finally:
        theirs.stop()
    ends = Counter(log.read_text().split())
    assert set(ends) == {result.id for result in sent}
    assert set(ends.values()) == {1}
    assert client.llen("interop") == client.hlen("unacked") == 0
    record_proof(messages=number, ended_before=done, lost=0, twice=0)
