"""Routing: from a task's name and options to the queue that its message goes into.

A call's options win over the task's, the task's over a route's. What is told by an exchange and a
routing key is resolved to queues here, since an engine has nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.app.sending.options import Route, Routes
from umbel.app.sending.queues import Exchange, Queues, as_exchange
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.settings.table import Settings
    from umbel.app.task import Task

PLACE: Final = frozenset({"queue", "exchange", "exchange_type", "routing_key"})
"""The options that say where a message goes."""
Lookup = Callable[..., Route | None]


ELSEWHERE: Final = PLACE | {"router", "route_name"}
OF_TASKS: Final = frozenset({
    "queue", "exchange", "routing_key", "delivery_mode", "priority", "expires", "serializer",
    "compression", "time_limit", "soft_time_limit", "ignore_result",
})  # fmt: skip
"""The options of sending that a task may have by itself."""
PLAIN_TYPES: Final = (str, type(None))


def route(
    app: App,
    name: str,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    task: Task[..., Any] | None,
    options: Mapping[str, Any],
) -> Mapping[str, Any]:
    """The options of a call once routed: `queue` is a name, and `copies` holds any further ones.

    They come back as they are if nothing but a queue's name says where the message goes.
    """
    conf = app.conf
    if (
        not conf.task_routes
        and not conf.task_queues
        and conf.task_create_missing_queues
        and (
            task is None
            or (
                type(task.queue) in PLAIN_TYPES
                and not (task.exchange or task.delivery_mode or task.shadow_name)
            )
        )
        and (
            not options
            or (
                ELSEWHERE.isdisjoint(options)
                or (
                    options.keys() & ELSEWHERE == {"queue"}
                    and type(options["queue"]) in PLAIN_TYPES
                )
            )
        )
    ):
        return options
    return app.amqp.route(name, args or (), kwargs or {}, task, options)


class Place(NamedTuple):
    """Where a message goes."""

    queues: tuple[str, ...]
    """Their names; all but the first get copies."""
    exchange: str | None
    """None: it goes to the queue by its name."""
    routing_key: str | None
    delivery_mode: int | None
    """What the exchange asks for."""


class Amqp:
    """The queues and routes of an app (`app.amqp`): `queues`, to be read only.

    Made anew when a setting that it rests on has changed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._routes: Sequence[Lookup] = ()
        self._routes_from: object = None
        self._fixed = True
        self._found: dict[str, Route | None] = {}
        self._queues: Queues | None = None
        self._queues_from: tuple[object, ...] = ()

    if not TYPE_CHECKING:  # a type checker knows what there is

        def __getattr__(self, name: str) -> object:
            raise AttributeError(
                f"app.amqp has no {name!r}: Umbel has no Kombu underneath. There is "
                "app.amqp.queues; to send, use Task.apply_async or app.send_task."
            )

    @property
    def queues(self) -> Queues:
        """The queues by name."""
        conf = self._settings
        source = (
            conf.task_queues, conf.task_default_queue, conf.task_default_exchange,
            conf.task_default_exchange_type, conf.task_default_routing_key,
            conf.task_create_missing_queues, conf.task_create_missing_queue_exchange_type,
        )  # fmt: skip
        if self._queues is None or any(
            old is not new for old, new in zip(self._queues_from, source, strict=True)
        ):
            name = conf.task_default_queue
            self._queues = Queues(
                conf.task_queues,
                default=name,
                default_exchange=Exchange(
                    conf.task_default_exchange or name, conf.task_default_exchange_type
                ),
                default_routing_key=conf.task_default_routing_key or name,
                create_missing=conf.task_create_missing_queues,
                missing_exchange_type=conf.task_create_missing_queue_exchange_type,
            )
            self._queues_from = source
        return self._queues

    def route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task: Task[..., Any] | None,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The options with `queue` the name of a queue, and `copies` those that get one too.

        `exchange` and `routing_key` stay only where the message says them on its way.
        """
        if task is not None and task.shadow_name is not None and not options.get("shadow"):
            options = {**options, "shadow": task.shadow_name(args, kwargs, options)}
        router = options.get("router")
        by = options.get("route_name") or name
        lookups = self._lookups() if router is None else prepare(router)
        if router is None and self._fixed:
            found = self._found.get(by, MISSING)
            if found is MISSING:
                found = self._found[by] = _ask(lookups, by, args, kwargs, options, task)
        else:
            found = _ask(lookups, by, args, kwargs, options, task)
        final = _merge(found, task, options)
        return self._resolve(final, task)

    def _lookups(self) -> Sequence[Lookup]:
        routes = self._settings.task_routes
        if routes is not self._routes_from:
            self._routes = prepare(routes)
            self._fixed = all(isinstance(lookup, Table) for lookup in self._routes)
            self._routes_from, self._found = routes, {}
        return self._routes

    def _resolve(self, final: dict[str, Any], task: Task[..., Any] | None) -> dict[str, Any]:
        if task is not None and task.delivery_mode is not None:
            final.setdefault("delivery_mode", task.delivery_mode)
        given = final.keys() & PLACE
        place = {key: final.pop(key, None) for key in PLACE}
        for key in ("queue", "exchange", "routing_key"):
            if key not in given and task is not None:
                place[key] = getattr(task, key)
        found = self.find(place)
        if found.delivery_mode is not None:
            final.setdefault("delivery_mode", found.delivery_mode)
        final["queue"] = found.queues[0]
        if found.exchange is not None:
            final.update(exchange=found.exchange, routing_key=found.routing_key)
        if found.queues[1:]:
            final["copies"] = found.queues[1:]
        return final

    def find(self, place: Mapping[str, Any]) -> Place:
        """What the options of `PLACE` come down to; `QueueNotFound` if to nothing."""
        queues = self.queues
        queue = queues.resolve(place.get("queue") or self._settings.task_default_queue)
        exchange, key = place.get("exchange"), place.get("routing_key")
        kind = place.get("exchange_type")
        if exchange is not None and not isinstance(exchange, str):
            exchange = as_exchange(exchange)
            kind, exchange = kind or exchange.type, exchange.name
        own = queue.exchange
        mode = None if own is None else own.delivery_mode
        kind = kind or (own.type if own is not None else "direct")
        if (not exchange or not key) and kind == "direct":
            return Place((queue.name,), None, None, mode)
        if exchange is None:
            exchange = own.name if own is not None else ""
            key = key or queue.routing_key
        names = queues.bound(exchange, key or "") if exchange else [queues[key or queue.name].name]
        return Place(tuple(names), exchange, key or "", mode)


MISSING: Final[Any] = object()


class Table:
    """The routes of a dict, or of a list of pairs: by exact name, then by pattern, in order."""

    def __init__(self, pairs: Mapping[Any, Route] | Sequence[tuple[Any, Route]]) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for pattern, route in map(_pair, pairs.items() if isinstance(pairs, Mapping) else pairs):
            if isinstance(pattern, re.Pattern):
                self._patterns.append((pattern, route))
            elif not isinstance(pattern, str):
                raise ImproperlyConfigured(
                    f"task_routes: {pattern!r} is neither a task's name nor a compiled pattern."
                )
            elif "*" in pattern:
                import fnmatch

                self._patterns.append((re.compile(fnmatch.translate(pattern)), route))
            else:
                self._exact[pattern] = route

    def __call__(self, name: str, *_: object, **__: object) -> Route | None:
        """The route of a task of that name."""
        if name in self._exact:
            return self._exact[name]
        for pattern, route in self._patterns:
            if pattern.match(name):
                return route
        return None


def _pair(item: object) -> tuple[Any, Route]:
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise ImproperlyConfigured(f"task_routes: {item!r} is no pair of a pattern and a route.")
    return item[0], item[1]


def prepare(routes: Routes | None) -> list[Lookup]:
    """What `task_routes` holds, as functions to ask in this order."""
    if not routes:
        return []
    if not isinstance(routes, (list, tuple)):
        return [_prepare(routes)]
    return [Table([item]) if _is_pair(item) else _prepare(item) for item in routes]


def _is_pair(item: object) -> bool:
    """Whether it is (pattern, route), which Celery wants in a list of their own."""
    return (
        isinstance(item, (list, tuple))
        and len(item) == 2
        and isinstance(item[0], (str, re.Pattern))
    )


def _prepare(router: object) -> Lookup:
    if isinstance(router, str):
        router = _load(router)
    if isinstance(router, (Mapping, list, tuple)):
        return Table(router)
    by_class = getattr(router, "route_for_task", None)
    if by_class is not None:  # a router of Celery 3
        return lambda name, args, kwargs, *_, **__: by_class(name, args, kwargs)
    if not callable(router):
        raise ImproperlyConfigured(
            f"task_routes: {router!r} routes nothing; give a dict, a function or its dotted path."
        )
    return router


def _load(path: str) -> Any:
    import importlib

    module, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(f"task_routes: there is no {path!r}: {error}") from error
    return found() if isinstance(found, type) else found


def _ask(
    lookups: Sequence[Lookup],
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    task: Task[..., Any] | None,
) -> Route | None:
    for lookup in lookups:
        route = lookup(name, args, kwargs, dict(options), task=task)
        if route is not None:
            return route
    return None


def _merge(
    route: Route | None, task: Task[..., Any] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """A route's options under those of the task and of the call.

    A None in a call takes the task's own away, so that the route's holds.
    """
    if route is None:
        return dict(options)
    final = dict(route) if isinstance(route, Mapping) else {"queue": route}
    for key in list(final):
        if task is not None and key not in options and _has_own(task, key):
            del final[key]
    for key, value in options.items():
        if value is not None or key not in final:
            final[key] = value
    return final


def _has_own(task: Task[..., Any], option: str) -> bool:
    """Whether the task itself says so; its class tells None for what a setting says."""
    if option not in OF_TASKS:
        return False
    own = vars(task).get(option)
    return own is not None or getattr(type(task), option) is not None
