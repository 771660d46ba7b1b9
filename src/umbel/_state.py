"""What runs in this context, as far as modules below the app have to know it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

current_request: ContextVar[Any] = ContextVar("umbel_request", default=None)
"""The request of the task that runs in this context (`umbel.app.request.current`, typed)."""

find_app: Callable[[str], Any] | None = None
"""What finds the app that is meant when none is named; `umbel.app.current` puts it here."""
