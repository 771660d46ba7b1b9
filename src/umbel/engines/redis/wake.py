"""Sleeping until the server tells of a change: CLIENT TRACKING on a connection of its own.

The server notes which keys this connection has read and tells once when one of them changes,
whoever changes it. So to look is to listen from then on, nothing is popped, and an idle process
costs nothing. Where tracking is denied nothing wakes anybody, and who waits looks now and then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final

import hiredis

from umbel.engines.redis.connection import Command, Server, pack
from umbel.engines.waiting import Bundle, read_now, write_now
from umbel.exceptions import OperationalError

logger: Final = logging.getLogger("umbel.engines.redis")

CONNECT: Final = 1.0
"""Seconds that a lost connection may take to come back at each try; meanwhile one looks."""
ANSWER: Final = 5.0
READ: Final = 1 << 16


class Tracker:
    """A connection that reads keys and hears when they change."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Any = None
        self._socket: socket.socket | None = None
        self._reader: Any = None
        self._denied = False
        self._selector = Bundle()
        self._bell, self._clapper = os.pipe()
        for end in (self._bell, self._clapper):
            os.set_blocking(end, False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self.armed: set[bytes] = set()
        """The keys that were read and have not changed since."""
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

    def read(self, commands: Sequence[Command], keys: Iterable[bytes]) -> list[Any] | None:
        """Replies of commands that read `keys`; from then on their changes are heard of.

        None if the server cannot be reached or does not track.
        """
        stream = self._connect()
        if stream is None:
            return None
        try:
            stream.settimeout(ANSWER)
            stream.sendall(b"".join(map(pack, commands)))
            self.armed.update(keys)
            replies = [self._reply(stream) for _ in commands]
        except OSError:
            self._disconnect()
            return None
        while (push := self._reader.gets()) is not False:
            self._take(push)  # came right behind the replies
        for reply in replies:
            if isinstance(reply, Exception):  # no right to read these keys
                self._deny(reply)
                return None
        return replies

    def collect(self) -> None:
        """Take in what has changed so far."""
        with contextlib.suppress(BlockingIOError):
            read_now(self._bell, READ)
        while self._socket is not None:
            self._socket.settimeout(0)
            try:
                data = self._socket.recv(READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            self._reader.feed(data)
            while (push := self._reader.gets()) is not False:
                self._take(push)

    def ring(self) -> None:
        """Make `fileno` readable until `collect`."""
        with contextlib.suppress(BlockingIOError):  # it is
            write_now(self._clapper, b"!")

    def _take(self, push: Any) -> None:
        if isinstance(push, list) and push and push[0] == b"invalidate":
            if push[1] is None:  # FLUSHALL
                self.armed.clear()
            else:
                self.armed.difference_update(push[1])

    def _reply(self, stream: socket.socket) -> Any:
        while True:
            reply = self._reader.gets()
            if reply is False:
                data = stream.recv(READ)
                if not data:
                    raise ConnectionError
                self._reader.feed(data)
            elif isinstance(reply, list) and reply and reply[0] == b"invalidate":
                self._take(reply)
            else:
                return reply

    def _connect(self) -> socket.socket | None:
        if self._socket is not None or self._denied:
            return self._socket
        try:
            connection = self._server.connect(CONNECT)
        except OperationalError:
            return None
        stream: socket.socket = connection._sock  # noqa: SLF001
        self._reader = hiredis.Reader(protocolError=OSError, replyError=RuntimeError)
        try:
            stream.settimeout(ANSWER)
            stream.sendall(pack(("CLIENT", "TRACKING", "ON")))
            reply = self._reply(stream)
        except OSError:
            connection.disconnect()
            return None
        if isinstance(reply, Exception):
            connection.disconnect()
            self._deny(reply)
            return None
        self._connection, self._socket = connection, stream
        self._selector.register(stream, selectors.EVENT_READ)
        return stream

    def _deny(self, error: Exception) -> None:
        self._denied = True
        self._disconnect()
        logger.warning(
            "%s denies CLIENT TRACKING (%s): what waits looks now and then, and is woken late",
            self._server.name,
            error,
        )

    def _disconnect(self) -> None:
        self.armed.clear()
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._connection.disconnect()
        self._socket = self._connection = None


class WorkWaker(Tracker):
    """Fires when a message may have become ready in some queues (`umbel.engines.broker.Waker`)."""

    def __init__(self, server: Server, keys: Sequence[str]) -> None:
        super().__init__(server)
        self._keys = [key.encode() for key in keys]
        self._look: list[Command] = [("EXISTS", *self._keys)]

    def drain(self) -> None:
        """Forget the news so far, and hear of what comes from now on."""
        self.collect()
        if len(self.armed) < len(self._keys):
            self.read(self._look, self._keys)
            if len(self.armed) < len(self._keys) and self._socket is not None:
                self.ring()  # it has changed again already


class ResultWaker(Tracker):
    """Fires when a result that was asked for through it may have changed."""

    def drain(self) -> None:
        """Forget the news so far."""
        self.collect()
