"""Stamps: headers that a workflow's tasks carry, put on all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Stamps = Mapping[str, Any]
"""By name, and under `stamped_headers` the names of those that are stamps."""


def merge(stamps: Stamps, more: Stamps | None, *, append: bool) -> dict[str, Any]:
    """Stamps with those of a visitor, which win, or with `append` are added to them."""
    merged = {name: value for name, value in stamps.items() if name != "stamped_headers"}
    more = dict(more or {})
    # A visitor may return headers that are no stamps, and then names those that are.
    names = more.pop("stamped_headers", None)
    for name, value in more.items():
        merged[name] = _joined(merged[name], value) if append and name in merged else value
    known = stamps.get("stamped_headers")
    stamped = [*(known if known is not None else stamps), *(more if names is None else names)]
    return {**merged, "stamped_headers": list(dict.fromkeys(stamped))}


def put(options: dict[str, Any], stamps: Stamps, *, append: bool) -> None:
    """Write stamps into a signature's options, over those that are there or added to them."""
    merged = merge(stamps, None, append=append)
    own = options.get("stamped_headers") or []
    for name, value in merged.items():
        if name == "stamped_headers":
            continue
        old = options.get(name)
        options[name] = _joined(value, old) if append and name in own else value
    options["stamped_headers"] = list(dict.fromkeys([*merged["stamped_headers"], *own]))


def _joined(first: Any, second: Any) -> list[Any]:
    several = (list, tuple, set, frozenset)
    return [
        *(first if isinstance(first, several) else [first]),
        *(second if isinstance(second, several) else [second]),
    ]
