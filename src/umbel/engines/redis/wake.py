"""Sleeping until the server tells of a change, on a connection of one's own.

Who waits for work has the server track the lists that a claim has found empty: whoever pushes to
them, it tells once, and nothing is popped. A claim and the look that begins the tracking are one
round trip. Where tracking is denied, those who publish are asked to ring (`umbel:deaf` in keys.py).

Who waits for results subscribes to their channels and looks once; each change comes by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as LostError

from umbel.engines.redis.connection import (
    PASSING,
    Command,
    Line,
    Push,
    RefusedError,
    Server,
    script,
)
from umbel.engines.redis.keys import DEAF_TTL, Keys
from umbel.engines.waiting import Bundle, read_now, write_now
from umbel.exceptions import OperationalError

logger: Final = logging.getLogger("umbel.engines.redis")

CONNECT: Final = 1.0
"""Seconds that a lost connection may take to come back at each try; meanwhile one looks."""
BATCH: Final = 500
"""Most results of one command."""


class Listener(ABC):
    """A connection on which the server speaks by itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._line: Line | None = None
        self._generation = 0
        """The server's when the connection was made."""
        self._denied = False
        self._selector = Bundle()
        self._bell, self._clapper = os.pipe()
        for end in (self._bell, self._clapper):
            os.set_blocking(end, False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._rung = False
        self.ring()  # nothing has been looked at

    def fileno(self) -> int:
        """Readable when there is news: of the server, or of the loss of it."""
        return self._selector.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._disconnect()
        self._selector.close()
        os.close(self._bell)
        os.close(self._clapper)

    def ring(self) -> None:
        """Make `fileno` readable until `collect`."""
        if not self._rung:
            self._rung = True
            write_now(self._clapper, b"!")

    def collect(self) -> None:
        """Take in what the server has said so far."""
        if self._rung:
            self._rung = False
            with contextlib.suppress(BlockingIOError):
                read_now(self._bell, 1)
        if self._generation != self._server.generation:
            self._disconnect()
        while (line := self._line) is not None:
            try:
                if not line.receive():
                    return
            except (LostError, OSError):
                self._disconnect()
                return
            self._take_pushes()

    def _read(self, commands: Sequence[Command], answers: int) -> list[Any] | None:
        """Send commands and read so many replies; None if the server cannot be reached, or denies.

        What it said by itself meanwhile has been taken in, but for what `_take_pushes` finds.
        """
        line = self._connect()
        if line is None:
            return None
        try:
            line.send(commands, time.monotonic() + self._server.timeout)
            replies = [self._reply(line) for _ in range(answers)]
        except (LostError, OSError):
            self._disconnect()
            return None
        if any(isinstance(reply, RefusedError) and reply.code in PASSING for reply in replies):
            self._disconnect()
            return None
        if line.holds_more():
            self.ring()
        return replies

    def _reply(self, line: Line) -> Any:
        while isinstance(reply := line.reply(), Push):
            self._take(reply)
        return reply

    def _take_pushes(self) -> None:
        """Take in what came right behind the replies: no descriptor will tell of it."""
        while self._line is not None and (push := self._line.next()) is not False:
            self._take(push)

    def _connect(self) -> Line | None:
        """The connection, made if need be; None if that is not possible now."""
        if self._line is not None or self._denied:
            return self._line
        self._generation = self._server.generation
        try:
            connection = self._server.connect(CONNECT)
        except OperationalError:
            return None
        self._line = line = Line(connection)
        self._selector.register(line.socket, selectors.EVENT_READ)
        self._greet()
        return self._line

    def _disconnect(self) -> None:
        if self._line is not None:
            self._selector.unregister(self._line.socket)
            self._line.close()
            self._line = None
            self._lose()

    def _deny(self, what: str, error: Exception) -> None:
        self._denied = True
        self._disconnect()
        logger.warning(
            "%s denies %s (%s): what waits looks now and then, and is woken late",
            self._server.name,
            what,
            error,
        )

    def _greet(self) -> None:  # noqa: B027  (most say nothing)
        """Say what is to be said on each new connection."""

    @abstractmethod
    def _lose(self) -> None:
        """Forget what a connection was told that is gone."""

    @abstractmethod
    def _take(self, push: Sequence[Any]) -> None:
        """Take in what the server has said by itself."""


class WorkWaker(Listener):
    """Fires when a message may have become ready in some queues (`umbel.engines.broker.Waker`)."""

    def __init__(self, server: Server, keys: Keys, queues: Sequence[str]) -> None:
        super().__init__(server)
        self._queues = queues
        self._keys = keys
        self._armed = False
        """The server tells of the next change."""
        self._deaf = False
        """It tracks nothing; whoever publishes rings."""
        self._told = 0.0
        """When the publishers were last asked to (monotonic)."""
        self._seen: tuple[bool, float | None, int] = (False, None, 0)
        """What a claim would have found at the moment of the last look, as the script tells."""
        names = [keys.paused, keys.revoked]
        for queue in queues:
            names += (keys.delayed(queue)[0], *keys.lists(queue))
        self._look: tuple[Command, ...] = (
            ("CLIENT", "CACHING", "YES"),
            script("look")(names, len(keys.places), *queues),
        )

    def prepare(self) -> None:
        """Forget the news so far, and be connected, if that is possible now."""
        self.collect()
        self._connect()

    def drain(self) -> None:
        """Forget the news so far, and hear of what comes from now on."""
        self.collect()
        if not self._armed:
            self.ask(())

    def ask(self, claim: Sequence[Command]) -> Any:
        """The reply to a claim; who has not claimed all then hears of what comes from now on.

        None if it could not be made, or nobody knows whether it was.
        """
        if self._connect() is None or self._deaf:
            self._ask_for_bells()
            return None
        self._armed = False
        replies = self._read((*claim, *self._look), len(claim) + len(self._look))
        if replies is None:
            return None
        made = replies[0] if claim and not isinstance(replies[0], Exception) else None
        for reply in replies[len(claim) :]:
            if isinstance(reply, RefusedError):
                if reply.code == "NOSCRIPT":  # somebody has flushed them
                    self._disconnect()
                    self.ring()
                    return made
                self._be_deaf(reply)
                return made
        found, due, version = replies[-1]
        self._seen = bool(found), None if due is None else float(due), version
        self._armed = True
        self._take_pushes()  # came right behind the replies
        if not self._armed:
            self.ring()
        return made

    def ring_for_more(self, next_due: float | None, version: int) -> None:
        """Ring if more came between the last claim, of which this was told, and the look."""
        found, due, newest = self._seen
        if found or newest > version or (due is not None and (next_due or due + 1) > due):
            self.ring()

    def _greet(self) -> None:
        if self._deaf:
            channels = map(self._keys.ready, self._queues)
            commands: list[Command] = [("SUBSCRIBE", *channels), ("PING",)]
        else:
            # Its own claims need not be told of, and of what it reads only the look is tracked.
            commands = [
                ("CLIENT", "TRACKING", "ON", "OPTIN", "NOLOOP"),
                ("SCRIPT", "LOAD", script("look").text),
            ]
        replies = self._read(commands, 1 if self._deaf else 2)
        if replies and isinstance(replies[0], Exception):
            self._be_deaf(replies[0])

    def _be_deaf(self, error: Exception) -> None:
        """Go on by bells, and where they are denied too without any."""
        if self._deaf:
            self._deny("SUBSCRIBE", error)
            return
        logger.warning(
            "%s denies CLIENT TRACKING (%s): this worker looks every second, and is woken at once "
            "only by Umbel's own producers, a minute after it said so",
            self._server.name,
            error,
        )
        self._deaf = True
        self._disconnect()
        self._connect()
        self._ask_for_bells()
        self.ring()

    def _ask_for_bells(self) -> None:
        if self._deaf and (now := time.monotonic()) >= self._told:
            with contextlib.suppress(OperationalError):  # the claim that follows meets it too
                self._server.call([("SET", self._keys.deaf, 1, "EX", DEAF_TTL)])
                self._told = now + DEAF_TTL / 3

    def _lose(self) -> None:
        self._armed = False

    def _take(self, push: Sequence[Any]) -> None:
        if push[0] == b"invalidate":
            self._armed = False


class ResultWaker(Listener):
    """Fires when a result that was asked for through it may have changed."""

    def __init__(self, server: Server, keep: Callable[[ResultWaker], bool]) -> None:
        super().__init__(server)
        self._keep = keep
        self._subscribed: set[bytes] = set()
        self._ended: list[bytes] = []
        """Subscribed to for nothing: they are let go with the next command."""
        self._news: dict[bytes, bytes] = {}

    def drain(self) -> None:
        """Forget that there was news; `get` still tells it."""
        self.collect()

    def get(self, names: Sequence[bytes]) -> dict[bytes, bytes] | None:
        """What has changed of some keys since they were got before; None if nobody listens."""
        news = self._news
        if len(self._subscribed) > 2 * len(names) + BATCH:  # nobody waits for these any more
            for name in self._subscribed.difference(names):
                self.let_go(name)
        found: dict[bytes, bytes] = {}
        unknown = [name for name in names if name not in self._subscribed]
        for start in range(0, len(unknown), BATCH):
            part = unknown[start : start + BATCH]
            commands: list[Command] = [("SUBSCRIBE", *part), ("MGET", *part)]
            if self._ended:
                commands.insert(0, ("UNSUBSCRIBE", *self._ended))
                self._ended.clear()
            replies = self._read(commands, 1)
            if replies is None:
                return None
            if isinstance(replies[0], Exception):
                self._deny("SUBSCRIBE", replies[0])
                return None
            self._subscribed.update(part)
            looked = zip(part, replies[0], strict=True)
            found |= {name: value for name, value in looked if value is not None}
            self._take_pushes()
        for name in names if news else ():
            if name in news:
                found[name] = news.pop(name)
        return found

    def let_go(self, name: bytes) -> None:
        """A result has ended."""
        if name in self._subscribed:
            self._subscribed.remove(name)
            self._news.pop(name, None)
            self._ended.append(name)

    def close(self) -> None:
        """Stop listening; the connection is kept for the next who waits."""
        if self._subscribed or self._line is None or not self._keep(self):
            self.end()

    def open_again(self) -> bool:
        """Begin to listen once more; False if the server has closed the connection meanwhile."""
        self.collect()
        self._news.clear()
        self.ring()  # nothing has been looked at
        return self._line is not None

    def end(self) -> None:
        """Close the connection."""
        super().close()

    def _lose(self) -> None:
        self._subscribed.clear()
        self._ended.clear()

    def _take(self, push: Sequence[Any]) -> None:
        # What comes before it has been looked at is in the look.
        if push[0] == b"message" and push[1] in self._subscribed:
            self._news[push[1]] = push[2]
