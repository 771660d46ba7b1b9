"""Celery's public `utils`, as far as user code imports it (`celery.utils`)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from umbel.app import uuid
from umbel.app.refusals import refuse_names
from umbel.utils.log import LOG_LEVELS

__all__ = ["LOG_LEVELS", "cached_property", "gen_unique_id", "nodename", "nodesplit", "uuid"]

gen_unique_id = uuid


def nodename(name: str, hostname: str) -> str:
    """A worker's name, of its own name and its host's."""
    return f"{name}@{hostname}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """The own name and the host's of a worker's name; None and the host of a host alone."""
    own, at, host = name.partition("@")
    return (own, host) if at else (None, own)


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
