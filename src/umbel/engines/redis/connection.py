"""Connections to a Redis server: packed commands, one total deadline, scripts by their hash.

redis-py connects, speaks TLS and signs in; from then on commands travel packed, many in one write,
and replies are read one after the other, which costs a fraction of its client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any, Final, NoReturn, Protocol

from umbel.exceptions import ImproperlyConfigured, OperationalError

try:
    import hiredis
    from redis import connection as driver
    from redis.exceptions import (
        AskError,
        AuthenticationError,
        AuthorizationError,
        ClusterDownError,
        NoScriptError,
        ReadOnlyError,
        RedisError,
        ResponseError,
        TryAgainError,
    )
    from redis.exceptions import ConnectionError as LostError
    from redis.exceptions import TimeoutError as LateError
except ImportError as _missing:
    raise ImproperlyConfigured(
        'Redis needs the packages redis and hiredis: pip install "umbel[redis]"'
    ) from _missing

TIMEOUT: Final = 5.0
"""Seconds for anything but a publish, which brings its own."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
"""Between two tries of a publish (s); each pause is twice the one before."""
ELSEWHERE: Final = (ReadOnlyError, AskError, ClusterDownError, TryAgainError)
"""Answers of a server that is not the one that serves our keys, or not at the moment."""
BEFORE: Final = {
    "put": ("store",),
    **dict.fromkeys(("settle", "remove", "send"), ("store", "flow")),
}
"""What comes before a script."""

PASSING: Final = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN"}
)
"""How errors begin of a server that is not the one that serves our keys, or not at the moment."""
READ: Final = 1 << 16

Command = tuple[Any, ...]
Push: Final[type[Any]] = hiredis.PushNotification
"""What a server says by itself."""
pack: Final[Callable[[Command], bytes]] = hiredis.pack_command


class Script:
    """A script of `lua/`, called by its hash."""

    def __init__(self, name: str) -> None:
        folder = resources.files(__package__).joinpath("lua")
        files = (*BEFORE.get(name, ()), name)
        self.text: str = "\n".join(folder.joinpath(f"{f}.lua").read_text("utf-8") for f in files)
        self.sha: str = self.digest(self.text)

    @staticmethod
    def digest(text: str) -> str:
        """What the server calls a script."""
        return sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: object) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


@cache
def script(name: str) -> Script:
    """A script by its name, read once."""
    return Script(name)


class _Timed(driver.Connection):
    """A connection of redis-py under one deadline for all steps."""

    deadline = 0.0

    def _connect(self) -> socket.socket:
        places = socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM)
        failure: OSError = OSError("the host has no address")
        for number, (family, kind, protocol, _, place) in enumerate(places):
            made = socket.socket(family, kind, protocol)
            try:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in (self.socket_keepalive_options or {}).items():
                    made.setsockopt(socket.IPPROTO_TCP, option, value)
                # A black hole at the first of several addresses leaves time for the others.
                made.settimeout(_left(self.deadline) / (len(places) - number))
                made.connect(place)
                made.settimeout(_left(self.deadline))
                return made
            except OSError as error:
                made.close()
                failure = error
        raise failure


class _TimedTls(driver.SSLConnection, _Timed):
    """The same over TLS."""


class _TimedSocket(driver.UnixDomainSocketConnection):
    """The same through a socket of this host."""

    deadline = 0.0

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(_left(self.deadline))
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        return made


KINDS: Final[dict[str, type[Any]]] = {
    "redis": _Timed,
    "rediss": _TimedTls,
    "redis+socket": _TimedSocket,
}


def read_options(url: str) -> dict[str, Any]:
    """What a URL says of a connection. `ValueError` if it is none."""
    options: dict[str, Any] = driver.parse_url(url)  # type: ignore[no-untyped-call]
    options.pop("connection_class", None)
    return options


class Place(Protocol):
    """Where to connect to."""

    def connect(self, deadline: float, protocol: int = 2) -> Any:
        """A new connection, signed in, by a deadline (monotonic). What redis-py raises."""
        ...


class Address:
    """One server: how to connect to it. `TypeError` for an option that there is not."""

    def __init__(
        self, scheme: str, options: dict[str, Any], connect_timeout: float | None = None
    ) -> None:
        self._kind = KINDS[scheme]
        self._options = options
        self._timeout = connect_timeout
        """Most seconds for a new connection; None: as long as the call may take."""
        self._kind(**options)

    @property
    def host(self) -> str:
        """Its host."""
        return str(self._options.get("host", "localhost"))

    @property
    def place(self) -> str:
        """Host and port."""
        return f"{self.host}:{self._options.get('port', 6379)}"

    def at(self, host: str, port: int) -> Address:
        """Another server that is connected to in the same way."""
        found = copy(self)
        found._options = {**self._options, "host": host, "port": port}  # noqa: SLF001
        return found

    def connect(self, deadline: float, protocol: int = 2) -> Any:
        """A new connection, signed in. What redis-py raises."""
        if self._timeout is not None:
            deadline = min(deadline, time.monotonic() + self._timeout)
        connection = self._kind(**self._options, protocol=protocol)
        connection.deadline = deadline
        connection.connect()
        return connection


class _Broken(Exception):  # noqa: N818
    """A connection broke, or could not be made."""

    def __init__(self, error: Exception, *, reused: bool, sent: bool) -> None:
        super().__init__(error)
        self.error = error
        self.reused = reused
        """It had been idle, so the server may be well."""
        self.sent = sent
        """Nobody knows whether the commands were done."""


class Server:
    """The server of a URL, or the first that answers of several, and connections to it."""

    def __init__(self, addresses: Sequence[Place], name: str) -> None:
        self.name = name
        """The URL, masked."""
        self.on_first_use: Callable[[float, bool], None] | None = None
        """Called before the first call, with its timeout (s) and whether it is patient."""
        self.made: int = 0
        """How many connections there have been."""
        self.generation: int = 0
        """It changes when idle connections have turned out to be dead, or to lead elsewhere."""
        self.replicas = 0
        """How many have to confirm what is published or settled (`careful.py`)."""
        self.timeout = TIMEOUT
        """Seconds for a call that says none."""
        self._addresses = deque(addresses)
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    # ------------------------------------------------------------------ calls

    def call(
        self,
        commands: Sequence[Command],
        timeout: float | None = None,
        *,
        patient: bool = False,
        again: Callable[[float], Sequence[Command]] | None = None,
    ) -> list[Any]:
        """The commands' replies, in one round trip. `OperationalError` if there are none in time.

        An error that one command got is raised as `OperationalError` too. A connection that turns
        out to be dead is replaced once; `patient`: tried again until the deadline. When it is not
        known whether the commands were done, `again` tells which to send then, by the deadline
        (monotonic); without it they are repeated, so they have to be such that can be.
        """
        timeout = timeout or self.timeout
        deadline = time.monotonic() + timeout
        self._check_once(timeout, patient)
        pause = FIRST_PAUSE
        while True:
            try:
                replies = self._try(commands, deadline)
            except _Broken as broken:
                if not broken.reused:
                    if not patient or time.monotonic() + pause >= deadline:
                        self._fail(broken.error)
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                if broken.sent and again is not None:
                    commands = again(deadline)
                    if not commands:
                        return []
            else:
                inner = replies[-1] if commands[-1] == ("EXEC",) else ()
                for reply in (*replies, *inner):
                    if isinstance(reply, Exception):
                        self._fail(reply)
                return replies

    def _try(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Send once, over a connection that lies idle or a new one."""
        connection = self._take()
        reused, sent = connection is not None, False
        try:
            if connection is None:
                connection = self._connect(deadline)
            sent = True
            replies = self._exchange(connection, commands, deadline)
        except (RedisError, OSError) as error:
            _drop(connection)
            if not _may_help(error):
                self._fail(error)
            if reused:
                self.generation += 1
                self.close()  # the others are as old
            raise _Broken(error, reused=reused, sent=sent) from error
        except BaseException:
            _drop(connection)  # replies that nobody has read lie in it
            raise
        self._idle.append(connection)
        return replies

    def _check_once(self, timeout: float, patient: bool) -> None:
        check, self.on_first_use = self.on_first_use, None
        if check is not None:
            try:
                check(timeout, patient)
            except BaseException:
                self.on_first_use = check
                raise

    def run(self, name: str, keys: Sequence[str], *arguments: object) -> Any:
        """One script's reply."""
        return self.call([script(name)(keys, *arguments)])[0]

    def _exchange(self, connection: Any, commands: Sequence[Command], deadline: float) -> list[Any]:
        replies = _send(connection, commands, deadline)
        missing = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # a new server, or one that has forgotten: nothing of these was done
            wanted = {commands[n][1] for n in missing}
            texts = [("SCRIPT", "LOAD", s.text) for s in _scripts() if s.sha in wanted]
            rest = _send(connection, [*texts, *(commands[n] for n in missing)], deadline)
            for n, reply in zip(missing, rest[len(texts) :], strict=True):
                replies[n] = reply
        for reply in replies:
            if isinstance(reply, ELSEWHERE):
                raise reply  # connect anew, to the one that is the primary now
        return replies

    def _fail(self, error: BaseException) -> NoReturn:
        if isinstance(error, ResponseError | AuthenticationError | AuthorizationError):
            message = f"{self.name} refuses: {error}."
        else:
            message = f"{self.name} cannot be reached: {str(error).rstrip('.') or repr(error)}."
        raise OperationalError(message) from error

    # ------------------------------------------------------------------ connections

    def _take(self) -> Any:
        if self._pid != os.getpid():  # the parent's connections are the parent's
            self._pid = os.getpid()
            self._idle = deque()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self, deadline: float, protocol: int = 2) -> Any:
        """A new connection to the first server that answers; the next try begins with it."""
        self.made += 1
        for turn in range(len(self._addresses)):
            rest = deadline - time.monotonic()
            try:
                part = time.monotonic() + rest / (len(self._addresses) - turn)
                return self._addresses[0].connect(part, protocol)
            except (RedisError, OSError):
                self._addresses.rotate(-1)
                if turn == len(self._addresses) - 1:
                    raise
        raise AssertionError

    def connect(self, timeout: float, protocol: int = 3) -> Any:
        """A connection for somebody alone, who closes it."""
        try:
            return self._connect(time.monotonic() + timeout, protocol)
        except (RedisError, OSError) as error:
            self._fail(error)

    def close(self) -> None:
        """Close all connections that nobody uses at the moment."""
        while (connection := self._take()) is not None:
            _drop(connection)


class RefusedError(ResponseError):
    """What a server answers that does not do a command."""

    @property
    def code(self) -> str:
        """Its first word."""
        return str(self).partition(" ")[0]


class Line:
    """A connection (RESP3) on which the server also speaks by itself, for one reader."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.socket: socket.socket = connection._sock  # noqa: SLF001
        self._reader = hiredis.Reader(protocolError=LostError, replyError=RefusedError)

    def send(self, commands: Sequence[Command], deadline: float) -> None:
        """Send commands in one write; their replies, too, are to come by the deadline."""
        self.socket.settimeout(_left(deadline))
        self.socket.sendall(b"".join(map(pack, commands)))

    def reply(self) -> Any:
        """The next that the server says. `LostError`, `OSError`; a `RefusedError` is returned."""
        while (reply := self._reader.gets()) is False:
            self._feed(self.socket.recv(READ))
        return reply

    def next(self) -> Any:
        """The next that has been received; False if there is nothing."""
        return self._reader.gets()

    def receive(self) -> bool:
        """Take in what has come without waiting; whether anything has. `LostError`, `OSError`."""
        self.socket.settimeout(0)
        try:
            self._feed(self.socket.recv(READ))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    def _feed(self, data: bytes) -> None:
        if not data:
            raise LostError("the server has closed the connection")
        self._reader.feed(data)

    def holds_more(self) -> bool:
        """Whether TLS has decrypted more than was read: the descriptor does not tell of it."""
        pending: Callable[[], int] = getattr(self.socket, "pending", int)
        return pending() > 0

    def close(self) -> None:
        """Close it."""
        _drop(self._connection)


def _left(deadline: float) -> float:
    """Seconds until a deadline; a socket takes 0 for something else."""
    return max(deadline - time.monotonic(), 0.001)


def _may_help(error: Exception) -> bool:
    """Whether another try might go better."""
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, (LostError, LateError, OSError, *ELSEWHERE))


def _drop(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(RedisError, OSError):
            connection.disconnect()


def _scripts() -> list[Script]:
    folder = resources.files(__package__).joinpath("lua")
    names = [f.name.removesuffix(".lua") for f in folder.iterdir() if f.name.endswith(".lua")]
    return [script(name) for name in names]


def _send(connection: Any, commands: Sequence[Command], deadline: float) -> list[Any]:
    stream = connection._sock  # noqa: SLF001  (redis-py gives it no other name)
    stream.settimeout(_left(deadline))
    stream.sendall(b"".join(map(pack, commands)))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response(disable_decoding=True))
        except ResponseError as error:
            replies.append(error)
    return replies
