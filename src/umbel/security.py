"""Messages signed with certificates (`celery.security`)."""

from __future__ import annotations

from umbel.app.security import setup_security
from umbel.exceptions import SecurityError

__all__ = ["SecurityError", "setup_security"]
