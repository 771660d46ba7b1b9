"""The result store on one SQLite file; the table is described in schema.sql."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from umbel import clock, states
from umbel.engines.broker import Joining, Message, StoredResult, Waker
from umbel.engines.sqlite.connection import Database
from umbel.engines.sqlite.wake import Bell, FifoWaker

PUT: Final = f"""
INSERT INTO result (id, status, meta, expires) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, meta = excluded.meta,
    expires = excluded.expires
WHERE status <> '{states.SUCCESS}' OR result.expires <= ?
"""  # noqa: S608  (a constant)
"""The last value is the time: an expired SUCCESS is as absent."""
ENDS: Final = ", ".join(f"'{state}'" for state in sorted(states.READY_STATES))
PUT_PROGRESS: Final = f"""
INSERT INTO result (id, status, meta, expires) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, meta = excluded.meta,
    expires = excluded.expires
WHERE status NOT IN ({ENDS}) OR result.expires <= ?
"""  # noqa: S608  (constants)
FETCH: Final = 500
"""Most ids asked for in one statement; SQLite before 3.32 takes 999 parameters."""


_decode_message = msgspec.msgpack.Decoder(Message).decode


class SqliteResults:
    """`umbel.engines.results.ResultStore` on one file."""

    def __init__(self, database: Database, bell: Bell) -> None:
        self._database = database
        self._bell = bell

    def get(self, ids: Sequence[str], waker: Waker | None = None) -> dict[str, StoredResult]:  # noqa: ARG002
        """Results by id; see the contract."""
        if len(ids) == 1:
            rows = self._database.read(
                lambda c: c.execute(
                    "SELECT id, status, meta, expires FROM result WHERE id = ?", ids
                ).fetchall()
            )
        else:
            rows = self._database.read(lambda c: _fetch(c, ids))
        now = clock.time()
        found = [StoredResult(*row) for row in rows]
        return {r.id: r for r in found if r.expires is None or r.expires > now}

    def put(self, results: Sequence[StoredResult], *, timeout: float = 5.0) -> None:
        """Store results; see the contract."""
        with self._database.write(timeout) as connection:
            put_results(connection, [r for r in results if r.status in states.READY_STATES])
            progress = [r for r in results if r.status not in states.READY_STATES]
            put_results(connection, progress, PUT_PROGRESS)
        self._bell.ring()

    def forget(self, ids: Sequence[str]) -> None:
        """Remove results; see the contract."""
        with self._database.write() as connection:
            connection.executemany("DELETE FROM result WHERE id = ?", [(id,) for id in ids])

    def parts(self, chord: str) -> list[bytes] | None:
        """The parts of a chord; see the contract."""
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT data FROM workflow LEFT JOIN piece ON workflow = id "
                "WHERE id = ? AND size > 0 ORDER BY position, key",
                (chord,),
            ).fetchall()
        )
        return [data for (data,) in rows if data is not None] if rows else None

    def progress(self, chord: str) -> tuple[int, int] | None:
        """How far a chord is; see the contract."""
        row = self._database.read(
            lambda c: c.execute(
                "SELECT ended, size FROM workflow WHERE id = ? AND size > 0", (chord,)
            ).fetchone()
        )
        return None if row is None else (row[0], row[1])

    def chords(self, limit: int = 10_000) -> list[Joining]:
        """Chords; see the contract."""
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT id, size, ended, body FROM workflow WHERE size > 0 LIMIT ?", (limit,)
            ).fetchall()
        )
        return [
            Joining(id, size, ended, body and _decode_message(body))
            for id, size, ended, body in rows
        ]

    def kept(self, id: str, start: int, stop: int) -> list[bytes]:
        """Steps of a workflow; see the contract."""
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT data FROM piece WHERE workflow = ? AND position >= ? AND position < ? "
                "ORDER BY position",
                (id, start, stop),
            ).fetchall()
        )
        return [data for (data,) in rows]

    def listen(self) -> FifoWaker:
        """A waker for results; see the contract."""
        return self._bell.listen()


def put_results(
    connection: sqlite3.Connection, results: Sequence[StoredResult], statement: str = PUT
) -> None:
    """Store results inside a transaction; a SUCCESS stays."""
    if results:
        now = clock.time()
        connection.executemany(
            statement, [(r.id, r.status, r.meta, r.expires, now) for r in results]
        )


def _fetch(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> list[tuple[str, str, bytes, float | None]]:
    rows: list[tuple[str, str, bytes, float | None]] = []
    for start in range(0, len(ids), FETCH):
        part = ids[start : start + FETCH]
        marks = ",".join("?" * len(part))
        rows += connection.execute(
            f"SELECT id, status, meta, expires FROM result WHERE id IN ({marks})",  # noqa: S608
            part,
        )
    return rows
