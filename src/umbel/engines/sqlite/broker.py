"""The broker on one SQLite file; the tables are described in schema.sql."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from umbel import clock
from umbel.engines.broker import (
    MAX_PRIORITY,
    Acknowledge,
    Bury,
    Claim,
    Delivery,
    HistoryEntry,
    Joiner,
    LeaseLost,
    Message,
    PutBack,
    QueueCount,
    Settlement,
    Waiting,
    Waker,
    Workflow,
)
from umbel.engines.sqlite.checkpoint import Checkpointer
from umbel.engines.sqlite.connection import Database
from umbel.engines.sqlite.results import put_results
from umbel.engines.sqlite.wake import Bell, FifoWaker
from umbel.engines.sqlite.workflows import change_workflows

ROWS: Final = 500
"""Most rows that one transaction writes, so that no other writer waits long."""
LEAST_URGENT_EVERY: Final = 16
"""One claim in so many serves the least urgent level first, so that none starves."""

PUBLISH = """
INSERT INTO message (tag, queue, priority, due, published, payload) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tag) DO NOTHING
"""
PROMOTE = """
UPDATE message SET due = NULL WHERE number IN (
    SELECT number FROM message WHERE worker IS NULL AND due IS NOT NULL AND due <= ?
    ORDER BY due LIMIT ?)
"""
NEXT_DUE = "SELECT min(due) FROM message WHERE worker IS NULL AND due IS NOT NULL"
MOST_URGENT = """
SELECT priority, number FROM message WHERE worker IS NULL AND due IS NULL AND queue = ?
ORDER BY priority DESC, number LIMIT ?
"""
LEAST_URGENT = """
SELECT priority, number FROM message WHERE worker IS NULL AND due IS NULL AND queue = ?1
    AND priority = (SELECT min(priority) FROM message
                    WHERE worker IS NULL AND due IS NULL AND queue = ?1)
ORDER BY number LIMIT ?2
"""
CLAIM = """
UPDATE message SET worker = ?, attempt = attempt + 1
WHERE number IN (SELECT value FROM json_each(?))
RETURNING number, worker, attempt, queue, payload, priority, deliveries, suspect,
          unknown_since, early
"""
ACCEPT = "UPDATE message SET early = 1 WHERE number = ? AND worker = ? AND attempt = ?"
ACKNOWLEDGE = "DELETE FROM message WHERE number = ? AND worker = ? AND attempt = ?"
PUT_BACK = """
UPDATE message SET worker = NULL, early = 0, due = ?, deliveries = coalesce(?, deliveries),
    suspect = coalesce(?, suspect), unknown_since = coalesce(?, unknown_since)
WHERE number = ? AND worker = ? AND attempt = ?
"""
BURY = """
INSERT INTO dead (id, task, tag, queue, priority, reason, detail, at, deliveries, payload)
SELECT ?, ?, tag, queue, priority, ?, ?, ?, coalesce(?, deliveries), payload
FROM message WHERE number = ?
"""
HISTORY = """
INSERT INTO history (id, task, queue, state, at, runtime, worker, retries, error, place)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
COUNT_READY = """
SELECT queue, ready, (SELECT published FROM message WHERE number = first)
FROM (SELECT queue, count(*) AS ready, min(number) AS first FROM message
      WHERE worker IS NULL AND due IS NULL GROUP BY queue)
"""
COUNT_DELAYED = """
SELECT queue, count(*) FROM message WHERE worker IS NULL AND due IS NOT NULL GROUP BY queue
"""
COUNT_CLAIMED = "SELECT queue, count(*) FROM message WHERE worker IS NOT NULL GROUP BY queue"
BROWSE = "SELECT number, queue, priority, due, payload, published, worker, deliveries FROM message"


class SqliteBroker:
    """`umbel.engines.broker.Broker` on one file."""

    browsable = True
    unique_tags = True
    levels: Sequence[int] = range(MAX_PRIORITY + 1)
    shared = False
    joiner: Joiner | None = None

    def __init__(
        self, database: Database, checkpointer: Checkpointer, work: Bell, results: Bell
    ) -> None:
        self._database = database
        self._checkpointer = checkpointer
        self._work = work
        self._results = results
        self._claims = 0

    def publish(
        self,
        messages: Sequence[Message],
        workflow: Workflow | None = None,
        *,
        timeout: float = 5.0,
    ) -> None:
        """Store all messages or none; see the contract."""
        with self._database.write(timeout) as connection:
            if workflow is not None:
                insert_messages(connection, change_workflows(connection, [workflow]))
            insert_messages(connection, messages)
        self._checkpointer.count_commit(give_way=True)
        self._work.ring()

    def claim(
        self, worker: int, queues: Sequence[str], limit: int, waker: Waker | None = None
    ) -> Claim:
        """Claim ready messages; see the contract."""
        if waker is not None:
            waker.drain()
        now = clock.time()
        with self._database.write() as connection:
            execute = connection.execute
            (live,) = execute(
                "SELECT count(*) FROM worker WHERE number = ? AND NOT dead", (worker,)
            ).fetchone()
            if not live:
                raise LeaseLost(worker)
            (next_due,) = execute(NEXT_DUE).fetchone()
            if next_due is not None and next_due <= now:
                execute(PROMOTE, (now, ROWS))
                (next_due,) = execute(NEXT_DUE).fetchone()
            paused = {queue for (queue,) in execute("SELECT queue FROM pause")}
            self._claims += 1
            open_queues = [queue for queue in dict.fromkeys(queues) if queue not in paused]
            numbers = self._find(connection, open_queues, min(limit, ROWS))
            rows = {}
            if numbers:
                rows = {row[0]: row for row in execute(CLAIM, (worker, f"{numbers}"))}
            version = revocations_version(connection)
        if rows:
            self._checkpointer.count_commit()
        return Claim([delivery(rows[number]) for number in numbers], version, next_due)

    def _find(self, connection: sqlite3.Connection, queues: Sequence[str], limit: int) -> list[int]:
        found = []
        if self._claims % LEAST_URGENT_EVERY == 0:
            least = _ready(connection, LEAST_URGENT, queues, limit)
            least.sort()
            found = [number for priority, number in least if priority == least[0][0]][:limit]
        if len(found) < limit:
            most = _ready(connection, MOST_URGENT, queues, limit)
            most.sort(key=lambda row: (-row[0], row[1]))
            found += [number for _, number in most]
        return list(dict.fromkeys(found))[:limit]

    def accept(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Acknowledge early; see the contract."""
        with self._database.write() as connection:
            refused = [
                d.number
                for d in deliveries
                if not connection.execute(ACCEPT, (d.number, d.worker, d.attempt)).rowcount
            ]
        for delivery in deliveries:
            delivery.early = True
        return refused

    def settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """End claims with all that follows; see the contract."""
        refused: list[int] = []
        for start in range(0, len(settlements), ROWS):
            refused += self._settle(settlements[start : start + ROWS])
        if any(s.result is not None or s.workflow is not None for s in settlements):
            self._results.ring()
        if any(s.follow_ups or s.workflow or isinstance(s.end, PutBack) for s in settlements):
            self._work.ring()
        return refused

    def _settle(self, settlements: Sequence[Settlement]) -> list[int]:
        with self._database.write() as connection:
            held = _end_claims(connection, settlements)
            put_results(connection, [s.result for s in held if s.result is not None])
            workflows = [s.workflow for s in held if s.workflow is not None]
            bodies = change_workflows(connection, workflows) if workflows else []
            insert_messages(connection, [m for s in held for m in s.follow_ups] + bodies)
            insert_history(connection, [s.history for s in held if s.history is not None])
        self._checkpointer.count_commit()
        if len(held) == len(settlements):
            return []
        accepted = {id(s) for s in held}
        return [s.number for s in settlements if id(s) not in accepted]

    def listen(self, queues: Sequence[str] = ()) -> FifoWaker:  # noqa: ARG002
        """A waker for work; see the contract."""
        return self._work.listen()

    def promote(self) -> None:
        """See the contract; each claim does it."""

    def counts(self) -> list[QueueCount]:
        """What lies where; see the contract."""

        def query(connection: sqlite3.Connection) -> list[QueueCount]:
            execute = connection.execute
            execute("BEGIN")  # one view for all
            try:
                paused = {queue for (queue,) in execute("SELECT queue FROM pause")}
                ready = {queue: (count, oldest) for queue, count, oldest in execute(COUNT_READY)}
                delayed = dict(execute(COUNT_DELAYED).fetchall())
                claimed = dict(execute(COUNT_CLAIMED).fetchall())
            finally:
                execute("COMMIT")
            queues = sorted(paused | ready.keys() | delayed.keys() | claimed.keys())
            return [
                QueueCount(
                    queue,
                    ready.get(queue, (0, None))[0],
                    delayed.get(queue, 0),
                    claimed.get(queue, 0),
                    ready.get(queue, (0, None))[1],
                    queue in paused,
                )
                for queue in queues
            ]

        return self._database.read(query)

    def browse(
        self, queue: str | None = None, *, id: str | None = None, limit: int = 100
    ) -> list[Waiting]:
        """Messages without claiming them; see the contract."""
        where: str = "1"
        values: tuple[object, ...] = ()
        if id is not None:
            where, values = tag_range(id)
        elif queue is not None:
            where, values = "queue = ?", (queue,)
        query = f"{BROWSE} WHERE {where} ORDER BY number LIMIT ?"
        rows = self._database.read(lambda c: c.execute(query, (*values, limit)).fetchall())
        return [Waiting(*row) for row in rows]

    def purge(self, queues: Sequence[str]) -> int:
        """Drop what waits; see the contract."""
        gone = 0
        for queue in queues:
            step = ROWS
            while step == ROWS:
                with self._database.write() as connection:
                    step = connection.execute(
                        "DELETE FROM message WHERE number IN (SELECT number FROM message "
                        "WHERE queue = ? AND worker IS NULL LIMIT ?)",
                        (queue, ROWS),
                    ).rowcount
                self._checkpointer.count_commit()
                gone += step
        return gone


def _encode_place(entry: HistoryEntry) -> str | None:
    """Where in a workflow an attempt stood; None for most, to write no more than was needed."""
    if entry.root is None and entry.group is None:
        return None
    place = (entry.root, entry.parent, entry.group, entry.joins)
    return msgspec.json.encode(place).decode()


def insert_messages(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """Add messages inside a transaction; one whose tag is there already is left as it is."""
    if not messages:
        return
    now = clock.time()
    connection.executemany(
        PUBLISH, [(m.tag, m.queue, m.priority, m.due, now, m.payload) for m in messages]
    )


def revocations_version(connection: sqlite3.Connection) -> int:
    """How often an id has been revoked so far; it never goes back."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'revocation'").fetchone()
    return 0 if row is None else int(row[0])


def tag_range(id: str) -> tuple[str, tuple[str, str, int]]:
    """An SQL condition, and its values, for the messages of one task id.

    A tag is "<id>:<nonce>" with no colon in the nonce; an id may hold colons of its own.
    """
    condition = "tag > ? AND tag < ? AND instr(substr(tag, ?), ':') = 0"
    return condition, (f"{id}:", f"{id};", len(id) + 2)


def delivery(row: tuple[int, int, int, str, bytes, int, int, int, float | None, int]) -> Delivery:
    """A row of CLAIM's or CLAIMS's columns as a value."""
    number, worker, attempt, queue, payload, priority, charged, suspect, unknown, early = row
    return Delivery(
        number, worker, attempt, queue, payload, priority, charged, bool(suspect), unknown,
        bool(early),
    )  # fmt: skip


def _ready(
    connection: sqlite3.Connection, query: str, queues: Sequence[str], limit: int
) -> list[tuple[int, int]]:
    """Priority and number of up to `limit` ready messages of each queue."""
    return [row for queue in queues for row in connection.execute(query, (queue, limit))]


def insert_history(connection: sqlite3.Connection, entries: Sequence[HistoryEntry]) -> None:
    """Add ended attempts to the history."""
    connection.executemany(
        HISTORY,
        [
            (h.id, h.task, h.queue, h.state, h.at, h.runtime, h.worker, h.retries, h.error,
             _encode_place(h))
            for h in entries
        ],
    )  # fmt: skip


def _end_claims(
    connection: sqlite3.Connection, settlements: Sequence[Settlement]
) -> Sequence[Settlement]:
    """Remove, put back or bury the messages; the settlements whose claim was still held."""
    acknowledged = [
        (s.number, s.worker, s.attempt) for s in settlements if isinstance(s.end, Acknowledge)
    ]
    if len(acknowledged) == len(settlements):
        connection.execute("SAVEPOINT acknowledge")
        done = connection.executemany(ACKNOWLEDGE, acknowledged).rowcount
        if done == len(acknowledged):
            connection.execute("RELEASE acknowledge")
            return settlements
        # Rare: one was refused, and only going one by one tells which.
        connection.execute("ROLLBACK TO acknowledge")
        connection.execute("RELEASE acknowledge")
    return [s for s in settlements if _end_claim(connection, s)]


def _end_claim(connection: sqlite3.Connection, settlement: Settlement) -> bool:
    fence = (settlement.number, settlement.worker, settlement.attempt)
    end = settlement.end
    if isinstance(end, PutBack):
        changes = (end.due, end.deliveries, end.suspect, end.unknown_since)
        return connection.execute(PUT_BACK, (*changes, *fence)).rowcount == 1
    if isinstance(end, Bury):
        # The row is copied first; without the claim the copy goes with the savepoint.
        connection.execute("SAVEPOINT bury")
        values = (
            end.id, end.task, end.reason, end.detail, clock.time(), end.deliveries,
            settlement.number,
        )  # fmt: skip
        connection.execute(BURY, values)
        held = connection.execute(ACKNOWLEDGE, fence).rowcount == 1
        if not held:
            connection.execute("ROLLBACK TO bury")
        connection.execute("RELEASE bury")
        return held
    return connection.execute(ACKNOWLEDGE, fence).rowcount == 1
