"""A server that is asked for more than an answer: confirmations of replicas, few connections.

Who asks for none of it has a plain `Server`, which costs nothing of this.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from umbel.engines.redis.connection import Command, Place, Server, script
from umbel.exceptions import OperationalError, UnconfirmedError

logger: Final = logging.getLogger("umbel.engines.redis")

WRITES: Final = {"LPUSH", "HSETNX", "HINCRBY"}
"""By these a publish is known: of a ready message, of a delayed one, of one that had arrived."""
CONFIRMED: Final = ("schedule", "replay", "put", "remove", "recover")
"""The scripts after which something is queued that must not be lost. A claim is not among them: if
it is lost, its message is still in the queue."""
ENDS: Final = ("settle",)
"""The scripts that are waited for a while: if they are lost, the task is still claimed."""
SETTLED: Final = 1.0
"""Seconds for which ends wait for replicas."""
TELL_EVERY: Final = 60.0
ANSWER: Final = 0.25
"""Seconds, at most, that the server's own waiting ends before ours, so that we get its answer: it
looks at its clock ten times a second."""


class CarefulServer(Server):
    """`Server`, with confirmations, and limits to its connections."""

    def __init__(
        self,
        places: Sequence[Place],
        name: str,
        *,
        replicas: int = 0,
        most: int | None = None,
        idle: float | None = None,
    ) -> None:
        super().__init__(places, name)
        self.replicas = replicas
        self._most = most
        self._idle_limit = idle
        self._room = self._make_room()
        self._told = 0.0

    def _make_room(self) -> threading.Semaphore | None:
        return None if self._most is None else threading.Semaphore(self._most)

    def _try(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        if self._pid != os.getpid():  # who held a place in the parent gives none back here
            self._room = self._make_room()
        room = self._room
        if room is None:
            return super()._try(commands, deadline)
        if not room.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise OperationalError(
                f"{self.name} cannot be reached: all {self._most} connections are in use "
                "(max_connections)."
            )
        try:
            return super()._try(commands, deadline)
        finally:
            room.release()

    def _take(self) -> Any:
        while (connection := super()._take()) is not None:
            used: float = connection.used
            if self._idle_limit is None or time.monotonic() - used < self._idle_limit:
                break
            connection.disconnect()
        return connection

    def _exchange(self, connection: Any, commands: Sequence[Command], deadline: float) -> list[Any]:
        replies = super()._exchange(connection, commands, deadline)
        if self.replicas:
            if any(command[0] in WRITES or _is(command, CONFIRMED) for command in commands):
                self._confirm(connection, deadline)
            elif any(_is(command, ENDS) for command in commands):
                self._confirm_ends(connection, deadline)
        connection.used = time.monotonic()
        return replies

    def _confirm(self, connection: Any, deadline: float) -> None:
        """Wait until enough replicas have what was written over this connection."""
        rest = max(deadline - time.monotonic(), 0.001)
        patience = max(0.001, rest - min(ANSWER, rest / 2))
        found = self._wait(connection, patience, deadline)
        if found < self.replicas:
            raise UnconfirmedError(
                f"{self.name} has stored this, but only {found} of {self.replicas} replicas have "
                f"confirmed it within {patience:.1f} s (redis_min_replicas_ack): it is done, "
                "unless a replica that lacks it takes this server's place."
            )

    def _confirm_ends(self, connection: Any, deadline: float) -> None:
        """The same for ends of tasks; they are not taken back, so it is only told."""
        patience = min(SETTLED, max(deadline - time.monotonic(), 0.001))
        found = self._wait(connection, patience, deadline + ANSWER)
        if found < self.replicas and self._told < time.monotonic():
            self._told = time.monotonic() + TELL_EVERY
            logger.warning(
                "%s: only %d of %d replicas confirm the ends of tasks (redis_min_replicas_ack). If "
                "one that lacks them takes the server's place, these tasks run again.",
                self.name,
                found,
                self.replicas,
            )

    def _wait(self, connection: Any, patience: float, deadline: float) -> int:
        wait = ("WAIT", self.replicas, max(1, round(patience * 1000)))
        (found,) = super()._exchange(connection, [wait], deadline)
        if isinstance(found, ResponseError):
            if "NOPERM" in str(found):
                raise found
            raise LostError(str(found))  # it was made a replica meanwhile
        return int(found)


@cache
def _digests(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(script(name).sha for name in names)


def _is(command: Command, names: tuple[str, ...]) -> bool:
    return command[0] == "EVALSHA" and command[1] in _digests(names)
