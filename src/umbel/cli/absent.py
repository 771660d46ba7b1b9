"""Celery's commands that are not there, and what to use instead."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple


class Absent(NamedTuple):
    """One command."""

    instead: str
    later: bool = False
    """Whether it is still to come."""


ABSENT: Final = {
    "amqp": Absent(
        "there is no AMQP layer underneath; `umbel queues`, `purge` and `dead` work on every "
        "store, and rabbitmqadmin speaks to RabbitMQ"
    ),
    "control": Absent(
        "it comes with remote control; until then stop workers by signals, and revoke a task "
        "from code: app.AsyncResult(id).revoke()",
        later=True,
    ),
    "events": Absent("it comes with events; until then: umbel status, queues, result", later=True),
    "graph": Absent("it draws Celery's bootsteps; `umbel status` shows the workers"),
    "inspect": Absent(
        "it comes with remote control; until then: umbel status, queues, result, report",
        later=True,
    ),
    "list": Absent(
        "it lists bindings of an AMQP broker; `umbel queues` lists the queues and who serves them"
    ),
    "logtool": Absent(
        "it parsed log files; `umbel worker --log-json` writes lines that tools read, and "
        "`umbel result` and `dead` tell what failed"
    ),
    "migrate": Absent(
        "messages are not copied between brokers; let workers on the old broker work it off "
        "(umbel -b OLD-URL worker) while producers send to the new one"
    ),
    "multi": Absent(
        "the service manager starts and watches workers: a systemd template unit, supervisord, "
        "or one container each; in a shell, umbel worker -D -n w1@%h -f w1.log --pidfile w1.pid"
    ),
    "upgrade": Absent(
        "settings are taken under their old names as they stand; `umbel report --check` lists "
        "each with what it does"
    ),
}  # fmt: skip
"""By the word that is typed."""


def explain(name: str, commands: Collection[str]) -> str:
    """What to type instead of a command that is not among those that there are."""
    if name in ABSENT:
        command = ABSENT[name]
        verdict = "is not in this version" if command.later else "is refused"
        return f"{name} {verdict}: {command.instead}."
    import difflib

    absence = f"There is no command {name!r}"
    near = difflib.get_close_matches(name, (*commands, *ABSENT), n=1)
    if near and near[0] in ABSENT:
        return f"{absence}, and {explain(near[0], commands)}"
    return f"{absence}. {suggest(name, commands)}"


def suggest(name: str, commands: Collection[str]) -> str:
    """The command that was meant, or all that there are."""
    import difflib

    if name in {"help", "version"}:
        return f"It is an option: umbel --{name}."
    near = difflib.get_close_matches(name, commands, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(commands)}."
