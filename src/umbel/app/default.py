"""The app of a project that has a configuration module and makes no app, as Celery 3's did.

Imported where the command line, or a child, is told of no other app. The module is the one that
`--config` or its variable names, else `celeryconfig`.
"""

from __future__ import annotations

import os
import sys

from umbel.app.app import App
from umbel.app.settings.sources import CONFIG_VARIABLES, import_source

_name = next(filter(None, map(os.environ.get, CONFIG_VARIABLES)), "celeryconfig")
_source = import_source(_name)
_module = sys.modules.get(_name.partition(":")[0]) or sys.modules[_name.rpartition(".")[0]]
app: App = App()
app._module, app._file = _module.__name__, _module.__file__  # noqa: SLF001  (where its store lies)
app.config_from_object(_source)
app.set_default()
