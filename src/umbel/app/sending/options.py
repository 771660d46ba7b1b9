"""The options of tasks, and of sending them, as types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from umbel.app.sending.queues import Exchange, Queue
    from umbel.app.task import Task
    from umbel.result import AsyncResult

Moment = datetime | str | float
"""A point in time: a datetime, ISO 8601 text, or Unix time in seconds. A datetime without a zone
means UTC while `enable_utc` is on, else the app's zone."""


class HasName(Protocol):
    """A queue or exchange as a value: ours or Kombu's."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


DeclaredQueues = Sequence[HasName | str] | Mapping[str, HasName | Mapping[str, Any]]
"""The setting `task_queues`: queues as values, or by name as Celery's dict form describes them."""
Signature = Mapping[str, Any]
"""A task to call, as data: `task`, `args`, `kwargs`, `options`, `subtask_type`, `immutable`."""
Route = str | HasName | Mapping[str, Any]
"""Where a task goes: a queue's name, a queue, or options of `apply_async`."""
Table = Mapping[Any, object] | Sequence[object]
"""Routes by a task's name, by a pattern with `*`, or by a compiled pattern that fits its start: a
dict, or pairs. Their parts are checked when they are read: of a dict with routes of two kinds mypy
knows no more than `dict[str, object]`."""


class RouterObject(Protocol):
    """A router as Celery 3 had it."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None, /) -> Route | None:
        """Where a task of this name goes; None for one of which it knows nothing."""
        ...


Router = str | Table | Callable[..., Route | None] | RouterObject
"""A table, `route(name, args, kwargs, options, task=None, **kwargs)`, the dotted path of either,
or an object with Celery 3's `route_for_task(task, args, kwargs)`."""
Routes = Router
"""The setting `task_routes`: one router or several; the first that does not answer None decides."""


class RetryPolicy(TypedDict, total=False):
    """How an unsuccessful publish is tried again, all within `task_publish_timeout`."""

    max_retries: int | None
    """Default 3; None: until the deadline."""
    interval_start: float
    """Seconds before the first new try; default 0."""
    interval_step: float
    """Seconds by which each pause is longer than the one before; default 0.2."""
    interval_max: float
    """Longest pause in seconds; default 1."""
    retry_errors: tuple[type[Exception], ...] | None
    """Errors, besides `OperationalError`, after which it is tried again."""


class RetryOptions(TypedDict, total=False):
    """Keywords of `Task.retry` besides its own: what the next attempt has instead.

    None takes `expires`, the time limits, `ignore_result` and what follows the task (`link`, …)
    away, and leaves all else as it is. `headers` takes the place of all of your own.
    """

    expires: float | timedelta | datetime | str | None
    """When it is dropped if it has not started; a number or a timedelta is a duration."""
    priority: int | None
    """0 to 9; 9 is the most urgent. Default: the task's, the route's, `task_default_priority`."""
    queue: str | HasName | None
    """Its name, or a `Queue`. Default: the task's, the route's, `task_default_queue`."""
    exchange: str | Exchange | HasName | None
    """With `routing_key`: sent to the queues in `task_queues` that are bound so."""
    exchange_type: str | None
    routing_key: str | None
    ignore_result: bool | None
    """Store no result; `get()` then returns None at once."""
    time_limit: float | None
    """Hard limit in seconds: the task's process is killed."""
    soft_time_limit: float | None
    """Soft limit in seconds: `SoftTimeLimitExceeded` is raised inside the task."""
    headers: Mapping[str, Any] | None
    """Headers of your own; the task reads them as `request.headers` and `request.NAME`."""
    shadow: str | None
    """A name for logs and monitors, instead of the task's."""
    link: Signature | Sequence[Signature] | None
    """What to call with the result. Carried as Celery does; this version runs no links."""
    link_error: Signature | Sequence[Signature] | None
    """What to call after a failure; the same."""
    chain: Sequence[Signature] | None
    """The rest of a chain, last step first; the same."""
    chord: Signature | None
    """The body of the task's chord; the same."""
    group_id: str | None
    group_index: int | None
    reply_to: str | None
    """Celery's `rpc://` clients read their results there."""
    delivery_mode: int | str | None
    """1 transient, 2 persistent (the default). The embedded store keeps both."""
    argsrepr: str | None
    """How logs and monitors show the arguments."""
    kwargsrepr: str | None
    replaced_task_nesting: int
    stamped_headers: Iterable[str] | None
    """Names of stamps, given as further keywords or in `stamps`."""
    stamps: Mapping[str, Any] | None
    serializer: str | None
    """Default: the task's, else `task_serializer`."""
    compression: str | None
    """Default: the task's, else `task_compression`."""
    root_id: str | None
    """The id of the workflow's first task; default: the running task's, else its own."""
    parent_id: str | None
    """The id of the task that sends this one; default: the running task's."""
    origin: str | None
    """Who sends it; default: gen<pid>@<host>."""
    app_id: str | None
    """This and the following are AMQP properties, carried as they are."""
    user_id: str | None
    message_id: str | None
    type: str | None
    cluster_id: str | None
    timestamp: float | None
    MessageGroupId: str | None
    MessageDeduplicationId: str | None


class ManyOptions(RetryOptions, total=False):
    """Keywords of `Task.apply_many` and `Task.aapply_many`.

    None takes the task's own default away (`time_limit`, `expires`, `priority`, `queue`, …).
    """

    countdown: float | timedelta | None
    """Seconds from now before which it does not run; wins over `eta`."""
    eta: Moment | None
    """When it may run at the earliest."""
    retries: int
    """How often it has been retried already; default 0."""
    add_to_parent: bool
    """Count it among the running task's children; default True."""
    retry: bool | None
    """Try an unsuccessful publish again; default: `task_publish_retry`, which is on."""
    retry_policy: RetryPolicy | None
    """Default: `task_publish_retry_policy`."""
    timeout: float | None
    """Seconds for the whole publish; default: `task_publish_timeout`."""
    confirm_timeout: float | None
    """The same; the shorter of the two counts."""
    route_name: str | None
    """Route it as the task of this name."""
    router: Router | None
    """Asked instead of `task_routes`."""
    result_cls: type[AsyncResult[Any]] | None
    """The class of the result that is returned."""
    task_type: Task[..., Any] | None
    """The task whose options are the defaults; only needed by `send_task`."""
    declare: Sequence[Queue | HasName] | None
    """Without effect: no queue needs to be declared."""
    mandatory: bool | None
    """Without effect: a queue is never missing."""
    immediate: bool | None
    """Without effect, as on RabbitMQ."""


class SendOptions(ManyOptions, total=False):
    """Keywords of `Task.apply_async`, `Task.aapply_async` and `App.send_task`: one more."""

    task_id: str | None
    """The task's id; default: a new UUID."""


class TaskOptions(TypedDict, total=False):
    """Keywords of `@app.task`. What each means, and its default: the attributes of `Task`."""

    name: str | None
    base: type[Task[..., Any]] | None
    """The class that the task is made from; default: the app's `task_cls`."""
    typing: bool | None
    max_retries: int | None
    default_retry_delay: float | timedelta
    autoretry_for: type[BaseException] | Collection[type[BaseException]]
    dont_autoretry_for: type[BaseException] | Collection[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float | timedelta
    retry_backoff_max: float | timedelta
    retry_jitter: bool
    rate_limit: str | float | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool | None
    store_errors_even_if_ignored: bool | None
    store_eager_result: bool | None
    track_started: bool | None
    trail: bool
    send_events: bool
    acks_late: bool | None
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    acks_on_failure_or_timeout: bool | None
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool | None
    serializer: str | None
    compression: str | None
    priority: int | None
    expires: float | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    delivery_mode: int | str | None
    throws: type[Exception] | Collection[type[Exception]]
    secret: Sequence[str]
    shadow_name: Callable[..., str | None] | None
    resultrepr_maxsize: int
    abstract: bool
    from_config: tuple[tuple[str, str], ...]
    pydantic_strict: bool
    """With `pydantic=True`: validate without conversions; default False."""
    pydantic_context: Mapping[str, Any] | None
    """What validators find as their context, besides `celery_app` and `celery_task_name`."""
    pydantic_dump_kwargs: Mapping[str, Any] | None
    """Keywords of `model_dump` for what is returned; default `mode="json"`."""
    filter: Callable[[Task[..., Any]], Any] | None
    """Called with the task; what it returns takes the task's place."""
    shared: bool
    """Make a task of it in every app of the process, as Celery does by default."""
    lazy: bool
    """Accepted; tasks are made at once."""
