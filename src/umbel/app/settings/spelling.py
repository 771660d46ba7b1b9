"""Which setting a name means: Celery's lowercase names, those of Celery 3, and near misses."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Final

from umbel.app.settings.names import KNOWN

_PLAIN: Final = (
    "azureblockblob_", "broker_", "cassandra_", "control_", "cosmosdbsql_", "gcs_", "s3_",
)  # fmt: skip
"""Settings whose old name is the new one in capitals."""
_PREFIXES: Final = {"beat_": "CELERYBEAT_", "task_": "CELERY_", "worker_": "CELERYD_"}
_OLD: Final = {
    "database_create_tables_at_setup": "DATABASE_CREATE_TABLES_AT_SETUP",
    "database_engine_callback": "DATABASE_ENGINE_CALLBACK",
    "database_engine_options": "CELERY_RESULT_ENGINE_OPTIONS",
    "database_short_lived_sessions": "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
    "database_table_names": "CELERY_RESULT_DB_TABLENAMES",
    "database_table_schemas": "DATABASE_TABLE_SCHEMAS",
    "database_url": "CELERY_RESULT_DBURI",
    "enable_utc": "ENABLE_UTC",
    "result_accept_content": "RESULT_ACCEPT_CONTENT",
    "result_cache_max": "CELERY_MAX_CACHED_RESULTS",
    "result_expires": "CELERY_TASK_RESULT_EXPIRES",
    "task_compression": "CELERY_MESSAGE_COMPRESSION",
    "task_eager_propagates": "CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    "task_protocol": "CELERY_TASK_PROTOCOL",
    "task_publish_retry": "CELERY_TASK_PUBLISH_RETRY",
    "task_publish_retry_policy": "CELERY_TASK_PUBLISH_RETRY_POLICY",
    "task_send_sent_event": "CELERY_SEND_TASK_SENT_EVENT",
    "task_serializer": "CELERY_TASK_SERIALIZER",
    "task_soft_time_limit": "CELERYD_TASK_SOFT_TIME_LIMIT",
    "task_time_limit": "CELERYD_TASK_TIME_LIMIT",
    "worker_direct": "CELERY_WORKER_DIRECT",
    "worker_disable_rate_limits": "CELERY_DISABLE_RATE_LIMITS",
    "worker_enable_remote_control": "CELERY_ENABLE_REMOTE_CONTROL",
    "worker_lost_wait": "CELERYD_WORKER_LOST_WAIT",
    "worker_redirect_stdouts": "CELERY_REDIRECT_STDOUTS",
    "worker_redirect_stdouts_level": "CELERY_REDIRECT_STDOUTS_LEVEL",
    "worker_send_task_events": "CELERY_SEND_EVENTS",
}
"""Celery 3's names that no rule gives."""
_MORE: Final = {
    "BROKER_BACKEND": "broker_transport",
    "CELERYD_ETA_SCHEDULER": "worker_timer",
    "CELERYD_ETA_SCHEDULER_PRECISION": "worker_timer_precision",
    "CELERY_AMQP_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_BACKEND": "result_backend",
}
"""Names that Celery 3 itself had replaced."""
_OWN: Final = ("CELERY", "BROKER_", "beat_", "broker_", "result_", "task_", "worker_")
"""How a name begins that is meant for us: in a module, an unknown one is a mistake."""
_OTHERS: Final = ("REDIS_",)
"""How names begin that look like ours, and that many a module has for something else."""
ADD_ONS: Final = {
    "CELERY_EMAIL_": "django-celery-email",
    "CELERY_ONCE": "celery-once",
    "CELERY_SINGLETON_": "celery-singleton",
    "DJANGO_CELERY_": "django-celery-beat or django-celery-results",
    "redbeat_": "celery-redbeat (its work is done by beat, which comes later)",
    "singleton_": "celery-singleton",
    "beat_dburi": "sqlalchemy-celery-beat (its work is done by beat, which comes later)",
    "beat_schema": "sqlalchemy-celery-beat (its work is done by beat, which comes later)",
}
"""Settings of packages that build on Celery: passed over, with a line that says so."""


def old_name(name: str) -> str:
    """The name a setting had in Celery 3, or would have had."""
    old = name if name.isupper() else _OLD.get(name)
    if old is None:
        prefix, _, rest = name.partition("_")
        if f"{prefix}_" in _PLAIN:
            old = name.upper()
        elif f"{prefix}_" in _PREFIXES:
            old = f"{_PREFIXES[f'{prefix}_']}{rest.upper()}"
        else:
            old = f"CELERY_{name.upper()}"
    return old


@cache
def _spellings(fields: tuple[str, ...]) -> dict[str, str]:
    """Each way to write each setting, and its name."""
    names = dict.fromkeys((*fields, *KNOWN))
    found = dict(_MORE)
    found |= {f"CELERY_{name.upper()}": name for name in names if name.islower()}
    found |= {old_name(name): name for name in names}
    found |= {name: name for name in names}
    return found


def resolve(name: str, fields: Collection[str]) -> str | None:
    """The setting that a name means, or None."""
    return _spellings(tuple(fields)).get(name)


def nearest(name: str, fields: Collection[str], cutoff: float = 0.6) -> str:
    """The nearest name there is, with the setting that it means; empty if none is near."""
    import difflib

    found = _spellings(tuple(fields))
    same_case = [known for known in found if known.isupper() == name.isupper()]
    near = difflib.get_close_matches(name, same_case, n=1, cutoff=cutoff)
    if not near and name.isupper():
        near = difflib.get_close_matches(name.lower(), list(fields), n=1, cutoff=cutoff)
    if not near:
        return ""
    meant = found[near[0]]
    return near[0] if meant == near[0] else f"{near[0]} ({meant})"


def seems_ours(name: str, fields: Collection[str]) -> bool:
    """Whether an unknown name was meant to be one of ours: by how it begins, or a near miss."""
    if name.startswith(_OTHERS):
        return False
    return name.startswith(_OWN) or bool(nearest(name, fields, cutoff=0.9))


def add_on_of(name: str) -> str | None:
    """The package for Celery that a setting belongs to."""
    for prefix, package in ADD_ONS.items():
        if name.lower().startswith(prefix.lower()):
            return package
    return None
