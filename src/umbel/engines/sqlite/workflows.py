"""Chords and kept workflows on one SQLite file; the tables are described in schema.sql.

All of it happens inside the transaction of the publish or the settlement that it belongs to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from umbel.engines.broker import Message, Part, Workflow
from umbel.engines.sqlite.results import put_results

OPEN: Final = """
INSERT INTO workflow (id, size, expires, body) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""
GROW: Final = "UPDATE workflow SET size = size + ? WHERE id = ?"
KEEP: Final = """
INSERT INTO piece (workflow, position, key, data) VALUES (?, ?, '', ?) ON CONFLICT DO NOTHING
"""
ADD: Final = """
INSERT INTO piece (workflow, position, key, data)
SELECT id, ?, ?, ? FROM workflow WHERE id = ? ON CONFLICT DO NOTHING
"""
COUNT: Final = "UPDATE workflow SET ended = ended + ? WHERE id = ? RETURNING size, ended, body"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def change_workflows(
    connection: sqlite3.Connection, workflows: Sequence[Workflow]
) -> list[Message]:
    """Make the changes; the bodies of chords that are complete now, to be published."""
    put_results(connection, [result for w in workflows for result in w.results])
    for workflow in workflows:
        _begin(connection, workflow)
    bodies = _join(connection, [part for w in workflows for part in w.parts])
    dropped = [(id,) for w in workflows for id in w.dropped]
    if dropped:
        connection.executemany("DELETE FROM piece WHERE workflow = ?", dropped)
        connection.executemany("DELETE FROM workflow WHERE id = ?", dropped)
    return bodies


def _begin(connection: sqlite3.Connection, workflow: Workflow) -> None:
    for chord in workflow.opened:
        connection.execute(OPEN, (chord.id, chord.size, chord.expires, _encode(chord.body)))
    for id, more in workflow.grown:
        connection.execute(GROW, (more, id))
    for kept in workflow.kept:
        connection.execute(OPEN, (kept.id, 0, kept.expires, None))
        connection.executemany(
            KEEP, [(kept.id, position, step) for position, step in enumerate(kept.steps)]
        )


def _join(connection: sqlite3.Connection, parts: Sequence[Part]) -> list[Message]:
    by_chord: dict[str, list[Part]] = {}
    for part in parts:
        by_chord.setdefault(part.chord, []).append(part)
    bodies = []
    for chord, group in by_chord.items():
        added = connection.executemany(
            ADD, [(part.index, part.key, part.data, chord) for part in group]
        ).rowcount
        if added <= 0:
            continue
        size, ended, body = connection.execute(COUNT, (added, chord)).fetchone()
        if ended >= size > ended - added:  # it has become complete in this step
            message = group[-1].body if body is None else _decode(body)
            if message is not None:
                bodies.append(message)
    return bodies


def expire_workflows(connection: sqlite3.Connection, now: float, limit: int) -> int:
    """Forget those whose time is over, up to `limit` of them; how many."""
    ids = connection.execute(
        "SELECT id FROM workflow WHERE expires < ? ORDER BY expires LIMIT ?", (now, limit)
    ).fetchall()
    connection.executemany("DELETE FROM piece WHERE workflow = ?", ids)
    connection.executemany("DELETE FROM workflow WHERE id = ?", ids)
    return len(ids)
