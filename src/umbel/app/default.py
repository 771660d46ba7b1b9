"""The app of a project that has a `celeryconfig` module and makes no app, as Celery 3's did.

Imported where the command line, or a child, is told of no other app.
"""

from __future__ import annotations

import importlib

from umbel.app.app import App

_config = importlib.import_module("celeryconfig")
app: App = App()
app._module, app._file = _config.__name__, _config.__file__  # noqa: SLF001  (where its store lies)
app.config_from_object(_config)
app.set_default()
