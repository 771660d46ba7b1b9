"""A task for tests of workers (`celery.contrib.testing.tasks`); every app has it."""

from __future__ import annotations

from typing import Final

from umbel.app import shared_task

PING: Final = "celery.ping"


@shared_task(name=PING)
def ping() -> str:
    """Return "pong"."""
    return "pong"
