"""What a running task stores about itself: STARTED, and states of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from umbel import clock
from umbel.engines.broker import StoredResult
from umbel.message.result import Extended, encode_state
from umbel.result.expiry import expiry

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.request import Request


def store_state(app: App, id: str, state: str, value: Any, request: Request | None = None) -> None:
    """Store a state at once; one that comes after the task's end is dropped by the store.

    Where the app keeps no results, nothing happens, as in Celery.
    """
    if not app.keeps_results:
        return
    now = clock.time()
    parent_id = None if request is None else request.parent_id
    group_id = None if request is None else request.group
    extended = None
    if request is not None and app.conf.result_extended:
        extended = describe_request(request)
    meta = encode_state(
        id,
        state,
        value,
        now,
        parent_id=parent_id,
        group_id=group_id,
        extended=extended,
        form=app.result_format,
    )
    stored = StoredResult(id, state, meta, expiry(app.conf, state, now))
    app.results.put([stored], timeout=app.conf.task_publish_timeout)


def describe_request(request: Request) -> Extended:
    """What `result_extended` stores of a run."""
    info = request.delivery_info or {}
    args, kwargs, task = request.args, request.kwargs, request.owner
    if task is not None and task.secret:
        from umbel.app.redaction import redact_values

        args, kwargs = redact_values(task, args or (), kwargs or {})
    described: Extended = {
        "name": request.task,
        "args": args,
        "kwargs": kwargs,
        "worker": request.hostname,
        "retries": request.retries,
        "queue": info.get("routing_key"),
    }
    stamps = request.stamps
    if not stamps:
        return described
    names = list(request.stamped_headers or ())
    stamped = {name: stamps[name] for name in names if name in stamps}
    return cast("Extended", {**described, "stamped_headers": names, **stamped})
