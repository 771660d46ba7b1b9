"""What is not simply "works" among the names of Celery 5.7: refused, later, without effect.

The key is (group, name) as in `inventory.tsv`; the text is what a reader of the table sees. What
the package itself says of a name is taken from the package, so that the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from umbel.app import refusals, task
from umbel.app.sending import carried
from umbel.app.settings.names import KNOWN
from umbel.canvas import signatures
from umbel.cli.absent import ABSENT as COMMANDS
from umbel.cli.worker import IDLE_OPTIONS
from umbel.cli.worker_options import BEAT_OPTIONS, OPTIONS
from umbel.result.single import ABSENT

EVENTS: Final = "events"
CONTROL: Final = "remote control"
ROUTING: Final = "routing to one worker"

Verdicts = dict[tuple[str, str], str]


def _flat(nested: Mapping[str, Mapping[str, str]]) -> Verdicts:
    return {(group, name): why for group, names in nested.items() for name, why in names.items()}


_LATER: Final[dict[str, dict[str, str]]] = {
    "App.": {
        "control": CONTROL,
        "events": EVENTS,
    },
    "Task.": {"send_event": EVENTS},
    "umbel.utils": {"worker_direct": ROUTING},
    "umbel.signals": {"heartbeat_sent": EVENTS},
    "umbel": dict.fromkeys(["control", "inspect"], CONTROL) | dict.fromkeys(["events"], EVENTS),
}
for _group in ("AsyncResult.", "EagerResult."):
    _LATER[_group] = {"revoke_by_stamped_headers": CONTROL}
LATER: Final = _flat(_LATER)
LATER_GROUPS: Final = {
    "umbel.events": EVENTS,
    "umbel.events.state": EVENTS,
    "app.control.": CONTROL,
    "app.control.inspect().": CONTROL,
    "remote command": CONTROL,
    "umbel.worker.control": CONTROL,
    "umbel.worker.state": CONTROL,
    "umbel.contrib.abortable": "tasks that can be aborted",
    "umbel.contrib.django.task": "the Django integration",
    "umbel.contrib.migrate": "moving messages between brokers",
}
"""Groups of which this version has nothing yet."""


def _of_results() -> dict[str, str]:
    return {name: ABSENT[name] for name in ("backend", "on_ready")}


LOADER: Final = {
    "--loader": "the app is found by -A, and its modules by the settings include and imports"
}
REFUSED_IN: Final = {"umbel", "umbel.contrib"}
"""Packages whose refused names are modules, and so `REFUSED_GROUPS`."""
REFUSED: Final = {
    key: why
    for key, why in _flat(
        {
            "App()": refusals.ARGUMENTS,
            "App.": refusals.NAMES,
            "AsyncResult.": _of_results(),
            "EagerResult.": _of_results(),
            "ResultSet.": _of_results(),
            "GroupResult.": _of_results(),
            "Signature.": signatures.ABSENT,
            "Task.": task.REFUSED,
            "apply_async": carried.REFUSED,
            "umbel": {n: one.instead for n, one in COMMANDS.items() if not one.later} | LOADER,
            "app.conf.": refusals.CONF,
            **{m: names for m, names in refusals.MODULES.items() if m not in REFUSED_IN},
        }
    ).items()
    if key not in LATER
}
REFUSED_GROUPS: Final = {
    "umbel.bootsteps": refusals.MODULES["umbel"]["bootsteps"],
    "umbel.loaders": refusals.MODULES["umbel"]["loaders"],
    "umbel.backends.base": refusals.MODULES["umbel"]["backends"],
    "umbel.events.snapshot": "cameras: what they wrote down is in the store (App.history), and "
    "`umbel result`, `queues` and `status` show it",
    "umbel.contrib.rdb": refusals.MODULES["umbel.contrib"]["rdb"],
}
"""Modules that are refused whole."""
WITHOUT_EFFECT: Final = _flat(
    {
        "apply_async": {
            name: f"The option {name}= has no effect: {why} (told once)"
            for name, why in carried.WITHOUT_EFFECT.items()
        },
        "Task.": {option: f"{text}: …" for option, text in IDLE_OPTIONS.items()},
        "umbel": {
            "--skip-checks": "--skip-checks has no effect: Django's checks come with the Django "
            "integration; none are made in this version"
        },
    }
)
"""What is accepted, and the line of the log that says why it does nothing."""

OF_COMMANDS: Final = {"umbel worker": OPTIONS, "umbel beat": BEAT_OPTIONS}


def judge_option(command: str, name: str) -> tuple[str, str] | None:
    """The verdict of a command's own table on an option, by its names with slashes."""
    first = name.split("/", maxsplit=1)[0]
    option = next((one for one in OF_COMMANDS.get(command, ()) if first in one.names), None)
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
