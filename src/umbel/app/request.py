"""The running task's request: what `Task.request` shows, and what `Task.retry` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel._state import current_request
from umbel.message import task as task_message
from umbel.message.task import DEATH_NOTES, KNOWN_HEADERS

if TYPE_CHECKING:
    from umbel.app.execution.retries import RetryPlan
    from umbel.app.log import LoggingProxy
    from umbel.app.task import Task
    from umbel.canvas import Signature
    from umbel.result import AsyncResult


class _Derived:
    def __init__(self, read: Callable[[task_message.Task], Any], default: Any) -> None:
        self._read = read
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, request: Request | None, owner: type) -> Any:
        if request is None:
            return self
        message = request.message
        value = self._default if message is None else self._read(message)
        request.__dict__[self._name] = value
        return value


def _place(message: task_message.Task) -> tuple[str, int, str] | None:
    chord = message.headers.chord
    return None if chord is msgspec.UNSET else chord


def _derived(read: Callable[[task_message.Task], Any], default: Any = None) -> Any:
    """A field that is worked out from the message when it is first looked at.

    Most tasks look at none of them, and a run of a microsecond cannot pay for twenty.
    """
    return _Derived(read, default)


class Request:
    """One run of a task, as the task sees it (`celery.app.task.Context`).

    Besides the fields here, a header of the user's own (`apply_async(headers={"tenant": 3})`)
    can be read as a field: `request.tenant`.
    """

    called_directly: bool = True
    """The function was called in this process, without a message."""
    is_eager: bool = False
    """It runs in the process that sent it (`apply`, `task_always_eager`)."""
    retries: int = 0
    """Retries made so far: 0 in the first attempt."""
    deliveries: int = 0
    """Attempts so far that killed their process; above 0 this is a redelivery."""
    hostname: str | None = None
    """The worker's node name."""
    ignore_result: bool = False
    loglevel: int | None = None
    """The worker's level, a number of `logging`."""
    logfile: str | None = None
    """The file that `-f` names, as this process writes it; None where it is stderr."""
    retry: RetryPlan | None = None
    followed: bool = False
    """Whether something may follow its end in a workflow."""
    joined: bool = False
    """It is a chord's body."""
    replaced: Signature[Any] | None = None
    """What `Task.replace` has put in its place."""
    end: tuple[str, Any] | None = None
    """State and value (or error) of the run, once it has come to its end."""
    message: task_message.Task | None = None
    """What was delivered; None where the task is called without a message."""
    payload: bytes | None = None
    owner: Task[..., Any] | None = None
    """The task that runs."""
    begun: dict[LoggingProxy, list[str]] | None = None
    """The pieces of lines that it has printed and not ended, for each stream."""
    outer: Request | None = None
    """The request of the task that called this one directly."""

    def __init__(
        self,
        id: str | None = None,
        task: str = "",
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        self.id = id
        self.task = task
        self.args: list[Any] = [] if args is None else args
        self.kwargs: dict[str, Any] = {} if kwargs is None else kwargs
        if fields:
            self.__dict__.update(fields)

    root_id: str | None = _derived(lambda m: m.headers.root_id)
    """The task with which the workflow began."""
    parent_id: str | None = _derived(lambda m: m.headers.parent_id)
    """The task that sent this one."""
    group: str | None = _derived(lambda m: m.headers.group)
    taskset: str | None = _derived(lambda m: m.headers.group)
    """`group` under its old name."""
    group_index: int | None = _derived(lambda m: m.headers.group_index)
    shadow: str | None = _derived(lambda m: m.headers.shadow)
    """The name for logs that stands in for the task's."""
    eta: str | None = _derived(lambda m: m.headers.eta)
    """ISO 8601."""
    expires: str | None = _derived(lambda m: m.headers.expires)
    """ISO 8601."""
    origin: str | None = _derived(lambda m: m.headers.origin)
    """The process that sent it, `gen<pid>@<host>`."""
    argsrepr: str | None = _derived(lambda m: m.headers.argsrepr)
    kwargsrepr: str | None = _derived(lambda m: m.headers.kwargsrepr)
    timelimit: tuple[float | None, float | None] = _derived(
        lambda m: m.headers.timelimit or (None, None), (None, None)
    )
    """What the message asks for, in seconds: (hard, soft)."""
    time_limit: float | None = _derived(lambda m: (m.headers.timelimit or (None, None))[0])
    soft_time_limit: float | None = _derived(lambda m: (m.headers.timelimit or (None, None))[1])
    replaced_task_nesting: int = _derived(lambda m: m.headers.replaced_task_nesting or 0, 0)
    stamped_headers: list[str] | None = _derived(lambda m: m.headers.stamped_headers)
    stamps: dict[str, Any] | None = _derived(lambda m: m.headers.stamps)
    correlation_id: str | None = _derived(lambda m: m.properties.correlation_id)
    reply_to: str | None = _derived(lambda m: m.properties.reply_to)
    callbacks: list[Any] | None = _derived(lambda m: m.embed.get("callbacks"))
    """What is sent when it has succeeded (`link`)."""
    errbacks: list[Any] | None = _derived(lambda m: m.embed.get("errbacks"))
    """What is sent when it has failed (`link_error`)."""
    chain: list[Any] | None = _derived(lambda m: m.embed.get("chain"))
    """The steps that follow, the next one last."""
    chord: Any = _derived(lambda m: m.embed.get("chord") or _place(m))
    """The body of the task's chord, where its message holds it; else its place there."""
    chord_place: tuple[str, int, str] | None = _derived(_place)
    utc: bool | None = _derived(lambda _: True)
    """The message's times are UTC."""

    @property
    def delivery_info(self) -> dict[str, Any] | None:
        """How it came here: exchange, routing_key, priority, redelivered, is_eager."""
        info: dict[str, Any] | None = self.__dict__.get("_delivery_info")
        message = self.message
        if info is None and message is not None:
            where = message.properties.delivery_info
            info = self.__dict__["_delivery_info"] = {
                "exchange": where.exchange,
                "routing_key": where.routing_key,
                "priority": message.properties.priority,
                "redelivered": self.deliveries > 0,
                "is_eager": self.is_eager,
            }
        return info

    @delivery_info.setter
    def delivery_info(self, info: dict[str, Any] | None) -> None:
        self.__dict__["_delivery_info"] = info

    @property
    def children(self) -> list[Any]:
        """The results of the tasks that this one has sent."""
        children: list[Any] = self.__dict__.setdefault("_children", [])
        return children

    @property
    def headers(self) -> dict[str, Any] | None:
        """The user's own headers; None if there are none."""
        if "_headers" not in self.__dict__:
            found = self._envelope().get("headers") or {}
            self.__dict__["_headers"] = {
                name: value for name, value in found.items() if name not in KNOWN_HEADERS
            }
        return self.__dict__["_headers"] or None

    @headers.setter
    def headers(self, headers: dict[str, Any] | None) -> None:
        self.__dict__["_headers"] = headers

    @property
    def properties(self) -> dict[str, Any] | None:
        """The message's properties as they were sent."""
        if "_properties" not in self.__dict__:
            self.__dict__["_properties"] = self._envelope().get("properties")
        found: dict[str, Any] | None = self.__dict__["_properties"]
        return found

    @properties.setter
    def properties(self, properties: dict[str, Any] | None) -> None:
        self.__dict__["_properties"] = properties

    def _envelope(self) -> dict[str, Any]:
        payload = self.payload
        return {} if payload is None else msgspec.json.decode(payload)

    def __getattr__(self, name: str) -> Any:
        """Read one of the user's own headers."""
        if not name.startswith("_"):
            headers = self.headers
            if headers is not None and name in headers:
                return headers[name]
        raise AttributeError(
            f"The request of {self.__dict__.get('task')} has neither a field nor a header {name!r}."
        )

    def __repr__(self) -> str:
        shown = {n: v for n, v in vars(self).items() if n not in {"message", "payload", "owner"}}
        owner: Task[..., Any] | None = self.__dict__.get("owner")
        if owner is None or not owner.secret:
            return f"<Request {shown!r}>"
        from umbel.app.redaction import redact_values, shown_value

        args, kwargs = shown.get("args") or (), shown.get("kwargs") or {}
        shown["args"], shown["kwargs"] = redact_values(owner, args, kwargs)
        return f"<Request {shown_value(owner, args, kwargs, shown)!r}>"

    def get(self, key: str, default: Any = None) -> Any:
        """A field or header of the user's own by name."""
        return getattr(self, key, default)

    def update(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **fields: Any
    ) -> None:
        """Set fields; `timelimit` sets `time_limit` and `soft_time_limit` too."""
        fields = {**dict(values), **fields}
        if "timelimit" in fields:
            hard, soft = (*(fields["timelimit"] or ()), None, None)[:2]
            fields = {"time_limit": hard, "soft_time_limit": soft, **fields}
        for name, value in fields.items():
            setattr(self, name, value)

    def clear(self) -> None:
        """Forget everything, the message too."""
        self.__dict__.clear()
        self.__init__()  # type: ignore[misc]

    def as_execution_options(self) -> dict[str, Any]:
        """The options of `apply_async` with which this very request would be sent again."""
        hard, soft = self.timelimit
        headers = {n: v for n, v in (self.headers or {}).items() if n not in DEATH_NOTES}
        options: dict[str, Any] = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord if isinstance(self.chord, Mapping) else None,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            "headers": headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.chord_place is not None:
            options["umbel-chord"] = self.chord_place
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options |= {n: v for n, v in self.stamps.items() if n in self.stamped_headers}
        return options


current: ContextVar[Request | None] = current_request
"""The request of the task that runs in this context."""


CHILDREN: Final = 1000
"""How many of the tasks that a run sends it keeps the trail of, so that a task which sends a
million neither holds nor stores a million results."""


def add_child(result: AsyncResult[Any]) -> None:
    """Count a task that was sent among the children of the run that sends it."""
    request = current.get()
    if request is None or request.called_directly:
        return
    owner = request.owner
    if (owner is None or owner.trail) and len(request.children) < CHILDREN:
        request.children.append(result)
