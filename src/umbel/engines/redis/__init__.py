"""The engine on Redis (or Valkey), beside Celery peers: the same lists, envelopes and results.

keys.py says what lies where; the scripts in `lua/` are the only ones that change more than one
key, and each of them opens with its keys and their types.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from umbel.engines.redis.broker import RedisBroker
from umbel.engines.redis.connection import Server
from umbel.engines.redis.keys import FORMAT, SEPARATOR, STEPS, Keys
from umbel.engines.redis.options import Reading, read
from umbel.engines.redis.results import RedisResults
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.engines.redis.state import RedisState
    from umbel.engines.redis.unacked import Unacked

logger: Final = logging.getLogger("umbel.engines.redis")

OLDEST_SERVER: Final = (6, 2)
EVICTING: Final = ("allkeys-lru", "allkeys-lfu", "allkeys-random")


class RedisEngine:
    """`umbel.engines.state.Engine` on one database of one server.

    `options` are those of `broker_transport_options` (`umbel.engines.redis.options`), and besides:
    `use_ssl`; `priority_order` ("celery": 0 is claimed first); `write_eta` ("celery": a message
    with an ETA goes into the list, as Celery has it); `min_replicas_ack`; `result_keyprefix`.
    """

    def __init__(self, url: str, name: str, options: Mapping[str, Any] | None = None) -> None:
        options = options or {}
        reading = read(url, name, options)
        self.name = name
        self._places = reading.names
        self._notes = reading.notes
        self._allow_eviction = bool(options.get("allow_eviction"))
        prefix, results = options.get("global_keyprefix", ""), options.get("result_keyprefix", "")
        if reading.tag:  # one slot for all keys, whatever they are called
            prefix = f"{{{reading.tag}}}:"
            results = f"{prefix}{results}"
        self._keys = keys = Keys(
            prefix, options.get("priority_steps", STEPS), options.get("sep", SEPARATOR), results
        )
        self._server = server = self._make_server(reading, options.get("min_replicas_ack") or 0)
        server.on_first_use = self._check_format
        if reading.timeout is not None:
            server.timeout = reading.timeout
        self.broker: Final = RedisBroker(
            server,
            keys,
            urgent_first=options.get("priority_order") != "celery",
            celerys_eta=options.get("write_eta") == "celery",
        )
        self.results: Final = RedisResults(server, keys)
        self._options = options
        self._database = reading.database

    @cached_property
    def state(self) -> RedisState:
        """The state store; who only sends never asks for it."""
        from umbel.engines.redis.state import RedisState

        return RedisState(self._server, self._keys, self.broker, self._check_server)

    @cached_property
    def unacked(self) -> Unacked:
        """What Celery's workers left; who only sends never asks for it."""
        from umbel.engines.redis.unacked import Unacked

        options = self._options
        return Unacked(
            self._server,
            self._keys,
            options.get("unacked_key", "unacked"),
            options.get("unacked_index_key", "unacked_index"),
            _fanout(options.get("fanout_prefix", True)),
            self._database,
        )

    def _make_server(self, reading: Reading, replicas: int) -> Server:
        if not (replicas or reading.most or reading.idle):
            return Server(reading.places, self.name)
        from umbel.engines.redis.careful import CarefulServer

        return CarefulServer(
            reading.places, self.name, replicas=replicas, most=reading.most, idle=reading.idle
        )

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
        self.results.close()
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
        for urgent, text in self._notes:
            logger.log(logging.WARNING if urgent else logging.INFO, "%s: %s", self.name, text)
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


def _fanout(prefix: bool | str) -> str:
    """What Kombu puts before the names of what it broadcasts."""
    if isinstance(prefix, str):
        return prefix
    return "/{db}." if prefix else ""
