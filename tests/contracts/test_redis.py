import os
import secrets
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from umbel import App
from umbel.engines.apart import ApartEngine
from umbel.engines.broker import StoredResult
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
