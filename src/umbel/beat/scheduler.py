"""The scheduler: finds the entries that are due and fires their ticks.

Any number of them may run on one store, and none is in charge: a tick is the change of its entry's
record together with the tick's message, and a change from a state that has passed is refused. So
neither a scheduler that is killed, stopped or late, nor one whose clock is wrong, can lose or
double a tick. One that was refused has a quicker neighbour, and lets it go first for a moment.
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from umbel import clock
from umbel.app.sending.parcel import Parcel, announce
from umbel.beat import records
from umbel.beat.declared import follow, owner_of, read_declared
from umbel.beat.entries import Entry, decode, encode, restore
from umbel.beat.records import Body, ScheduleStore, read_body
from umbel.beat.sending import build
from umbel.beat.ticks import ON_TIME, Turn, take_turn
from umbel.beat.watch import Watch
from umbel.engines.broker import Message
from umbel.engines.state import ScheduleChange, ScheduleRecord
from umbel.exceptions import DecodeError, OperationalError

if TYPE_CHECKING:
    from umbel.app import App

logger: logging.Logger = logging.getLogger("umbel.beat")

LOOK_EVERY: Final = 0.5
"""Longest sleep in seconds: so soon is an entry in force that somebody adds or edits."""
BATCH: Final = 100
"""Entries that are dealt with in one step."""
PATIENCE: Final = (0.2, 0.5)
"""For how many seconds, at random, one lets its quicker neighbours go first."""
SHORTEST_SLEEP: Final = 0.005
ASK_AGAIN: Final = 60.0
"""Seconds after which an entry is tried again whose schedule has failed."""
MOST_KNOWN: Final = 20_000
"""Definitions that are kept read."""
MOST_TOLD: Final = 500
"""Characters that are kept of an error."""


class Step(NamedTuple):
    """What a scheduler does with an entry that is due."""

    change: ScheduleChange
    task: str
    told: str = ""
    """What the log says once it is done."""


class Scheduler:
    """One scheduler of an app's periodic tasks."""

    def __init__(self, app: App, store: ScheduleStore) -> None:
        self._app = app
        self._store = store
        self._owner = owner_of(app)
        self._declared: dict[tuple[str, bytes], Entry] = {}
        """The entries of the code, by name and definition."""
        self._entries: dict[tuple[str, bytes], Entry | None] = {}
        """Entries that were read from records; None for what is not to be fired here."""
        self._unfollowed: dict[str, Entry] | None = None
        """What the store does not follow yet."""
        self._patience = 0.0
        self._passed_over = 0
        self._complaint = ""
        self._stopping = False
        self._bell: socket.socket | None = None
        self._watch = Watch()
        self.fired = 0
        """Ticks so far."""

    def read(self) -> int:
        """Read what the code declares, for the first turn; how many entries there are.

        `ImproperlyConfigured` if one of them is wrong.
        """
        self._unfollowed = entries = read_declared(self._app)
        self._owner = owner = owner_of(self._app)
        self._declared = {(name, encode(entry, owner)): entry for name, entry in entries.items()}
        return len(entries)

    def declare(self) -> int:
        """`read`, and let the store follow at once; `OperationalError` if it cannot be reached."""
        count = self.read()
        self._follow()
        return count

    def _follow(self) -> None:
        if self._unfollowed is not None:
            follow(self._app, self._store, self._unfollowed)
            self._unfollowed = None

    def run(self) -> None:
        """Fire what is due, until `stop`."""
        self._bell, ear = socket.socketpair()
        poll = select.poll()
        poll.register(ear, select.POLLIN)
        with self._bell, ear, self._watch.looking():
            while not self._stopping:
                poll.poll(self.turn() * 1000)

    def stop(self) -> None:
        """End `run`; safe in signal handlers, where no lock may be taken, and in other threads."""
        self._stopping = True
        if self._bell is not None:
            with contextlib.suppress(OSError):  # it has ended already
                self._bell.send(b"!")

    def turn(self) -> float:
        """Fire what is due; seconds until the next turn."""
        try:
            wait = self._fire_due()
        except OperationalError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.warning("%s Trying again every %g s", error, LOOK_EVERY)
            return LOOK_EVERY
        except Exception:
            # A scheduler that ends in silence is the worst that can happen here.
            logger.exception("The scheduler goes on after an error")
            return LOOK_EVERY
        if self._complaint:
            logger.warning("The schedule goes on")
            self._complaint = ""
        return wait

    def _fire_due(self) -> float:
        self._follow()
        now = clock.time()
        limit = BATCH + self._passed_over
        due, coming = self._store.due_schedules(now - self._patience, limit)
        steps = [step for record in due if (step := self._advance(record, now)) is not None]
        self._passed_over = len(due) - len(steps)
        if steps:
            self._fire(steps)
        if len(due) == limit:
            return 0.0
        times = [step.change.record.due for step in steps if step.change.record is not None]
        next_one = min((at for at in (coming, *times) if at is not None), default=float("inf"))
        return min(max(next_one + self._patience - clock.time(), SHORTEST_SLEEP), LOOK_EVERY)

    def _fire(self, steps: list[Step]) -> None:
        refused = self._store_steps(steps)
        # If only some are refused, somebody has edited those.
        outrun = len(refused) == len(steps)
        self._patience = random.uniform(*PATIENCE) if outrun else 0.0  # noqa: S311
        for change, task, told in steps:
            if change.name in refused:
                continue
            if told:
                logger.warning("%s", told)
            if not change.messages:
                continue
            self.fired += 1
            logger.info("Scheduler: Sending due task %s (%s)", change.name, task)
            for message in change.messages:
                logger.debug("%s sent. id->%s", task, message.id)
                if isinstance(message, Parcel):
                    announce(message)

    def _store_steps(self, steps: list[Step]) -> set[str]:
        """Store the steps; the names of those that were refused."""
        store = self._store.change_schedules
        try:
            return set(store([step.change for step in steps]))
        except OperationalError:
            raise
        except Exception:
            logger.exception("A batch of ticks could not be stored; trying them one by one")
        refused: set[str] = set()
        for change, _, _ in steps:
            try:
                refused.update(store([change]))
            except OperationalError:
                raise
            except Exception:  # one that no store can take must not stop the others
                logger.exception("The tick of %s could not be stored; it is left out", change.name)
                store([msgspec.structs.replace(change, messages=())])
                refused.add(change.name)
        return refused

    def _advance(self, record: ScheduleRecord, now: float) -> Step | None:
        """The step that a record's due tick brings; None if it is not this scheduler's to fire."""
        if record.due is None:
            return None
        try:
            body = read_body(record)
        except DecodeError as error:
            self._entry_error(record.name, record.body, error)
            return None
        entry = self._find((record.name, bytes(body.definition)))
        if entry is None:
            return None
        last = body.added if body.last is None else body.last
        self._watch.begin(entry.name)
        try:
            turn = take_turn(entry, record.due, last, now)
            change = self._move_on(record, body, entry, turn)
            return Step(change, entry.task, _tell_missed(entry, turn, now - record.due))
        except (Exception, SystemExit) as error:
            logger.exception("The schedule of %s has failed; asking it again in %g s", entry.name,
                             ASK_AGAIN)  # fmt: skip
            failed = msgspec.structs.replace(body, error=f"schedule: {_tell(error)}")
            return Step(records.change(record, failed, now + ASK_AGAIN), entry.task)
        finally:
            self._watch.end()

    def _move_on(
        self, record: ScheduleRecord, body: Body, entry: Entry, turn: Turn
    ) -> ScheduleChange:
        messages: list[Message] = []
        sent, error = 0, None
        for due in turn.fire:
            try:
                messages += build(self._app, entry, due)
                sent += 1
            except (Exception, SystemExit) as failure:
                logger.exception("The tick of %s could not be sent", entry.name)
                error = _tell(failure)
        moved = msgspec.structs.replace(
            body,
            last=body.last if turn.last is None else turn.last,
            runs=body.runs + sent,
            missed=body.missed + turn.missed + len(turn.fire) - sent,
            error=error if turn.fire else body.error,
        )
        if turn.due is None and sent and decode(bytes(body.definition)).owner is None:
            return ScheduleChange(record.name, record.version, None, tuple(messages))  # its last
        return records.change(record, moved, turn.due, tuple(messages))

    def _find(self, key: tuple[str, bytes]) -> Entry | None:
        if key in self._declared:
            return self._declared[key]
        if key not in self._entries:
            if len(self._entries) >= MOST_KNOWN:
                self._entries.clear()
            try:
                definition = decode(key[1])
                if definition.owner in {None, self._owner}:
                    self._entries[key] = restore(key[0], definition, self._app)
                else:  # that app's schedulers know its routes and its tasks
                    self._entries[key] = None
            except DecodeError as error:
                self._entry_error(*key, error)
        return self._entries[key]

    def _entry_error(self, name: str, data: bytes, error: DecodeError) -> None:
        if (name, data) not in self._entries:
            self._entries[name, data] = None
            logger.warning("The entry %s is left to other schedulers: %s", name, error)


def _tell_missed(entry: Entry, turn: Turn, late: float) -> str:
    """What the log says of ticks that came while no scheduler ran."""
    if not turn.missed or late <= ON_TIME:
        return ""
    run = len(turn.fire) + turn.left
    return (
        f"{entry.name} was due {late:.0f} s ago, when no scheduler ran: of {run + turn.missed} "
        f"ticks since then {run} are run (misfire={entry.misfire})"
    )


def _tell(error: BaseException) -> str:
    """An error as a record can keep it."""
    try:
        text = repr(error)
    except Exception:  # noqa: BLE001  (it is a user's)
        text = type(error).__name__
    if len(text) > MOST_TOLD:
        text = f"{text[:MOST_TOLD]}…"
    return text.encode(errors="backslashreplace").decode()
