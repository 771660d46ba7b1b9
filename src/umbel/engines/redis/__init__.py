"""The engine on Redis (or Valkey), beside Celery peers: the same lists, envelopes and results.

keys.py says what lies where; the scripts in `lua/` are the only ones that change more than one
key, and each of them opens with its keys and their types.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from umbel.engines.redis.broker import RedisBroker
from umbel.engines.redis.connection import Address, Server, read_options
from umbel.engines.redis.keys import FORMAT, SEPARATOR, STEPS, Keys
from umbel.engines.redis.results import RedisResults
from umbel.engines.redis.state import RedisState
from umbel.exceptions import ImproperlyConfigured

logger: Final = logging.getLogger("umbel.engines.redis")

OLDEST_SERVER: Final = (6, 2)
EVICTING: Final = ("allkeys-lru", "allkeys-lfu", "allkeys-random")


class RedisEngine:
    """`umbel.engines.state.Engine` on one database of one server.

    `options` are those of `broker_transport_options` that have a meaning here: `global_keyprefix`,
    `priority_steps`, `sep`, `allow_eviction`; and `priority_order` ("celery": 0 is claimed first)
    and `result_keyprefix`.
    """

    def __init__(self, url: str, name: str, options: Mapping[str, Any] | None = None) -> None:
        options = options or {}
        addresses = [_read(part, name) for part in re.split(r";(?=[a-z+]+://)", url)]
        self.name = name
        self._places = [place for _, place in addresses]
        self._allow_eviction = bool(options.get("allow_eviction"))
        self._keys = keys = Keys(
            options.get("global_keyprefix", ""),
            options.get("priority_steps", STEPS),
            options.get("sep", SEPARATOR),
            options.get("result_keyprefix", ""),
        )
        self._server = server = Server([address for address, _ in addresses], name)
        server.on_first_use = self._check_format
        self.broker: Final = RedisBroker(
            server, keys, urgent_first=options.get("priority_order") != "celery"
        )
        self.results: Final = RedisResults(server, keys)
        self.state: Final = RedisState(server, keys, self.broker, self._check_server)

    @cached_property
    def run_dir(self) -> Path:
        """A directory of this host and user for this store."""
        store = "|".join((*self._places, self._keys.prefix))
        digest = hashlib.sha256(store.encode()).hexdigest()[:16]
        base = Path(tempfile.gettempdir()) / f"umbel-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        if base.lstat().st_uid != os.getuid():
            raise ImproperlyConfigured(
                f"{base} belongs to another user, who could replace what lies there. Remove it, or "
                "set TMPDIR to a folder of this user for all workers of this host."
            )
        return base / f"redis-{digest}"

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._server.close()

    def _check_format(self, timeout: float, patient: bool) -> None:
        """Refuse a store of a newer package; a new one gets our version."""
        key = self._keys.format
        commands = [("SET", key, FORMAT, "NX"), ("GET", key)]
        found = self._server.call(commands, timeout, patient=patient)[1]
        if not found.isdigit() or int(found) > FORMAT:
            raise ImproperlyConfigured(
                f"{self.name} was written to by a newer umbel (format {found.decode()}, this "
                f"package knows {FORMAT}). Install the newer version, or use another database or "
                "global_keyprefix."
            )

    def _check_server(self) -> None:
        """Tell a worker that starts whether what is queued is safe with this server."""
        (text,) = self._server.call([("INFO", "everything")])
        lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
        about = {name: value.strip() for name, _, value in lines}
        version = about.get("redis_version", "0")
        numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
        if numbers < OLDEST_SERVER:
            raise ImproperlyConfigured(
                f"{self.name} is Redis {version}; Umbel needs {'.'.join(map(str, OLDEST_SERVER))} "
                "or newer, or Valkey."
            )
        policy = about.get("maxmemory_policy", "noeviction")
        if policy in EVICTING and about.get("maxmemory", "0") != "0":
            text = (
                f"{self.name} has maxmemory-policy {policy}: when its memory is full it silently "
                "deletes queued tasks. Set it to noeviction (CONFIG SET maxmemory-policy "
                "noeviction)"
            )
            if not self._allow_eviction:
                raise ImproperlyConfigured(
                    f"{text}, or accept the loss with broker_transport_options = "
                    "{'allow_eviction': True}."
                )
            logger.warning("%s.", text)
        elif policy != "noeviction":
            logger.warning(
                "%s has maxmemory-policy %s: with a full memory it deletes results before their "
                "time%s. noeviction keeps them.",
                self.name,
                policy,
                ", and queued tasks, once maxmemory is set" if policy in EVICTING else "",
            )
        if about.get("aof_enabled") != "1":
            logger.warning(
                "%s keeps no append-only file: if the server crashes, what was queued since its "
                "last snapshot is gone. appendonly yes loses at most a second, with appendfsync "
                "always nothing.",
                self.name,
            )


def _read(url: str, name: str) -> tuple[Address, str]:
    """One URL of a list: how to connect, and what tells its database from others."""
    parts = urlsplit(url.strip())
    if parts.scheme not in {"redis", "rediss", "redis+socket"}:
        raise ImproperlyConfigured(
            f"The broker URL {name!r} names another server than Redis: separate URLs that begin "
            "with redis://, rediss:// or redis+socket:// by ;"
        )
    wrong = ""
    try:
        if parts.scheme == "redis+socket":
            query = dict(parse_qsl(parts.query))
            db = query.pop("virtual_host", "0").strip("/")
            url = parts._replace(scheme="unix", query=urlencode({**query, "db": db})).geturl()
        else:
            db = parts.path.strip("/")
        if db and not db.isdigit():
            wrong = "its database is no number. "
            raise ValueError
        options = read_options(url.strip())
        address = Address(parts.scheme, options)
    except (ValueError, TypeError):
        # What the errors say may hold a part of a secret.
        message = (
            f"The broker URL {name!r} cannot be used: {wrong}It is written "
            "redis://user:password@host:6379/0, rediss://… or redis+socket:///path?virtual_host=0, "
            "special characters in a password as %2F, options of redis-py's Connection after a ?."
        )
        raise ImproperlyConfigured(message) from None
    host = options.get("host", "localhost")
    where = options.get("path") or "{}:{}".format(
        "127.0.0.1" if host == "localhost" else host, options.get("port", 6379)
    )
    return address, f"{where}/{options.get('db', 0)}"
