"""How one delivery of a task ended: what the pipeline tells whoever settles it."""

from __future__ import annotations

from typing import Literal

import msgspec

Ending = Literal["success", "failure", "retry", "unknown", "undecodable", "disallowed", "untrusted"]


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """How a delivery ended where it ran."""

    number: int
    ending: Ending
    runtime: float = 0.0
    """Seconds inside the user's function."""
    result: bytes | None = None
    """The meta to store; None: nothing is to be stored."""
    follow_up: tuple[str, float | None, bytes] | None = None
    """Tag, due time and payload of the next attempt."""
    error: str | None = None
    memory: int = 0
    """Peak resident memory in KiB, if it was asked for."""
