"""The result store on Redis, in Celery's keys and bytes; see keys.py."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from umbel import clock, states
from umbel.engines.broker import Joining, StoredResult, Waker
from umbel.engines.redis.connection import Server, script
from umbel.engines.redis.keys import Keys
from umbel.engines.redis.wake import ResultWaker
from umbel.engines.redis.workflows import life, read_open, read_parts, read_progress
from umbel.exceptions import DecodeError
from umbel.message import format as meta_format

BATCH: Final = 500
"""Most results of one command."""
SPARES: Final = 8
"""Most connections that are kept for those who will wait."""
SPARE_FOR: Final = 30.0
"""Seconds for which one is kept: the longer it lies idle, the likelier it is dead unnoticed."""


class _Status(msgspec.Struct):
    status: str


_decode = msgspec.json.Decoder(_Status).decode


class RedisResults:
    """`umbel.engines.results.ResultStore` on one database of one server."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self._spares: deque[tuple[float, ResultWaker]] = deque()
        """Each with the monotonic time until which it may be used again."""
        self._pid = os.getpid()

    def get(self, ids: Sequence[str], waker: Waker | None = None) -> dict[str, StoredResult]:
        """Results by id; see the contract."""
        line = waker if isinstance(waker, ResultWaker) else None
        names = {self._keys.result(id).encode(): id for id in ids}
        metas = None if line is None else line.get(list(names))
        if metas is None:
            metas = self._read(list(names))
        found: dict[str, StoredResult] = {}
        for name, meta in metas.items():
            id = names[name]
            status = self._status(id, meta)
            found[id] = StoredResult(id, status, meta)
            if line is not None and status in states.READY_STATES:
                line.let_go(name)
        return found

    def _read(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            (values,) = self._server.call([("MGET", *part)])
            found |= {
                name: meta for name, meta in zip(part, values, strict=True) if meta is not None
            }
        return found

    def _status(self, id: str, meta: bytes) -> str:
        if meta[:1] == b"{":
            try:
                return _decode(meta).status
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return states.PENDING  # no result of a task
        (status,) = self._server.call([("GET", self._keys.status(id))])
        if status is not None:
            return str(status.decode())
        try:  # a Celery worker has stored it, compressed
            return str(meta_format.read(meta, meta_format.PLAIN)["status"])
        except (DecodeError, KeyError, TypeError):
            return states.PENDING

    def put(self, results: Sequence[StoredResult], *, timeout: float = 5.0) -> None:
        """Store results; see the contract."""
        now = clock.time()
        for start in range(0, len(results), BATCH):
            keys: list[str] = []
            arguments: list[Any] = []
            for result in results[start : start + BATCH]:
                keys.append(self._keys.result(result.id))
                arguments += (len(keys), life(result.expires, now), result.meta)
                if result.meta[:1] == b"{":
                    arguments += (0, "")
                else:
                    keys.append(self._keys.status(result.id))
                    arguments += (len(keys), result.status)
                arguments.append(int(result.status not in states.READY_STATES))
            self._server.call([script("put")(keys, *arguments)], timeout)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove results; see the contract."""
        names = [name for id in ids for name in (self._keys.result(id), self._keys.status(id))]
        for start in range(0, len(names), BATCH):
            self._server.call([("UNLINK", *names[start : start + BATCH])])

    def parts(self, chord: str) -> list[bytes] | None:
        """The parts of a chord; see the contract."""
        return read_parts(self._server, self._keys, chord)

    def progress(self, chord: str) -> tuple[int, int] | None:
        """How far a chord is; see the contract."""
        return read_progress(self._server, self._keys, chord)

    def chords(self, limit: int = 10_000) -> list[Joining]:
        """Chords; see the contract."""
        return read_open(self._server, self._keys, limit)

    def kept(self, id: str, start: int, stop: int) -> list[bytes]:
        """Steps of a workflow; see the contract."""
        (found,) = self._server.call([("LRANGE", self._keys.kept(id), start, stop - 1)])
        return list(found)

    def listen(self) -> ResultWaker:
        """A waker for results; see the contract."""
        self._check_process()
        while self._spares:
            try:
                end, waker = self._spares.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() < end and waker.open_again():
                return waker
            waker.end()
        return ResultWaker(self._server, self._keep)

    def _keep(self, waker: ResultWaker) -> bool:
        """Keep a waker that nobody uses any more, unless there are enough."""
        self._check_process()
        if len(self._spares) >= SPARES:
            return False
        self._spares.append((time.monotonic() + SPARE_FOR, waker))
        return True

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # the parent's connections are the parent's
            self._pid = os.getpid()
            self._spares = deque()

    def close(self) -> None:
        """Close the connections that nobody uses at the moment."""
        self._check_process()
        while self._spares:
            self._spares.pop()[1].end()
