"""What is not simply "works" among the names of Celery 5.7: refused, later, without effect.

The key is (group, name) as in `inventory.tsv`; the text is what a reader of the table sees. What
the package itself says of a name is taken from the package, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from umbel.app import carried, refusals, task
from umbel.app.names import KNOWN
from umbel.cli.worker_options import OPTIONS
from umbel.result.single import ABSENT

SEAM: Final = "machinery by class name; subclass App or Task instead"
TRACE: Final = "machinery of Celery's tracer; handlers and signals stay"
CANVAS: Final = "workflows"
BEAT: Final = "the scheduler"
EVENTS: Final = "events"
CONTROL: Final = "remote control"
POOLS: Final = "more pools"
ROUTING: Final = "routing to one worker"

Verdicts = dict[tuple[str, str], str]


def _flat(nested: Mapping[str, Mapping[str, str]]) -> Verdicts:
    return {(group, name): why for group, names in nested.items() for name, why in names.items()}


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
    "umbel.schedules": {"solar": BEAT},
    "umbel.utils": {"worker_direct": ROUTING},
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
for _group in ("AsyncResult.", "EagerResult."):
    _LATER[_group] = {
        "graph": CANVAS,
        "build_graph": CANVAS,
        "revoke_by_stamped_headers": CONTROL,
    }
LATER: Final = _flat(_LATER)

REFUSED: Final = {
    key: why
    for key, why in _flat(
        {
            "App()": refusals.ARGUMENTS,
            "App.": refusals.NAMES,
            "AsyncResult.": {"backend": ABSENT["backend"]},
            "EagerResult.": {"backend": ABSENT["backend"]},
            "ResultSet.": {"backend": ABSENT["backend"]},
            "Task.": {**task.REFUSED, "start_strategy": TRACE},
            "apply_async": carried.REFUSED,
            "app.conf.": refusals.CONF,
            **refusals.MODULES,
        }
    ).items()
    if key not in LATER
}
WITHOUT_EFFECT: Final = _flat(
    {
        "apply_async": {
            name: f"The option {name}= has no effect: {why} (told once)"
            for name, why in carried.WITHOUT_EFFECT.items()
        },
    }
)
"""What is accepted, and the line of the log that says why it does nothing."""

_OPTIONS: Final = {name: option for option in OPTIONS for name in option.names}


def judge_worker_option(name: str) -> tuple[str, str] | None:
    """The verdict of `umbel worker`'s own table on an option, by its names with slashes."""
    option = _OPTIONS.get(name.split("/", maxsplit=1)[0])
    if option is None:
        return None
    if option.refused:
        return "refused", option.reason
    return "without effect", f"{max(option.names, key=len)} has no effect: {option.reason}"


def judge_setting(name: str) -> tuple[str, str] | None:
    """The verdict of the package's table of settings that nothing reads."""
    known = KNOWN.get(name)
    if known is None:
        return None
    if known.kind == "no effect":
        return "without effect", f"{name} (app.conf) has no effect: {known.reason}"
    return known.kind, known.reason
