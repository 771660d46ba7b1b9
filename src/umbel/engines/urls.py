"""Which engine a URL names. Each URL is opened once in a process."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from umbel.engines.state import Engine
from umbel.exceptions import ImproperlyConfigured

REDIS: Final = (
    "redis", "rediss", "redis+socket", "sentinel", "redis+cluster", "rediss+cluster"
)  # fmt: skip
SCHEMES: Final = ("sqlite", "memory", *REDIS)

SEVERAL: Final = r";(?=[a-z+]+://)"
"""What separates the URLs of a list; a password may hold a ; of its own."""
Options = Mapping[str, Any]
NO_OPTIONS: Final[Options] = MappingProxyType({})

_engines: dict[str, Engine] = {}
_lock = threading.RLock()  # a signal handler may interrupt who holds it


def open_engine(url: str, options: Options = NO_OPTIONS) -> Engine:
    """The engine of a URL: `sqlite:///relative`, `sqlite:////absolute/path`, `memory://name`.

    `sqlite` takes `?durability=power` (sync at each commit). Or `redis://user:password@host/0`,
    `rediss://` (TLS), `redis+socket:///path?virtual_host=0`; of several, separated by `;`, the
    first that answers serves. Or sentinels, `sentinel://host:26379/0`, or nodes of a cluster,
    `redis+cluster://host:6379`. `options` are those of `broker_transport_options`.
    `ImproperlyConfigured` for anything else, with the URL masked.
    """
    key = f"{url} {sorted(options.items())}" if options else url
    with _lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines.setdefault(key, _make(url, options))
        return engine


def forget_engine(url: str) -> None:
    """Open it anew the next time that it is asked for: what a store in memory held is gone."""
    with _lock:
        _engines.pop(url, None)


@contextmanager
def replaced_engines(make: Callable[[str, Options], Engine]) -> Iterator[None]:
    """For tests: meanwhile each URL is opened afresh, once, by `make`; then the old ones are back.

    Whoever holds an engine of either time goes on with it.
    """
    global _engines, _make
    with _lock:
        before = _engines, _make
        _engines, _make = {}, make
    try:
        yield
    finally:
        with _lock:
            _engines, _make = before


def connect_engine(url: str, options: Options = NO_OPTIONS) -> Engine:
    """A connection of its own to the store of a URL, for a thread that must wait for no other."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ImproperlyConfigured(f"The broker URL {mask(url)!r} is no URL: {error}.") from error
    if parts.scheme == "memory":
        from umbel.engines.memory import MemoryEngine

        return MemoryEngine(parts.netloc)
    if parts.scheme == "sqlite":
        return _open_sqlite(url)
    if parts.scheme in REDIS:
        from umbel.engines.redis import RedisEngine

        return RedisEngine(url, mask(url), options)
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    message = (
        f"No engine for the broker URL {mask(url)!r}: this version knows {known}. "
        "Leave broker_url out to use the embedded store."
    )
    raise ImproperlyConfigured(message)


def _open_sqlite(url: str) -> Engine:
    from umbel.engines.sqlite import SqliteEngine

    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path.rstrip("/") == "":
        message = (
            f"The broker URL {mask(url)!r} names no file: write sqlite:///queue.db for one in the "
            "working directory or sqlite:////var/lib/app/queue.db for an absolute path."
        )
        raise ImproperlyConfigured(message)
    options = parse_qs(parts.query, keep_blank_values=True)
    durability = options.pop("durability", ["process"])[-1]
    if options or durability not in {"process", "power"}:
        message = (
            f"The broker URL {mask(url)!r} has an unknown option: sqlite takes only "
            "?durability=process or ?durability=power."
        )
        raise ImproperlyConfigured(message)
    return SqliteEngine(Path(path[1:]).absolute(), durability=durability)


def mask(url: str) -> str:
    """The URL with its password and everything secret in its query as `**`."""
    if len(several := re.split(SEVERAL, url)) > 1:
        return ";".join(map(mask, several))
    scheme, found, rest = url.partition("://")
    if not found:
        return "**" if "@" in url else url
    # Not urlsplit: a password may hold a / ? # or @ that is not written as %2F; it ends at the
    # last @ all the same. After a ? that may as well be one of the query.
    login, at, place = rest.rpartition("@")
    if "?" in login:
        return f"{scheme}://**"
    user, colon, _ = login.partition(":")
    shown, asked, _ = place.partition("#")[0].partition("?")
    return f"{scheme}://{user + ':' if colon else ''}{'**@' if at else ''}{shown}{asked and '?**'}"


_make: Callable[[str, Options], Engine] = connect_engine
