"""The stores that the settings name: one for all, or results in a Redis of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from umbel.engines.urls import REDIS, SCHEMES, Options, mask
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.settings.table import Settings
    from umbel.engines.state import Engine

ADD_ONS: Final = {
    "django-db": "django-celery-results",
    "django-cache": "django-celery-results",
    "django_celery_results": "django-celery-results",
}
"""Values that name a store of another package."""
NEVER: Final = (
    "arangodb", "azureblockblob", "cache", "cassandra", "consul", "cosmosdbsql", "couchbase",
    "couchdb", "elasticsearch", "etcd", "file", "mongodb", "riak",
)  # fmt: skip
_INSTEAD: Final = (
    "Results are kept in the broker's own store, in the same step that settles the task: write "
    "result_backend='broker', or leave broker_url and result_backend out."
)


def open_stores(app: App, connect: Callable[[str, Options], Engine]) -> Engine:
    """The engine of an app's settings; `ImproperlyConfigured` says what to write instead."""
    conf, url = app.conf, app.broker_url
    backend = complete_backend(conf.result_backend, conf)
    check_backend(backend, url)
    apart, kept = is_apart(backend, url), _options_of_results(conf)
    options: dict[str, Any] = dict(conf.broker_transport_options)
    if url.partition(":")[0] in REDIS:
        prefix = kept.pop("result_keyprefix", None)
        if backend in {"broker", url}:
            options = kept | options
        options |= _options_of_messages(conf)
        if prefix:
            options["result_keyprefix"] = prefix
            kept["result_keyprefix"] = prefix
    engine = connect(url, options)
    if apart:
        from umbel.engines.apart import ApartEngine

        engine = ApartEngine(engine, connect(str(backend), kept))
    if engine.broker.shared:
        from umbel.app.execution.joining import join_body

        engine.broker.joiner = partial(join_body, app)
    return engine


def _options_of_messages(conf: Settings) -> dict[str, Any]:
    """What settings say of the Redis that keeps the messages."""
    order = conf.redis_priority_order
    if order not in {"umbel", "celery"}:
        raise ImproperlyConfigured(
            f"redis_priority_order must be 'umbel' (9 first) or 'celery' (0 first), not {order!r}."
        )
    said = {
        "use_ssl": conf.broker_use_ssl,
        "priority_order": order if order != "umbel" else None,
        "min_replicas_ack": conf.redis_min_replicas_ack,
        "write_eta": conf.compat,
    }
    return {key: value for key, value in said.items() if value}


def _options_of_results(conf: Settings) -> dict[str, Any]:
    """What settings say of the Redis that keeps the results."""
    said = {
        "use_ssl": conf.redis_backend_use_ssl,
        "socket_timeout": conf.redis_socket_timeout,
        "socket_connect_timeout": conf.redis_socket_connect_timeout,
        "max_connections": conf.redis_max_connections,
        "health_check_interval": conf.redis_backend_health_check_interval,
        "credential_provider": conf.redis_backend_credential_provider,
        "client_name": conf.redis_client_name,
        "username": conf.redis_username,
        "password": conf.redis_password,
    }
    said |= conf.result_backend_transport_options
    prefix = said.pop("global_keyprefix", None)
    return {k: v for k, v in (said | {"result_keyprefix": prefix}).items() if v}


def complete_backend(backend: str | None, conf: Settings) -> str | None:
    """The URL of a backend that is just "redis": what the settings `redis_host`, … name."""
    if backend not in {"redis", "redis://", "rediss", "rediss://"}:
        return backend
    scheme = backend.partition(":")[0]
    place = f"{conf.redis_host or 'localhost'}:{conf.redis_port or 6379}"
    return f"{scheme}://{place}/{conf.redis_db or 0}"


def is_apart(backend: str | None, broker_url: str) -> bool:
    """Whether results go to a Redis where the messages are not."""
    if backend is None or backend == broker_url or broker_url.partition(":")[0] not in SCHEMES:
        return False
    return backend.startswith(tuple(f"{scheme}://" for scheme in REDIS))


def check_backend(backend: str | None, broker_url: str) -> None:
    """`ImproperlyConfigured` for a value that this version cannot serve; says what to write."""
    if backend in {None, "broker", broker_url} or str(backend).startswith("disabled"):
        return
    if is_apart(backend, broker_url):
        return
    if broker_url.partition(":")[0] not in SCHEMES:
        return  # a test's stand-in for an engine that is not there
    text = str(backend)
    scheme = text.partition(":")[0].partition("+")[0].partition(".")[0]
    shown = mask(text)
    package = ADD_ONS.get(scheme)
    if package is not None:
        why = f"is a store of {package}, which works with Celery only"
    elif scheme in NEVER:
        why = f"is not there: no results are kept in {scheme}"
    elif scheme in {"rpc", "amqp"}:
        why = "sends results as messages over RabbitMQ, whose engine is not in this version"
    elif scheme in {"db", "s3", "gs", "dynamodb"}:
        why = "needs an engine that is not in this version"
    elif "://" in text:
        why = f"is not the store of the messages, {mask(broker_url)}"
    else:
        why = "is no store; a class of your own cannot be one"
    raise ImproperlyConfigured(f"result_backend {shown!r} {why}. {_INSTEAD}")
