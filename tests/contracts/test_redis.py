import os
import re
import secrets
import time
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from umbel import App
from umbel.engines.apart import ApartEngine
from umbel.engines.broker import Chord, Kept, Part, StoredResult, Workflow
from umbel.engines.memory import MemoryEngine
from umbel.engines.redis import RedisEngine
from umbel.testing.contracts import (
    BrokerContract,
    BrowsingContract,
    ResultStoreContract,
    ScheduleContract,
    SettlementContract,
    SharingContract,
    StateStoreContract,
    UniqueTagsContract,
    WorkflowContract,
)
from umbel.testing.contracts.values import message, record, settlement

URL = os.environ.get("UMBEL_TEST_REDIS", "redis://127.0.0.1:6379/11")


class OnRedis:
    @pytest.fixture
    def opener(self) -> Iterator[partial[RedisEngine]]:
        prefix = f"contract-{secrets.token_hex(4)}:"
        options = {"global_keyprefix": prefix, "result_keyprefix": prefix}
        yield partial(RedisEngine, URL, URL, options)
        with redis.Redis.from_url(URL) as client:
            if left := list(client.scan_iter(f"{prefix}*", count=1000)):
                client.delete(*left)

    @pytest.fixture
    def engine(self, opener: partial[RedisEngine]) -> Iterator[RedisEngine]:
        engine = opener()
        yield engine
        engine.close()


class TestBroker(OnRedis, BrokerContract):
    pass


class TestBrowsing(OnRedis, BrowsingContract):
    pass


class TestSettlements(OnRedis, SettlementContract):
    pass


class TestResults(OnRedis, ResultStoreContract):
    pass


class TestSchedules(OnRedis, ScheduleContract):
    pass


class TestWorkflows(OnRedis, WorkflowContract):
    pass


class TestBodies(OnRedis):
    """What becomes of the body of a complete chord, whoever dies in between."""

    def test_what_a_dead_worker_left_is_published_once_by_any_other(
        self, engine: RedisEngine, opener: partial[RedisEngine]
    ) -> None:
        broker, keys = engine.broker, engine._keys
        worker = engine.state.register(record())
        flow = Workflow(opened=(Chord("chord", 1, message("body")),))
        broker.publish([message("a")], flow)
        (held,) = broker.claim(worker, ["q"], 1).deliveries
        end = settlement(held, workflow=Workflow(parts=(Part("chord", 0, b"0"),)))
        # The settlement's own command, and nothing of what its sender does with the answer.
        claims = keys.claims(worker)
        ((_, joined),) = engine._server.call([broker.ending(claims, worker, [(held.number, end)])])
        assert joined[0] == b"chord"
        assert broker.claim(worker, ["q"], 5).deliveries == []
        others = [opener() for _ in range(3)]
        for other in others:
            other.broker.promote()
            other.close()
        (body,) = broker.claim(worker, ["q"], 5).deliveries
        assert body.payload == message("body").payload

    def test_every_key_of_a_workflow_ends(self, engine: RedisEngine) -> None:
        broker, keys, end = engine.broker, engine._keys, time.time() + 900
        worker = engine.state.register(record())
        flow = Workflow(
            opened=(Chord("one", 1, message("body"), end), Chord("two", 3, message("other"), end)),
            kept=(Kept("rest", (b"s",), end),), grown=(("two", 1),),
        )  # fmt: skip
        broker.publish([message("a")], flow)
        (held,) = broker.claim(worker, ["q"], 1).deliveries
        parts = (
            Part("one", 0, b"0"),
            Part("two", 0, b"0"),
            Part("other", 0, b"0", "", message("x")),
        )
        broker.settle([settlement(held, workflow=Workflow(parts=parts))])
        with redis.Redis.from_url(URL) as client:
            lives = {
                key: client.ttl(key)
                for key in client.scan_iter(f"{keys.prefix}*", count=1000)
                if re.search(rb"taskset|umbel:(chord|parts|kept|sent)", key)
            }
        assert len(lives) == 10, lives
        assert all(life > 0 for life in lives.values()), lives


class TestState(OnRedis, StateStoreContract):
    pass


class TestSharing(OnRedis, SharingContract):
    pass


class ResultsApart(OnRedis):
    """Messages elsewhere, results on Redis. There is no common step, so no SettlementContract."""

    @pytest.fixture
    def engine(self, opener: partial[RedisEngine]) -> Iterator[ApartEngine]:
        engine = ApartEngine(MemoryEngine("contract"), opener())
        yield engine
        engine.close()


class TestBrokerApart(ResultsApart, BrokerContract):
    pass


class TestBrowsingApart(ResultsApart, BrowsingContract):
    pass


class TestUniqueTagsApart(ResultsApart, UniqueTagsContract):
    """The broker in memory has them."""


class TestResultsApart(ResultsApart, ResultStoreContract):
    pass


class TestSchedulesApart(ResultsApart, ScheduleContract):
    pass


class TestWorkflowsApart(ResultsApart, WorkflowContract):
    pass


class TestStateApart(ResultsApart, StateStoreContract):
    pass


def test_keys_of_messages_and_of_results_have_prefixes_of_their_own() -> None:
    mark = secrets.token_hex(4)
    app = App(
        "prefixes",
        broker=URL,
        backend="broker",
        broker_transport_options={"global_keyprefix": f"sent-{mark}:"},
        result_backend_transport_options={"global_keyprefix": f"kept-{mark}:"},
        set_as_current=False,
    )
    app.send_task("nobody.knows", task_id=f"id-{mark}")
    app.engine.results.put([StoredResult(f"id-{mark}", "SUCCESS", b'{"status": "SUCCESS"}')])
    app.close()
    with redis.Redis.from_url(URL) as client:
        kept = list(client.scan_iter(f"kept-{mark}:*", count=1000))
        sent = list(client.scan_iter(f"sent-{mark}:*", count=1000))
        client.delete(*kept, *sent)
    assert kept == [f"kept-{mark}:celery-task-meta-id-{mark}".encode()]
    assert f"sent-{mark}:celery".encode() in sent
