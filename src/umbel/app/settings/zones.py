"""The app's time zone, and its clock."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from umbel import clock

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings


def zone_of(settings: Settings) -> tzinfo:
    """The setting `timezone`; UTC where it is not given."""
    return ZoneInfo(settings.timezone) if settings.timezone else UTC


def now(settings: Settings) -> datetime:
    """The time in that zone."""
    return datetime.fromtimestamp(clock.time(), zone_of(settings))
