"""Parts of Celery's app that Umbel does not have, and what takes their place."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

_SEAM = "the parts of the package are not replaced by classes of one's own"
_BOOTSTEPS = (
    "there are no bootsteps; connect to umbel.signals.worker_init, worker_ready and worker_shutdown"
)
_LOADER = (
    "there are no loaders; app.config_from_object reads settings, and the signals worker_init and "
    "worker_process_init tell of a worker's start"
)
_AMQP = "there is no AMQP layer underneath; app.conf.task_queues and task_routes describe queues"

ARGUMENTS: Final = MappingProxyType(
    {
        "loader": _LOADER,
        "amqp": _AMQP,
        "events": _SEAM,
        "log": f"{_SEAM}; connect to umbel.signals.setup_logging",
        "control": _SEAM,
        "fixups": "there are no fixups; autodiscover_tasks() asks Django for its apps by itself",
    }
)
"""Arguments of `App(…)`."""

CLASSES: Final = MappingProxyType(
    {
        "amqp_cls": _AMQP,
        "backend_cls": f"{_SEAM}; set result_backend to a URL",
        "events_cls": _SEAM,
        "loader_cls": _LOADER,
        "log_cls": f"{_SEAM}; connect to umbel.signals.setup_logging",
        "control_cls": _SEAM,
        "registry_cls": _SEAM,
    }
)
"""Attributes of subclasses of `App`."""

NAMES: Final = MappingProxyType(
    {
        "Worker": "start one with `umbel worker`, or app.worker_main(['worker'])",
        "WorkController": "start one with `umbel worker`, or app.worker_main(['worker'])",
        "loader": _LOADER,
        "backend": "app.AsyncResult(id) reads, and forgets, what is stored",
        "pool": "app.connection() tells whether the broker answers",
        "producer_pool": "task.apply_async and app.send_task publish",
        "producer_or_acquire": "task.apply_async and app.send_task publish",
        "default_producer": "task.apply_async and app.send_task publish",
        "steps": _BOOTSTEPS,
        "user_options": f"commands take no options of an app's; {_BOOTSTEPS}",
        "clock": "processes keep no common counter",
        "config_from_cmdline": "settings come from the code, UMBEL_<NAME> and -b",
    }
)
"""Attributes of an app."""
