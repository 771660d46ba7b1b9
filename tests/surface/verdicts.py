"""What is not simply "works" among the names of Celery 5.7: refused, later, without effect.

The key is (group, name) as in `inventory.tsv`; the text is what a reader of the table sees.
"""

from __future__ import annotations

from typing import Final

from umbel.cli.absent import ABSENT

BOOTSTEPS: Final = "bootsteps; use app.on_start and app.on_stop"
SEAM: Final = "machinery by class name; subclass App or Task instead"
KOMBU: Final = "Kombu's channels and producers; app.connection().ensure_connection() stays"
LOADERS: Final = "loaders; app.config_from_object reads what they read"
TRACE: Final = "machinery of Celery's tracer; handlers and signals stay"
CANVAS: Final = "workflows"
BEAT: Final = "the scheduler"
EVENTS: Final = "events"
CONTROL: Final = "remote control"
POOLS: Final = "more pools"

_REFUSED: Final[dict[str, dict[str, str]]] = {
    "umbel (module)": {},
    "App()": {
        "loader": LOADERS,
        "backend": "the argument is a URL; a class is refused",
        "amqp": SEAM,
        "events": SEAM,
        "log": SEAM,
        "control": SEAM,
        "tasks": SEAM,
        "fixups": SEAM,
    },
    "App.": dict.fromkeys(
        [
            "amqp_cls",
            "backend_cls",
            "control_cls",
            "events_cls",
            "loader_cls",
            "log_cls",
            "registry_cls",
            "subclass_with_self",
            "Pickler",
            "builtin_fixups",
            "fixups",
        ],
        SEAM,
    )
    | dict.fromkeys(["loader"], LOADERS)
    | dict.fromkeys(["steps"], BOOTSTEPS)
    | dict.fromkeys(["use_fast_trace_task", "type_checker"], TRACE),
    "Task.": dict.fromkeys(["Request", "Strategy", "start_strategy"], TRACE),
    "umbel": {name: command.instead for name, command in ABSENT.items() if not command.later}
    | {"--loader": LOADERS},
}

_LATER: Final[dict[str, dict[str, str]]] = {
    "umbel (module)": dict.fromkeys(
        [
            "Signature",
            "chain",
            "chord",
            "chunks",
            "group",
            "maybe_signature",
            "signature",
            "subtask",
            "xmap",
            "xstarmap",
        ],
        CANVAS,
    )
    | {"maybe_patch_concurrency": POOLS},
    "App.": {
        "Beat": BEAT,
        "GroupResult": CANVAS,
        "add_periodic_task": BEAT,
        "control": CONTROL,
        "events": EVENTS,
        "signature": CANVAS,
        "clock": EVENTS,
    },
    "Task.": dict.fromkeys(
        [
            "add_to_chord",
            "chunks",
            "map",
            "on_replace",
            "replace",
            "s",
            "si",
            "signature",
            "signature_from_request",
            "starmap",
            "subtask",
            "subtask_from_request",
        ],
        CANVAS,
    )
    | {"send_event": EVENTS},
    "umbel.result": {"GroupResult": CANVAS},
    "umbel.signals": dict.fromkeys(["beat_init", "beat_embedded_init"], BEAT)
    | {"heartbeat_sent": EVENTS}
    | dict.fromkeys(
        [
            "eventlet_pool_started",
            "eventlet_pool_preshutdown",
            "eventlet_pool_postshutdown",
            "eventlet_pool_apply",
        ],
        POOLS,
    ),
    "umbel": dict.fromkeys(["beat"], BEAT)
    | dict.fromkeys(["control", "inspect"], CONTROL)
    | dict.fromkeys(["events"], EVENTS),
}


def _flat(nested: dict[str, dict[str, str]]) -> dict[tuple[str, str], str]:
    return {(group, name): why for group, names in nested.items() for name, why in names.items()}


REFUSED: Final = _flat(_REFUSED)
LATER: Final = _flat(_LATER)
WITHOUT_EFFECT: Final[dict[tuple[str, str], str]] = {
    ("umbel", "--skip-checks"): "Django's checks come with the Django integration",
}
