"""Workers of each pool, on the fault suite's store and oracle."""

from __future__ import annotations

from tests.faults.conftest import project, record_nothing, redis_server, see_plant

__all__ = ["project", "record_nothing", "redis_server", "see_plant"]
