"""Which values of `result_backend` there are, and what takes the place of the others."""

from __future__ import annotations

from typing import Final

from umbel.engines.urls import SCHEMES, mask
from umbel.exceptions import ImproperlyConfigured

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


def check_backend(backend: str | None, broker_url: str) -> None:
    """`ImproperlyConfigured` for a value that this version cannot serve; says what to write."""
    if backend in {None, "broker", broker_url} or str(backend).startswith("disabled"):
        return
    if broker_url.partition(":")[0] not in SCHEMES:
        return  # a test's stand-in for an engine that is not there
    text = str(backend)
    scheme = text.partition(":")[0].partition("+")[0].partition(".")[0]
    shown = mask(text) if "://" in text else text
    package = ADD_ONS.get(scheme)
    if package is not None:
        why = f"is a store of {package}, which works with Celery only"
    elif scheme in NEVER:
        why = f"is not there: no results are kept in {scheme}"
    elif scheme in {"rpc", "amqp"}:
        why = "sends results as messages over RabbitMQ, whose engine is not in this version"
    elif scheme in {"redis", "rediss", "sentinel", "db", "s3", "gs", "dynamodb"}:
        why = "needs an engine that is not in this version"
    elif "://" in text:
        why = f"is not the store of the messages, {mask(broker_url)}"
    else:
        why = "is no store; a class of your own cannot be one"
    raise ImproperlyConfigured(f"result_backend {shown!r} {why}. {_INSTEAD}")
