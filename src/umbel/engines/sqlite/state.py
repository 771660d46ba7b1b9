"""The state store on one SQLite file; the tables are described in schema.sql."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Unpack

import msgspec

from umbel import clock
from umbel.engines.broker import Delivery, HistoryEntry, StoredResult, Workflow
from umbel.engines.sqlite.broker import (
    ROWS,
    delivery,
    insert_history,
    insert_messages,
    revocations_version,
    tag_range,
)
from umbel.engines.sqlite.checkpoint import Checkpointer
from umbel.engines.sqlite.connection import Database
from umbel.engines.sqlite.results import put_results
from umbel.engines.sqlite.wake import Bell
from umbel.engines.sqlite.workflows import change_workflows, expire_workflows
from umbel.engines.state import (
    DeadLetter,
    HistoryFilter,
    NameTaken,
    ScheduleChange,
    ScheduleRecord,
    WorkerRecord,
)

CLAIMS = """
SELECT number, worker, attempt, queue, payload, priority, deliveries, suspect, unknown_since, early
FROM message WHERE worker = ? ORDER BY number LIMIT ?
"""
DEAD = "SELECT number, id, task, queue, reason, detail, at, deliveries"
HISTORY = """
SELECT id, task, queue, state, at, runtime, worker, retries, error, place FROM history
WHERE (:task IS NULL OR task = :task) AND (:id IS NULL OR id = :id)
AND (:state IS NULL OR state = :state)
AND (:linked IS NULL OR place IS NOT NULL)
ORDER BY number DESC LIMIT :limit
"""
SCHEDULES = "SELECT name, version, due, body FROM schedule"
ADD_SCHEDULE = """
INSERT INTO schedule (name, version, due, body) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING
"""
CHANGE_SCHEDULE = """
UPDATE schedule SET version = ?, due = ?, body = ? WHERE name = ? AND version = ?
"""
REPLAY = """
INSERT INTO message (tag, queue, priority, published, payload)
SELECT tag, queue, priority, ?, payload FROM dead WHERE number = ?
ON CONFLICT (tag) DO NOTHING
"""


class SqliteState:
    """`umbel.engines.state.StateStore` on one file."""

    def __init__(
        self, database: Database, checkpointer: Checkpointer, work: Bell, results: Bell
    ) -> None:
        self._database = database
        self._checkpointer = checkpointer
        self._work = work
        self._results = results

    def register(self, record: WorkerRecord) -> int:
        """Add an incarnation; see the contract."""
        with self._database.write() as connection:
            row = connection.execute(
                "SELECT number, renewals, dead, record FROM worker WHERE node = ?", (record.node,)
            ).fetchone()
            if row is not None:
                raise NameTaken(_record(*row))
            (number,) = connection.execute(
                "INSERT INTO worker (node, record) VALUES (?, ?) RETURNING number",
                (record.node, msgspec.json.encode(record)),
            ).fetchone()
        return int(number)

    def renew(self, worker: int) -> bool:
        """Count the lease up; see the contract."""
        with self._database.write() as connection:
            renewed = connection.execute(
                "UPDATE worker SET renewals = renewals + 1 WHERE number = ? AND NOT dead",
                (worker,),
            ).rowcount
        return renewed == 1

    def workers(self) -> list[WorkerRecord]:
        """All incarnations; see the contract."""
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT number, renewals, dead, record FROM worker ORDER BY number"
            ).fetchall()
        )
        return [_record(*row) for row in rows]

    def declare_dead(self, worker: int, *, renewals: int | None = None) -> bool:
        """Bar an incarnation from claiming; see the contract."""
        with self._database.write() as connection:
            changed = connection.execute(
                "UPDATE worker SET dead = 1 WHERE number = ?1 AND (?2 IS NULL OR renewals = ?2)",
                (worker, renewals),
            ).rowcount
        return changed == 1

    def claims(self, worker: int, limit: int = 500) -> list[Delivery]:
        """What an incarnation holds; see the contract."""
        rows = self._database.read(lambda c: c.execute(CLAIMS, (worker, limit)).fetchall())
        return [delivery(row) for row in rows]

    def unregister(self, worker: int) -> bool:
        """Remove an incarnation that holds nothing; see the contract."""
        with self._database.write() as connection:
            gone = connection.execute(
                "DELETE FROM worker WHERE number = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM message WHERE worker = ?1)",
                (worker,),
            ).rowcount
        return gone == 1

    def revoke(
        self,
        results: Sequence[StoredResult],
        *,
        until: float,
        workflows: Mapping[str, Workflow] = MappingProxyType({}),
        signal: int = 0,
        history: Sequence[HistoryEntry] = (),
    ) -> list[str]:
        """Revoke task ids; see the contract."""
        waiting: list[str] = []
        for start in range(0, len(results), ROWS):
            with self._database.write() as connection:
                gone = _revoke(connection, results[start : start + ROWS], until, signal)
                follow = [workflows[id] for id in gone if id in workflows]
                insert_messages(connection, change_workflows(connection, follow))
                ended = set(gone)
                insert_history(connection, [one for one in history if one.id in ended])
            waiting += gone
        self._work.ring()  # workers that read ahead look again
        self._results.ring()
        return waiting

    def revocations(self, after: int) -> tuple[int, dict[str, int]]:
        """Ids revoked since a version; see the contract."""

        def query(connection: sqlite3.Connection) -> tuple[int, dict[str, int]]:
            # The version first: what comes in between is then told twice, not never.
            version = revocations_version(connection)
            rows = connection.execute(
                "SELECT id, ifnull(signal, 0) FROM revocation LEFT JOIN termination USING (id) "
                "WHERE number > ? AND until > ? ORDER BY number",
                (after, clock.time()),
            )
            return version, dict(rows)

        return self._database.read(query)

    def pause(self, queue: str) -> None:
        """Let nobody claim from a queue; see the contract."""
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO pause (queue) VALUES (?)", (queue,))

    def resume(self, queue: str) -> bool:
        """End a pause; see the contract."""
        with self._database.write() as connection:
            gone = connection.execute("DELETE FROM pause WHERE queue = ?", (queue,)).rowcount
        self._work.ring()
        return gone == 1

    def dead_letters(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """Dead letters, newest first; see the contract."""
        rows = self._database.read(
            lambda c: c.execute(
                f"{DEAD} FROM dead WHERE ?1 IS NULL OR task = ?1 ORDER BY number DESC LIMIT ?2",
                (task, limit),
            ).fetchall()
        )
        return [DeadLetter(*row) for row in rows]

    def dead_letter(self, number_or_id: str) -> DeadLetter | None:
        """One dead letter with its payload; see the contract."""
        # Task ids may be long rows of digits; no number has more than 18.
        short = number_or_id.isdecimal() and len(number_or_id) <= 18
        number = int(number_or_id) if short else -1
        row = self._database.read(
            lambda c: c.execute(
                f"{DEAD}, payload FROM dead WHERE number = ? OR id = ? "
                "ORDER BY number = ? DESC, number DESC",
                (number, number_or_id, number),
            ).fetchone()
        )
        return None if row is None else DeadLetter(*row)

    def replay(self, numbers: Sequence[int]) -> int:
        """Put dead letters back; see the contract."""
        done = 0
        for start in range(0, len(numbers), ROWS):
            with self._database.write() as connection:
                now = clock.time()
                for number in numbers[start : start + ROWS]:
                    # Its FAILURE goes: the task is pending again.
                    connection.execute(
                        "DELETE FROM result WHERE id = (SELECT id FROM dead WHERE number = ?)",
                        (number,),
                    )
                    connection.execute(REPLAY, (now, number))
                    done += connection.execute(
                        "DELETE FROM dead WHERE number = ?", (number,)
                    ).rowcount
            self._work.ring()
        return done

    def drop(self, numbers: Sequence[int]) -> int:
        """Delete dead letters; see the contract."""
        done = 0
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            with self._database.write() as connection:
                done += connection.executemany(
                    "DELETE FROM dead WHERE number = ?", [(number,) for number in part]
                ).rowcount
        return done

    def history(self, **which: Unpack[HistoryFilter]) -> list[HistoryEntry]:
        """Ended attempts, newest first; see the contract."""
        asked = {"task": None, "id": None, "state": None, "limit": 100, "linked": None, **which}
        asked["linked"] = asked["linked"] or None
        rows = self._database.read(lambda c: c.execute(HISTORY, asked).fetchall())
        return [
            HistoryEntry(*fields, *(() if place is None else msgspec.json.decode(place)))
            for *fields, place in rows
        ]

    def schedules(self, names: Sequence[str] | None = None) -> list[ScheduleRecord]:
        """The periodic tasks; see the contract."""
        where = "" if names is None else " WHERE name IN (SELECT value FROM json_each(?))"
        values = () if names is None else (msgspec.json.encode(list(names)).decode(),)
        rows = self._database.read(
            lambda c: c.execute(f"{SCHEDULES}{where} ORDER BY name", values).fetchall()
        )
        return [ScheduleRecord(*row) for row in rows]

    def due_schedules(self, now: float, limit: int) -> tuple[list[ScheduleRecord], float | None]:
        """Periodic tasks that are due; see the contract."""

        def query(connection: sqlite3.Connection) -> tuple[list[ScheduleRecord], float | None]:
            execute = connection.execute
            rows = execute(f"{SCHEDULES} WHERE due <= ? ORDER BY due LIMIT ?", (now, limit))
            found = [ScheduleRecord(*row) for row in rows]
            (coming,) = execute("SELECT min(due) FROM schedule WHERE due > ?", (now,)).fetchone()
            return found, coming

        return self._database.read(query)

    def change_schedules(self, changes: Sequence[ScheduleChange]) -> list[str]:
        """Move periodic tasks on; see the contract."""
        refused: list[str] = []
        for start in range(0, len(changes), ROWS):
            with self._database.write() as connection:
                for change in changes[start : start + ROWS]:
                    if _change_schedule(connection, change):
                        insert_messages(connection, change.messages)
                    else:
                        refused.append(change.name)
            self._checkpointer.count_commit()
        if any(change.messages for change in changes):
            self._work.ring()
        return refused

    def keep_house(
        self, *, history_age: float | None = None, history_rows: int | None = None
    ) -> bool:
        """Drop what has outlived its time; see the contract."""
        now = clock.time()
        oldest = float("-inf") if history_age is None else now - history_age
        with self._database.write() as connection:
            execute = connection.execute
            results = execute(
                "DELETE FROM result WHERE id IN (SELECT id FROM result "
                "WHERE expires IS NOT NULL AND expires < ? ORDER BY expires LIMIT ?)",
                (now, ROWS),
            ).rowcount
            execute("DELETE FROM revocation WHERE until < ?", (now,))
            execute("DELETE FROM termination WHERE id NOT IN (SELECT id FROM revocation)")
            (newest,) = execute("SELECT max(number) FROM history").fetchone()
            last = 0 if history_rows is None else (newest or 0) - history_rows
            entries = execute(
                "DELETE FROM history WHERE number IN (SELECT number FROM history "
                "ORDER BY number LIMIT ?) AND (at < ? OR number <= ?)",
                (ROWS, oldest, last),
            ).rowcount
            expired = expire_workflows(connection, now, ROWS)
        self._checkpointer.count_commit()
        self._work.sweep()
        self._results.sweep()
        return ROWS in {results, entries, expired}


def _revoke(
    connection: sqlite3.Connection, results: Sequence[StoredResult], until: float, signal: int
) -> list[str]:
    waiting = []
    if signal:
        connection.executemany(
            "INSERT OR REPLACE INTO termination (id, signal) VALUES (?, ?)",
            [(result.id, signal) for result in results],
        )
    for result in results:
        connection.execute("DELETE FROM revocation WHERE id = ?", (result.id,))
        connection.execute("INSERT INTO revocation (id, until) VALUES (?, ?)", (result.id, until))
        where, values = tag_range(result.id)
        gone = connection.execute(
            f"DELETE FROM message WHERE {where} AND worker IS NULL",  # noqa: S608  (constants)
            values,
        ).rowcount
        if gone:
            waiting.append(result.id)
            put_results(connection, [result])
    return waiting


def _change_schedule(connection: sqlite3.Connection, change: ScheduleChange) -> bool:
    """Bring a schedule's row to its next state, if it is as the change says."""
    record, fence = change.record, (change.name, change.version)
    if record is None:
        done = connection.execute("DELETE FROM schedule WHERE name = ? AND version = ?", fence)
    elif change.version == 0:
        done = connection.execute(
            ADD_SCHEDULE, (record.name, record.version, record.due, record.body)
        )
    else:
        done = connection.execute(
            CHANGE_SCHEDULE, (record.version, record.due, record.body, *fence)
        )
    return done.rowcount == 1


def _record(number: int, renewals: int, dead: int, blob: bytes) -> WorkerRecord:
    record = msgspec.json.decode(blob, type=WorkerRecord)
    return msgspec.structs.replace(record, number=number, renewals=renewals, dead=bool(dead))
