"""The real Celery on the other end, on one Redis: its clients, its workers, its messages."""

from __future__ import annotations

import json
import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.celery.peers import make_app
from tests.celery.processes import Peer, url_of
from tests.servers import RedisServer

OTHER = {"umbel": "celery", "celery": "umbel"}
PATIENCE = 20.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=["umbel", "celery"])
def pair(
    request: pytest.FixtureRequest, server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any, str]]:
    """A client of one of the two and a worker of the other: (client, its peer's client, worker)."""
    which = request.param
    url = url_of(server, 1 + (which == "celery"))
    worker = Peer(which, url, tmp_path_factory.mktemp(which))
    yield make_app(OTHER[which], url), make_app(which, url), which
    worker.stop()
    print(worker.log.read_text())


Pair = tuple[Any, Any, str]


def get(result: Any) -> Any:
    return result.get(timeout=PATIENCE)


NOW = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)
VALUES: list[Any] = [
    None, True, 0, -(2**62), 1.5, "", "ünï\u2028 \x00", [], {}, [[1, [2]]], {"a": {"b": None}},
    NOW, NOW.replace(tzinfo=None), date(2030, 1, 2), Decimal("1.50"), uuid.UUID(int=7), b"abc",
    b"\xff\xfe", "x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_values_travel_both_ways(pair: Pair, value: Any) -> None:
    client, other, worker = pair
    result = client.send_task("interop.who", (value,), {"key": value})
    assert get(result) == [worker, [value], {"key": value}]
    assert get(other.AsyncResult(result.id)) == [worker, [value], {"key": value}]


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "countdown": {"countdown": 0.5},
    "eta": {"eta": "soon"},
    "expires later": {"expires": 60},
    "priority 0": {"priority": 0},
    "priority 5": {"priority": 5},
    "priority 9": {"priority": 9},
    "zlib": {"compression": "zlib"},
    "bzip2": {"compression": "bzip2"},
    "lzma": {"compression": "lzma"},
    "pickle": {"serializer": "pickle"},
    "yaml": {"serializer": "yaml"},
    "msgpack": {"serializer": "msgpack"},
    "limits": {"time_limit": 30, "soft_time_limit": 20},
    "task_id": {"task_id": "an-id:of:my own"},
    "headers": {"headers": {"tenant": "acme"}},
    "shadow": {"shadow": "another.name"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_mean_the_same(pair: Pair, name: str) -> None:
    client, _, worker = pair
    options = dict(OPTIONS[name])
    if "eta" in options:
        options["eta"] = datetime.now(UTC) + timedelta(seconds=0.5)
    start = time.monotonic()
    result = client.send_task("interop.about", **options)
    about = get(result)
    assert (about["who"], about["id"], about["root_id"]) == (worker, result.id, result.id)
    assert (about["queue"], about["retries"], about["parent_id"]) == ("interop", 0, None)
    assert about["correlation_id"] == result.id
    if name in {"countdown", "eta"}:
        assert time.monotonic() - start >= 0.45
    if name == "limits":
        assert about["timelimit"] == [30, 20]


def test_an_error_comes_back_as_itself(pair: Pair) -> None:
    client, other, _ = pair
    result = client.send_task("interop.fail", ("bang", 42))
    for seen in (result, other.AsyncResult(result.id)):
        with pytest.raises(ValueError, match="bang") as caught:
            get(seen)
        assert caught.value.args == ("bang", 42)
        assert seen.state == "FAILURE"
        assert "raise ValueError" in seen.traceback


def test_a_retry_runs_with_the_same_id(pair: Pair) -> None:
    client, _, worker = pair
    result = client.send_task("interop.again", (2,))
    assert get(result) == [worker, 2, result.id]


def test_what_has_expired_is_revoked(pair: Pair) -> None:
    client, other, _ = pair
    result = client.send_task("interop.who", expires=-5)
    for seen in (result, other.AsyncResult(result.id)):
        with pytest.raises(Exception, match="expired"):
            get(seen)
        assert seen.state == "REVOKED"


def test_an_ignored_result_is_not_stored(pair: Pair) -> None:
    client, _, _ = pair
    ignored = client.send_task("interop.who", ignore_result=True)
    get(client.send_task("interop.who"))  # one worker, one slot: it came after
    assert client.AsyncResult(ignored.id).state == "PENDING"


@pytest.mark.parametrize("pair", ["umbel"], indirect=True)  # Umbel itself writes protocol 2 only
def test_protocol_1_is_read(pair: Pair) -> None:
    client, _, _ = pair
    id = str(uuid.uuid4())
    client.conf.task_protocol = 1
    try:
        result = client.send_task("interop.who", (1,), {"two": 2}, task_id=id)
    finally:
        client.conf.task_protocol = 2
    assert get(result) == ["umbel", [1], {"two": 2}]


def test_results_have_the_same_fields(server: RedisServer, pair: Pair) -> None:
    client, _, worker = pair
    result = client.send_task("interop.who", (1,))
    get(result)
    database = 1 + (worker == "celery")
    with redis.Redis(port=server.port, db=database) as raw:
        name = f"celery-task-meta-{result.id}"
        meta = json.loads(raw.get(name))
        assert 86_000 < raw.ttl(name) <= 86_400
    assert set(meta) >= {"status", "result", "traceback", "children", "date_done", "task_id"}
    assert (meta["name"], meta["queue"], meta["retries"]) == ("interop.who", "interop", 0)
    assert meta["worker"]


# ------------------------------------------------------------------------- messages, field by field


def capture(
    server: RedisServer, which: str, send: Callable[[Any], Any]
) -> tuple[dict[str, Any], Any]:
    """The one message that an app leaves, and its body; nobody works."""
    url = url_of(server, 9)
    with redis.Redis(port=server.port, db=9) as raw:
        raw.flushdb()
        send(make_app(which, url))
        names = [n for n in raw.keys("interop*") if raw.type(n) == b"list"]
        assert len(names) == 1
        message = json.loads(raw.lindex(names[0], 0))
        message["list"] = names[0].decode()
        raw.flushdb()
    return message, json.loads(b64decode(message["body"]))


@pytest.mark.parametrize(
    "options",
    [{}, {"priority": 4}, {"time_limit": 9}, {"expires": 60}, {"shadow": "other"}],
    ids=str,
)
def test_a_message_is_celerys_field_by_field(server: RedisServer, options: dict[str, Any]) -> None:
    def send(app: Any) -> None:
        app.tasks["interop.who"].apply_async((2, "x"), {"k": 1}, task_id="an-id", **options)

    theirs, their_body = capture(server, "celery", send)
    ours, our_body = capture(server, "umbel", send)
    assert our_body == their_body
    assert ours["list"] == theirs["list"]
    own = {
        "headers": {"origin", "expires"},
        "properties": {"reply_to", "delivery_tag", "expiration"},
    }
    for part, differs in own.items():
        assert set(ours[part]) == set(theirs[part])
        for key in set(ours[part]) - differs:
            assert ours[part][key] == theirs[part][key], key
    for part in ("content-type", "content-encoding"):
        assert ours[part] == theirs[part]


def test_a_queue_is_bound_as_celery_binds_it(server: RedisServer) -> None:
    bindings = []
    for which in ("celery", "umbel"):
        with redis.Redis(port=server.port, db=8) as raw:
            raw.flushdb()
            make_app(which, url_of(server, 8)).send_task("interop.who", queue="bound")
            bindings.append({n: raw.smembers(n) for n in raw.keys("_kombu.binding*.bound")})
            raw.flushdb()
    assert bindings[0] == bindings[1]


# ------------------------------------------------------------------------------- both on one queue


def test_both_workers_on_one_queue(server: RedisServer, tmp_path: Path) -> None:
    url = url_of(server, 3)
    apps = {which: make_app(which, url) for which in OTHER}
    workers = [Peer(which, url, tmp_path) for which in OTHER]
    try:
        sent = {}
        ran: set[str] = set()
        end = time.monotonic() + 60
        while len(ran) < 2 and time.monotonic() < end:
            for which, app in apps.items():
                for n in range(25):
                    arguments = ([which, n],)
                    result = app.send_task("interop.who", arguments, priority=n % 10)
                    sent[result.id] = [which, n]
            for id, value in sent.items():
                for app in apps.values():
                    worker, got, _ = get(app.AsyncResult(id))
                    assert got == [value]
                    ran.add(worker)
        assert ran == {"umbel", "celery"}
    finally:
        for worker in workers:
            worker.stop()
