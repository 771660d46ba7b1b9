"""What follows the end of a task in its workflow: links, the next step, a chord's count.

It is worked out here as an `Outline`, and becomes part of the task's settlement.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import UNSET

from umbel import clock, states
from umbel.app.execution.errbacks import takes_the_error
from umbel.app.request import add_child
from umbel.app.sending.workflow import Outline, Place, Shelf, inherited_priority, shelf_of
from umbel.canvas.plan import (
    ACCUMULATE,
    REST,
    Step,
    accumulate,
    flatten,
    ids_of,
    join_steps,
    link,
    plain,
    plain_steps,
    rest_of,
)
from umbel.canvas.signatures import Signature
from umbel.engines.broker import Part, StoredResult, Workflow
from umbel.exceptions import (
    ChordError,
    DecodeError,
    ImproperlyConfigured,
    OperationalError,
    Reject,
    SecurityError,
)
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.content import content_types
from umbel.message.ids import new_id
from umbel.message.result import ErrorRecord
from umbel.message.serializer import loads
from umbel.message.task import Headers
from umbel.result.expiry import expiry
from umbel.result.stored import known_exceptions

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.request import Request
    from umbel.engines.results import ResultStore

logger: Final = logging.getLogger("umbel.app")

ERRBACK: Final = "umbel.errback"


def follows(message: task_message.Task) -> bool:
    """Whether anything follows a task's end."""
    headers = message.headers
    return (
        (message.embed != task_message.NO_EMBED and any(message.embed.values()))
        or headers.chord is not UNSET
        or headers.join is not UNSET
    )


# --------------------------------------------------------------------------------- what comes in


def results_of(app: App, shelf: Shelf, id: str, policy: str) -> list[Any]:
    """The results of a chord's header, for its body.

    `ChordError` if one of them is an error, unless failures are to be collected: then the
    exception stands in its place.
    """
    parts = shelf.results.parts(id)
    if parts is None:
        raise ChordError(f"The results of chord {id} are not in the store any more.")
    return values_of(app, parts, policy)


def values_of(app: App, parts: Sequence[bytes], policy: str) -> list[Any]:
    """The same, of its parts."""
    values: list[Any] = []
    for data in parts:
        task_id, state, value = result_message.decode_part(data, app.result_format)
        if state in states.PROPAGATE_STATES:
            value = result_message.restore_exception(value, known_exceptions(app))
            if policy == "fail":
                raise ChordError(f"Dependency {task_id} raised {value!r}") from value
        values.append(value)
    return values


def join(request: Request, message: task_message.Task, shelf: Shelf) -> None:
    """Put a chord's results before the arguments of its body."""
    if message.headers.join is UNSET or request.owner is None:
        return
    id, policy, wanted = message.headers.join
    try:
        results = results_of(request.owner.app, shelf, id, policy)
    except OperationalError as error:
        raise Reject(f"The results of its chord cannot be read: {error}", requeue=True) from None
    if wanted:
        message.args.insert(0, results)
    request.args = message.args


# ------------------------------------------------------------------------------------- a success


def after_success(app: App, shelf: Shelf, message: task_message.Task, value: Any) -> Outline:
    """What a task that has returned leads to."""
    headers, embed = message.headers, message.embed
    made = Outline(app, shelf, priority=inherited_priority(app))
    place = Place(headers.root_id or headers.id, headers.id)
    _start_links(app, made, embed.get("callbacks") or (), (value,), place)
    chain = embed.get("chain")
    if chain:
        steps = _next_steps(app, shelf, made, chain)
        made.start(steps, (value,), {}, _inherit(place, headers, chain[0]))
        add_child(_result_of(app, steps[0]))
    else:
        count(app, made, message, states.SUCCESS, value)
    _drop_join(made, headers)
    return made


def count(app: App, made: Outline, message: task_message.Task, state: str, value: Any) -> None:
    """Count the task in its chord, if it is in one."""
    headers = message.headers
    if headers.chord is not UNSET:
        id, index, key = headers.chord
        body = None
    elif message.embed.get("chord") and headers.group:
        # Of a chord that Celery has sent: the body comes along.
        if shelf_of(app).apart:
            _refuse(app, made, message.embed["chord"])
            return
        id, index, key = headers.group, headers.group_index or 0, ""
        body = _body_message(app, message.embed["chord"], headers)
    else:
        return
    data = result_message.encode_part(headers.id, state, value, app.result_format)
    made.parts.append(Part(id, index, data, key, body, headers.id))


def _refuse(app: App, made: Outline, body: Mapping[str, Any]) -> None:
    """End the body of a chord of Celery's whose count cannot be part of a settlement."""
    error = ImproperlyConfigured(
        "Celery counts the members of its chords where the results are, Umbel's workers where the "
        "messages are: a chord that Celery has sent ends here only if both are one Redis database. "
        "Give broker_url and result_backend the same URL."
    )
    id, now = (body.get("options") or {}).get("task_id"), clock.time()
    logger.error("Chord body %s[%s]: %s", body["task"], id, error)
    if id and app.keeps_results:
        record = result_message.describe_exception(error)
        meta = result_message.encode_failure(id, record, now, None, form=app.result_format)
        kept_until = expiry(app.conf, states.FAILURE, now)
        made.results.append(StoredResult(id, states.FAILURE, meta, kept_until))


def _body_message(app: App, body: Mapping[str, Any], headers: Headers) -> Any:
    """The message of a chord's body that came with a member of its header."""
    steps = join_steps(flatten(_thawed(app, body)))
    outline = Outline(app, shelf_of(app)._replace(shared=True))
    place = Place(headers.root_id or headers.id, headers.id)
    return outline.body(steps, _inherit(place, None, steps[-1]), headers.group or "", "fail")


def _inherit(place: Place, headers: Headers | None, last: Mapping[str, Any]) -> Place:
    """The place of the steps after a task: they end where it would have."""
    options = last.get("options") or {}
    chord = None if headers is None or headers.chord is UNSET else headers.chord
    return place.moved(
        chord=chord,
        body=options.get("chord"),
        group=options.get("group_id") or (None if chord is None else chord[0]),
        index=options.get("group_index") if chord is None else chord[1],
    )


def _next_steps(
    app: App, shelf: Shelf, made: Outline, chain: Sequence[Mapping[str, Any]]
) -> list[Step]:
    """The rest of a chain in order, with its first step taken out of the store if it lies there."""
    first = chain[-1]
    if first["task"] == REST:
        id, position, size = first["args"]
        found = shelf.results.kept(id, position, position + 1)
        if not found:
            raise LookupError(f"The rest of workflow {id} is not in the store any more.")
        if position + 1 == size:
            made.dropped.append(id)
        return [_loads(found[0]), *_rest(id, position + 1, size)]
    steps = [plain(step) if "options" in step else dict(step) for step in reversed(chain)]
    if steps[0]["subtask_type"] is not None:
        steps = [*flatten(_thawed(app, steps[0])), *steps[1:]]
    options = steps[0]["options"]
    if "task_id" not in options:
        steps[0] = {**steps[0], "options": {**options, "task_id": new_id()}}
    return join_steps(steps)


def _loads(data: bytes) -> Step:
    return cast("Step", loads(data))


def _rest(id: str, position: int, size: int) -> list[Step]:
    return [rest_of(id, position, size)] if position < size else []


def _thawed(app: App, sig: Mapping[str, Any]) -> Signature[Any]:
    """A signature from a message, with all ids that are missing."""
    found = Signature.from_dict(sig, app=app).clone()
    found.freeze()
    return found


def _result_of(app: App, step: Step) -> Any:
    """The result of what a step begins, for the trail."""
    kind, id = step["subtask_type"], step["options"].get("task_id")
    if kind == "group":
        members = [_result_of(app, member) for member in step["kwargs"]["tasks"]]
        return app.GroupResult(id, members)
    if kind == "chord":
        header = {**step, "subtask_type": "group", "kwargs": {"tasks": step["kwargs"]["header"]}}
        return app.AsyncResult(
            step["kwargs"]["body"]["options"]["task_id"], parent=_result_of(app, header)
        )
    if kind == "chain":
        return _result_of(app, step["kwargs"]["tasks"][-1])
    return app.AsyncResult(id)


def _start_links(
    app: App,
    made: Outline,
    links: Iterable[Mapping[str, Any]],
    args: Sequence[Any],
    place: Place,
    *,
    as_group: bool = False,
) -> None:
    """Send linked signatures; several are a group, as in Celery."""
    sigs = [_thawed(app, sig) for sig in links]
    if as_group or len(sigs) > 1:
        group = new_id()
        places = [place.moved(group=group, index=index) for index in range(len(sigs))]
    else:
        places = [place] * len(sigs)
    for sig, at in zip(sigs, places, strict=True):
        steps = flatten(sig)
        made.start(steps, args, {}, at)
        add_child(_result_of(app, steps[-1]))


def after_ignored(app: App, shelf: Shelf, request: Request) -> Outline:
    """What a task that has raised `Ignore` leads to: what has replaced it, or nothing.

    In a chord it counts, with no result, so that the chord comes to its end.
    """
    message = request.message
    if message is None:
        return Outline(app, shelf)
    if request.replaced is not None:
        made = replacement(app, shelf, message, request.replaced)
    else:
        made = Outline(app, shelf)
        count(app, made, message, states.SUCCESS, None)
    _drop_join(made, message.headers)
    return made


# --------------------------------------------------------------------------------- a replacement


def replacement(app: App, shelf: Shelf, message: task_message.Task, sig: Signature[Any]) -> Outline:
    """What takes a task's place: with its id, its links, its chord and the rest of its chain."""
    made = Outline(app, shelf, priority=inherited_priority(app))
    headers, embed = message.headers, message.embed
    steps = flatten(_thawed(app, sig))
    if steps[-1]["subtask_type"] == "group":
        steps = join_steps([*steps, accumulate()])
    _bodies(steps[-1])[-1]["options"]["task_id"] = headers.id
    nesting = (headers.replaced_task_nesting or 0) + 1
    for step in plain_steps(steps):
        step["options"]["replaced_task_nesting"] = nesting
        if headers.stamped_headers:
            own = step["options"]
            own["stamped_headers"] = [*headers.stamped_headers, *own.get("stamped_headers", ())]
            for name, value in (headers.stamps or {}).items():
                own.setdefault(name, value)
    for callback in embed.get("callbacks") or ():
        link(steps[-1], "link", callback)
    for errback in embed.get("errbacks") or ():
        for step in steps:
            link(step, "link_error", errback)
    chord = None if headers.chord is UNSET else headers.chord
    place = Place(
        headers.root_id or headers.id, headers.id, headers.group, headers.group_index, chord,
        embed.get("chord"),
    )  # fmt: skip
    if chord is not None:
        place = place.moved(group=chord[0], index=chord[1])
    rest = [dict(step) for step in reversed(embed.get("chain") or ())]
    made.start([*steps, *rest], (), {}, place)
    return made


# ------------------------------------------------------------------------------------- a failure


def after_failure(
    app: App,
    shelf: Shelf,
    headers: Headers,
    message: task_message.Task | None,
    payload: bytes,
    record: ErrorRecord,
    traceback: str | None,
    state: str,
    *,
    buried: bool = False,
) -> Outline:
    """What a task that has failed, or was revoked, leads to. Without `message`: it is unreadable.

    The steps after it will never run: the last ones get its error. A message that is `buried` may
    be replayed, so what it needs stays in the store.
    """
    made = Outline(app, shelf)
    if message is None:
        message = task_message.Task(headers, [], {}, {}, task_message.Properties(), "")
    embed = message.embed
    chain = embed.get("chain") or ()
    rest, kept = all_steps(app, shelf.results, chain)
    ends_in = [_opened(step) if step is rest[-1] else step for step in rest]
    now = clock.time()
    for id in ids_of(ends_in):
        meta = result_message.encode_failure(
            id, record, now, traceback, status=state, parent_id=headers.id, form=app.result_format
        )
        if shelf.keeps:
            made.results.append(StoredResult(id, state, meta, expiry(app.conf, state, now)))
    ends = rest[-1]["options"] if rest and rest[-1].get("options") else None
    if headers.chord is UNSET and ends is not None and ends.get("chord"):
        _count_last(app, made, message, ends, record, state)
    else:
        count(app, made, message, state, record)
    if state == states.FAILURE:
        _call_errbacks(app, made, headers, payload, embed.get("errbacks") or (), record, traceback)
        if headers.join is not UNSET and headers.task == ACCUMULATE and rest:
            # It stands for a body that is no single task: those errbacks are the body's.
            for step in _first_bodies(ends_in):
                errbacks = step["options"].get("link_error") or ()
                stand_in = Headers(
                    step["task"], step["options"]["task_id"], root_id=headers.root_id,
                    parent_id=headers.id,
                )  # fmt: skip
                _call_errbacks(app, made, stand_in, payload, errbacks, record, traceback)
    if not buried:
        made.dropped += kept
        _drop_join(made, headers)
    return made


def after_end(app: App, payload: bytes, record: ErrorRecord, state: str) -> Workflow | None:
    """What changes in workflows by the end of a message that is not run any more."""
    headers, message = read(app, payload)
    if headers is None or not (headers.chord is not UNSET or (message and follows(message))):
        return None
    shelf = shelf_of(app)
    return after_failure(app, shelf, headers, message, payload, record, None, state).workflow


def read(app: App, payload: bytes) -> tuple[Headers | None, task_message.Task | None]:
    """A message as far as it can be read: what cannot leads to nothing but its chord's count."""
    headers = None
    with contextlib.suppress(DecodeError, SecurityError):
        headers = task_message.decode_headers(payload)
        conf = app.conf
        message = task_message.decode(
            payload, content_types(conf.accept_content), conf.task_max_message_bytes
        )
        return headers, message
    return headers, None


def _count_last(
    app: App,
    made: Outline,
    message: task_message.Task,
    options: Mapping[str, Any],
    record: ErrorRecord,
    state: str,
) -> None:
    """Count a chain that Celery has sent, and that has failed before its last step."""
    headers = Headers(
        "", options.get("task_id") or "", root_id=message.headers.root_id,
        parent_id=message.headers.id, group=options.get("group_id"),
        group_index=options.get("group_index"),
    )  # fmt: skip
    last = task_message.Task(
        headers, [], {}, {"chord": options["chord"]}, task_message.Properties(), ""
    )
    count(app, made, last, state, record)


def all_steps(
    app: App, results: ResultStore, chain: Sequence[Mapping[str, Any]]
) -> tuple[list[Step], list[str]]:
    """All steps to come, and the ids under which some of them are kept."""
    steps: list[Step] = []
    kept: list[str] = []
    waiting = [dict(step) for step in chain]
    while waiting:
        step = waiting.pop()
        if step["task"] != REST:
            steps += flatten(_thawed(app, step)) if step.get("subtask_type") else [plain(step)]
            continue
        id, position, size = step["args"]
        kept.append(id)
        waiting += [_loads(data) for data in reversed(results.kept(id, position, size))]
    return [step for step in steps if ids_of([step])], kept


def _opened(step: Step) -> Step:
    """A last step without what makes one result of a group that ends a member of a chord."""
    if step.get("subtask_type") == "chord" and step["kwargs"]["body"]["task"] == ACCUMULATE:
        members = step["kwargs"]["header"]
        return {**step, "subtask_type": "group", "kwargs": {"tasks": members}}
    return step


def _first_bodies(steps: Iterable[Step]) -> list[Step]:
    """The plain signatures with which the first step ends that ends in any of the user's."""
    for step in steps:
        found = [body for body in _bodies(step) if body["task"] != ACCUMULATE]
        if found:
            return found
    return []


def _bodies(step: Step) -> list[Step]:
    """The plain signatures with which a step ends."""
    kind = step["subtask_type"]
    if kind == "chord":
        return _bodies(step["kwargs"]["body"])
    if kind == "chain":
        return _bodies(step["kwargs"]["tasks"][-1])
    if kind == "group":
        return [body for member in step["kwargs"]["tasks"] for body in _bodies(member)]
    return [step]


def _call_errbacks(
    app: App,
    made: Outline,
    headers: Headers,
    payload: bytes,
    errbacks: Sequence[Mapping[str, Any]],
    record: ErrorRecord,
    traceback: str | None,
) -> None:
    """Errbacks as messages: with the failed id, or with all that is known of the failure."""
    place = Place(headers.root_id or headers.id, headers.id)
    by_id = [errback for errback in errbacks if not takes_the_error(app, errback)]
    _start_links(app, made, by_id, (headers.id,), place, as_group=True)
    for errback in errbacks:
        if errback in by_id:
            continue
        options = errback.get("options") or {}
        step = plain({
            "task": ERRBACK,
            "args": [dict(errback), payload.decode("utf-8", "replace"), record, traceback],
            "options": {**options, "task_id": new_id(), "route_name": errback["task"]},
        })  # fmt: skip
        before = len(made.messages)
        made.start([step], (), {}, place)
        made.keep_apart(before)


def _drop_join(made: Outline, headers: Headers) -> None:
    if headers.join is not UNSET:
        made.dropped.append(headers.join[0])
