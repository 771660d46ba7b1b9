"""The contract of a state store: who works, what is revoked, paused, dead, and what was.

Leases are renewal counters. Nobody compares a stored time with a clock: a judge declares an
incarnation dead after it has itself seen the counter stand still (`umbel.worker.leases`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypedDict, Unpack

import msgspec

from umbel.engines.broker import Broker, Delivery, HistoryEntry, Message, StoredResult, Workflow
from umbel.engines.results import ResultStore


class WorkerRecord(msgspec.Struct, frozen=True):
    """One worker incarnation, as others see it."""

    node: str
    """Node name, `celery@host` by default."""
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    lease: float
    """Seconds for which the counter must stand still before the worker counts as dead."""
    boot: str = ""
    """Boot id of the host's kernel; with the four below, what proves a death on this host."""
    run_file: str = ""
    """Name of its run file in the engine's run directory: its lock and its slot table."""
    device: int = 0
    inode: int = 0
    token: str = ""
    """Random text at the start of the run file."""
    number: int = 0
    """The incarnation's number, given by `StateStore.register`."""
    renewals: int = 0
    dead: bool = False
    """A judge has declared it dead and is putting its claims back."""
    started: float = 0.0
    """Unix time of registration."""
    autoscale: tuple[int, int] | None = None
    """The least and the most processes (or slots in each) between which it scales by itself; its
    run file says how many slots it has now."""


class NameTaken(Exception):  # noqa: N818
    """A record of that node name exists; `record` is it."""

    def __init__(self, record: WorkerRecord) -> None:
        super().__init__(record.node)
        self.record = record


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was taken out of circulation."""

    number: int
    id: str
    task: str
    queue: str
    reason: str
    detail: str
    at: float
    """Unix time of its burial."""
    deliveries: int
    payload: bytes = b""


class HistoryFilter(TypedDict, total=False):
    """Which ended attempts are meant; None, and what is not given, is all of them."""

    task: str | None
    """Of a task's name."""
    id: str | None
    """Of a task's id."""
    state: str | None
    """Of a state (`umbel.states`), or LOST: the attempt's process died."""
    linked: bool | None
    """True: those that began with another task, or were in a group."""
    limit: int
    """No more than so many; by default 100."""


def select(entries: Iterable[HistoryEntry], which: HistoryFilter) -> list[HistoryEntry]:
    """Those of some entries that are meant, in their order; no more is read than is needed."""
    limit, linked = which.get("limit", 100), which.get("linked")
    asked = [(field, which.get(field)) for field in ("task", "id", "state")]
    chosen = (
        entry
        for entry in entries
        if all(value in {None, getattr(entry, field)} for field, value in asked)
        and (not linked or entry.root or entry.group)
    )
    return list(islice(chosen, limit))


class ScheduleRecord(msgspec.Struct, frozen=True):
    """One periodic task, as far as a store has to know it."""

    name: str
    version: int
    """Chosen at random by whoever writes the record, above 0: it tells this state from all others,
    also from those of a record of that name that was removed before."""
    due: float | None
    """Unix time of the next tick; None: none is to come."""
    body: bytes
    """What it is (`umbel.beat.records`); stores keep the bytes."""


class ScheduleChange(msgspec.Struct, frozen=True):
    """A record's next state together with the messages of the ticks that lead there."""

    name: str
    version: int
    """Of the record that it starts from; 0: there is none of that name."""
    record: ScheduleRecord | None
    """None: it is removed."""
    messages: tuple[Message, ...] = ()


class StateStore(Protocol):
    """Shared state beside the messages. Safe from any number of threads and processes."""

    def register(self, record: WorkerRecord) -> int:
        """Add an incarnation and return its number; `NameTaken` if one of that node is there."""
        ...

    def renew(self, worker: int) -> bool:
        """Count the lease up by one; False if the incarnation is gone or declared dead."""
        ...

    def workers(self) -> list[WorkerRecord]:
        """All incarnations on record."""
        ...

    def declare_dead(self, worker: int, *, renewals: int | None = None) -> bool:
        """From here on the incarnation may not claim. False if it is gone.

        With `renewals`: only if its counter still stands there (else False).
        """
        ...

    def claims(self, worker: int, limit: int = 500) -> list[Delivery]:
        """What an incarnation holds, to be settled on its behalf once it is dead."""
        ...

    def unregister(self, worker: int) -> bool:
        """Remove the incarnation's record; False while it holds claims, or if it is gone."""
        ...

    def revoke(
        self,
        results: Sequence[StoredResult],
        *,
        until: float,
        workflows: Mapping[str, Workflow] = MappingProxyType({}),
        signal: int = 0,
        history: Sequence[HistoryEntry] = (),
    ) -> list[str]:
        """Revoke task ids up to a Unix time; each result is what to store for a waiting one.

        Waiting messages are removed at once, their results stored, their entries added to the
        history, and what follows for workflows (by id) happens; running ones go on and their
        follow-ups are refused at the next claim. With a `signal`, of this call or one before, the
        workers that run them are to end them by it. Returns the ids that were waiting.
        """
        ...

    def revocations(self, after: int) -> tuple[int, dict[str, int]]:
        """The set's version, which never goes back, and the ids revoked since version `after`.

        With each the signal by which it is to be ended where it runs; 0: it may go on.
        """
        ...

    def pause(self, queue: str) -> None:
        """Let no worker claim from a queue until `resume`. What runs goes on."""
        ...

    def resume(self, queue: str) -> bool:
        """End a pause; False if there was none."""
        ...

    def dead_letters(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """Dead letters, newest first, without their payloads."""
        ...

    def dead_letter(self, number_or_id: str) -> DeadLetter | None:
        """One dead letter, whole, by its number, else by its task's id (the newest of that id)."""
        ...

    def replay(self, numbers: Sequence[int]) -> int:
        """Put dead letters back into their queues with a clean record; how many were there.

        Their results are removed: the tasks are pending again.
        """
        ...

    def drop(self, numbers: Sequence[int]) -> int:
        """Delete dead letters for good; how many were there."""
        ...

    def history(self, **which: Unpack[HistoryFilter]) -> list[HistoryEntry]:
        """Ended attempts, newest first."""
        ...

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """The periodic tasks of these names that there are, all of them without names; by name."""
        ...

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """Up to `limit` records due by a Unix time, and when the next one is due after that.

        Those that are due longest come first.
        """
        ...

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """Make each change in one atomic step with its messages, if its record is as it was.

        A tick is such a change: the record moves on to its next due time, and the message is
        published. Of any number of schedulers that try it one succeeds, so a tick is in the store
        once. Returns the names of the changes that were refused, as the record is gone, has another
        version, or is there already; nothing of those was done. A change that is repeated is not
        made again, whether it is refused or not.
        """
        ...

    def keep_house(
        self, *, history_age: float | None = None, history_rows: int | None = None
    ) -> bool:
        """Drop what has outlived its time (results, history, revocations), a bounded step.

        Of the history those entries go that are older than `history_age` seconds, and all but
        the newest `history_rows`; None: no bound of that kind. True if there is more to drop.
        """
        ...


class Engine(Protocol):
    """An open store: one URL's broker, results and state."""

    @property
    def broker(self) -> Broker:
        """Its messages."""
        ...

    @property
    def results(self) -> ResultStore:
        """Its results."""
        ...

    @property
    def state(self) -> StateStore:
        """Its shared state."""
        ...

    @property
    def run_dir(self) -> Path:
        """A directory on this host for run files."""
        ...

    @property
    def name(self) -> str:
        """The URL with its secrets masked, or a file's path: what people are shown."""
        ...

    def close(self) -> None:
        """Let go of connections and files. Waiting messages stay."""
        ...
