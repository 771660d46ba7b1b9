"""What dead Celery workers left in `unacked`, beside living ones that hold some of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.celery.peers import make_app
from tests.celery.processes import ROOT, Peer, url_of
from tests.faults.oracle import wait_until
from tests.servers import RedisServer
from umbel.engines.redis import RedisEngine
from umbel.engines.redis.unacked import Unacked, Unanswered

pytestmark = pytest.mark.timeout(120)


class Late(Peer):
    """A Celery worker that acknowledges late, and so keeps what it runs in `unacked`."""

    def kill(self) -> None:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._process.kill()
        self._process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), 9)

    def pause(self) -> None:
        self._process.send_signal(19)

    def go_on(self) -> None:
        self._process.send_signal(18)


@pytest.fixture
def start(server: RedisServer, tmp_path: Path) -> Iterator[Callable[[], Late]]:
    started: list[Late] = []

    def start() -> Late:
        started.append(Late("celery", url_of(server, 1), tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one._process.poll() is None:
            one.kill()


@pytest.fixture
def held(server: RedisServer) -> Iterator[Unacked]:
    engine = RedisEngine(url_of(server, 1), "redis")
    yield engine.unacked
    engine.close()


def send(server: RedisServer, folder: Path, mark: str) -> str:
    """A task that runs until a file is there."""
    app = make_app("celery", url_of(server, 1))
    return str(app.send_task("interop.wait", (str(folder / mark), str(folder / f"{mark}.ran"))).id)


def run_umbel(server: RedisServer, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "INTEROP_PEER": "umbel", "INTEROP_URL": url_of(server, 1),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "umbel", "-A", "tests.celery.peers", "dead", "recover", *words],
        env=environment, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_dead_workers_left_runs_and_the_livings_is_left_alone(
    server: RedisServer,
    client: redis.Redis,
    start: Callable[[], Late],
    held: Unacked,
    tmp_path: Path,
) -> None:
    first = send(server, tmp_path, "first")
    dead = start()
    wait_until((tmp_path / "first.ran").exists, "it runs the first", 40)
    dead.kill()
    assert client.hlen("unacked") == 1
    second = send(server, tmp_path, "second")
    living = start()
    wait_until((tmp_path / "second.ran").exists, "it runs the second", 40)

    found = run_umbel(server, "--dry-run", "--json")
    document = json.loads(found.stdout)
    assert set(document) == {"store", "unacked", "recovered"}
    rows: list[dict[str, Any]] = document["unacked"]
    assert set(rows[0]) == {"tag", "id", "task", "queue", "received", "held"}
    assert {(row["id"], row["held"], row["queue"]) for row in rows} == {
        (first, False, "interop"), (second, True, "interop"),
    }  # fmt: skip
    assert client.hlen("unacked") == 2
    assert "1 message would be put back" in run_umbel(server, "--dry-run").stdout

    assert run_umbel(server, "--json").returncode == 64  # nobody is asked
    done = run_umbel(server, "--json", "-f")
    assert json.loads(done.stdout)["recovered"] == 1
    assert (tmp_path / "first.ran").exists()
    (tmp_path / "first.ran").unlink()
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    app = make_app("celery", url_of(server, 1))
    assert app.AsyncResult(second).get(timeout=30) == "celery"
    assert app.AsyncResult(first).get(timeout=30) == "celery"
    assert (tmp_path / "first.ran").exists()
    wait_until(lambda: client.hlen("unacked") == 0, "both are acknowledged")
    living.stop()


def test_nothing_is_touched_while_a_living_worker_is_silent(
    server: RedisServer,
    client: redis.Redis,
    start: Callable[[], Late],
    held: Unacked,
    tmp_path: Path,
) -> None:
    send(server, tmp_path, "only")
    worker = start()
    wait_until((tmp_path / "only.ran").exists, "it runs", 40)
    worker.pause()
    with pytest.raises(Unanswered) as caught:
        held.look(0.5)
    assert (caught.value.living, caught.value.answered) == (1, 0)
    told = run_umbel(server, "-f", "--wait", "0.5")
    assert told.returncode == 1
    assert "1 of 1 living Celery worker did not answer within 0.5 s" in told.stderr
    worker.go_on()
    (one,) = held.look(10)
    assert one.held
    assert held.recover([one]) == 0
    assert client.hlen("unacked") == 1
    assert list(client.scan_iter("*reply.celery.pidbox")) == []


def test_what_has_changed_since_the_look_is_left_alone(client: redis.Redis, held: Unacked) -> None:
    """It was acknowledged meanwhile, or restored and taken by a living worker."""
    envelope = {
        "body": "W10=", "headers": {"id": "x", "task": "t"}, "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {"delivery_info": {"exchange": "", "routing_key": "q"}, "priority": 6},
    }  # fmt: skip
    for tag in ("gone", "again", "left", "bound", "nowhere"):
        exchange = {"bound": "shop", "nowhere": "lost"}.get(tag, "")
        client.hset("unacked", tag, json.dumps([envelope, exchange, "q"]))
        client.zadd("unacked_index", {tag: 1.5})
    client.hset("unacked", "broken", "{not json")
    client.sadd("_kombu.binding.shop", "q\x06\x16\x06\x16bound-queue", "z\x06\x16\x06\x16other")
    found = held.look(1)
    assert {one.tag: one.queue for one in found} == {
        "gone": "q", "again": "q", "left": "q", "bound": "bound-queue", "nowhere": "", "broken": "",
    }  # fmt: skip
    client.hdel("unacked", "gone")
    client.zadd("unacked_index", {"again": 2.5})
    assert held.recover(found) == 2
    (back,) = client.lrange("q\x06\x166", 0, -1)
    assert json.loads(back)["properties"]["delivery_info"]["redelivered"]
    assert json.loads(back)["headers"]["redelivered"]
    assert client.llen("q\x06\x166") == client.llen("bound-queue\x06\x166") == 1
    assert set(client.hkeys("unacked")) == {"again", "nowhere", "broken"}


def test_only_a_redis_has_any(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "umbel", "-b", "sqlite:///x.db", "dead", "recover"],
        cwd=tmp_path, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 64
    assert "is no Redis" in told.stderr
