"""Dropping what waits in queues, without leaving anybody who waits for it behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from umbel import clock, states
from umbel.engines.broker import StoredResult
from umbel.exceptions import TaskRevokedError
from umbel.message import result as result_message
from umbel.message.task import decode_headers
from umbel.result.expiry import expiry
from umbel.result.stored import REVOKED_FOR

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.engines.broker import Workflow

MOST: Final = 200_000
"""Messages of a queue that are looked at; of those behind them nothing is told to their workflows.
"""


def purge(app: App, queues: Sequence[str]) -> int:
    """Drop all waiting messages of queues, delayed ones too; how many. Claimed ones stay.

    Those that others wait for are revoked: a chord counts them, and the steps after them end.
    """
    engine = app.engine
    revoked = 0
    if engine.broker.browsable:
        for queue in dict.fromkeys(queues):
            revoked += _revoke_members(app, queue)
    return revoked + engine.broker.purge(queues)


def _revoke_members(app: App, queue: str) -> int:
    """Revoke what waits in a queue and is part of a workflow; how many."""
    engine, now = app.engine, clock.time()
    record = result_message.describe_exception(TaskRevokedError("purged"))
    expires = expiry(app.conf, states.REVOKED, now)
    workflows: dict[str, Workflow] = {}
    for message in engine.broker.browse(queue, limit=MOST):
        if message.worker is not None:
            continue
        workflow = app.end_workflow(message.payload, record, states.REVOKED)
        if workflow is not None:
            workflows[decode_headers(message.payload).id] = workflow
    results = [
        StoredResult(
            id,
            states.REVOKED,
            result_message.encode_failure(
                id, record, now, status=states.REVOKED, form=app.result_format
            ),
            expires,
        )
        for id in workflows
    ]
    if not results:
        return 0
    return len(engine.state.revoke(results, until=now + REVOKED_FOR, workflows=workflows))
