"""At an event of the sun, by ephem (`pip install "umbel[solar]"`)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.exceptions import ImproperlyConfigured
from umbel.schedules.base import BaseSchedule

if TYPE_CHECKING:
    from umbel.app import App


class _Event(NamedTuple):
    horizon: str
    """Degrees above the horizon at which the sun then stands; -0:34 is what the air bends."""
    method: str
    of_center: bool
    """Whether the sun's centre is meant, not its upper rim."""


EVENTS: Final = {
    "dawn_astronomical": _Event("-18", "next_rising", True),
    "dawn_nautical": _Event("-12", "next_rising", True),
    "dawn_civil": _Event("-6", "next_rising", True),
    "sunrise": _Event("-0:34", "next_rising", False),
    "solar_noon": _Event("0", "next_transit", False),
    "sunset": _Event("-0:34", "next_setting", False),
    "dusk_civil": _Event("-6", "next_setting", True),
    "dusk_nautical": _Event("-12", "next_setting", True),
    "dusk_astronomical": _Event("-18", "next_setting", True),
}
MOST_DAYS: Final = 366
"""How far to look for an event that does not come every day, near the poles."""


class solar(BaseSchedule):  # noqa: N801  (Celery's name)
    """At an event of the sun: `solar("sunset", 48.2, 16.4)`, latitude and longitude in degrees.

    Events: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil,
    dusk_nautical, dusk_astronomical. Days on which it does not come are passed over.
    `ImproperlyConfigured` without ephem, `ValueError` for what is no event or no place.
    """

    def __init__(
        self,
        event: str,
        lat: float,
        lon: float,
        nowfun: Callable[[], datetime] | None = None,
        app: App | None = None,
    ) -> None:
        super().__init__(nowfun, app)
        try:
            import ephem
        except ImportError as error:
            raise ImproperlyConfigured(
                'solar schedules need ephem: pip install "umbel[solar]".'
            ) from error
        if event not in EVENTS:
            raise ValueError(f"There is no event {event!r} of the sun; write one of "
                             f"{', '.join(EVENTS)}.")  # fmt: skip
        for name, value, most in (("latitude", lat, 90), ("longitude", lon, 180)):
            if not -most <= value <= most:
                raise ValueError(f"The {name} must be from -{most} to {most} degrees; got {value}.")
        self.event, self.lat, self.lon = event, lat, lon
        self._ephem = ephem
        self._observer = observer = ephem.Observer()
        observer.lat, observer.lon, observer.elev = str(lat), str(lon), 0
        observer.horizon, observer.pressure = EVENTS[event].horizon, 0

    def next_tick(self, after: float, zone: tzinfo | None = None) -> float | None:  # noqa: ARG002
        """The first such event after a Unix time; None if there is none in a year."""
        ephem, observer, event = self._ephem, self._observer, EVENTS[self.event]
        sun, find = ephem.Sun(), getattr(observer, event.method)
        start: Any = datetime.fromtimestamp(after, UTC).replace(tzinfo=None)
        options = {"use_center": True} if event.of_center else {}
        for _ in range(MOST_DAYS):
            try:
                found = find(sun, start=start, **options)
            except ephem.CircumpolarError:
                start = observer.next_antitransit(sun, start=start)
                continue
            due: float = round(found.datetime().replace(tzinfo=UTC).timestamp(), 6)
            if due > after:
                return due
            start = ephem.Date(found + ephem.minute)  # the same one, but for its rounding
        return None

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, solar) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[str, float, float]:
        return self.event, self.lat, self.lon

    def __reduce__(self) -> tuple[type[solar], tuple[Any, ...]]:
        return type(self), self._place()
