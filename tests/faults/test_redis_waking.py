"""Redis: who sleeps is woken, in as few round trips as can be, also where tracking is denied."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.servers import Proxy, RedisServer, free_port
from umbel.engines.redis import RedisEngine
from umbel.engines.urls import mask
from umbel.exceptions import OperationalError
from umbel.testing.contracts.values import fires, message, record, result, settlement

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(4)}:"


def open_engine(url: str, prefix: str) -> RedisEngine:
    return RedisEngine(url, mask(url), {"global_keyprefix": prefix, "result_keyprefix": prefix})


@pytest.fixture
def near(server: RedisServer, prefix: str) -> Iterator[RedisEngine]:
    """The store, by the straight way."""
    engine = open_engine(server.url, prefix)
    yield engine
    engine.close()


@pytest.fixture
def far(proxy: Proxy, prefix: str) -> Iterator[RedisEngine]:
    """The same through the proxy."""
    engine = open_engine(f"redis://127.0.0.1:{proxy.port}/0", prefix)
    yield engine
    engine.close()


# ----------------------------------------------------------- what comes while one begins to listen


def test_a_result_that_comes_right_behind_the_look_wakes(
    proxy: Proxy, near: RedisEngine, far: RedisEngine
) -> None:
    waker = far.results.listen()
    waker.drain()
    far.results.get(["other"], waker)  # connected
    proxy.hold()
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(far.results.get, ["a"], waker)
        assert proxy.held.wait(10)  # it has looked, and found nothing
        near.results.put([result("a")])
        proxy.release()
        found = looked.result()
    if not found:
        assert fires(waker)
        waker.drain()
        found = far.results.get(["a"], waker)
    assert found == {"a": result("a")}
    waker.close()


def test_a_message_that_comes_right_behind_the_claim_wakes(
    proxy: Proxy, near: RedisEngine, far: RedisEngine
) -> None:
    worker = far.state.register(record())
    waker = far.broker.listen(["q"])
    while fires(waker, 0):
        assert far.broker.claim(worker, ["q"], 2, waker).deliveries == []
    proxy.hold()
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(far.broker.claim, worker, ["q"], 2, waker)
        assert proxy.held.wait(10)
        near.broker.publish([message("a")])
        proxy.release()
        assert looked.result().deliveries == []
    assert fires(waker)
    assert len(far.broker.claim(worker, ["q"], 2, waker).deliveries) == 1
    waker.close()


# ------------------------------------------------------------------------------------ round trips


def test_a_claim_and_the_look_before_sleep_are_one_round_trip(
    proxy: Proxy, near: RedisEngine, far: RedisEngine
) -> None:
    worker = far.state.register(record())
    waker = far.broker.listen(["q"])
    far.broker.claim(worker, ["q"], 2, waker)
    for turn in range(3):
        near.broker.publish([message("a")])
        assert fires(waker)
        before = proxy.requests
        (held,) = far.broker.claim(worker, ["q"], 2, waker).deliveries
        assert proxy.requests == before + 1
        assert not fires(waker, 0)  # its own claim is no news
        assert far.broker.settle([settlement(held)]) == []
        if turn:  # the first one brings the script
            assert proxy.requests == before + 2
        assert not fires(waker, 0)
    waker.close()


def test_a_result_comes_with_the_news_of_it(
    proxy: Proxy, near: RedisEngine, far: RedisEngine
) -> None:
    for turn, id in enumerate("abc"):
        before = proxy.requests
        waker = far.results.listen()
        waker.drain()
        assert far.results.get([id], waker) == {}
        near.results.put([result(id)])
        assert fires(waker)
        waker.drain()
        assert far.results.get([id], waker) == {id: result(id)}
        waker.close()
        if turn:  # the first one connects
            assert proxy.requests == before + 1


# ---------------------------------------------------------------------------------- denied rights


DENIED = {
    "tracking": ["-client|tracking"],
    "caching": ["-client|caching"],
}


@pytest.mark.parametrize("denied", sorted(DENIED))
def test_where_tracking_is_denied_who_publishes_rings(
    server: RedisServer, near: RedisEngine, prefix: str, denied: str
) -> None:
    with redis.Redis(port=server.port) as admin:
        rights = ["~*", "&*", "+@all", *DENIED[denied]]
        admin.execute_command("ACL", "SETUSER", denied, "on", ">secret", *rights)
    engine = open_engine(server.url.replace("://", f"://{denied}:secret@"), prefix)
    worker = engine.state.register(record())
    waker = engine.broker.listen(["q"])
    engine.broker.claim(worker, ["q"], 2, waker)
    near.broker.publish([message("a")])  # a producer that learns of such a worker
    for id in "bc":
        while engine.broker.claim(worker, ["q"], 2, waker).deliveries:
            pass
        while fires(waker, 0):
            waker.drain()
        near.broker.publish([message(id)])
        assert fires(waker)
    # Results come by their own channels.
    listener = engine.results.listen()
    listener.drain()
    assert engine.results.get(["r"], listener) == {}
    near.results.put([result("r")])
    assert fires(listener)
    listener.close()
    waker.close()
    engine.close()


def test_a_producer_that_may_not_ring_sends_all_the_same(
    server: RedisServer, near: RedisEngine, prefix: str
) -> None:
    with redis.Redis(port=server.port) as admin:
        rights = ["~*", "resetchannels", "+@all"]
        admin.execute_command("ACL", "SETUSER", "mute", "on", ">secret", *rights)
        admin.set(f"{prefix}umbel:deaf", 1)
    engine = open_engine(server.url.replace("://", "://mute:secret@"), prefix)
    engine.broker.publish([message("a")])
    assert [count.ready for count in near.broker.counts()] == [1]
    engine.close()


# ---------------------------------------------------------------------------- another server's turn


@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_became_a_replica_does_not_say_that_nothing_waits(
    server: RedisServer, near: RedisEngine, listening: bool
) -> None:
    worker = near.state.register(record())
    waker = near.broker.listen(["q"]) if listening else None
    near.broker.claim(worker, ["q"], 2, waker)
    near.broker.publish([message("a")])
    with redis.Redis(port=server.port) as admin:
        admin.replicaof("127.0.0.1", free_port())
        try:
            with pytest.raises(OperationalError):
                near.broker.claim(worker, ["q"], 2, waker)
        finally:
            admin.replicaof("NO", "ONE")
    assert len(near.broker.claim(worker, ["q"], 2, waker).deliveries) == 1
    if waker is not None:
        waker.close()


def test_who_listens_moves_with_the_others(
    proxy: Proxy, near: RedisEngine, far: RedisEngine
) -> None:
    """Once a call has found out that the server is another, the waker's connection is made anew."""
    worker = far.state.register(record())
    waker = far.broker.listen(["q"])
    far.broker.claim(worker, ["q"], 2, waker)
    line = waker._line
    proxy.lose_answer(b"HGETALL")
    far.broker._server.call([("HGETALL", "x")])
    assert far.broker.claim(worker, ["q"], 2, waker).deliveries == []
    assert waker._line is not line
    near.broker.publish([message("a")])
    assert fires(waker)
    waker.close()
