"""Where the primary is that all commands go to: sentinels are asked, or the nodes of a cluster.

All keys of an app lie in one slot of a cluster, so in both cases there is one server at a time, and
who loses it, or is told that it is none any more, asks again.
"""

from __future__ import annotations

import contextlib
import time
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from umbel.engines.redis.connection import Address

SLOTS: Final = 16384
DOWN: Final = {"s_down", "o_down", "disconnected"}


class Sentinels:
    """The primary that sentinels name (`umbel.engines.redis.connection.Place`)."""

    def __init__(
        self, nodes: Sequence[Address], master: str, primary: Address, least: int = 0
    ) -> None:
        self._nodes = list(nodes)
        self._master = master
        self._primary = primary
        self._least = least
        """How many other sentinels one must know of to be believed."""

    def connect(self, deadline: float, protocol: int = 2) -> Any:
        """A new connection to the primary, signed in. What redis-py raises."""
        reasons: list[str] = []
        for node, reply in _ask(
            self._nodes, ("SENTINEL", "MASTER", self._master), deadline, reasons
        ):
            about = dict(zip(reply[::2], reply[1::2], strict=True))
            flags = set(about[b"flags"].decode().split(","))
            if "master" not in flags or flags & DOWN:
                reasons.append(f"{node.place} says that it is {','.join(sorted(flags))}")
            elif int(about[b"num-other-sentinels"]) < self._least:
                reasons.append(f"{node.place} knows fewer than {self._least} other sentinels")
            else:
                self._nodes = [node, *(one for one in self._nodes if one is not node)]
                host, port = about[b"ip"].decode(), int(about[b"port"])
                return self._enter(self._primary.at(host, port), deadline, protocol)
        raise LostError(f"no sentinel names a primary {self._master} ({'; '.join(reasons)})")

    def _enter(self, primary: Address, deadline: float, protocol: int) -> Any:
        connection = primary.connect(deadline, protocol)
        try:
            # It may have been replaced a moment ago, and sentinels tell each other with delay.
            role = _tell(connection, ("ROLE",), deadline)[0]
            if role == b"master":
                return connection
        except BaseException:
            _drop(connection)
            raise
        _drop(connection)
        raise LostError(f"{primary.place} is no primary any more")


class Cluster:
    """The primary of a hash tag's slot (`umbel.engines.redis.connection.Place`)."""

    def __init__(self, nodes: Sequence[Address], tag: str) -> None:
        self._nodes = list(nodes)
        self._slot = slot_of(tag)

    def connect(self, deadline: float, protocol: int = 2) -> Any:
        """A new connection to the slot's primary, signed in. What redis-py raises."""
        reasons: list[str] = []
        for node, reply in _ask(self._nodes, ("CLUSTER", "SLOTS"), deadline, reasons):
            served = [part[2] for part in reply if part[0] <= self._slot <= part[1]]
            if not served:
                reasons.append(f"{node.place} knows nobody who serves slot {self._slot}")
                continue
            self._learn(node, [one for part in reply for one in part[2:]])
            return _of(node, served[0]).connect(deadline, protocol)
        raise LostError(f"no node of the cluster tells where our slot is ({'; '.join(reasons)})")

    def _learn(self, node: Address, others: Sequence[Sequence[Any]]) -> None:
        """Whom to ask the next time: who has answered, then whom it knows, then the rest."""
        known = {one.place: one for one in (_of(node, other) for other in others)}
        rest = {one.place: one for one in self._nodes}
        self._nodes = list(({node.place: node} | known | rest).values())


def slot_of(tag: str) -> int:
    """The slot of all keys with a tag in braces."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _of(node: Address, told: Sequence[Any]) -> Address:
    """Another node, as one tells of it; one that does not know its own host says none."""
    host = told[0].decode() if told[0] else ""
    return node.at(host or node.host, int(told[1]))


def _ask(
    nodes: Sequence[Address], command: tuple[str, ...], deadline: float, reasons: list[str]
) -> Iterator[tuple[Address, Any]]:
    """The answers of the nodes that give one, in their order; of the others, why not."""
    for turn, node in enumerate(nodes):
        # One that is silent leaves time for the others and for the primary.
        part = time.monotonic() + (deadline - time.monotonic()) / (len(nodes) - turn + 1)
        connection = None
        try:
            connection = node.connect(part)
            reply = _tell(connection, command, part)
        except (RedisError, OSError) as error:
            reasons.append(f"{node.place}: {error}")
            continue
        finally:
            _drop(connection)
        yield node, reply


def _tell(connection: Any, command: tuple[str, ...], deadline: float) -> Any:
    connection._sock.settimeout(max(deadline - time.monotonic(), 0.001))  # noqa: SLF001
    connection.send_command(*command)
    return connection.read_response(disable_decoding=True)


def _drop(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(RedisError, OSError):
            connection.disconnect()
