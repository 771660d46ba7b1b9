"""Signals: functions that are called when something happens (`celery.signals`).

    @task_failure.connect
    def tell(sender, task_id, exception, **kwargs): ...

Every receiver is called with `signal` and `sender` besides the signal's own keywords, and has to
take `**kwargs`, because later versions may add some. Signals of publishing are sent in the
process that publishes; of tasks in the child that runs the task, or in the supervisor where no
child can; of the worker in the supervisor, but for `worker_process_init` and
`worker_process_shutdown`, which each child sends about itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Hashable
from typing import Any, Final, NamedTuple, TypeVar, overload

__all__ = [
    "Signal",
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "import_modules",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

F = TypeVar("F", bound=Callable[..., object])
RETRY_LONGEST: Final = 30.0
"""Longest pause, in seconds, between two tries of a receiver that was connected to be retried."""


class _Connection(NamedTuple):
    key: Hashable
    """What makes two connections of a sender the same one."""
    sender: object
    """None: any."""
    find: Callable[[], Callable[..., object] | None]
    """The receiver, or None once it is gone."""


class Signal:
    """Something that happens, and the receivers that want to know of it.

    `providing_args` names the keywords that receivers get, for people; Celery's classes take the
    same arguments.
    """

    def __init__(
        self,
        providing_args: Collection[str] | None = None,
        use_caching: bool = False,  # noqa: ARG002  (Celery's; nothing here is slow enough)
        name: str | None = None,
    ) -> None:
        self.name = name
        self.providing_args: set[str] = set(providing_args or ())
        self.receivers: tuple[_Connection, ...] = ()
        """Empty while nobody listens: what is worth asking before a signal is prepared."""
        self._lock = threading.RLock()  # a signal handler may interrupt who holds it

    def __repr__(self) -> str:
        return f"<Signal {self.name}: {', '.join(sorted(self.providing_args))}>"

    @overload
    def connect(
        self,
        receiver: F,
        /,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> F: ...
    @overload
    def connect(
        self,
        /,
        *,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Callable[[F], F]: ...

    def connect(
        self,
        receiver: Any = None,
        /,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Any:
        """Have a function called: `@signal.connect`, `@signal.connect(sender=…)` or a call.

        `sender` limits it to what that one sends. The signal holds the receiver weakly unless
        `weak=False`: a function made inside another one is forgotten when that one returns.
        Connected twice, or with a `dispatch_uid` that is taken, it is called once. With `retry`
        a receiver that raises is called again, after longer and longer pauses, until it does not.
        Returns the receiver. `ValueError` if it does not take `**kwargs`.
        """
        if receiver is None:
            return lambda receiver: self.connect(receiver, sender, weak, dispatch_uid, retry)
        _check(receiver)
        key = _identify(receiver) if dispatch_uid is None else dispatch_uid
        connection = _Connection(key, sender, _reference(receiver, weak=weak, retry=retry))
        with self._lock:
            living = tuple(c for c in self.receivers if c.find() is not None)
            if not any(c.key == key and _is_same(c.sender, sender) for c in living):
                living += (connection,)
            self.receivers = living
        return receiver

    def disconnect(
        self,
        receiver: Callable[..., object] | None = None,
        sender: object = None,
        weak: bool | None = None,  # noqa: ARG002  (Celery's; without effect there too)
        dispatch_uid: Hashable = None,
    ) -> bool:
        """End what `connect` with the same arguments began; whether there was anything."""
        key = _identify(receiver) if dispatch_uid is None else dispatch_uid
        with self._lock:
            rest = tuple(
                c for c in self.receivers if not (c.key == key and _is_same(c.sender, sender))
            )
            found = len(rest) < len(self.receivers)
            self.receivers = rest
        return found

    def has_listeners(self, sender: object = None) -> bool:
        """Whether anybody would be called."""
        return any(
            (c.sender is None or _is_same(c.sender, sender)) and c.find() is not None
            for c in self.receivers
        )

    def send(self, sender: object, **named: Any) -> list[tuple[Callable[..., object], object]]:
        """Call the receivers, in the order of connection; each with what it returned.

        What a receiver raises is logged and stands in the place of its answer.
        """
        responses: list[tuple[Callable[..., object], object]] = []
        for connection in self.receivers:
            if connection.sender is not None and not _is_same(connection.sender, sender):
                continue
            receiver = connection.find()
            if receiver is None:
                continue
            try:
                response = receiver(signal=self, sender=sender, **named)
            except Exception as error:  # noqa: BLE001  (a receiver ends nothing but itself)
                _tell(receiver, self, error)
                response = error
            responses.append((receiver, response))
        return responses

    send_robust = send
    """Django's name for what `send` does here as well."""


def _is_same(wanted: object, sender: object) -> bool:
    return wanted is sender or (wanted is not None and bool(wanted == sender))


def _identify(receiver: Any) -> Hashable:
    function = getattr(receiver, "__func__", None)
    if function is None:
        return id(receiver)
    return id(receiver.__self__), id(function)  # a bound method is a new object at each look


def _reference(
    receiver: Callable[..., object], *, weak: bool, retry: bool
) -> Callable[[], Callable[..., object] | None]:
    if retry:
        persistent = _retried(receiver)
        return lambda: persistent
    if not weak:
        return lambda: receiver
    if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


def _check(receiver: Any) -> None:
    import inspect

    if not callable(receiver):
        raise TypeError(f"A signal's receiver must be callable; {receiver!r} is not.")
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        return  # written in C; the first call tells
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        name = getattr(receiver, "__qualname__", repr(receiver))
        raise ValueError(
            f"The receiver {name} must accept keyword arguments: add **kwargs to its parameters."
        )


def _tell(receiver: Callable[..., object], signal: Signal, error: Exception) -> None:
    import logging

    logging.getLogger("umbel.signals").error(
        "Signal handler %r raised at %s: %r", receiver, signal.name, error, exc_info=error
    )


def _retried(receiver: Callable[..., object]) -> Callable[..., object]:
    def try_receiver(*args: Any, **kwargs: Any) -> object:
        import logging
        import time

        pause = 0.0
        while True:
            try:
                return receiver(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  (retried, whatever it is)
                pause = min(pause + 2.0, RETRY_LONGEST)
                logging.getLogger("umbel.signals").error(  # noqa: TRY400
                    "Signal handler %r raised %r; trying again in %g s", receiver, error, pause
                )
                time.sleep(pause)

    return try_receiver


def _signal(name: str, *providing_args: str) -> Signal:
    return Signal(providing_args, name=name)


# ------------------------------------------------------------------------------- publishing

before_task_publish: Signal = _signal(
    "before_task_publish",
    "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy",
)  # fmt: skip
"""A message is about to be sent; `sender` is the task's name. `body` and `headers` may be
changed."""
after_task_publish: Signal = _signal(
    "after_task_publish", "body", "exchange", "routing_key", "headers"
)
"""A message is safe in the store; `sender` is the task's name."""
task_sent: Signal = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")
"""Deprecated by Celery in favour of `after_task_publish`."""

# ------------------------------------------------------------------------------------ tasks

task_received: Signal = _signal("task_received", "request")
"""The worker has claimed a task and will run it; in the supervisor."""
task_prerun: Signal = _signal("task_prerun", "task_id", "task", "args", "kwargs")
"""A task is about to run; `sender` is the task, as of all that follow."""
task_postrun: Signal = _signal(
    "task_postrun", "task_id", "task", "args", "kwargs", "retval", "state"
)
"""A task has run, whatever came of it."""
task_success: Signal = _signal("task_success", "result", "runtime")
"""A task has returned; `runtime` in seconds."""
task_retry: Signal = _signal("task_retry", "request", "reason", "einfo")
"""A task will run again; `reason` is the `Retry`."""
task_failure: Signal = _signal(
    "task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo"
)
"""A task has failed. For one whose process was killed it is sent in the supervisor."""
task_internal_error: Signal = _signal(
    "task_internal_error",
    "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo",
)  # fmt: skip
"""Something around a task's function has failed."""
task_revoked: Signal = _signal("task_revoked", "request", "terminated", "signum", "expired")
"""A task was revoked or has expired and will not run."""
task_rejected: Signal = _signal("task_rejected", "message", "exc")
"""A message that is no task has become a dead letter; in the supervisor."""
task_unknown: Signal = _signal("task_unknown", "message", "exc", "name", "id")
"""No task of a message's name is registered here; in the supervisor."""

# ----------------------------------------------------------------------------------- worker

celeryd_init: Signal = _signal("celeryd_init", "instance", "conf", "options")
"""The first signal of a worker, before anything is set up; `sender` is its node name."""
celeryd_after_setup: Signal = _signal("celeryd_after_setup", "instance", "conf")
"""The worker is set up and its queues are known; `sender` is its node name."""
import_modules: Signal = _signal("import_modules")
"""The app imports its task modules; `sender` is the app."""
worker_init: Signal = _signal("worker_init")
"""The worker starts; `sender` is the worker, as of all that follow."""
worker_ready: Signal = _signal("worker_ready")
"""The worker takes work."""
worker_before_create_process: Signal = _signal("worker_before_create_process")
"""A child is about to be started; in the supervisor."""
worker_process_init: Signal = _signal("worker_process_init")
"""A child has imported the app; in the child, `sender` is None."""
worker_process_shutdown: Signal = _signal("worker_process_shutdown", "pid", "exitcode")
"""A child ends by itself; in the child, `sender` is None."""
eventlet_pool_started: Signal = _signal("eventlet_pool_started")
"""A child of the pool eventlet takes work; in the child, `sender` is the pool, as of the next."""
eventlet_pool_preshutdown: Signal = _signal("eventlet_pool_preshutdown")
"""Nothing more comes for this child; what runs in it goes on."""
eventlet_pool_postshutdown: Signal = _signal("eventlet_pool_postshutdown")
"""All that ran in this child has ended."""
eventlet_pool_apply: Signal = _signal("eventlet_pool_apply", "target", "args", "kwargs")
"""A task, `target`, is about to be called in a greenlet."""
worker_shutting_down: Signal = _signal("worker_shutting_down", "sig", "how", "exitcode")
"""The worker was told to stop; `sender` is its node name, `how` is "Warm" or "Cold"."""
worker_shutdown: Signal = _signal("worker_shutdown")
"""The worker has stopped."""

# ------------------------------------------------------------------------------------ beat

beat_init = _signal("beat_init")
"""`umbel beat` runs the schedule from here on; `sender` is its scheduler."""
beat_embedded_init = _signal("beat_embedded_init")
"""A worker does (`-B`); `sender` is its scheduler."""

# ---------------------------------------------------------------------------------- logging

setup_logging: Signal = _signal("setup_logging", "loglevel", "logfile", "format", "colorize")
"""Logging is about to be set up; a receiver takes that upon itself: nothing is set up then."""
after_setup_logger: Signal = _signal(
    "after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
"""The root logger was set up; add handlers here."""
after_setup_task_logger: Signal = _signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
"""The logger of tasks was set up."""
