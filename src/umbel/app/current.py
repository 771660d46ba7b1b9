"""Which app is meant when none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel import _state
from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App


class State:
    """The apps of this process. Not of this thread: a web server's threads share one app."""

    current: App | None = None
    """The app made last, or the one whose `set_current` was called last."""
    default: App | None = None
    """The one whose `set_default` was called; current while no other is."""


def get_current_app() -> App | None:
    """The app of the task that runs in this context; else the process's current app."""
    import sys

    # No task runs where nothing has imported this yet.
    requests = sys.modules.get("umbel.app.request")
    if requests is not None:
        request = requests.current.get()
        if request is not None and request.owner is not None:
            app: App | None = vars(request.owner).get("app")
            if app is not None:
                return app
    return State.current or State.default


def current_app_of(name: str) -> App:
    """The current app; `ImproperlyConfigured` says what to do if there is none."""
    app = get_current_app()
    if app is None:
        raise ImproperlyConfigured(
            f"{name} belongs to no app and this process has made none, so nothing can be sent or "
            'looked up. Import the module that makes it (app = umbel.App("proj")) first; in '
            "Django, import it in the project's __init__.py."
        )
    return app


_state.find_app = current_app_of
