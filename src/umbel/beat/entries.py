"""An entry: what is run when, as the code or somebody at run time has said it.

As bytes an entry is its *definition*, which names no code: whoever reads it can fire it. Where only
the code can tell what is meant (a schedule of the user's own, lazy arguments), the definition says
so, and only a scheduler whose code declares an entry of the same definition fires it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import msgspec

from umbel.app.sending.carried import carry
from umbel.exceptions import DecodeError, EncodeError, ImproperlyConfigured
from umbel.message import serializer
from umbel.schedules import BaseSchedule, clocked, cron, crontab, maybe_schedule, schedule, solar
from umbel.schedules.zones import find_zone

if TYPE_CHECKING:
    from umbel.app import App

Misfire = Literal["skip", "once", "all"]
"""What becomes of ticks that came while no scheduler ran: none of them is run, the latest one, or
each."""
MOST_MISFIRES: Final = 100
"""How many of them `all` runs, the latest ones, unless the entry says otherwise."""
MOST_LIMIT: Final = 100_000
"""What an entry may say instead, at most."""
SHORTEST: Final = 0.001
"""Seconds between two ticks, at least."""
LONGEST: Final = 100 * 366 * 86400
"""Seconds between two ticks, at most."""
END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""Unix time after which nothing is due: soon there are no dates any more."""
CELERY_KEYS: Final = frozenset(
    {"name", "task", "schedule", "args", "kwargs", "options", "relative", "last_run_at",
     "total_run_count"}
)  # fmt: skip
OWN_KEYS: Final = frozenset({"timezone", "misfire", "misfire_limit", "jitter"})
KINDS: Final[dict[str, type[BaseSchedule]]] = {
    "every": schedule,
    "crontab": crontab,
    "cron": cron,
    "solar": solar,
    "clocked": clocked,
}
"""The schedules that a definition can hold, each by the arguments that make it."""


@dataclass(frozen=True)
class Entry:
    """One periodic task."""

    name: str
    task: str
    """The task's name; it need not be known here."""
    schedule: Any
    """A schedule of `umbel.schedules`, or anything that answers `is_due`."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `apply_async`."""
    timezone: str | None = None
    """The IANA name of its zone; None: the schedule's own, or the app's."""
    misfire: Misfire = "once"
    misfire_limit: int = MOST_MISFIRES
    jitter: float = 0.0
    """Seconds by which each run is put off at most, at random."""
    last_run_at: float | None = field(default=None, compare=False)
    """Unix time of the tick before the first one; None: the time when it is added."""

    @property
    def zone(self) -> tzinfo:
        """The zone by which it goes."""
        if self.timezone is not None:
            return find_zone(self.timezone)
        zone: tzinfo = getattr(self.schedule, "tz", None) or find_zone("UTC")
        return zone


def read_entry(name: str, given: object, app: App) -> Entry:
    """The entry of an item of `beat_schedule`; `ImproperlyConfigured` says what is wrong."""
    where = f"beat_schedule[{name!r}]"
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{where} must be a dict with task and schedule; got {given!r}.")
    unknown = sorted(str(key) for key in given.keys() - CELERY_KEYS - OWN_KEYS)
    if unknown:
        near = get_close_matches(unknown[0], CELERY_KEYS | OWN_KEYS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else (
            f"There are: {', '.join(sorted(CELERY_KEYS | OWN_KEYS))}."
        )  # fmt: skip
        raise ImproperlyConfigured(f"{where} has an unknown key {unknown[0]!r}. {hint}")
    for key in ("task", "schedule"):
        if given.get(key) is None:
            raise ImproperlyConfigured(f"{where} has no {key!r}.")
    own = {key: given[key] for key in OWN_KEYS if given.get(key) is not None}
    try:
        return make_entry(
            app, name, given["task"], given["schedule"], given.get("args"), given.get("kwargs"),
            given.get("options"), relative=bool(given.get("relative")),
            last_run_at=given.get("last_run_at"), **own,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{where}: {error}") from error


def make_entry(
    app: App,
    name: Any,
    task: Any,
    when: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    relative: bool = False,
    timezone: str | tzinfo | None = None,
    misfire: Misfire = "once",
    misfire_limit: Any = MOST_MISFIRES,
    jitter: Any = 0.0,
    last_run_at: datetime | None = None,
) -> Entry:
    """A checked entry; `TypeError` or `ValueError` says what is wrong with which part."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of an entry is text; got {name!r}")
    task = getattr(task, "name", task)
    if not isinstance(task, str) or not task:
        raise TypeError(f"task must be a task or its name; got {task!r}")
    if args is not None and (isinstance(args, (str, bytes)) or not isinstance(args, Sequence)):
        raise TypeError(f"args must be a list or tuple; got {args!r} (one argument: ({args!r},))")
    for part, value in (("kwargs", kwargs), ("options", options)):
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{part} must be a dict; got {value!r}")
    if misfire not in get_args(Misfire):
        raise ValueError(f"misfire must be 'skip', 'once' or 'all'; got {misfire!r}")
    if type(misfire_limit) is not int or not 1 <= misfire_limit <= MOST_LIMIT:
        raise ValueError(
            f"misfire_limit must be a whole number from 1 to {MOST_LIMIT}; got {misfire_limit!r}"
        )
    if isinstance(jitter, timedelta):
        jitter = jitter.total_seconds()
    if not isinstance(jitter, (int, float)) or not 0 <= jitter < float("inf"):
        raise ValueError(f"jitter must be seconds, 0 or more; got {jitter!r}")
    carry(task, options or {})  # which refuses what is no option
    return Entry(
        name, task, _check_schedule(when, app, relative=relative), tuple(args or ()),
        dict(kwargs or {}), dict(options or {}), _zone_name(timezone), misfire, misfire_limit,
        float(jitter), None if last_run_at is None else _unix_time("last_run_at", last_run_at),
    )  # fmt: skip


def _unix_time(name: str, at: object) -> float:
    """The Unix time of a datetime, which is in UTC if it does not say."""
    if not isinstance(at, datetime):
        raise TypeError(f"{name} must be a datetime; got {at!r}")
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _check_schedule(when: Any, app: App, *, relative: bool) -> Any:
    if isinstance(when, bool) or when is None:
        raise TypeError(f"schedule must be seconds, a timedelta, a schedule or cron's line; "
                        f"got {when!r}")  # fmt: skip
    if not isinstance(when, (int, float, str, timedelta)) and not callable(
        getattr(when, "is_due", None)
    ):
        raise TypeError(f"schedule must be seconds, a timedelta, a schedule or cron's line; "
                        f"{when!r} has no is_due()")  # fmt: skip
    try:
        made = maybe_schedule(when, relative, app)
    except ValueError as error:
        if isinstance(when, str):
            raise
        raise ValueError(f"schedule must be a number of seconds: {error}") from error
    if type(made) is schedule and made.seconds < SHORTEST:
        raise ValueError(f"schedule must be at least {SHORTEST} s; got {made.seconds:g} s")
    if type(made) is schedule and made.seconds > LONGEST:
        raise ValueError(f"schedule must be at most {LONGEST} s; got {made.seconds:g} s")
    if type(made) is clocked and made.clocked_time.timestamp() > END_OF_TIME:
        raise ValueError(f"schedule must be before the year 9999; got {made.clocked_time}")
    return made


def _zone_name(zone: str | tzinfo | None) -> str | None:
    """The name of a zone; `ValueError` if there is none."""
    if zone is None:
        return None
    name = getattr(zone, "key", None) or str(zone)
    find_zone(name)
    return name


# --------------------------------------------------------------------------------- definitions


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry as bytes."""

    task: str
    schedule: dict[str, Any]
    call: msgspec.Raw
    """`[args, kwargs, options]`."""
    timezone: str | None = None
    misfire: Misfire = "once"
    misfire_limit: int = MOST_MISFIRES
    jitter: float = 0.0
    owner: str | None = None
    """The app whose code declares it; None: it was added at run time."""
    needs_code: bool = False
    """Schedule or arguments are only described: their code is needed."""


def encode(entry: Entry, owner: str | None) -> bytes:
    """The definition of an entry."""
    when, needs_code = _describe_schedule(entry.schedule)
    try:
        call = serializer.dumps([list(entry.args), entry.kwargs, entry.options])
    except EncodeError:
        needs_code = True
        call = msgspec.json.encode(
            _strip_addresses(repr((entry.args, entry.kwargs, entry.options)))
        )
    return msgspec.json.encode(
        Definition(
            entry.task, when, msgspec.Raw(call), _zone_of_wall(entry), entry.misfire,
            entry.misfire_limit, entry.jitter, owner, needs_code,
        )
    )  # fmt: skip


def decode(definition: bytes) -> Definition:
    """A definition read back; `DecodeError` if this package cannot read it."""
    try:
        return _read_definition(definition)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"no definition of an entry that this version knows: {error}") from None


def restore(name: str, definition: Definition, app: App) -> Entry:
    """The entry that a definition is of; `DecodeError` if it needs code, or is not readable."""
    if definition.needs_code:
        raise DecodeError("it needs the code that declares it")
    try:
        ((kind, values),) = definition.schedule.items()
        when = read_schedule(kind, values)
        when.app = app
        args, kwargs, options = cast("list[Any]", serializer.loads(bytes(definition.call)))
        return Entry(
            name, definition.task, when, list(args), dict(kwargs), dict(options),
            _zone_name(definition.timezone), definition.misfire, definition.misfire_limit,
            definition.jitter,
        )  # fmt: skip
    except ImproperlyConfigured as error:  # something is not installed here
        raise DecodeError(str(error)) from error
    except Exception as error:  # whatever a later version, or somebody else, has written there
        raise DecodeError(f"no definition that this version knows: {error!r}") from error


def read_schedule(kind: str, values: Sequence[Any]) -> BaseSchedule:
    """A schedule from its kind and the arguments that make it."""
    if kind == "clocked":
        values = [datetime.fromisoformat(values[0])]
    return KINDS[kind](*values)


def _describe_schedule(when: Any) -> tuple[dict[str, Any], bool]:
    """A schedule as plain data, and whether its code is needed to know what it means."""
    for kind, known in KINDS.items():
        if type(when) is known and when.nowfun is None:
            return {
                kind: [_plain(value) for value in when.__reduce__()[1] if value is not None]
            }, False
    kind = f"{type(when).__module__}.{type(when).__qualname__}"
    return {"code": f"{kind}: {_strip_addresses(repr(when))}"}, True


def _zone_of_wall(entry: Entry) -> str | None:
    """The zone of an entry that goes by the clock on the wall, also if it is the app's.

    So one that is read by another app, or after the app has moved, goes on by the zone it is meant
    for.
    """
    when = entry.schedule
    by_wall = isinstance(when, (crontab, cron)) or (isinstance(when, schedule) and when.relative)
    if entry.timezone is not None or not by_wall or when.nowfun is not None:
        return entry.timezone
    zone = entry.zone
    return getattr(zone, "key", None) or str(zone)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, float)) else sorted(value)


def _strip_addresses(text: str) -> str:
    """A repr without what differs between two processes of the same code."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def describe_schedule(when: Mapping[str, Any]) -> str:
    """A definition's schedule for people."""
    try:
        return _describe(when)
    except (TypeError, ValueError, OverflowError, IndexError):
        return "unknown to this version"


def _describe(when: Mapping[str, Any]) -> str:
    ((kind, values),) = when.items()
    if kind == "every":
        return (
            f"every {timedelta(seconds=values[0])}" if values[0] >= 60 else f"every {values[0]:g} s"
        )
    if kind == "crontab":
        minute, hour, of_week, of_month, month = (
            value if isinstance(value, (str, int)) else ",".join(map(str, value))
            for value in values
        )
        return f"crontab {minute} {hour} {of_month} {month} {of_week}"
    if kind == "code":
        return str(values)
    return f"{kind} {' '.join(map(str, values))}"


def same_times(one: Entry, other: Entry) -> bool:
    """Whether two entries have their ticks at the same times."""
    return (_zone_of_wall(one), _describe_schedule(one.schedule)) == (
        _zone_of_wall(other), _describe_schedule(other.schedule),
    )  # fmt: skip


_read_definition = msgspec.json.Decoder(Definition).decode
