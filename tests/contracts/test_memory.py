from collections.abc import Iterator

import pytest

from umbel.engines.memory import MemoryEngine
from umbel.testing.contracts import (
    BrokerContract,
    BrowsingContract,
    ResultStoreContract,
    ScheduleContract,
    SettlementContract,
    StateStoreContract,
    UniqueTagsContract,
    WorkflowContract,
)


class OnMemory:
    @pytest.fixture
    def engine(self) -> Iterator[MemoryEngine]:
        engine = MemoryEngine("contract")
        yield engine
        engine.close()


class TestBroker(OnMemory, BrokerContract):
    pass


class TestBrowsing(OnMemory, BrowsingContract):
    pass


class TestUniqueTags(OnMemory, UniqueTagsContract):
    pass


class TestSettlements(OnMemory, SettlementContract):
    pass


class TestResults(OnMemory, ResultStoreContract):
    pass


class TestSchedules(OnMemory, ScheduleContract):
    pass


class TestState(OnMemory, StateStoreContract):
    pass


class TestWorkflows(OnMemory, WorkflowContract):
    pass
