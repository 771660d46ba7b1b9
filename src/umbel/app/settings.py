"""The settings: one typed table. Names are Celery's lowercase ones where Celery has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from umbel.app.config import Configuration

if TYPE_CHECKING:
    from umbel.app.options import DeclaredQueues, Routes


class Settings(Configuration):
    """The settings that have an effect, with their defaults. Durations are seconds.

    Those of Celery's that have none: `umbel.app.names`. How they are read:
    `umbel.app.config.Configuration`.
    """

    compat: str | None = None
    """"celery": Celery's behaviour in each point of `umbel.app.compat`. Also `--compat` of the
    worker and `UMBEL_COMPAT`."""

    broker_url: str | None = None
    """Where messages lie; None is the embedded store (`umbel.app.location`)."""
    result_backend: str | None = None
    """Where results are kept: "broker" is where messages lie. None: the same, unless the code
    sets `broker_url`; then nowhere, as in Celery."""
    enable_utc: bool = True
    """A datetime without a zone means UTC; off: it means `timezone`."""
    timezone: str | None = None
    """The app's time zone by its IANA name; None is UTC."""
    imports: Sequence[str] = ()
    """Modules that workers and the command line import after the app's own."""
    include: Sequence[str] = ()
    """More of them (`App(include=…)`)."""
    task_default_queue: str = "celery"
    """Where a task goes that nothing else gives a queue, and what a worker serves without -Q."""
    task_queues: DeclaredQueues | None = None
    """The queues that a worker serves, as `umbel.Queue` or as a dict by name; None: the default
    one. Others are made when they are first named."""
    task_create_missing_queues: bool = True
    """Off: a queue that is not in `task_queues` is refused where it is named (`QueueNotFound`)."""
    task_create_missing_queue_exchange_type: str | None = None
    """The type of the exchange of a queue that is made when first named; None: direct."""
    task_default_exchange: str | None = None
    """The exchange of queues in `task_queues` that name none; None: named as the default queue."""
    task_default_exchange_type: str = "direct"
    """The type of exchanges in `task_queues` that name none: direct, topic or fanout."""
    task_default_routing_key: str | None = None
    """The key of queues in `task_queues` that name none; None: the default queue's name."""
    task_default_delivery_mode: int | str = 2
    """1 or "transient", 2 or "persistent": what a message says of itself. The embedded store keeps
    both."""
    task_routes: Routes | None = None
    """Which queue a task goes to, or other options of `apply_async`, by its name: a dict by name,
    pattern with `*` or compiled pattern, a function, the dotted path of either, or a list of such;
    the first that answers decides. What the call or the task says wins."""
    task_default_priority: int | None = None
    """0 to 9; 9 is the most urgent. None: as a route says, else 0."""
    task_acks_late: bool = True
    """A message is done when its task has ended. Off: done before it starts, so that a task
    whose worker dies is not run again but fails with `WorkerLostError`."""
    task_acks_on_failure_or_timeout: bool = True
    """A failure or hard time limit is a task's end. Off: see the two settings that follow."""
    task_acks_on_failure: bool | None = None
    """Off: the message of a task that has failed becomes a dead letter, which can be replayed.
    None: as `task_acks_on_failure_or_timeout`."""
    task_acks_on_timeout: bool | None = None
    """Off: a task that was killed at its hard limit runs again, as one whose process died.
    None: as `task_acks_on_failure_or_timeout`."""
    task_reject_on_worker_lost: bool | None = None
    """Off: a task whose process died fails with `WorkerLostError` at once. On, and None: it runs
    again, alone, up to `task_max_deliveries` times; then it is a dead letter."""
    task_retry_on_worker_lost: bool = False
    """A task whose process died is retried, after its `default_retry_delay` and at most
    `max_retries` times, and then fails."""
    task_ignore_result: bool = False
    """Store no results, but of tasks and calls that say otherwise."""
    task_store_errors_even_if_ignored: bool = False
    """Store the failures of tasks whose results are ignored."""
    task_track_started: bool = False
    """Store the state STARTED, with process and worker, when a task begins."""
    task_annotations: object = None
    """Options of tasks that the configuration overrides, by task name (`umbel.app.annotations`)."""
    task_time_limit: float | None = None
    """Hard limit: the task's process is killed."""
    task_soft_time_limit: float | None = None
    """`SoftTimeLimitExceeded` is raised inside the task."""
    task_soft_time_limit_grace: float = 10.0
    """How long a task without a hard limit may go on after its soft one before it is killed."""
    task_publish_timeout: float = 5.0
    """The one deadline of a publish, over all that it waits for; then `OperationalError`."""
    task_serializer: str = "json"
    """What messages are written in: json, yaml, msgpack, pickle, auth, or one that was registered
    (`umbel.serialization`)."""
    accept_content: Sequence[str] = ("json",)
    """Serializers whose messages are read, by name or content type. Others become dead letters."""
    task_compression: str | None = None
    """zlib, bzip2, lzma, zstd or brotli; None: not compressed."""
    task_publish_retry: bool = True
    """An unsuccessful publish is tried again as the policy says, within the deadline."""
    task_publish_retry_policy: Mapping[str, Any] = MappingProxyType(
        {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}
    )
    """How often, and the pauses in seconds (`umbel.app.options.RetryPolicy`)."""
    task_repr_maxlevels: int = 3
    """How deep arguments are shown in logs and monitors."""
    task_max_message_bytes: int = 32 << 20
    """Largest message and largest stored result."""
    task_max_deliveries: int = 3
    """Attempts that may kill their process before the message becomes a dead letter."""
    task_unknown_timeout: float = 60.0
    """How long a message whose task no worker knows waits before it becomes a dead letter."""
    task_always_eager: bool = False
    """Run tasks where they are sent, at once, instead of sending them (for tests; the fixture
    `umbel` hides less)."""
    task_eager_propagates: bool = False
    """An eager call raises what its task raises."""
    task_store_eager_result: bool = False
    """Store the results of eager calls too."""
    result_serializer: str = "json"
    """What results are written in; as `task_serializer`."""
    result_compression: str | None = None
    """As `task_compression`; Celery reads it from 5.7 on."""
    result_accept_content: Sequence[str] | None = None
    """Serializers whose results are read; None: those of `accept_content`. That of
    `result_serializer` is read in any case."""
    result_expires: float | None = 86400.0
    """How long results are kept; None or 0: for ever. Nothing has to clean up: an expired result
    is as absent at once, and any live worker drops it from the store."""
    result_failure_expires: float | None = None
    """The same for results of failed tasks; None: as `result_expires`; 0: for ever."""
    result_extended: bool = False
    """Store with a result its task's name, arguments, worker, retries and queue, and its stamps."""
    task_remote_tracebacks: bool = False
    """An error that `get` raises has the frames of its task, where the worker raised it, for
    debuggers and error trackers. Off: they are a note of the error, which shows them as well."""
    history_expires: float | None = 7 * 86400.0
    """How long the store tells how attempts ended (`App.history`); None: for ever."""
    history_limit: int | None = 1_000_000
    """How many ended attempts it tells of, the newest; None: no bound. The memory engine keeps
    10,000 at most."""
    security_hmac_key: str | bytes | Sequence[str | bytes] | None = None
    """A secret of 32 bytes or more that all producers and workers share: messages are signed with
    it, headers and queue included, and what is not signed so becomes a dead letter. Of several
    the first signs and each is accepted, so that keys can be changed one after the other."""
    security_key: str | None = None
    """Path of the private key (PEM) that the serializer auth signs with."""
    security_key_password: str | bytes | None = None
    """What `security_key` is encrypted with."""
    security_certificate: str | None = None
    """Path of the certificate (PEM) that goes with `security_key`."""
    security_cert_store: str | None = None
    """Folder or pattern of the certificates (PEM) whose messages the serializer auth reads."""
    security_digest: str = "sha256"
    """The digest that is signed by the serializer auth."""
    worker_concurrency: int | None = None
    """Children of a worker; None: one for each processor this process may use."""
    worker_max_tasks_per_child: int | None = None
    """Tasks after which a child is replaced; None: never."""
    worker_max_memory_per_child: int | None = None
    """KiB of resident memory after which a child is replaced, once its task has ended."""
    worker_hijack_root_logger: bool = False
    """Take the root logger's handlers away before the worker sets logging up. Off: logging that
    the app has set up stays as it is."""
    worker_log_color: bool | None = None
    """Colours in the log; None: if it goes to a terminal."""
    worker_log_format: str = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    """Format of the worker's own lines."""
    worker_log_datefmt: str | None = None
    """`strftime` format of %(asctime)s in `worker_log_format`."""
    worker_task_log_format: str = (
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
    )
    """Format of the lines that tasks log."""
    worker_task_log_datefmt: str | None = None
    """`strftime` format of %(asctime)s in `worker_task_log_format`."""
    worker_redirect_stdouts: bool = True
    """What tasks print goes to the log, unless the app has set logging up."""
    worker_redirect_stdouts_level: str = "WARNING"
    """The level of what is printed."""
    worker_soft_shutdown_timeout: float = 0.0
    """Seconds that running tasks have from the signal for a cold shutdown to that shutdown."""
    worker_lease: float = 30.0
    """How long a worker's lease must stand still before another takes over its work. A worker
    that died on the same host is noticed at once, by its lock."""

    def _is_read(self) -> bool:
        return type(self) is not UnreadSettings

    def _unread(self) -> None:
        self.__class__ = UnreadSettings

    def _settle_in(self) -> None:
        self.__class__ = Settings


Settings._fields = Settings.__annotations__


class UnreadSettings(Settings):
    """Settings of which nobody has asked anything yet; the first question makes them `Settings`.

    So reading them later costs no more than reading any attribute.
    """

    def __getattribute__(self, name: str) -> object:
        """Read the sources before the first setting is told."""
        if name in Settings.__annotations__:
            self.read()
        return object.__getattribute__(self, name)
