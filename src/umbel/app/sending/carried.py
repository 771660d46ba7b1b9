"""The options of sending that a message carries to its worker, or that tell how it is published.

Few calls give any of them, so nothing here lies on the road of a plain `delay()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from umbel.app.sending.checks import NOTHING_SENT
from umbel.app.sending.options import SendOptions
from umbel.app.settings.values import DELIVERY_MODES

PLAIN: Final = frozenset({
    "task_id", "countdown", "eta", "expires", "priority", "queue", "ignore_result", "serializer",
    "compression", "time_limit", "soft_time_limit",
})  # fmt: skip
"""The options that need nothing of what this module does."""
HEADERS: Final = {
    "shadow": "shadow",
    "group_id": "group",
    "group_index": "group_index",
    "retries": "retries",
    "root_id": "root_id",
    "parent_id": "parent_id",
    "argsrepr": "argsrepr",
    "kwargsrepr": "kwargsrepr",
    "origin": "origin",
    "replaced_task_nesting": "replaced_task_nesting",
}
"""Options and the headers that they become; None leaves the header as it is."""
EMBED: Final = {"link": "callbacks", "link_error": "errbacks", "chain": "chain", "chord": "chord"}
"""Options and what they become in the body's third item."""
PROPERTIES: Final = frozenset({
    "reply_to", "app_id", "user_id", "message_id", "type", "cluster_id", "timestamp",
    "MessageGroupId", "MessageDeduplicationId",
})  # fmt: skip
ELSEWHERE: Final = frozenset({
    "headers", "stamped_headers", "stamps", "delivery_mode", "exchange", "routing_key",
    "exchange_type", "retry", "retry_policy", "timeout", "confirm_timeout", "add_to_parent",
    "result_cls", "router", "route_name", "task_type",
})  # fmt: skip
WITHOUT_EFFECT: Final = {
    "declare": "no queue needs to be declared",
    "mandatory": "a queue is never missing",
    "immediate": "no broker does it, RabbitMQ neither",
}
NO_KOMBU: Final = (
    "there is no Kombu underneath, it goes through the app's own broker. Leave it out; for another "
    "broker make another App(broker=…)"
)
REFUSED: Final = {
    "producer": NO_KOMBU,
    "publisher": NO_KOMBU,
    "connection": NO_KOMBU,
}
SIGNATURE: Final[dict[str, Any]] = {
    "args": [],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}
_told: set[str] = set()


class Carried(NamedTuple):
    """What options make of a message."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    embed: dict[str, Any]
    """Only what was given."""


def carry(name: str, options: Mapping[str, Any]) -> Carried:
    """What the options of a call add to its message.

    `TypeError` for one that does not exist, with the nearest that does, or that is refused.
    """
    stamps = _read_stamps(name, options)
    for option in options.keys() - PLAIN - KNOWN - stamps.keys():
        _refuse(name, option, options[option])
    headers = _own_headers(name, options)
    for option in HEADERS.keys() & options.keys():
        if options[option] is not None:
            headers[HEADERS[option]] = options[option]
    if stamps:
        headers["stamped_headers"], headers["stamps"] = sorted(stamps), stamps
    properties = {
        key: options[key] for key in PROPERTIES & options.keys() if options[key] is not None
    }
    mode = options.get("delivery_mode")
    if mode is not None:
        properties["delivery_mode"] = _delivery_mode(name, mode)
    embed = {}
    for option in EMBED.keys() & options.keys():
        value = options[option]
        if value is None or option == "chord":
            embed[EMBED[option]] = value and _signature(name, option, value)
        else:
            several = [value] if isinstance(value, Mapping) else list(value)
            embed[EMBED[option]] = [_signature(name, option, item) for item in several]
    for option in WITHOUT_EFFECT.keys() & options.keys():
        if options[option] and option not in _told:
            _told.add(option)
            import logging

            logging.getLogger("umbel.app").warning(
                "The option %s= has no effect: %s (told once)", option, WITHOUT_EFFECT[option]
            )
    return Carried(headers, properties, embed)


KNOWN: Final = (
    HEADERS.keys() | EMBED.keys() | PROPERTIES | ELSEWHERE | WITHOUT_EFFECT.keys()
)  # fmt: skip


def _refuse(name: str, option: str, value: object) -> None:
    if option in REFUSED:
        if value is None:
            return
        raise TypeError(f"{name}: {option}= is refused: {REFUSED[option]}. {NOTHING_SENT}")
    import difflib

    near = difflib.get_close_matches(option, SendOptions.__annotations__, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise TypeError(f"{name}: there is no option {option!r}.{hint} {NOTHING_SENT}")


def _own_headers(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get("headers")
    if not (given is None or isinstance(given, Mapping)):
        raise TypeError(f"{name}: headers must be a mapping; got {given!r}. {NOTHING_SENT}")
    return dict(given or {})


def _read_stamps(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The stamps by name: those of `stamps`, and the keywords that `stamped_headers` names."""
    named: Iterable[str] = options.get("stamped_headers") or ()
    given = options.get("stamps") or {}
    if isinstance(named, str) or not isinstance(given, Mapping):
        raise TypeError(
            f"{name}: stamped_headers must be a list of names and stamps a dict. {NOTHING_SENT}"
        )
    found = dict(given)
    for stamp in named:
        if stamp in options:
            found[stamp] = options[stamp]
        elif stamp not in found:
            raise TypeError(
                f"{name}: stamped_headers names {stamp!r}, but there is no such keyword and no "
                f"such item of stamps. {NOTHING_SENT}"
            )
    # A set is how visitors give several values; JSON has lists.
    return {
        stamp: sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        for stamp, value in found.items()
    }


def _delivery_mode(name: str, mode: object) -> int:
    if not isinstance(mode, (int, str)) or mode not in DELIVERY_MODES:
        raise ValueError(
            f"{name}: delivery_mode must be 1 (transient) or 2 (persistent); got {mode!r}. "
            f"{NOTHING_SENT}"
        )
    return DELIVERY_MODES[mode]


def _signature(name: str, option: str, value: object) -> dict[str, Any]:
    """A signature as a plain dict with all its keys."""
    if not isinstance(value, Mapping) or not isinstance(value.get("task"), str):
        raise TypeError(
            f"{name}: {option} takes signatures, which are dicts with at least the key 'task', a "
            f"task's name; got {value!r}. {NOTHING_SENT}"
        )
    return {"task": value["task"], **SIGNATURE, **value}
