"""What to put into a report of a bug."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from umbel import __version__

if TYPE_CHECKING:
    from umbel.app.app import App


def describe(app: App) -> str:
    """Versions, the store, and the settings that differ from the defaults, secrets masked."""
    return "\n".join(
        (
            f"software -> umbel:{__version__} py:{platform.python_version()}",
            f"platform -> system:{platform.system()} kernel:{platform.release()}",
            f"machine  -> arch:{platform.machine()} imp:{platform.python_implementation()}",
            f"store    -> {app.engine.name}",
            f"tasks    -> {len(app.tasks.own())}",
            "",
            app.conf.humanize(with_defaults=False, censored=True),
            "",
        )
    )
