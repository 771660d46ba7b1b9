"""Once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from umbel.schedules.base import BaseSchedule

if TYPE_CHECKING:
    from umbel.app import App


class clocked(BaseSchedule):  # noqa: N801  (django-celery-beat's name)
    """Once, at that time: `clocked(datetime(2027, 1, 1, tzinfo=UTC))`, or a Unix time.

    A datetime without a zone means UTC.
    """

    def __init__(
        self,
        clocked_time: datetime | float,
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(nowfun, app)
        if not isinstance(clocked_time, datetime):
            clocked_time = datetime.fromtimestamp(clocked_time, UTC)
        self.clocked_time = self.maybe_make_aware(clocked_time)

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:  # noqa: ARG002
        """The time itself, as long as it lies ahead."""
        due = self.clocked_time.timestamp()
        return due if due > after else None

    def __repr__(self) -> str:
        return f"<clocked: {self.clocked_time.isoformat()}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, clocked) and self.clocked_time == other.clocked_time

    def __hash__(self) -> int:
        return hash(self.clocked_time)

    def __reduce__(self) -> tuple[type[clocked], tuple[Any, ...]]:
        return type(self), (self.clocked_time,)
