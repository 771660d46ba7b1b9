"""How one delivery of a task ended: what the pipeline tells whoever settles it."""

from __future__ import annotations

from typing import Literal

import msgspec

from umbel.engines.broker import Message, Workflow

Ending = Literal[
    "success",
    "failure",
    "retry",
    "ignored",  # no result
    "rejected",  # a failure whose message becomes a dead letter
    "requeued",  # put back by the task itself
    "unknown",
    "undecodable",
    "disallowed",
    "untrusted",
    "terminated",  # on request, which is settled already
    "finished",  # no end of its own: the handlers of the one before are done
]


class FollowUp(msgspec.Struct, array_like=True, gc=False):
    """A message of the next attempt."""

    tag: str
    due: float | None
    """Unix time; None: at once."""
    payload: bytes
    queue: str | None = None
    """None: the queue that this attempt came from."""
    priority: int | None = None
    """None: that of this attempt."""


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """How a delivery ended where it ran."""

    number: int
    ending: Ending
    runtime: float = 0.0
    """Seconds inside the user's function."""
    result: bytes | None = None
    """The meta to store; None: nothing is to be stored."""
    follow_ups: tuple[FollowUp, ...] = ()
    """The next attempt; several where an exchange copies it."""
    error: str | None = None
    memory: int = 0
    """Peak resident memory in KiB, if it was asked for."""
    busy: bool = False
    """Handlers of this end still run where it ran; a "finished" follows."""
    sent: tuple[Message, ...] = ()
    """What follows in the task's workflow."""
    workflow: Workflow | None = None
