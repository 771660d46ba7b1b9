"""Queues, exchanges and bindings as values, and the queues that an app knows.

An engine has queues and nothing else. Exchanges and routing keys are resolved here, where the
message is sent, by the rules by which RabbitMQ would: direct, topic and fanout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

from umbel.exceptions import ImproperlyConfigured, QueueNotFound

TYPES: Final = ("direct", "topic", "fanout")


@dataclass(frozen=True)
class Exchange:
    """Where messages are sent to by a routing key (`kombu.Exchange`).

    `type`: "direct" (the key equals a binding's), "topic" (it fits one, with `*` for a word and
    `#` for any number of words) or "fanout" (to all that are bound). `delivery_mode`: 1 transient,
    2 persistent. The other fields say how a RabbitMQ declares it.
    """

    name: str = ""
    type: str = "direct"
    durable: bool = field(default=True, kw_only=True)
    auto_delete: bool = field(default=False, kw_only=True)
    delivery_mode: int | None = field(default=None, kw_only=True)
    arguments: Mapping[str, Any] | None = field(default=None, kw_only=True)
    passive: bool = field(default=False, kw_only=True)
    no_declare: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ImproperlyConfigured(
                f"The exchange {self.name!r} cannot be of the type {self.type!r}; there are "
                f"{', '.join(TYPES)}."
            )

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"Exchange {self.name!r}({self.type})"


@dataclass(frozen=True)
class binding:  # noqa: N801  (Kombu's name)
    """That a queue gets what is sent to an exchange with a routing key (`kombu.binding`)."""

    exchange: Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] | None = None
    unbind_arguments: Mapping[str, Any] | None = None

    def __init__(
        self,
        exchange: Exchange | str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        unbind_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "exchange", as_exchange(exchange))
        put(self, "routing_key", routing_key)
        put(self, "arguments", arguments)
        put(self, "unbind_arguments", unbind_arguments)

    def __hash__(self) -> int:
        return hash((self.exchange, self.routing_key))


@dataclass(frozen=True)
class Queue:
    """A queue, and how it is bound (`kombu.Queue`).

    Without an exchange it gets the app's default one. `alias` is a second name for `-Q`. The
    fields from `durable` on say how a RabbitMQ declares it.
    """

    name: str
    exchange: Exchange | None
    routing_key: str
    bindings: tuple[binding, ...]
    alias: str | None = None
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    no_ack: bool = False
    no_declare: bool = False
    expires: float | None = None
    message_ttl: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    max_priority: int | None = None
    queue_arguments: Mapping[str, Any] | None = None
    binding_arguments: Mapping[str, Any] | None = None
    consumer_arguments: Mapping[str, Any] | None = None

    def __init__(
        self,
        name: str,
        exchange: Exchange | str | None = None,
        routing_key: str = "",
        *,
        bindings: Iterable[binding] = (),
        alias: str | None = None,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        no_ack: bool = False,
        no_declare: bool = False,
        expires: float | None = None,
        message_ttl: float | None = None,
        max_length: int | None = None,
        max_length_bytes: int | None = None,
        max_priority: int | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        binding_arguments: Mapping[str, Any] | None = None,
        consumer_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        check_name(name)
        put = object.__setattr__
        put(self, "name", name)
        put(self, "exchange", None if exchange is None else as_exchange(exchange))
        put(self, "routing_key", routing_key)
        put(self, "bindings", tuple(bindings))
        put(self, "alias", alias)
        put(self, "durable", durable)
        put(self, "exclusive", exclusive)
        put(self, "auto_delete", auto_delete)
        put(self, "no_ack", no_ack)
        put(self, "no_declare", no_declare)
        put(self, "expires", expires)
        put(self, "message_ttl", message_ttl)
        put(self, "max_length", max_length)
        put(self, "max_length_bytes", max_length_bytes)
        put(self, "max_priority", max_priority)
        put(self, "queue_arguments", queue_arguments)
        put(self, "binding_arguments", binding_arguments)
        put(self, "consumer_arguments", consumer_arguments)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        parts = [repr(self.name)]
        if self.exchange is not None:
            parts.append(repr(str(self.exchange)))
        if self.routing_key:
            parts.append(f"routing_key={self.routing_key!r}")
        return f"<Queue {' '.join(parts)}>"

    def gets(self, exchange: str, routing_key: str) -> bool:
        """Whether a message that is sent to an exchange with this key comes here."""
        own = () if self.exchange is None else (binding(self.exchange, self.routing_key),)
        return any(
            bound.exchange.name == exchange
            and _fits(bound.exchange.type, bound.routing_key, routing_key)
            for bound in (*own, *self.bindings)
        )


@lru_cache(1024)  # it is asked at every send
def check_name(name: object) -> None:
    """`ImproperlyConfigured` for what cannot be a queue's name."""
    if not isinstance(name, str) or not name:
        raise ImproperlyConfigured(f"A queue's name must be text; got {name!r}.")
    if name != name.strip() or "," in name or not name.isprintable() or len(name.encode()) > 255:
        raise _refuse_name(name)


def _refuse_name(name: str) -> ImproperlyConfigured:
    shown = repr(name if len(name) <= 60 else f"{name[:60]}…")
    return ImproperlyConfigured(
        f"{shown} cannot be a queue's name: at most 255 bytes, without commas (they part the "
        "names of `-Q`), control characters, and blanks at its ends. Nothing was queued or changed."
    )


_QUEUE_FIELDS: Final = frozenset(item.name for item in fields(Queue)) - {"name"}
_EXCHANGE_FIELDS: Final = frozenset(item.name for item in fields(Exchange)) - {"name"}
_DECLARED: Final = _QUEUE_FIELDS - {"exchange", "routing_key", "bindings"}


def _fits(type: str, pattern: str, key: str) -> bool:
    if type == "fanout":
        return True
    if type == "topic":
        return _fits_topic(pattern.split("."), key.split("."))
    return pattern == key


def _fits_topic(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_fits_topic(pattern[1:], words[i:]) for i in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and _fits_topic(pattern[1:], words[1:])


def as_exchange(value: object) -> Exchange:
    """An exchange from its name, from one of ours, or from Kombu's."""
    if isinstance(value, Exchange):
        return value
    if isinstance(value, str):
        return Exchange(value)
    name, type = getattr(value, "name", None), getattr(value, "type", None)
    if not isinstance(name, str) or not isinstance(type, str):
        raise ImproperlyConfigured(f"{value!r} is no exchange; write umbel.Exchange('name').")
    more = _given(value, _EXCHANGE_FIELDS - {"type"})
    return Exchange(name, type, **more)


def _given(value: object, names: Iterable[str]) -> dict[str, Any]:
    """Those attributes of Kombu's value that say something."""
    found = {name: getattr(value, name, None) for name in names}
    return {name: item for name, item in found.items() if item is not None}


def as_queue(value: object) -> Queue:
    """A queue from its name, from one of ours, or from Kombu's."""
    if isinstance(value, Queue):
        return value
    if isinstance(value, str):
        return Queue(value)
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not hasattr(value, "routing_key"):
        raise ImproperlyConfigured(f"{value!r} is no queue; write umbel.Queue('name').")
    exchange = getattr(value, "exchange", None)
    return Queue(
        name,
        # Kombu gives every queue an exchange; one without a name is none.
        as_exchange(exchange) if getattr(exchange, "name", "") else None,
        getattr(value, "routing_key", None) or "",
        bindings=[
            binding(as_exchange(bound.exchange), bound.routing_key or "")
            for bound in getattr(value, "bindings", None) or ()
        ],
        **_given(value, _DECLARED),
    )


def queue_from_dict(name: str, options: Mapping[str, Any]) -> Queue:
    """A queue as Celery's dict form of `task_queues` describes it.

    Its keys: those of `Queue`, `binding_key`, and those of `Exchange` with `exchange_` in front.
    """
    mine = dict(options)
    key = mine.pop("routing_key", None) or mine.pop("binding_key", None) or name
    mine.pop("binding_key", None)
    exchange = mine.pop("exchange", None)
    about = {
        option.removeprefix("exchange_"): mine.pop(option)
        for option in list(mine)
        if option.removeprefix("exchange_") in _EXCHANGE_FIELDS and option.startswith("exchange_")
    }
    unknown = mine.keys() - _QUEUE_FIELDS
    if unknown:
        import difflib

        near = difflib.get_close_matches(min(unknown), _QUEUE_FIELDS | {"binding_key"}, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ImproperlyConfigured(f"task_queues[{name!r}]: no such key {min(unknown)!r}.{hint}")
    if isinstance(exchange, str) or (exchange is None and about):
        exchange = Exchange(exchange or name, **{"type": "direct", **about})
    return Queue(name, exchange, key, **mine)


class Queues(Mapping[str, Queue]):
    """The queues that an app knows, by name (`app.amqp.queues`); to be read only.

    Looking up one that is not declared makes it, unless `task_create_missing_queues` is off:
    then `QueueNotFound`.
    """

    def __init__(
        self,
        declared: object,
        *,
        default: str,
        default_exchange: Exchange,
        default_routing_key: str,
        create_missing: bool = True,
        missing_exchange_type: str | None = None,
    ) -> None:
        self._default_exchange = default_exchange
        self._default_routing_key = default_routing_key
        self._create_missing = create_missing
        self._missing_exchange_type = missing_exchange_type or "direct"
        self._aliases: dict[str, Queue] = {}
        self._queues: dict[str, Queue] = {}
        for queue in _read(declared) or (Queue(default),):
            self._add(queue)
        self._chosen = list(self._queues)

    def __getitem__(self, name: str) -> Queue:
        queue = self._aliases.get(name) or self._queues.get(name)
        if queue is not None:
            return queue
        if not self._create_missing:
            raise self._absent(name)
        return self._add(Queue(name, Exchange(name, self._missing_exchange_type), name))

    def __contains__(self, name: object) -> bool:
        return name in self._queues or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues)

    def __len__(self) -> int:
        return len(self._queues)

    def __repr__(self) -> str:
        return f"<Queues: {', '.join(self._queues)}>"

    @property
    def consume_from(self) -> dict[str, Queue]:
        """The queues that a worker of this app serves."""
        return {name: self._queues[name] for name in self._chosen}

    def select(self, names: Iterable[str]) -> None:
        """Serve these queues only (`-Q`). `QueueNotFound` for one that may not be made."""
        self._chosen = list(dict.fromkeys(self[name].name for name in names))

    def deselect(self, names: Iterable[str]) -> None:
        """Do not serve these queues (`-X`)."""
        left_out = {self._aliases[name].name if name in self._aliases else name for name in names}
        self._chosen = [name for name in self._chosen if name not in left_out]

    def bound(self, exchange: str, routing_key: str) -> list[str]:
        """The names of the queues that get what is sent so; `QueueNotFound` if none does."""
        found = [queue.name for queue in self._queues.values() if queue.gets(exchange, routing_key)]
        if not found:
            known = "; ".join(
                f"{queue.name} on {queue.exchange} with key {queue.routing_key!r}"
                for queue in self._queues.values()
            )
            raise QueueNotFound(
                f"No queue is bound to the exchange {exchange!r} with a key that fits "
                f"{routing_key!r}, so the message would be lost. Nothing was queued. Declare one "
                f"in task_queues; there are: {known}."
            )
        return found

    def resolve(self, value: object) -> Queue:
        """The queue of that name, or the declared form of a queue that is given as a value."""
        if isinstance(value, str):
            return self[value]
        queue = as_queue(value)
        return self._queues.get(queue.name) or self._complete(queue)

    def _add(self, queue: Queue) -> Queue:
        queue = self._complete(queue)
        self._queues[queue.name] = queue
        if queue.alias:
            self._aliases[queue.alias] = queue
        return queue

    def _complete(self, queue: Queue) -> Queue:
        if queue.exchange is not None and queue.routing_key:
            return queue
        values = {item.name: getattr(queue, item.name) for item in fields(queue)}
        values["exchange"] = queue.exchange or self._default_exchange
        values["routing_key"] = queue.routing_key or self._default_routing_key
        return Queue(**values)

    def _absent(self, name: str) -> QueueNotFound:
        import difflib

        near = difflib.get_close_matches(name, [*self._queues, *self._aliases], n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return QueueNotFound(
            f"There is no queue {name!r}, and task_create_missing_queues is off. {hint}Add it to "
            f"task_queues; there are: {', '.join(self._queues)}."
        )


def _read(declared: object) -> list[Queue]:
    """The queues of the setting `task_queues`."""
    if not declared:
        return []
    if isinstance(declared, Mapping):
        return [
            queue_from_dict(name, value) if isinstance(value, Mapping) else as_queue(value)
            for name, value in declared.items()
        ]
    if isinstance(declared, Iterable) and not isinstance(declared, str):
        return [as_queue(value) for value in declared]
    raise ImproperlyConfigured(
        f"task_queues must be a list of umbel.Queue or a dict by name; got {declared!r}."
    )
