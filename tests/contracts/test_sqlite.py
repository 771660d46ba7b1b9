from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from umbel.engines.sqlite import SqliteEngine
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


class OnSqlite:
    @pytest.fixture
    def opener(self, tmp_path: Path) -> partial[SqliteEngine]:
        return partial(SqliteEngine, tmp_path / "queue.db")

    @pytest.fixture
    def engine(self, opener: partial[SqliteEngine]) -> Iterator[SqliteEngine]:
        engine = opener()
        yield engine
        engine.close()


class TestBroker(OnSqlite, BrokerContract):
    pass


class TestBrowsing(OnSqlite, BrowsingContract):
    pass


class TestUniqueTags(OnSqlite, UniqueTagsContract):
    pass


class TestSettlements(OnSqlite, SettlementContract):
    pass


class TestResults(OnSqlite, ResultStoreContract):
    pass


class TestSchedules(OnSqlite, ScheduleContract):
    pass


class TestState(OnSqlite, StateStoreContract):
    pass


class TestWorkflows(OnSqlite, WorkflowContract):
    pass


class TestSharing(OnSqlite, SharingContract):
    pass
