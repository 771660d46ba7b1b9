"""Redis: servers that die, hang, refuse or lose an answer."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.conftest import Rounds
from tests.faults.oracle import wait_until
from tests.faults.processes import Project
from tests.servers import Proxy, RedisServer
from umbel import App
from umbel.engines.broker import Delivery, Message
from umbel.engines.redis import RedisEngine
from umbel.engines.urls import mask
from umbel.exceptions import ImproperlyConfigured, OperationalError
from umbel.testing.contracts.values import message, record, result, settlement

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test stops."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
def proxy(shared: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(shared.port)
    yield proxy
    proxy.close()


def open_engine(url: str) -> RedisEngine:
    prefix = f"{secrets.token_hex(4)}:"
    return RedisEngine(url, mask(url), {"global_keyprefix": prefix, "result_keyprefix": prefix})


# ------------------------------------------------------------------------------------- publishing


@pytest.mark.parametrize("fault", ["refuses", "is silent", "wrong password", "no such host"])
def test_a_publish_ends_within_its_deadline(fault: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        private = None
        if fault == "refuses":
            silent.close()
        elif fault == "wrong password":
            private = RedisServer(tmp_path, "--requirepass", "right").start()
            port = private.port
        host = "no-such-host.invalid" if fault == "no such host" else "127.0.0.1"
        app = App("test", broker=f"redis://:hunter2@{host}:{port}/0")
        app.conf.task_publish_timeout = 1.0

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        try:
            start = time.monotonic()
            with pytest.raises(OperationalError) as caught:
                add.delay(1, 2)
            spent = time.monotonic() - start
        finally:
            if private is not None:
                private.kill()
    assert spent < 1.5
    assert f"redis://:**@{host}:{port}/0" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!r}"
        error = error.__cause__


def test_a_publish_waits_for_a_server_that_comes_back(server: RedisServer) -> None:
    engine = open_engine(server.url)
    engine.broker.publish([message("a")])
    server.kill()
    with pytest.raises(OperationalError):
        engine.broker.publish([message("b")], timeout=0.3)
    server.start()
    engine.broker.publish([message("c")])
    (count,) = engine.broker.counts()
    assert count.ready == 2
    engine.close()


def test_the_first_of_several_servers_that_answers_serves(server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"redis://127.0.0.1:{gone.getsockname()[1]}/0"
    engine = open_engine(f"{dead};{server.url}")
    engine.broker.publish([message("a")])
    assert [count.ready for count in engine.broker.counts()] == [1]
    engine.close()


# ---------------------------------------------------------------------------------- lost answers


def open_through(proxy: Proxy) -> RedisEngine:
    engine = open_engine(f"redis://127.0.0.1:{proxy.port}/0")
    engine.broker.counts()  # connected, and the first use is over
    return engine


@pytest.mark.parametrize("where", ["ready", "claimed", "delayed", "ended"])
def test_a_publish_whose_answer_is_lost_leaves_one_message(
    proxy: Proxy, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_through(proxy)
    worker = engine.state.register(record())
    sent = message("a", due=time.time() + 3600 if where == "delayed" else None)
    broker = engine.broker
    look = broker._arrived

    def go_on(sent: Message, deadline: float) -> bool:
        # Between the first try and the second, somebody claims it, and perhaps ends it.
        if where in {"claimed", "ended"}:
            held = broker.claim(worker, ["q"], 1).deliveries
            if where == "ended":
                assert broker.settle([settlement(held[0], result=result("a"))]) == []
        return look(sent, deadline)

    monkeypatch.setattr(broker, "_arrived", go_on)
    proxy.lose_answer(b"LPUSH" if where != "delayed" else b"HSETNX")
    broker.publish([sent])
    assert proxy.lost.is_set()
    expected = {"ready": 1, "claimed": 1, "delayed": 1, "ended": 0}
    assert sum(c.ready + c.delayed + c.claimed for c in broker.counts()) == expected[where]
    engine.close()


def test_a_claim_whose_answer_is_lost_is_told_again(proxy: Proxy) -> None:
    engine = open_through(proxy)
    worker = engine.state.register(record())
    broker = engine.broker
    broker.publish([message(id) for id in "abcd"])
    broker.claim(worker, ["q"], 1)
    proxy.lose_answer(b"EVALSHA")
    told: list[Delivery] = broker.claim(worker, ["q"], 2).deliveries
    assert proxy.lost.is_set()
    assert sorted(d.number for d in told) == sorted(
        d.number for d in engine.state.claims(worker)[1:]
    )
    assert len(told) == 2
    assert broker.settle([settlement(held) for held in told]) == []
    assert len(broker.claim(worker, ["q"], 9).deliveries) == 1
    engine.close()


def test_a_settlement_whose_answer_is_lost_is_not_refused(proxy: Proxy) -> None:
    engine = open_through(proxy)
    worker = engine.state.register(record())
    broker = engine.broker
    broker.publish([message("a"), message("b")])
    held = broker.claim(worker, ["q"], 2).deliveries
    assert broker.settle([settlement(held[0])]) == []
    proxy.lose_answer(b"EVALSHA")
    follow_up = (message("c"),)
    assert broker.settle([settlement(held[1], result=result("b"), follow_ups=follow_up)]) == []
    assert proxy.lost.is_set()
    assert [count.ready for count in broker.counts()] == [1]
    engine.close()


# ----------------------------------------------------------------------------------- the server


def test_a_worker_outlives_its_server(
    server: RedisServer, tmp_path: Path, seed: str, rounds: Rounds
) -> None:
    """Killed and started again, again and again: the worker goes on by itself, nothing is lost."""
    project = Project(tmp_path, Random(seed), seed, url=server.url)
    try:
        worker = project.worker()
        for _ in range(rounds(short=2, full=20)):
            jobs = [project.send("work") for _ in range(50)]
            project.wait_for_runs(jobs[0].id)
            server.kill()
            time.sleep(project.chance.uniform(0.0, 1.0))
            server.start()
            back = time.monotonic()
            jobs.append(project.send("work"))
            jobs[-1].get(timeout=10)
            assert time.monotonic() - back < 5, "the worker took too long to come back"
        project.drain()
        worker.stop()
        project.oracle.judge(project.engine).demand_soundness()
    finally:
        project.close()


def test_scripts_are_loaded_again(server: RedisServer) -> None:
    engine = open_engine(server.url)
    worker = engine.state.register(record())
    server.kill()
    server.start()
    engine.broker.publish([message("a")])
    assert len(engine.broker.claim(worker, ["q"], 1).deliveries) == 1
    engine.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused_or_told_of(
    tmp_path: Path, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", policy).start()
    try:
        engine = open_engine(server.url)
        if policy == "allkeys-lru":
            with pytest.raises(ImproperlyConfigured, match="silently deletes queued tasks"):
                engine.state.register(record())
            engine.close()
            engine = RedisEngine(server.url, server.url, {"allow_eviction": True})
        with caplog.at_level(logging.WARNING):
            engine.state.register(record())
        assert f"maxmemory-policy {policy}" in caplog.text
        engine.close()
    finally:
        server.kill()


def test_without_tracking_a_worker_looks_now_and_then(
    server: RedisServer, tmp_path: Path, seed: str
) -> None:
    import redis

    with redis.Redis(port=server.port) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "small", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"
        )
    url = server.url.replace("://", "://small:secret@")
    project = Project(tmp_path, Random(seed), seed, url=url)
    try:
        worker = project.worker()
        wait_until(lambda: "denies CLIENT TRACKING" in worker.output, "the warning")
        start = time.monotonic()
        project.send("work").get(timeout=5)
        assert time.monotonic() - start < 3
        worker.stop()
    finally:
        project.close()
