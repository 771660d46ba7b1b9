"""The settings as type checkers see them: keywords of `App`, and `app.conf.NAME`.

Written by `python -m umbel.app.settings.reference keywords > src/umbel/app/settings/keywords.py`.
Only type checkers read it. At run time the names of Celery 3 are taken too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta, tzinfo
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from umbel.app.sending.options import DeclaredQueues, Routes


class AppSettings(TypedDict, total=False):
    """What `App(…)` takes as further keywords."""

    compat: str | None
    broker_url: str | None
    result_backend: str | None
    broker_use_ssl: bool | Mapping[str, Any] | None
    broker_transport_options: Mapping[str, Any]
    result_backend_transport_options: Mapping[str, Any]
    redis_priority_order: str
    redis_min_replicas_ack: int
    redis_backend_use_ssl: bool | Mapping[str, Any] | None
    redis_host: str | None
    redis_port: int | None
    redis_db: int | None
    redis_username: str | None
    redis_password: str | None
    redis_socket_timeout: float | timedelta | None
    redis_socket_connect_timeout: float | timedelta | None
    redis_max_connections: int | None
    redis_backend_health_check_interval: float | timedelta | None
    redis_backend_credential_provider: object
    redis_client_name: str | None
    timezone: str | tzinfo | None
    enable_utc: bool
    imports: Collection[str]
    task_default_queue: str
    task_queues: DeclaredQueues | None
    task_create_missing_queues: bool
    task_routes: Routes | None
    task_default_priority: int | None
    task_default_exchange: str | None
    task_default_exchange_type: str
    task_default_routing_key: str | None
    task_create_missing_queue_exchange_type: str | None
    task_default_delivery_mode: int | str
    task_publish_timeout: float | timedelta
    task_publish_retry: bool
    task_publish_retry_policy: Mapping[str, Any]
    task_max_message_bytes: int
    task_repr_maxlevels: int
    task_acks_late: bool
    task_max_deliveries: int
    task_reject_on_worker_lost: bool | None
    task_retry_on_worker_lost: bool
    task_acks_on_failure_or_timeout: bool
    task_acks_on_failure: bool | None
    task_acks_on_timeout: bool | None
    task_unknown_timeout: float | timedelta
    task_time_limit: float | timedelta | None
    task_soft_time_limit: float | timedelta | None
    task_soft_time_limit_grace: float | timedelta
    task_annotations: object
    task_track_started: bool
    task_inherit_parent_priority: bool
    task_allow_error_cb_on_chord_header: bool
    task_ignore_result: bool
    task_store_errors_even_if_ignored: bool
    result_expires: float | timedelta | None
    result_failure_expires: float | timedelta | None
    result_extended: bool
    task_remote_tracebacks: bool
    history_expires: float | timedelta | None
    history_limit: int | None
    task_serializer: str
    accept_content: Collection[str]
    task_compression: str | None
    result_serializer: str
    result_accept_content: Collection[str] | None
    result_compression: str | None
    security_hmac_key: str | bytes | Sequence[str | bytes] | None
    security_ed25519_key: str | None
    security_ed25519_trusted: Collection[str]
    security_key: str | None
    security_key_password: str | bytes | None
    security_certificate: str | None
    security_cert_store: str | None
    security_digest: str
    beat_schedule: dict[str, Any]
    beat_schedule_filename: str | None
    beat_cron_starting_deadline: float | timedelta | None
    worker_concurrency: int | None
    worker_pool: str
    worker_autoscale_keepalive: float | timedelta
    worker_max_tasks_per_child: int | None
    worker_max_memory_per_child: int | None
    worker_soft_shutdown_timeout: float | timedelta
    worker_lease: float | timedelta
    worker_hijack_root_logger: bool
    worker_log_format: str
    worker_log_datefmt: str | None
    worker_task_log_format: str
    worker_task_log_datefmt: str | None
    worker_log_color: bool | None
    worker_redirect_stdouts: bool
    worker_redirect_stdouts_level: str
    task_always_eager: bool
    task_eager_propagates: bool
    task_store_eager_result: bool
    task_create_missing_queue_type: Any
    task_default_queue_type: Any
    worker_detect_quorum_queues: Any
    task_default_rate_limit: Any
    task_queue_max_priority: Any
    task_send_sent_event: Any
    worker_send_task_events: Any
    worker_cancel_long_running_tasks_on_connection_loss: Any
    worker_enable_soft_shutdown_on_idle: Any
    worker_direct: Any
    worker_disable_rate_limits: Any
    worker_deduplicate_successful_tasks: Any
    worker_enable_remote_control: Any
    worker_pool_restarts: Any
    worker_lost_wait: Any
    worker_pool_putlocks: Any
    worker_pool_start_method: Any
    worker_proc_alive_timeout: Any
    worker_prefetch_multiplier: Any
    worker_disable_prefetch: Any
    worker_enable_prefetch_count_reduction: Any
    worker_eta_task_limit: Any
    worker_timer_precision: Any
    worker_state_db: Any
    worker_logfile: Any
    worker_pidfile: Any
    worker_executable: Any
    beat_logfile: Any
    beat_pidfile: Any
    beat_executable: Any
    events_logfile: Any
    events_pidfile: Any
    events_executable: Any
    broker_connection_timeout: Any
    broker_connection_retry: Any
    broker_connection_retry_on_startup: Any
    broker_connection_max_retries: Any
    broker_channel_error_retry: Any
    broker_failover_strategy: Any
    broker_heartbeat: Any
    broker_heartbeat_checkrate: Any
    broker_pool_limit: Any
    broker_pool_acquire_timeout: Any
    broker_login_method: Any
    broker_native_delayed_delivery_queue_type: Any
    result_cache_max: Any
    result_exchange: Any
    result_exchange_type: Any
    result_persistent: Any
    result_chord_retry_interval: Any
    result_chord_join_timeout: Any
    result_chord_expires: Any
    result_backend_max_sleep_between_retries_ms: Any
    result_backend_max_retries: Any
    result_backend_base_sleep_between_retries_ms: Any
    result_backend_always_retry: Any
    result_backend_thread_safe: Any
    beat_enable_remote_control: Any
    beat_remote_control_max_tick_age: Any
    beat_max_loop_interval: Any
    beat_sync_every: Any
    beat_scheduler: Any
    event_queue_expires: Any
    event_queue_ttl: Any
    event_queue_prefix: Any
    event_queue_exclusive: Any
    event_queue_durable: Any
    event_serializer: Any
    event_exchange: Any
    control_queue_ttl: Any
    control_queue_expires: Any
    control_queue_exclusive: Any
    control_queue_durable: Any
    control_exchange: Any
    database_url: Any
    database_engine_options: Any
    database_engine_callback: Any
    database_short_lived_sessions: Any
    database_table_schemas: Any
    database_table_names: Any
    database_create_tables_at_setup: Any
    redis_retry_on_timeout: Any
    redis_socket_keepalive: Any
    s3_access_key_id: Any
    s3_secret_access_key: Any
    s3_bucket: Any
    s3_base_path: Any
    s3_endpoint_url: Any
    s3_region: Any
    azureblockblob_container_name: Any
    azureblockblob_retry_initial_backoff_sec: Any
    azureblockblob_retry_increment_base: Any
    azureblockblob_retry_max_attempts: Any
    azureblockblob_base_path: Any
    azureblockblob_connection_timeout: Any
    azureblockblob_read_timeout: Any
    gcs_bucket: Any
    gcs_project: Any
    gcs_base_path: Any
    gcs_ttl: Any
    gcs_threadpool_maxsize: Any


class GivenSettings(AppSettings, total=False):
    """What `app.conf.update(…)` takes."""

    include: Collection[str]


class IdleSettings:
    """Attributes of `app.conf` that are accepted without effect."""

    task_create_missing_queue_type: Any
    task_default_queue_type: Any
    worker_detect_quorum_queues: Any
    task_default_rate_limit: Any
    task_queue_max_priority: Any
    task_send_sent_event: Any
    worker_send_task_events: Any
    worker_cancel_long_running_tasks_on_connection_loss: Any
    worker_enable_soft_shutdown_on_idle: Any
    worker_direct: Any
    worker_disable_rate_limits: Any
    worker_deduplicate_successful_tasks: Any
    worker_enable_remote_control: Any
    worker_pool_restarts: Any
    worker_lost_wait: Any
    worker_pool_putlocks: Any
    worker_pool_start_method: Any
    worker_proc_alive_timeout: Any
    worker_prefetch_multiplier: Any
    worker_disable_prefetch: Any
    worker_enable_prefetch_count_reduction: Any
    worker_eta_task_limit: Any
    worker_timer_precision: Any
    worker_state_db: Any
    worker_logfile: Any
    worker_pidfile: Any
    worker_executable: Any
    beat_logfile: Any
    beat_pidfile: Any
    beat_executable: Any
    events_logfile: Any
    events_pidfile: Any
    events_executable: Any
    broker_connection_timeout: Any
    broker_connection_retry: Any
    broker_connection_retry_on_startup: Any
    broker_connection_max_retries: Any
    broker_channel_error_retry: Any
    broker_failover_strategy: Any
    broker_heartbeat: Any
    broker_heartbeat_checkrate: Any
    broker_pool_limit: Any
    broker_pool_acquire_timeout: Any
    broker_login_method: Any
    broker_native_delayed_delivery_queue_type: Any
    result_cache_max: Any
    result_exchange: Any
    result_exchange_type: Any
    result_persistent: Any
    result_chord_retry_interval: Any
    result_chord_join_timeout: Any
    result_chord_expires: Any
    result_backend_max_sleep_between_retries_ms: Any
    result_backend_max_retries: Any
    result_backend_base_sleep_between_retries_ms: Any
    result_backend_always_retry: Any
    result_backend_thread_safe: Any
    beat_enable_remote_control: Any
    beat_remote_control_max_tick_age: Any
    beat_max_loop_interval: Any
    beat_sync_every: Any
    beat_scheduler: Any
    event_queue_expires: Any
    event_queue_ttl: Any
    event_queue_prefix: Any
    event_queue_exclusive: Any
    event_queue_durable: Any
    event_serializer: Any
    event_exchange: Any
    control_queue_ttl: Any
    control_queue_expires: Any
    control_queue_exclusive: Any
    control_queue_durable: Any
    control_exchange: Any
    database_url: Any
    database_engine_options: Any
    database_engine_callback: Any
    database_short_lived_sessions: Any
    database_table_schemas: Any
    database_table_names: Any
    database_create_tables_at_setup: Any
    redis_retry_on_timeout: Any
    redis_socket_keepalive: Any
    s3_access_key_id: Any
    s3_secret_access_key: Any
    s3_bucket: Any
    s3_base_path: Any
    s3_endpoint_url: Any
    s3_region: Any
    azureblockblob_container_name: Any
    azureblockblob_retry_initial_backoff_sec: Any
    azureblockblob_retry_increment_base: Any
    azureblockblob_retry_max_attempts: Any
    azureblockblob_base_path: Any
    azureblockblob_connection_timeout: Any
    azureblockblob_read_timeout: Any
    gcs_bucket: Any
    gcs_project: Any
    gcs_base_path: Any
    gcs_ttl: Any
    gcs_threadpool_maxsize: Any
