"""The link between the supervisor and a child: frames over a stream, tokens over datagrams.

To the child, a frame is a delivery: its size, number and charged deliveries, then the broker's
bytes. A frame alone lets nothing run: the child starts a delivery only after it has read that
delivery's start token, eight bytes on a datagram socket whose reading end the supervisor holds
too. Reading an unread token back recalls the delivery without a race, and after a crash an
unread token proves that it had not started.

A child of several slots reads tokens and frames in one order, whichever slot takes the delivery.

From the child, a frame is an `Outcome`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from umbel.app.execution.outcome import Outcome
from umbel.app.log import LogOptions
from umbel.pools.launch import packet_pair

DELIVERY: Final = struct.Struct("<IQI")
"""Size of the payload, number, charged deliveries."""
SIZE: Final = struct.Struct("<I")
TOKEN: Final = struct.Struct("<Q")
RETIRE: Final = 0
"""The token that tells a child to end; no delivery has this number."""
CHUNK: Final = 1 << 18
BUFFER: Final = 1 << 20


class Setup(msgspec.Struct, frozen=True):
    """The first frame to a child: what it needs to know before any delivery."""

    app: str
    """Where the app is, `module:attribute`."""
    path: list[str]
    """The supervisor's `sys.path`."""
    node: str
    log: LogOptions
    include: list[str]
    """Modules that the command line names besides the app's."""
    settings: dict[str, str]
    """Settings of the command line, as text."""
    report_memory: bool
    """Tell the peak resident memory with each outcome."""
    pool: str
    """How slots run code: a name of `umbel.pools.kinds`."""
    slots: int
    first: int = 0
    """Its first record in the slot table."""


READY: Final = Outcome(0, "success")
"""A child's first outcome: it has imported the app and waits for tokens."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


class ChildEnd:
    """The link as a child sees it. Nothing here may be called by two threads at once."""

    def __init__(self, stream: socket.socket, tokens: socket.socket) -> None:
        self._stream = stream
        self._tokens = tokens
        self._buffer = bytearray()
        self._offset = 0

    def read_setup(self) -> Setup:
        """Wait for the first frame."""
        self._need(SIZE.size)
        size = SIZE.unpack(self._take(SIZE.size))[0]
        self._need(size)
        return msgspec.msgpack.decode(self._take(size), type=Setup)

    def next_token(self) -> int:
        """Wait for a start token; RETIRE also when the supervisor is gone."""
        token = self._tokens.recv(TOKEN.size)
        return TOKEN.unpack(token)[0] if token else RETIRE

    def token_now(self) -> int | None:
        """A start token if there is one."""
        try:
            token = self._tokens.recv(TOKEN.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return TOKEN.unpack(token)[0] if token else RETIRE

    def payload(self, number: int) -> tuple[bytes, int]:
        """The delivery of a token, and its charged deliveries; skips what was recalled."""
        while True:
            if len(self._buffer) - self._offset < DELIVERY.size:
                self._need(DELIVERY.size)
            size, found, deliveries = DELIVERY.unpack_from(self._buffer, self._offset)
            start = DELIVERY.size
            end = start + size
            if len(self._buffer) - self._offset < end:
                self._need(end)
            start += self._offset
            end += self._offset
            self._offset = end
            if found == number:
                return bytes(self._buffer[start:end]), deliveries

    def payload_now(self, number: int) -> tuple[bytes, int] | None:
        """The same if it has arrived as a whole; else None, and the next call goes on with it."""
        while self._has(DELIVERY.size):
            size, found, deliveries = DELIVERY.unpack_from(self._buffer, self._offset)
            if not self._has(DELIVERY.size + size):
                return None
            self._offset += DELIVERY.size
            data = self._take(size)
            if found == number:
                return bytes(data), deliveries
        return None

    def send(self, outcome: Outcome) -> None:
        """Hand an outcome to the supervisor."""
        data = _encode(outcome)
        self._stream.sendall(SIZE.pack(len(data)) + data)

    @property
    def sources(self) -> tuple[int, int]:
        """The descriptors from which tokens and payloads come."""
        return self._tokens.fileno(), self._stream.fileno()

    def hang_up(self) -> None:
        """Have the supervisor see the end of the stream. Any thread may do it."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close both sockets; in a process of its own its end does."""
        self._stream.close()
        self._tokens.close()

    def _need(self, size: int) -> None:
        while len(self._buffer) - self._offset < size:
            self._grow(self._stream.recv(max(CHUNK, size)))

    def _has(self, size: int) -> bool:
        while len(self._buffer) - self._offset < size:
            try:
                self._grow(self._stream.recv(max(CHUNK, size), socket.MSG_DONTWAIT))
            except BlockingIOError:
                return False
        return True

    def _grow(self, data: bytes) -> None:
        if not data:
            raise SystemExit(0)  # the supervisor is gone
        del self._buffer[: self._offset]
        self._offset = 0
        self._buffer += data

    def _take(self, size: int) -> bytearray:
        end = self._offset + size
        part = self._buffer[self._offset : end]
        self._offset = end
        return part


class SupervisorEnd:
    """The link as the supervisor sees it; never blocks."""

    def __init__(self) -> None:
        self.child_stream: socket.socket
        self.child_tokens: socket.socket
        self._stream, self.child_stream = socket.socketpair()
        self._tokens, self.child_tokens = packet_pair()
        for end in (self._stream, self.child_stream, self._tokens):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._stream.setblocking(False)
        self._unsent = bytearray()
        self._unsent_tokens: deque[int] = deque()
        self._unread = bytearray()
        self.at_end: bool = False
        """The child has closed its end."""

    def fileno(self) -> int:
        """The descriptor to wait on for outcomes."""
        return self._stream.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that the child's buffers had no room for yet."""
        return len(self._unsent) + TOKEN.size * len(self._unsent_tokens)

    def give_setup(self, setup: Setup) -> None:
        """Send the first frame."""
        data = msgspec.msgpack.encode(setup)
        self._unsent += SIZE.pack(len(data)) + data
        self.flush()

    def give(self, deliveries: list[tuple[int, int, bytes]]) -> None:
        """Send deliveries (number, charged deliveries, payload) and their start tokens."""
        for number, charged, payload in deliveries:
            self._unsent += DELIVERY.pack(len(payload), number, charged)
            self._unsent += payload
            self._unsent_tokens.append(number)
        self.flush()

    def retire(self) -> None:
        """Tell the child to end once it has done what it was given."""
        self._unsent_tokens.append(RETIRE)
        self.flush()

    def flush(self) -> None:
        """Send as much of what is unsent as fits."""
        # A child that has died is reported elsewhere.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            if self._unsent:
                del self._unsent[: self._stream.send(self._unsent)]
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._unsent_tokens:
                self._tokens.send(TOKEN.pack(self._unsent_tokens[0]), socket.MSG_DONTWAIT)
                self._unsent_tokens.popleft()

    def recall(self) -> list[int]:
        """Take back all deliveries that the child has not started; oldest first."""
        numbers: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while token := self.child_tokens.recv(TOKEN.size, socket.MSG_DONTWAIT):
                numbers.append(TOKEN.unpack(token)[0])
        numbers += self._unsent_tokens
        self._unsent_tokens.clear()
        if RETIRE in numbers:  # that one stands
            numbers.remove(RETIRE)
            self.retire()
        return numbers

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes that have arrived."""
        while True:
            try:
                data = self._stream.recv(CHUNK)
            except (BlockingIOError, ConnectionResetError):
                break
            self._unread += data
            self.at_end = self.at_end or not data
            if len(data) < CHUNK:
                break
        offset, end = 0, len(self._unread)
        while end - offset >= SIZE.size:
            (size,) = SIZE.unpack_from(self._unread, offset)
            if end - offset - SIZE.size < size:
                break
            offset += SIZE.size
            yield _decode(memoryview(self._unread)[offset : offset + size])
            offset += size
        del self._unread[:offset]

    def close_child_ends(self) -> None:
        """Let go of this process's copy of the child's stream, once the child has its own."""
        self.child_stream.close()

    def close(self) -> None:
        """Close everything."""
        for end in (self._stream, self._tokens, self.child_stream, self.child_tokens):
            end.close()
