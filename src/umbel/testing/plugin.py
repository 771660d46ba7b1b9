"""The pytest plugin that every project with Umbel installed has: the one fixture `umbel`.

It loads nothing until a test asks for the fixture. Celery's fixtures: `-p umbel.contrib.pytest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from umbel.testing.harness import Harness


@pytest.fixture
def umbel() -> Iterator[Harness]:
    """What this test sends waits in memory: `umbel.queued`, `umbel.run()`, `umbel.advance()`."""
    from umbel.testing.harness import Harness

    with Harness() as harness:
        yield harness
