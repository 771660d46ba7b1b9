import os
import secrets
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from umbel.engines.apart import ApartEngine
from umbel.engines.memory import MemoryEngine
from umbel.engines.redis import RedisEngine
from umbel.testing.contracts import (
    BrokerContract,
    ResultStoreContract,
    ScheduleContract,
    SettlementContract,
    SharingContract,
    StateStoreContract,
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


class TestSettlements(OnRedis, SettlementContract):
    pass


class TestResults(OnRedis, ResultStoreContract):
    pass


class TestSchedules(OnRedis, ScheduleContract):
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


class TestResultsApart(ResultsApart, ResultStoreContract):
    pass


class TestSchedulesApart(ResultsApart, ScheduleContract):
    pass


class TestStateApart(ResultsApart, StateStoreContract):
    pass
