"""What a URL and the settings say of the connections to Redis.

Options come from `broker_transport_options` (or `result_backend_transport_options`), whose names
are Kombu's; the settings with names of their own (`broker_use_ssl`, `redis_…`) are among them by
the same names (`umbel.app.backends`). What stands in the URL, after a ?, wins.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.exceptions import RedisError

from umbel.engines.redis.connection import Address, Place, read_options
from umbel.exceptions import ImproperlyConfigured

PLAIN: Final = ("redis", "rediss", "redis+socket")
CLUSTER: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
SENTINEL: Final = "sentinel"

TO_DRIVER: Final = ("client_name", "credential_provider", "password", "socket_keepalive_options",
                    "username")  # fmt: skip
OF_SERVER: Final = ("socket_timeout", "socket_connect_timeout", "max_connections",
                    "health_check_interval")  # fmt: skip
ELSEWHERE: Final = frozenset(
    {
        "allow_eviction", "fanout_prefix", "global_keyprefix", "master_name", "min_other_sentinels",
        "min_replicas_ack", "priority_order", "priority_steps", "result_keyprefix",
        "sentinel_kwargs", "sep", "unacked_index_key", "unacked_key", "use_ssl", "write_eta",
    }
)  # fmt: skip
"""Options that others read."""

_SWEEP: Final = (
    "what is claimed lies with its worker and not in unacked, and nothing sweeps it: it goes back "
    "when its worker is dead"
)
_BROADCAST: Final = "nothing is broadcast in this version"
_POLICY: Final = "task_publish_retry_policy and task_publish_timeout say it"
WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "visibility_timeout": "a claim lasts as long as its worker lives",
    "unacked_mutex_key": _SWEEP,
    "unacked_mutex_expire": _SWEEP,
    "unacked_restore_limit": _SWEEP,
    "unacked_restore_interval": _SWEEP,
    "unacked_restore_throttle": _SWEEP,
    "ack_emulation": "every message is acknowledged",
    "fanout_patterns": _BROADCAST,
    "sentinel_fanout_compat": _BROADCAST,
    "queue_order_strategy": "each queue of a worker is the first in its turn, and of all of them "
    "the most urgent messages come first",
    "retry_on_timeout": "a publish is tried again until task_publish_timeout anyway, and a worker "
    "asks again by itself",
    "polling_interval": "nobody polls: the server tells who waits",
    "retry_policy": "a worker stores results until it succeeds",
    "result_chord_ordered": "the parts of a chord are always in order",
    "additional_connection_errors": "every error of a connection counts as one",
    "max_retries": _POLICY,
    "interval_start": _POLICY,
    "interval_step": _POLICY,
    "interval_max": _POLICY,
}


@dataclass
class Reading:
    """What is to be known of a URL and its options."""

    places: list[Place]
    """Where to connect; each is tried in its turn."""
    names: list[str]
    """What tells this store from others."""
    tag: str
    """On a cluster, what all keys have in braces; else empty."""
    database: int
    """Its number."""
    timeout: float | None
    """Seconds for anything but a publish, if it was said."""
    most: int | None
    """Most connections in use at the same time; None: any number."""
    idle: float | None
    """Seconds after which an idle connection is not trusted any more; None: for ever."""
    notes: list[tuple[bool, str]] = field(default_factory=list)
    """Of options without an effect: whether to warn of it, and why."""


def read(url: str, name: str, options: Mapping[str, Any]) -> Reading:
    """Read a URL, or several separated by ;. `ImproperlyConfigured` says what is wrong."""
    parts = [part.strip() for part in re.split(r";(?=[a-z+]+://)", url)]
    schemes = {urlsplit(part).scheme for part in parts}
    kinds = {"" if scheme in PLAIN else scheme for scheme in schemes}
    if len(kinds) > 1 or not schemes <= {*PLAIN, *CLUSTER, SENTINEL}:
        raise ImproperlyConfigured(
            f"The broker URL {name!r} names servers of several kinds: separate URLs that begin "
            "with redis://, rediss:// or redis+socket://, or that all begin with sentinel:// or "
            "with redis+cluster://, by ;"
        )
    common = _common(options)
    found = [_read_one(part, name, common) for part in parts]
    first = found[0][1]
    own = {key: first.get(key) for key in OF_SERVER}
    for _, one in found:
        for key in (*OF_SERVER, "retry_on_timeout", "socket_keepalive"):
            one.pop(key, None)
    try:
        names = [_name(one) for _, one in found]
        tag = ""
        if schemes == {SENTINEL}:
            places, names = _through_sentinels([one for _, one in found], names, options, own)
        elif schemes <= CLUSTER.keys():
            from umbel.engines.redis.topology import Cluster

            if first.get("db"):
                raise ImproperlyConfigured(f"{name}: a cluster has the database 0 only.")
            tag = str(options.get("global_keyprefix") or "umbel").strip("{}:")
            addresses = [_address(scheme, one, own) for scheme, one in found]
            places = [Cluster(addresses, tag)]
            names = [*sorted(names), tag]
        else:
            places = [_address(scheme, one, own) for scheme, one in found]
        reading = Reading(
            places, names, tag, int(first.get("db") or 0), own["socket_timeout"],
            own["max_connections"] or None, own["health_check_interval"] or None,
        )  # fmt: skip
    except (ValueError, TypeError, RedisError):
        raise _unusable(name) from None
    reading.notes = list(_notes(options))
    return reading


def _unusable(name: str, wrong: str = "") -> ImproperlyConfigured:
    # What the errors of the driver say may hold a part of a secret.
    return ImproperlyConfigured(
        f"The broker URL {name!r} cannot be used: {wrong}It is written "
        "redis://user:password@host:6379/0, rediss://…, redis+socket:///path?virtual_host=0, "
        "sentinel://host:26379/0 or redis+cluster://host:6379, special characters in a password as "
        "%2F, options of redis-py's Connection after a ? or in broker_transport_options."
    )


def _read_one(url: str, name: str, common: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The scheme to connect by, and the options, of one URL of a list."""
    parts = urlsplit(url)
    scheme = CLUSTER.get(parts.scheme, parts.scheme)
    if common.get("tls") and scheme in {"redis", SENTINEL}:
        scheme = "rediss"
    if parts.scheme == "redis+socket":
        query = dict(parse_qsl(parts.query))
        db = query.pop("virtual_host", "0").strip("/")
        url = parts._replace(scheme="unix", query=urlencode({**query, "db": db})).geturl()
    else:
        db = unquote(parts.path).strip("/")
        url = parts._replace(scheme="rediss" if scheme == "rediss" else "redis").geturl()
    if db and not db.isdigit():
        raise _unusable(name, "its database is no number. ")
    try:
        said = read_options(url)
        provider = said.get("credential_provider", common.get("credential_provider"))
        one = {key: value for key, value in common.items() if key != "tls"} | said
        if scheme != "rediss":
            one = {key: value for key, value in one.items() if not key.startswith("ssl_")}
            if any(key.startswith("ssl_") for key in said):
                raise _unusable(name, "it says how to encrypt; that takes rediss://. ")
        elif isinstance(reqs := one.get("ssl_cert_reqs"), str):
            one["ssl_cert_reqs"] = reqs.lower().removeprefix("cert_")
        if provider is not None:
            one["credential_provider"] = _provider(provider)
            one.pop("username", None)
            one.pop("password", None)
    except (ValueError, TypeError):
        raise _unusable(name) from None
    if parts.scheme == SENTINEL:
        one.setdefault("port", 26379)
    return ("redis" if scheme == SENTINEL else scheme), one


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say of every connection."""
    common = {key: options[key] for key in (*TO_DRIVER, *OF_SERVER) if options.get(key) is not None}
    tls = options.get("use_ssl")
    if tls:
        common["tls"] = True
        if isinstance(tls, Mapping):
            common |= tls
    return common


def _provider(value: Any) -> Any:
    """A credential provider of redis-py, or one that a dotted path names."""
    if isinstance(value, str):
        module, _, attribute = value.replace(":", ".").rpartition(".")
        try:
            value = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"The credential provider {value} cannot be imported: {error}."
            ) from error
    if isinstance(value, type):
        value = value()
    if not hasattr(value, "get_credentials"):
        raise ImproperlyConfigured(
            "A credential provider is an instance of a subclass of redis.CredentialProvider, or "
            f"the dotted path of such a class, not {type(value).__name__}."
        )
    return value


def _address(scheme: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> Address:
    if scheme == "redis+socket":
        options = {k: v for k, v in options.items() if k != "socket_keepalive_options"}
    return Address(scheme, dict(options), own.get("socket_connect_timeout"))


def _name(options: Mapping[str, Any]) -> str:
    host = options.get("host", "localhost")
    where = options.get("path") or "{}:{}".format(
        "127.0.0.1" if host == "localhost" else host, options.get("port", 6379)
    )
    return f"{where}/{options.get('db', 0)}"


def _through_sentinels(
    found: Sequence[dict[str, Any]],
    names: Sequence[str],
    options: Mapping[str, Any],
    own: Mapping[str, Any],
) -> tuple[list[Place], list[str]]:
    """The primary that sentinels name. Login and database of the URLs are the primary's."""
    from umbel.engines.redis.topology import Sentinels

    master = options.get("master_name")
    if not master:
        raise ImproperlyConfigured(
            "sentinel:// needs the name under which the sentinels know the primary: "
            "broker_transport_options = {'master_name': 'mymaster'}, or for results "
            "result_backend_transport_options."
        )
    said = dict(options.get("sentinel_kwargs") or {})
    tls = said.pop("ssl", None) or any(key.startswith("ssl_") for key in said)
    timeout = said.pop("socket_connect_timeout", None) or said.pop("socket_timeout", None)
    said.pop("socket_timeout", None)
    nodes = [
        Address(
            "rediss" if tls else "redis",
            {**said, "host": one.get("host", "localhost"), "port": one["port"]},
            timeout or own.get("socket_connect_timeout"),
        )
        for one in found
    ]
    primary = {key: value for one in reversed(found) for key, value in one.items()}
    scheme = "rediss" if options.get("use_ssl") else "redis"
    least = int(options.get("min_other_sentinels") or 0)
    place = Sentinels(nodes, str(master), _address(scheme, primary, own), least)
    return [place], [*sorted(names), str(master)]


def _notes(options: Mapping[str, Any]) -> list[tuple[bool, str]]:
    found = []
    known = {*WITHOUT_EFFECT, *TO_DRIVER, *OF_SERVER, *ELSEWHERE, "socket_keepalive"}
    for key, value in options.items():
        if key in WITHOUT_EFFECT:
            found.append((False, f"The option {key} has no effect: {WITHOUT_EFFECT[key]}."))
        elif key == "socket_keepalive" and value is False:
            found.append(
                (False, "socket_keepalive is always on: it costs nothing and finds lost servers.")
            )
        elif key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            found.append((True, f"The option {key} is not known and has no effect.{hint}"))
    return found
