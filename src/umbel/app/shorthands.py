"""What an app offers besides: everything that is said in terms of its other methods."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, cast

from umbel.app.current import get_current_task, get_current_worker_task
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

    from umbel.app.app import AnyTask, App
    from umbel.app.connection import Connection
    from umbel.beat.schedules import Schedules
    from umbel.canvas import Signature
    from umbel.engines.broker import HistoryEntry
    from umbel.engines.state import HistoryFilter
    from umbel.result import AsyncResult, ResultSet
    from umbel.result import AsyncResult as Result  # the methods of these names hide them
    from umbel.result import GroupResult as Group
    from umbel.result.single import ResultBase

R = TypeVar("R")


class Shorthands:
    """The base of `App`; of the road to the wire and of running tasks nothing is here."""

    if TYPE_CHECKING:
        _module: str | None

    # ---------------------------------------------------------------------------------- settings

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, force: bool = False
    ) -> bool:
        """`config_from_object` of the path that an environment variable holds; False if none."""
        name = os.environ.get(variable_name)
        if not name:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"The environment variable {variable_name} does not name a configuration module. "
                f"Set it, for example {variable_name}=celeryconfig."
            )
        _whole(self).config_from_object(name, silent=silent, force=force)
        return True

    def config_from_cmdline(self, argv: Sequence[str], namespace: str = "celery") -> None:
        """Take settings from words `name=value`; they outweigh everything.

        A name without a family is one of `namespace`'s: `worker` and `concurrency=4`, or
        `worker.concurrency=4`, is `worker_concurrency`.
        """
        for word in argv:
            name, equals, value = word.partition("=")
            if not equals:
                raise ImproperlyConfigured(f"{word!r} is no setting: write NAME=VALUE.")
            name = name.strip().replace(".", "_")
            if name not in _whole(self).conf and f"{namespace}_{name}" in _whole(self).conf:
                name = f"{namespace}_{name}"
            _whole(self).conf.override({name: value.strip()}, "command line")

    # ---------------------------------------------------------------------------------- commands

    def start(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Run the command line `umbel` for this app with these words, or the program's own."""
        from importlib import import_module

        words = list(sys.argv[1:] if argv is None else argv)
        if "-A" not in words and not any(word.startswith("--app") for word in words):
            words = ["-A", self._name_for_workers(), *words]
        # By name: the command line lies above the app, which imports nothing of it.
        raise SystemExit(import_module("umbel.cli").run(words))

    def worker_main(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Run a worker; `argv` has to say so: `app.worker_main(["worker", "-l", "INFO"])`."""
        words = list(sys.argv[1:] if argv is None else argv)
        if "worker" not in words:
            raise ValueError(
                'app.worker_main runs the command worker, so argv has to hold "worker": '
                f"app.worker_main({['worker', *words]!r})."
            )
        self.start(words)

    def _name_for_workers(self) -> str:
        module = sys.modules.get(self._module or "")
        names = [name for name, value in vars(module).items() if value is self] if module else []
        if not names:
            raise ImproperlyConfigured(
                f"{self!r} cannot be started: workers import it by name, and it is no global "
                f"variable of the module {_whole(self).module}."
            )
        return f"{_whole(self).module}:{names[0]}"

    # -------------------------------------------------------------------------------- the broker

    def connection(self) -> Connection:
        """A way to ask whether the broker answers: `app.connection().ensure_connection()`."""
        from umbel.app.connection import Connection

        return Connection(_whole(self))

    def connection_for_read(self) -> Connection:
        """`connection`: messages are read and written through one."""
        return self.connection()

    def connection_for_write(self) -> Connection:
        """`connection`: messages are read and written through one."""
        return self.connection()

    def connection_or_acquire(self) -> Connection:
        """`connection`: there is no pool to take one from."""
        return self.connection()

    def broker_connection(self) -> Connection:
        """`connection`, under Celery's older name."""
        return self.connection()

    def default_connection(self) -> Connection:
        """`connection_or_acquire`, under Celery's older name."""
        return self.connection()

    # ----------------------------------------------------------------------------------- answers

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of `defaults` that is not None, else the setting `default_key`."""
        candidates = (*defaults, _whole(self).conf.get(default_key))
        return next((value for value in candidates if value is not None), None)

    @property
    def current_task(self) -> AnyTask | None:
        """The task that runs in this context."""
        return get_current_task()

    @property
    def current_worker_task(self) -> AnyTask | None:
        """The task that a worker runs in this context, not one that it calls."""
        return get_current_worker_task()

    @property
    def timezone(self) -> tzinfo:
        """The setting `timezone`; UTC by default."""
        from umbel.app.settings.zones import zone_of

        return zone_of(_whole(self).conf)

    @property
    def uses_utc_timezone(self) -> bool:
        """Whether `timezone` is UTC."""
        return str(self.timezone) == "UTC"

    def now(self) -> datetime:
        """The time, in the app's zone."""
        from umbel.app.settings.zones import now

        return now(_whole(self).conf)

    @cached_property
    def oid(self) -> str:
        """A UUID of this app object."""
        from umbel.message.ids import new_id

        return new_id()

    @property
    def thread_oid(self) -> str:
        """A UUID of this app object in this thread."""
        from umbel.message.ids import new_id

        oids = self._local.__dict__
        return str(oids.setdefault("oid", new_id()))

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def bugreport(self) -> str:
        """What to put into a report of a bug: versions, and the settings that were changed."""
        from umbel.app.versions import describe

        return describe(_whole(self))

    def setup_security(
        self,
        allowed_serializers: Iterable[str] | None = None,
        key: str | None = None,
        key_password: str | bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str | None = None,
        serializer: str = "json",
    ) -> None:
        """Sign messages with a certificate: the serializer `auth` (`Celery.setup_security`).

        Paths of PEM files; what is not given comes from the settings `security_*`. `serializer`
        writes what is signed, and what is signed may also be in one of `allowed_serializers`.
        It needs `task_serializer="auth"` and `accept_content=["auth"]`, else
        `ImproperlyConfigured`; `SecurityError` for a key or certificate that is not good.
        """
        from umbel.app.security import setup_security

        setup_security(
            _whole(self), allowed_serializers, key, key_password, cert, store, digest, serializer
        )

    # -------------------------------------------------------------------- results and signatures

    def AsyncResult(  # noqa: N802  (Celery's name)
        self, id: str, *, parent: AsyncResult[Any] | None = None
    ) -> AsyncResult[Any]:
        """The result of a task by its id, sent by whomever."""
        from umbel.result import AsyncResult

        return AsyncResult(id, app=_whole(self), parent=parent)

    def ResultSet(  # noqa: N802  (Celery's name)
        self, results: Iterable[Result[R]]
    ) -> ResultSet[R]:
        """The results of many tasks, to be waited for together."""
        from umbel.result import ResultSet

        return ResultSet(results, app=_whole(self))

    def GroupResult(  # noqa: N802  (Celery's name)
        self,
        id: str | None = None,
        results: Iterable[Result[R]] = (),
        parent: ResultBase | None = None,
    ) -> Group[R]:
        """The results of a group by its id and members."""
        from umbel.result import GroupResult

        return GroupResult(id, results, parent, app=_whole(self))

    def signature(
        self,
        varies: str | AnyTask | Mapping[str, Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Signature[Any]:
        """A signature of a task of this app, by name, or of a dict (`umbel.signature`)."""
        from umbel.canvas import signature

        return signature(varies, args, kwargs, options, app=_whole(self), **more)

    def history(self, **which: Unpack[HistoryFilter]) -> list[HistoryEntry]:
        """How attempts at tasks ended, newest first.

        All of them, or those of a `task`'s name, of an `id`, of a `state` (`umbel.states`, and
        LOST for an attempt whose process died); at most `limit`, by default 100.
        The store keeps them for `history_expires` seconds, `history_limit` of them at most, also
        for tasks whose results are ignored. `umbel result ID` shows those of one task.
        """
        return _whole(self).engine.state.history(**which)

    @cached_property
    def schedules(self) -> Schedules:
        """The periodic tasks of the app's store, to be added, edited, paused, run (`Schedules`)."""
        from importlib import import_module

        # By name: the scheduler lies above the app, which imports nothing of it.
        schedules: Schedules = import_module("umbel.beat").open_schedules(self)
        return schedules

    def add_periodic_task(
        self,
        schedule: Any,
        sig: AnyTask | str | Mapping[str, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Declare a periodic task, as an item of `beat_schedule` does; its entry's name.

        `sig` is a task, its name, or a signature. `opts` are options of `apply_async`, or the
        entry's `timezone`, `misfire`, `misfire_limit`, `jitter` and `relative`. Without a `name`
        the call is its name: `tasks.add(2, 3)`. Made for receivers of `on_after_configure` and
        `on_after_finalize`.
        """
        from umbel.app.periodic import describe_entry

        key, entry = describe_entry(_whole(self), schedule, sig, args, kwargs, name, opts)
        _whole(self).conf.beat_schedule[key] = entry
        return key

    def select_queues(self, queues: str | Iterable[str]) -> None:
        """Let workers of this app serve these queues only, as `umbel worker -Q` does."""
        names = queues.split(",") if isinstance(queues, str) else queues
        _whole(self).amqp.queues.select(name.strip() for name in names)


def _whole(app: Shorthands) -> App:
    return cast("App", app)
