"""The stores that the settings name: one for all, or results in a Redis of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from umbel.engines.urls import SCHEMES, Options, mask
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App
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
    backend = conf.result_backend
    options: dict[str, Any] = dict(conf.broker_transport_options)
    order = conf.redis_priority_order
    if order not in {"umbel", "celery"}:
        raise ImproperlyConfigured(
            f"redis_priority_order must be 'umbel' (9 first) or 'celery' (0 first), not {order!r}."
        )
    if order != "umbel":
        options["priority_order"] = order
    prefix = conf.result_backend_transport_options.get("global_keyprefix")
    kept_with = {"result_keyprefix": prefix} if prefix else {}
    engine = connect(url, options | kept_with)
    check_backend(backend, url)
    if is_apart(backend, url):
        from umbel.engines.apart import ApartEngine

        engine = ApartEngine(engine, connect(str(backend), kept_with))
    if engine.broker.shared:
        from umbel.app.execution.joining import join_body

        engine.broker.joiner = partial(join_body, app)
    return engine


def is_apart(backend: str | None, broker_url: str) -> bool:
    """Whether results go to a Redis where the messages are not."""
    if backend is None or backend == broker_url or broker_url.partition(":")[0] not in SCHEMES:
        return False
    return backend.startswith(("redis://", "rediss://", "redis+socket://"))


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
    elif scheme in {"sentinel", "db", "s3", "gs", "dynamodb"}:
        why = "needs an engine that is not in this version"
    elif "://" in text:
        why = f"is not the store of the messages, {mask(broker_url)}"
    else:
        why = "is no store; a class of your own cannot be one"
    raise ImproperlyConfigured(f"result_backend {shown!r} {why}. {_INSTEAD}")
