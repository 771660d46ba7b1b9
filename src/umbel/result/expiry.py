"""How long a result is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.states import FAILURE

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings


def expiry(conf: Settings, status: str, now: float) -> float | None:
    """The Unix time at which a result that is stored now expires; None: never."""
    seconds = conf.result_expires
    if status == FAILURE and conf.result_failure_expires is not None:
        seconds = conf.result_failure_expires
    return now + seconds if seconds else None
