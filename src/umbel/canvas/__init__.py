"""Workflows: signatures, and what is made of them (`celery.canvas`)."""

from __future__ import annotations

from umbel.canvas.maps import chunks, xmap, xstarmap
from umbel.canvas.signatures import (
    Signature,
    maybe_signature,
    maybe_subtask,
    signature,
    subtask,
)
from umbel.canvas.visitor import StampingVisitor
from umbel.canvas.workflows import chain, chord, group

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
