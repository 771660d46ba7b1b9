"""The conformance suite: what a broker, a result store and a state store must do.

An engine passes when each class, given a fixture `engine` that yields an empty, open engine, has no
failing test::

    from umbel.testing.contracts import BrokerContract

    class TestBroker(BrokerContract):
        @pytest.fixture
        def engine(self):
            engine = MyEngine(...)
            yield engine
            engine.close()

So for `BrokerContract`, `SettlementContract`, `ResultStoreContract`, `StateStoreContract`,
`ScheduleContract` and `WorkflowContract`; for one whose broker is `browsable` `BrowsingContract`,
and for one with `unique_tags` `UniqueTagsContract`.
An engine that several processes can open at once also passes `SharingContract`, which needs a
fixture `opener`: a function without arguments, which can be pickled, and which opens the same store
as `engine` in another process.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "broker",
            "capabilities",
            "results",
            "schedules",
            "settlements",
            "sharing",
            "state",
            "workflows",
        )
    )
)

from umbel.testing.contracts.broker import BrokerContract  # noqa: E402  (rewritten from here on)
from umbel.testing.contracts.capabilities import (  # noqa: E402
    BrowsingContract,
    UniqueTagsContract,
)
from umbel.testing.contracts.results import ResultStoreContract  # noqa: E402
from umbel.testing.contracts.schedules import ScheduleContract  # noqa: E402
from umbel.testing.contracts.settlements import SettlementContract  # noqa: E402
from umbel.testing.contracts.sharing import SharingContract  # noqa: E402
from umbel.testing.contracts.state import StateStoreContract  # noqa: E402
from umbel.testing.contracts.workflows import WorkflowContract  # noqa: E402

__all__ = [
    "BrokerContract",
    "BrowsingContract",
    "ResultStoreContract",
    "ScheduleContract",
    "SettlementContract",
    "SharingContract",
    "StateStoreContract",
    "UniqueTagsContract",
    "WorkflowContract",
]
