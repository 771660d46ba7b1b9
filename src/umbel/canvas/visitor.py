"""What decides the stamps of each part of a workflow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from umbel.canvas.signatures import Signature
from umbel.canvas.workflows import chain, chord, group


class StampingVisitor(ABC):
    """Decides the stamps of each part of a workflow (`celery.canvas.StampingVisitor`).

    Each method may return stamps by name; they win over those that `stamp` was given.
    """

    @abstractmethod
    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        """The stamps of one task."""

    def on_group_start(self, group: group[Any], **headers: Any) -> dict[str, Any]:  # noqa: ARG002
        """The stamps of all tasks of a group."""
        return {}

    def on_group_end(self, group: group[Any], **headers: Any) -> None:  # noqa: B027
        """All tasks of a group are stamped."""

    def on_chain_start(self, chain: chain[Any], **headers: Any) -> dict[str, Any]:  # noqa: ARG002
        """The stamps of all steps of a chain."""
        return {}

    def on_chain_end(self, chain: chain[Any], **headers: Any) -> None:  # noqa: B027
        """All steps of a chain are stamped."""

    def on_chord_header_start(self, sig: chord[Any], **headers: Any) -> dict[str, Any]:
        """The stamps of all tasks of a chord's header; by default those of its group."""
        return self.on_group_start(group(sig.tasks, app=sig._app), **headers)  # noqa: SLF001

    def on_chord_header_end(self, sig: chord[Any], **headers: Any) -> None:
        """All tasks of a chord's header are stamped."""
        self.on_group_end(group(sig.tasks, app=sig._app), **headers)  # noqa: SLF001

    def on_chord_body(self, sig: chord[Any], **headers: Any) -> dict[str, Any]:  # noqa: ARG002
        """The stamps of a chord's body."""
        return {}

    def on_callback(self, callback: Signature[Any], **headers: Any) -> dict[str, Any]:  # noqa: ARG002
        """The stamps of what is linked to a task."""
        return {}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> dict[str, Any]:  # noqa: ARG002
        """The stamps of what is linked to a task's failure."""
        return {}
