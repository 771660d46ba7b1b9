"""The settings: one typed table. Names are Celery's lowercase ones where Celery has one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from umbel.app.settings.config import Configuration, Follows

if TYPE_CHECKING:
    from umbel.app.sending.options import DeclaredQueues, Routes
    from umbel.app.settings.keywords import IdleSettings
else:
    IdleSettings = object  # a table of its own answers for them (`umbel.app.settings.names`)


class Settings(Configuration, IdleSettings):
    """The settings that have an effect, with their defaults. Durations are seconds, all floats are.

    Those of Celery's that have none: `umbel.app.settings.names`. How they are read:
    `umbel.app.settings.config.Configuration`. What is written from this table:
    `umbel.app.settings.reference`.
    """

    # ------------------------------------------------------------ Moving from Celery

    compat: str | None = None
    """With "celery", each setting whose default differs from Celery's on purpose gets the value
    that behaves as there (a table below lists them), and unknown settings are passed over with a
    warning. Also `--compat celery` of a worker."""

    # ------------------------------------------------------------ Where messages and results are

    broker_url: str | None = None
    """The URL of the store that messages lie in: `sqlite:///path/to/file.db`,
    `redis://user:password@host:6379/0`, `sentinel://host:26379/0`, `redis+cluster://host:6379`, or
    `memory://` for one process. Of several Redis servers, separated by `;`, the first that answers
    serves; several sentinels, or nodes of a cluster, are asked in turn. None: the embedded store,
    `.umbel/queue.db` in the project's root, or `queue.db` in the folder `UMBEL_HOME`."""
    result_backend: str | None = None
    """Where results are kept. "broker": where the messages are; "disabled": nowhere. None: where
    the messages are, unless the code sets `broker_url`; then nowhere, as in Celery. Or the URL of
    another Redis, `redis://…`, `sentinel://…` or `redis+cluster://…`."""
    broker_use_ssl: bool | Mapping[str, Any] | None = False
    """TLS for connections to the broker. On Redis: True, or a dict of `ssl_ca_certs`,
    `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`, `ssl_check_hostname` and what else redis-py's
    `SSLConnection` takes. The same as `rediss://` with these after a `?`."""
    broker_transport_options: Mapping[str, Any] = MappingProxyType({})
    """On Redis: `global_keyprefix`, before all keys; `priority_steps` and `sep`, as all peers have
    them; `socket_timeout`, `socket_connect_timeout`, `socket_keepalive_options`,
    `max_connections`, `health_check_interval`, `client_name` and `credential_provider`, as the
    settings `redis_…` of these names; for `sentinel://`, `master_name`, and perhaps
    `sentinel_kwargs` and `min_other_sentinels`; `allow_eviction`, to start on a server that may
    delete queued tasks when its memory is full. A worker logs which of the rest have no effect,
    and why: `visibility_timeout` has none, as a claim lasts as long as its worker lives."""
    result_backend_transport_options: Mapping[str, Any] = MappingProxyType({})
    """On Redis: `global_keyprefix`, before the keys of results, as Celery has it; where results
    lie in a Redis of their own, what `broker_transport_options` says of connections."""

    # ------------------------------------------------------------ Redis

    redis_priority_order: str = "umbel"
    """Which of a queue's messages a worker takes first on Redis: "umbel" those of priority 9,
    "celery" those of 0, as Celery's workers do."""
    redis_min_replicas_ack: int = 0
    """How many replicas must confirm (WAIT) what is published before `delay` returns; if too few
    do, it raises `OperationalError` at its deadline, though the message may be stored. The ends of
    tasks wait for a second, and a worker goes on with a warning."""
    redis_backend_use_ssl: bool | Mapping[str, Any] | None = None
    """As `broker_use_ssl`, for the Redis that keeps the results. This setting and the following
    ones are of the connections to that; where messages lie there too, what
    `broker_transport_options` and `broker_use_ssl` say comes first."""
    redis_host: str | None = None
    """Where `result_backend` is just "redis" or "rediss": the server's host. None: localhost."""
    redis_port: int | None = None
    """Its port. None: 6379."""
    redis_db: int | None = None
    """Its database. None: 0."""
    redis_username: str | None = None
    """Who signs in, if `result_backend` does not say it."""
    redis_password: str | None = None
    """The password, if `result_backend` says none."""
    redis_socket_timeout: float | None = None
    """How long a command may take. None: 5. A publish has `task_publish_timeout`."""
    redis_socket_connect_timeout: float | None = None
    """How long connecting may take of that. None: all of it."""
    redis_max_connections: int | None = None
    """How many connections of a process may be in use at the same time, besides those on which it
    sleeps. Who needs one more waits. None: any number."""
    redis_backend_health_check_interval: float | None = None
    """After so many seconds without use a connection is replaced before it is used again, for
    firewalls that forget it in silence. None: it is replaced when it turns out to be dead."""
    redis_backend_credential_provider: object = None
    """A `redis.CredentialProvider`, or the dotted path of a class, which is asked for user and
    password at each new connection."""
    redis_client_name: str | None = None
    """What `CLIENT LIST` calls the connections."""

    # ------------------------------------------------------------ Time zone

    timezone: str | None = None
    """The app's time zone by its IANA name, "Asia/Shanghai". None: UTC."""
    enable_utc: bool = True
    """A datetime without a zone, as `eta` or `expires`, means UTC. Off: it means `timezone`."""

    # ------------------------------------------------------------ Modules with tasks

    imports: Collection[str] = ()
    """Modules that workers and the command line import after the app's own, so that the tasks in
    them are known."""
    include: Collection[str] = ()
    """More of them; the argument `App(include=…)`."""

    # ------------------------------------------------------------ Queues and routing

    task_default_queue: str = "celery"
    """The queue of tasks that nothing else gives one, and what a worker without `-Q` serves."""
    task_queues: DeclaredQueues | None = None
    """The queues that a worker without `-Q` serves: a list of names and `umbel.Queue`, or a dict
    by name. None: the default queue. A queue that is not in it is made when it is first named."""
    task_create_missing_queues: bool = True
    """Make queues that are not in `task_queues`. Off: naming one is an error (`QueueNotFound`)."""
    task_routes: Routes | None = None
    """Which queue a task goes to, or other options of `apply_async`, by its name:
    `{"shop.mail.*": {"queue": "mail"}}`. A dict by name, pattern with `*` or compiled pattern; a
    function `(name, args, kwargs, options, task=None)`; the dotted path of either; or a list of
    these, of which the first that answers decides. What the call or the task says wins."""
    task_default_priority: int | None = None
    """0 to 9; 9 is the most urgent. None: 0, unless a route says otherwise."""
    task_default_exchange: str | None = cast("None", Follows("task_default_queue"))
    """The exchange of queues in `task_queues` that name none. None: the default queue's name."""
    task_default_exchange_type: str = "direct"
    """The type of exchanges in `task_queues` that name none: direct, topic or fanout."""
    task_default_routing_key: str | None = cast("None", Follows("task_default_queue"))
    """The key of queues in `task_queues` that name none. None: the default queue's name."""
    task_create_missing_queue_exchange_type: str | None = None
    """The type of the exchange of a queue that is made when first named. None: direct."""
    task_default_delivery_mode: int | str = 2
    """What a message says of itself: 1 or "transient", 2 or "persistent". The embedded store keeps
    both."""

    # ------------------------------------------------------------ Sending

    task_publish_timeout: float = 5.0
    """How long `delay` may take in all, whatever it waits for; then it raises
    `OperationalError`."""
    task_publish_retry: bool = True
    """Try a publish that fails again, within `task_publish_timeout`."""
    task_publish_retry_policy: Mapping[str, Any] = MappingProxyType(
        {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}
    )
    """How often it is tried again, and the pauses: the first, by how much each is longer, and the
    longest."""
    task_max_message_bytes: int = 32 << 20
    """The largest message, and the largest result, in bytes. A larger one is refused where it is
    made."""
    task_repr_maxlevels: int = 3
    """How many levels of nested arguments are shown in logs and monitors."""

    # ------------------------------------------------------------ When a task is done

    task_acks_late: bool = True
    """A message is done when its task has ended, so a task whose worker dies runs again. Off: done
    before it starts, so it never runs twice; if its worker dies it fails (`WorkerLostError`)."""
    task_max_deliveries: int = 3
    """How many times a task may kill its process before it becomes a dead letter (`umbel dead`)."""
    task_reject_on_worker_lost: bool | None = None
    """A task whose process died. On, and None: it runs again, alone in a process, until
    `task_max_deliveries`. Off: it fails at once (`WorkerLostError`)."""
    task_retry_on_worker_lost: bool = False
    """A task whose process died is retried like one that raised an error: after its
    `default_retry_delay`, at most `max_retries` times; then it fails."""
    task_acks_on_failure_or_timeout: bool = True
    """A task that failed or reached its hard time limit is done. Off: what the next two say."""
    task_acks_on_failure: bool | None = None
    """Off: the message of a task that failed becomes a dead letter, which can be replayed. None: as
    `task_acks_on_failure_or_timeout`."""
    task_acks_on_timeout: bool | None = None
    """Off: a task that was killed at its hard limit runs again, like one whose process died. None:
    as `task_acks_on_failure_or_timeout`."""
    task_unknown_timeout: float = 60.0
    """How long a message whose task no worker knows waits for a worker that does, before it
    becomes a dead letter."""

    # ------------------------------------------------------------ Time limits

    task_time_limit: float | None = None
    """Hard limit of each run: the task's process is killed and the task fails
    (`TimeLimitExceeded`). None: no limit."""
    task_soft_time_limit: float | None = None
    """Soft limit: `SoftTimeLimitExceeded` is raised inside the task. None: no limit."""
    task_soft_time_limit_grace: float = 10.0
    """How long a task that has no hard limit may go on after its soft one, before it is killed."""

    # ------------------------------------------------------------ Options of all tasks

    task_annotations: object = None
    """Options of tasks that the configuration overrides, by task name, "*" for all:
    `{"shop.add": {"time_limit": 5}, "*": {"max_retries": 5}}`. Or an object with a method
    `annotate(task)`, or a list of such."""
    task_track_started: bool = False
    """Store the state STARTED, with process and worker, when a task begins."""

    # ------------------------------------------------------------ Workflows

    task_inherit_parent_priority: bool = False
    """A task's priority is that of whatever it sends, links and next steps included, unless that
    is given one."""
    task_allow_error_cb_on_chord_header: bool = False
    """`chord.link_error` links to each task of the header too, not only to the body."""

    # ------------------------------------------------------------ Results

    task_ignore_result: bool = False
    """Store no results, except of tasks and calls that say `ignore_result=False`."""
    task_store_errors_even_if_ignored: bool = False
    """Store the failures of tasks whose results are ignored."""
    result_expires: float | None = 86400.0
    """How long results are kept; None or 0: for ever. Nothing has to clean up: an expired result
    is absent at once, and any worker removes it from the store."""
    result_failure_expires: float | None = None
    """The same for results of failed tasks; None: as `result_expires`; 0: for ever."""
    result_extended: bool = False
    """Store with a result its task's name, arguments, worker, retries, queue and stamps."""
    task_remote_tracebacks: bool = False
    """An error that `get` raises has the frames of its task in the worker, for debuggers and error
    trackers. Off: it has the worker's traceback as a note, which is shown with it."""
    history_expires: float | None = 7 * 86400.0
    """How long the store remembers how attempts ended (`App.history`, `umbel result ID`), also of
    tasks without a result. None: for ever."""
    history_limit: int | None = 1_000_000
    """How many ended attempts it remembers, the newest. None: all. The engine in memory keeps
    10,000 at most."""

    # ------------------------------------------------------------ Serializers

    task_serializer: str = "json"
    """What messages are written in: json, yaml, msgpack, pickle, auth, or one that was registered
    (`umbel.serialization.register`)."""
    accept_content: Collection[str] = ("json",)
    """Serializers whose messages are read, by name or content type. A message in another becomes a
    dead letter."""
    task_compression: str | None = None
    """zlib, bzip2, lzma, zstd or brotli. None: messages are not compressed."""
    result_serializer: str = "json"
    """What results are written in; as `task_serializer`."""
    result_accept_content: Collection[str] | None = None
    """Serializers whose results are read. None: those of `accept_content`. That of
    `result_serializer` is always read."""
    result_compression: str | None = None
    """Compression of results; as `task_compression`. Celery reads it from 5.7 on."""

    # ------------------------------------------------------------ Signed messages

    security_hmac_key: str | bytes | Sequence[str | bytes] | None = None
    """A secret of 32 bytes or more that all producers and workers share. Messages are signed with
    it, headers, queue and expiry included; one that is not becomes a dead letter. Of several keys
    the first signs and each is accepted, so keys can be changed one after the other."""
    security_ed25519_key: str | None = None
    """Path of a private key (PEM, Ed25519) of this process's own. Messages are signed with it, as
    with `security_hmac_key`; one that is signed by neither it nor by one of
    `security_ed25519_trusted` becomes a dead letter. A worker signs the retries of what it runs."""
    security_ed25519_trusted: Collection[str] = ()
    """Paths of the public keys (PEM) of those whose messages a worker runs besides its own: the
    producers', and for their retries the other workers'."""
    security_key: str | None = None
    """Path of the private key (PEM) that the serializer auth signs with."""
    security_key_password: str | bytes | None = None
    """What `security_key` or `security_ed25519_key` is encrypted with."""
    security_certificate: str | None = None
    """Path of the certificate (PEM) that belongs to `security_key`."""
    security_cert_store: str | None = None
    """Folder, or pattern, of the certificates (PEM) whose messages are read."""
    security_digest: str = "sha256"
    """The digest that the serializer auth signs."""

    # ------------------------------------------------------------ Periodic tasks

    beat_schedule: dict[str, Any] = {}  # noqa: RUF012  (each `Settings` gets its own)
    """Periodic tasks by name, each a dict: `task`, `schedule`, and perhaps `args`, `kwargs`,
    `options`, `relative`, `timezone`, `misfire`, `misfire_limit`, `jitter`. `umbel beat` and
    `umbel worker -B` run them."""
    beat_schedule_filename: str | None = None
    """A file for the state of the schedule, which schedulers of one host share. None: it lies in
    the store, which schedulers on any number of hosts share."""
    beat_cron_starting_deadline: float | None = None
    """How late a crontab's tick may be made up for that no scheduler could fire in time. None:
    however late."""

    # ------------------------------------------------------------ Workers

    worker_concurrency: int | None = None
    """How many tasks a worker runs at once, in each of its processes; in the pool prefork, the
    number of processes. None: the pool's usual number, which is for prefork one process for each
    processor that it may use, for threads ten threads for each, at most 32, for asyncio,
    gevent and eventlet 100."""
    worker_pool: str = "prefork"
    """How a worker runs tasks: `prefork`, one in each process, `threads`, `asyncio`, `gevent`,
    `eventlet`, or `solo`, one in the foreground of the terminal; or as a pool of another package,
    by the name of its entry point in the group `umbel.pools`."""
    worker_autoscale_keepalive: float = 30.0
    """How long processes or slots must have been idle before a worker with `--autoscale` gives them
    up."""
    worker_max_tasks_per_child: int | None = None
    """Replace a process after so many tasks. None: never."""
    worker_max_memory_per_child: int | None = None
    """Replace a process whose resident memory exceeds so many KiB, once its task has ended. None:
    never."""
    worker_soft_shutdown_timeout: float = 0.0
    """How long running tasks may go on after a signal for a cold shutdown, before they are stopped
    and go back into their queues."""
    worker_lease: float = 30.0
    """How long a worker's lease must stand still before other workers take over its work. A worker
    that dies on the same host is noticed at once."""

    # ------------------------------------------------------------ A worker's log

    worker_hijack_root_logger: bool = False
    """Take the root logger's handlers away and set logging up anew. Off: logging that the app has
    set up stays as it is."""
    worker_log_format: str = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    """Format of the worker's own lines."""
    worker_log_datefmt: str | None = None
    """`strftime` format of `%(asctime)s` in `worker_log_format`. None: logging's default."""
    worker_task_log_format: str = (
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
    )
    """Format of the lines that tasks log."""
    worker_task_log_datefmt: str | None = None
    """`strftime` format of `%(asctime)s` in `worker_task_log_format`. None: logging's default."""
    worker_log_color: bool | None = None
    """Colours. None: if the log goes to a terminal and `NO_COLOR` is not set."""
    worker_redirect_stdouts: bool = True
    """What tasks print goes to the log, unless the app has set logging up."""
    worker_redirect_stdouts_level: str = "WARNING"
    """The level at which it is logged."""

    # ------------------------------------------------------------ Tests

    task_always_eager: bool = False
    """Run tasks where they are sent, at once, instead of sending them. The fixture `umbel` hides
    less (`docs/guides/testing.md`)."""
    task_eager_propagates: bool = False
    """An eager call raises what its task raises."""
    task_store_eager_result: bool = False
    """Store the results of eager calls too."""

    if not TYPE_CHECKING:  # read as in Celery; giving them is refused (`umbel.app.settings.names`)
        broker_read_url = Follows("broker_url")
        broker_write_url = Follows("broker_url")

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
