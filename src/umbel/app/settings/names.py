"""The settings that Celery knows and that have no effect here, and every name a setting goes by.

`umbel.app.settings.table.Settings` is the table of those that have an effect; it comes first
wherever both know a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

Kind = Literal["no effect", "later", "refused"]


class Known(NamedTuple):
    """A setting of Celery's that nothing here reads."""

    default: object
    """Celery's default; giving it is no news and is passed over."""
    kind: Kind
    """Accepted for good, accepted for what is to come, or an error."""
    reason: str
    """Why, and what to do instead."""


def _rows(kind: Kind, reason: str, **defaults: object) -> dict[str, Known]:
    return {name: Known(default, kind, reason) for name, default in defaults.items()}


_BROKER_PART = (
    "one URL says it all: broker_url = 'transport://user:password@host:port/virtual-host'"
)
_ONE_STORE = (
    "the embedded store is a file: there is no connection to keep, so nothing to retry or time; "
    "task_publish_timeout is the one deadline of a publish"
)
_CLASS = "no part of the worker is replaced by a class that a setting names"
_EVENTS = "comes with events: nothing sends or receives any in this version"
_REMOTE = "comes with remote control: nothing is broadcast in this version"
_DAEMON = "the command's own option sets it (umbel worker --help), or the service manager"
_PRIVILEGES = "set it in the service manager (User=, Group=, UMask= in systemd)"
_RESULTS = "results are kept in the broker's own store: leave it out, or result_backend = 'broker'"
_OBJECTS = "comes with result stores of their own; until then " + _RESULTS
_AMQP = "comes with the RabbitMQ engine: the embedded store has only queues"
_DATABASE = "comes with SQL result stores; until then " + _RESULTS

KNOWN: Final[Mapping[str, Known]] = MappingProxyType(
    {
        # ---------------------------------------------------------------------------- general
        # ------------------------------------------------------------------------------ task_
        **_rows(
            "later",
            _AMQP,
            task_create_missing_queue_type="classic",
            task_default_queue_type="classic",
            worker_detect_quorum_queues=True,
        ),
        **_rows("later", "comes with rate limits", task_default_rate_limit=None),
        **_rows(
            "refused",
            "messages are written in protocol 2, which Celery reads since 4.0; remove it",
            task_protocol=2,
        ),
        **_rows(
            "no effect",
            "every queue has the priorities 0 to 9, 9 the most urgent",
            task_queue_max_priority=None,
        ),
        **_rows("later", _EVENTS, task_send_sent_event=False, worker_send_task_events=False),
        # ---------------------------------------------------------------------------- worker_
        **_rows(
            "refused",
            f"{_CLASS}; remove it",
            worker_agent=None,
            worker_autoscaler="celery.worker.autoscale:Autoscaler",
            worker_consumer="celery.worker.consumer:Consumer",
            worker_timer=None,
        ),
        **_rows(
            "no effect",
            "a worker that loses its store ends what runs; what it cannot settle is fenced and "
            "runs again elsewhere",
            worker_cancel_long_running_tasks_on_connection_loss=False,
        ),
        **_rows(
            "no effect",
            "an idle worker holds nothing that it could lose: delayed tasks wait in the store",
            worker_enable_soft_shutdown_on_idle=False,
        ),
        **_rows("later", "comes with routing to one worker", worker_direct=False),
        **_rows(
            "no effect",
            "nothing limits rates in this version, so they are as good as disabled",
            worker_disable_rate_limits=False,
        ),
        **_rows(
            "no effect",
            "a task that has ended is settled in the same step and is not delivered again",
            worker_deduplicate_successful_tasks=False,
        ),
        **_rows("later", _REMOTE, worker_enable_remote_control=True, worker_pool_restarts=False),
        **_rows(
            "no effect",
            "an outcome leaves a process before its next task starts, so none comes late",
            worker_lost_wait=10.0,
        ),
        **_rows(
            "no effect",
            "a task is claimed for a free slot, so none has to wait for one",
            worker_pool_putlocks=True,
        ),
        **_rows(
            "no effect",
            "processes come from a small program of their own, safe with threads, CUDA and "
            "sockets, whatever is asked for",
            worker_pool_start_method="fork",
        ),
        **_rows(
            "no effect",
            "a process that dies while it starts is seen to die; one that is slow is waited for",
            worker_proc_alive_timeout=4.0,
        ),
        **_rows(
            "no effect",
            "tasks are claimed for free slots; the little that is read ahead follows their "
            "measured time and is handed back when a slot elsewhere in the worker is free",
            worker_prefetch_multiplier=4,
            worker_disable_prefetch=False,
            worker_enable_prefetch_count_reduction=True,
        ),
        **_rows(
            "no effect",
            "ETAs wait in the store, not in the worker's memory",
            worker_eta_task_limit=None,
            worker_timer_precision=1.0,
        ),
        **_rows(
            "no effect",
            "revocations are kept in the store and outlast every worker",
            worker_state_db=None,
        ),
        **_rows(
            "no effect",
            _DAEMON,
            **{
                f"{command}_{option}": None
                for command in ("worker", "beat", "events")
                for option in ("logfile", "pidfile", "executable")
            },
        ),
        **_rows(
            "refused",
            _PRIVILEGES,
            **{
                f"{command}_{option}": None
                for command in ("worker", "beat", "events")
                for option in ("uid", "gid", "umask")
            },
        ),
        # ---------------------------------------------------------------------------- broker_
        **_rows(
            "refused",
            "messages are written and read in one store: set broker_url",
            broker_read_url=None,
            broker_write_url=None,
        ),
        **_rows(
            "refused",
            _BROKER_PART,
            broker_transport=None,
            broker_host=None,
            broker_port=None,
            broker_user=None,
            broker_password=None,
            broker_vhost=None,
        ),
        **_rows(
            "no effect",
            _ONE_STORE,
            broker_connection_timeout=4,
            broker_connection_retry=True,
            broker_connection_retry_on_startup=None,
            broker_connection_max_retries=100,
            broker_channel_error_retry=False,
            broker_failover_strategy=None,
            broker_heartbeat=120,
            broker_heartbeat_checkrate=3.0,
            broker_pool_limit=10,
            broker_pool_acquire_timeout=None,
        ),
        **_rows(
            "later",
            _AMQP,
            broker_login_method=None,
            broker_native_delayed_delivery_queue_type="quorum",
        ),
        # ---------------------------------------------------------------------------- result_
        **_rows(
            "no effect",
            "a result is read from the store when it is asked for; there is no cache",
            result_cache_max=-1,
        ),
        **_rows(
            "later",
            _AMQP,
            result_exchange="celeryresults",
            result_exchange_type="direct",
            result_persistent=None,
        ),
        **_rows(
            "no effect",
            "a chord's body is published in the step that counts the last member; nobody polls",
            result_chord_retry_interval=1.0,
            result_chord_join_timeout=3.0,
        ),
        **_rows(
            "no effect",
            "a chord lies in the store until its body has ended",
            result_chord_expires=None,
        ),
        **_rows(
            "no effect",
            "results are written in the step that settles their task, in the broker's own store",
            result_backend_max_sleep_between_retries_ms=10000,
            result_backend_max_retries=float("inf"),
            result_backend_base_sleep_between_retries_ms=10,
            result_backend_always_retry=False,
            result_backend_thread_safe=False,
        ),
        **_rows("refused", f"{_CLASS}; {_RESULTS}", override_backends=None),
        # ------------------------------------------------------------------------------ beat_
        **_rows(
            "later",
            _REMOTE,
            beat_enable_remote_control=False,
            beat_remote_control_max_tick_age=None,
        ),
        **_rows(
            "no effect",
            "a scheduler wakes when something is due, and at least twice a second",
            beat_max_loop_interval=0,
        ),
        **_rows("no effect", "each tick is stored in the step that sends it", beat_sync_every=0),
        **_rows(
            "no effect",
            "the one scheduler keeps the schedule in the store, where app.schedules and umbel "
            "schedule edit it; it takes the place of DatabaseScheduler and RedBeat",
            beat_scheduler="celery.beat:PersistentScheduler",
        ),
        # -------------------------------------------------------------------- event_, control_
        **_rows(
            "later",
            _EVENTS,
            event_queue_expires=60.0,
            event_queue_ttl=5.0,
            event_queue_prefix="celeryev",
            event_queue_exclusive=True,
            event_queue_durable=False,
            event_serializer="json",
            event_exchange="celeryev",
        ),
        **_rows(
            "later",
            _REMOTE,
            control_queue_ttl=300.0,
            control_queue_expires=10.0,
            control_queue_exclusive=True,
            control_queue_durable=False,
            control_exchange="celery",
        ),
        # ---------------------------------------------------------------------- result stores
        **_rows(
            "later",
            _DATABASE,
            database_url=None,
            database_engine_options=MappingProxyType({"pool_pre_ping": True, "pool_recycle": 3600}),
            database_engine_callback=None,
            database_short_lived_sessions=False,
            database_table_schemas=None,
            database_table_names=None,
            database_create_tables_at_setup=True,
        ),
        **_rows(
            "no effect",
            "a publish is tried again until task_publish_timeout anyway, and a worker asks again "
            "by itself",
            redis_retry_on_timeout=False,
        ),
        **_rows(
            "no effect",
            "keep-alive is always on for connections to Redis",
            redis_socket_keepalive=False,
        ),
        **_rows(
            "refused",
            f"there is no result store on memcached; {_RESULTS}",
            cache_backend=None,
            cache_backend_options={},
        ),
        **_rows(
            "refused",
            f"there is no result store on Cassandra; {_RESULTS}",
            cassandra_entry_ttl=None,
            cassandra_keyspace=None,
            cassandra_port=None,
            cassandra_read_consistency=None,
            cassandra_servers=None,
            cassandra_bundle_path=None,
            cassandra_secure_bundle_path=None,
            cassandra_table=None,
            cassandra_write_consistency=None,
            cassandra_auth_provider=None,
            cassandra_auth_kwargs=None,
            cassandra_options={},
        ),
        **_rows(
            "later",
            _OBJECTS,
            s3_access_key_id=None,
            s3_secret_access_key=None,
            s3_bucket=None,
            s3_base_path=None,
            s3_endpoint_url=None,
            s3_region=None,
            azureblockblob_container_name="celery",
            azureblockblob_retry_initial_backoff_sec=2,
            azureblockblob_retry_increment_base=2,
            azureblockblob_retry_max_attempts=3,
            azureblockblob_base_path="",
            azureblockblob_connection_timeout=20,
            azureblockblob_read_timeout=120,
            gcs_bucket=None,
            gcs_project=None,
            gcs_base_path="",
            gcs_ttl=0,
            gcs_threadpool_maxsize=10,
        ),
        **_rows(
            "refused",
            f"there is no result store on Elasticsearch; {_RESULTS}",
            elasticsearch_retry_on_timeout=None,
            elasticsearch_max_retries=None,
            elasticsearch_timeout=None,
            elasticsearch_save_meta_as_text=True,
        ),
        **_rows(
            "refused",
            f"there is no result store on Cosmos DB; {_RESULTS}",
            cosmosdbsql_database_name="celerydb",
            cosmosdbsql_collection_name="celerycol",
            cosmosdbsql_consistency_level="Session",
            cosmosdbsql_max_retry_attempts=9,
            cosmosdbsql_max_retry_wait_time=30,
        ),
        **_rows(
            "refused",
            f"there is no result store on Couchbase; {_RESULTS}",
            couchbase_backend_settings=None,
        ),
        **_rows(
            "refused",
            f"there is no result store on ArangoDB; {_RESULTS}",
            arangodb_backend_settings=None,
        ),
        **_rows(
            "refused",
            f"there is no result store on MongoDB; {_RESULTS}",
            mongodb_backend_settings=None,
        ),
        # ------------------------------------------------ of Celery 3, or read by its Django part
        **_rows(
            "no effect",
            "processes are always started by a program that was exec'd afresh",
            CELERYD_FORCE_EXECV=False,
        ),
        **_rows(
            "later",
            "comes with the Django integration",
            CELERY_DB_REUSE_MAX=None,
        ),
        **_rows(
            "refused",
            "mails about failed tasks left Celery in 4.0: log records of level ERROR carry the "
            "exception, so a logging handler (SMTPHandler, Sentry) sends them",
            CELERY_SEND_TASK_ERROR_EMAILS=False,
            CELERY_TASK_ERROR_WHITELIST=(),
        ),
        **_rows(
            "refused",
            f"{_CLASS}; remove it",
            CELERYD_AUTORELOADER=None,
            CELERYD_BOOT_STEPS=None,
            CELERYD_MEDIATOR=None,
        ),
        **_rows(
            "no effect",
            "an error in a chord's header always reaches its body",
            CELERY_CHORD_PROPAGATES=True,
        ),
        **_rows(
            "no effect",
            "it configured brokers that Celery itself dropped in 4.0",
            BROKER_INSIST=False,
            CELERY_AMQP_TASK_RESULT_CONNECTION_MAX=1,
            CELERY_QUEUE_HA_POLICY=None,
        ),
        **_rows("later", _REMOTE, CELERY_BROADCAST_QUEUE=None, CELERY_BROADCAST_EXCHANGE=None,
                CELERY_BROADCAST_EXCHANGE_TYPE="fanout"),
        **_rows("no effect", _DAEMON, CELERYD_LOG_FILE=None, CELERYD_LOG_LEVEL=None,
                CELERYD_PID_FILE=None, CELERYBEAT_LOG_FILE=None, CELERYBEAT_LOG_LEVEL=None,
                CELERYBEAT_PID_FILE=None),
    }
)  # fmt: skip
