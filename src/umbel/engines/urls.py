"""Which engine a URL names. Each URL is opened once in a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from umbel.engines.state import Engine
from umbel.exceptions import ImproperlyConfigured

SCHEMES = ("sqlite", "memory")

_engines: dict[str, Engine] = {}
_lock = threading.Lock()


def open_engine(url: str) -> Engine:
    """The engine of a URL: `sqlite:///relative`, `sqlite:////absolute/path`, `memory://name`.

    `sqlite` takes `?durability=power` (sync at each commit). `ImproperlyConfigured` for
    anything else, with the URL masked.
    """
    with _lock:
        engine = _engines.get(url)
        if engine is None:
            engine = _engines[url] = _make(url)
        return engine


def forget_engine(url: str) -> None:
    """Open it anew the next time that it is asked for: what a store in memory held is gone."""
    with _lock:
        _engines.pop(url, None)


@contextmanager
def replaced_engines(make: Callable[[str], Engine]) -> Iterator[None]:
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


def connect_engine(url: str) -> Engine:
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
    if "://" not in url:
        return "**" if "@" in url else url
    try:
        parts = urlsplit(url)
        netloc = parts.netloc
        if "@" in netloc:
            login, host = netloc.rsplit("@", 1)
            user = login.split(":", 1)[0]
            netloc = f"{user}:**@{host}" if ":" in login else f"{login}@{host}"
        # Not urlunsplit: without a host it gives up the slashes before a path that has none.
        return f"{parts.scheme}://{netloc}{parts.path}{'?**' if parts.query else ''}"
    except ValueError:
        return "**"


_make: Callable[[str], Engine] = connect_engine
