"""For those who test.

`Harness` is what the pytest fixture `umbel` gives (`umbel.testing.harness`). Celery's fixtures and
its embedded worker are in `umbel.contrib.pytest` and `umbel.contrib.testing`.
`umbel.testing.contracts` is the suite that every engine passes; it needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umbel.testing.harness import Harness, QueuedTask

__all__ = ["Harness", "QueuedTask"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        message = f"module 'umbel.testing' has no attribute {name!r}"
        raise AttributeError(message)
    from umbel.testing import harness

    return getattr(harness, name)
