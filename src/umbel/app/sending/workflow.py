"""From a workflow to the messages that begin it, and what of it the store has to know.

Each task's message carries what follows it: `callbacks`, `errbacks` and the rest of its `chain`, as
in Celery. A member of a chord says in the header `umbel-chord` where it counts; the chord itself,
with the message of its body, lies in the store. That message says in the header `umbel-join` whose
results it gets. A rest of more than `LARGE` bytes lies in the store too, once, and messages refer
to it. Where Celery's workers may serve the same queues, messages carry all of it besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from umbel import clock
from umbel.app.request import current
from umbel.app.sending.publish import Standing, build_message
from umbel.app.sending.routing import route
from umbel.canvas.plan import (
    REST,
    Step,
    accumulate,
    chain_of,
    flatten,
    give,
    join_steps,
    rest_of,
)
from umbel.canvas.signatures import Signature, listed, maybe_signature
from umbel.canvas.workflows import is_empty
from umbel.engines.apart import ApartEngine
from umbel.engines.broker import Chord, Kept, Message, Part, StoredResult, Workflow
from umbel.exceptions import EncodeError
from umbel.message.ids import new_id
from umbel.message.serializer import dumps

if TYPE_CHECKING:
    from umbel.app.app import App
    from umbel.app.execution.outcome import Outcome
    from umbel.engines.results import ResultStore
    from umbel.result import AsyncResult

LARGE: Final = 4096
"""Bytes above which the rest of a workflow is stored once, instead of in each message."""
KEPT_FOR: Final = 365 * 86400.0
"""Seconds for which a chord whose members never end, and a kept rest, stay in the store."""
CHORD: Final = "umbel-chord"
JOIN: Final = "umbel-join"
OURS: Final = frozenset({
    "chord", "chain", "group_id", "group_index", "root_id", "parent_id", "on_error", "immutable",
})  # fmt: skip
"""Options that say where in a workflow a task stands; they are worked out here. (Celery leaves an
`immutable` among them.)"""
Member = tuple[str, int, str]
"""A chord's id, the place in it, and what tells apart several at one place."""


class Place(msgspec.Struct, frozen=True):
    """Where in a workflow the next steps stand."""

    root: str | None = None
    parent: str | None = None
    group: str | None = None
    index: int | None = None
    chord: Member | None = None
    """The chord in which their end counts."""
    body: Step | None = None
    """That chord's body, for Celery's workers."""

    def moved(self, **fields: Any) -> Place:
        """The same but for these fields."""
        return msgspec.structs.replace(self, **fields)


class Shelf(NamedTuple):
    """Where what is known of workflows lies."""

    results: ResultStore
    shared: bool
    """Whether Celery's workers may serve the same queues."""
    keeps: bool
    """Whether anybody will ask for the results of steps that never run."""
    apart: bool = False
    """Whether results lie in another store, where Celery counts the members of chords."""


def shelf_of(app: App) -> Shelf:
    """An app's own."""
    engine = app.engine
    broker = engine.broker
    return Shelf(
        engine.results, broker.shared, app.keeps_results, isinstance(engine, ApartEngine)
    )  # fmt: skip


class Outline:
    """Messages to send, and what the store has to know with them."""

    def __init__(
        self, app: App, shelf: Shelf, *, checked: bool = False, priority: int | None = None
    ) -> None:
        self._app = app
        self._shelf = shelf
        self._shared = shelf.shared
        self._checked = checked
        self._priority = priority
        self.messages: list[Message] = []
        self.opened: list[Chord] = []
        self.kept: list[Kept] = []
        self.grown: list[tuple[str, int]] = []
        self.parts: list[Part] = []
        self.dropped: list[str] = []
        self.results: list[StoredResult] = []

    @property
    def workflow(self) -> Workflow | None:
        """What changes besides the messages; None if nothing does."""
        made = Workflow(
            tuple(self.results),
            tuple(self.opened),
            tuple(self.grown),
            tuple(self.kept),
            tuple(self.parts),
            tuple(self.dropped),
        )
        return None if made == NOTHING else made

    def tell(self, outcome: Outcome) -> None:
        """Make it part of a task's outcome."""
        outcome.sent = tuple(plain_message(m, private=m.private) for m in self.messages)
        outcome.workflow = self.workflow

    def start(
        self, steps: Sequence[Step], args: Sequence[Any], kwargs: Mapping[str, Any], place: Place
    ) -> None:
        """Begin steps with a call's arguments."""
        first, *rest = steps
        kind = first["subtask_type"]
        if kind == "group" and rest:
            first, *rest = join_steps(steps)
            kind = first["subtask_type"]
        if kind == "group":
            self._start_group(first, args, kwargs, place)
        elif kind == "chord":
            self._start_chord(first, rest, args, kwargs, place)
        elif kind == "chain":
            self.start([*first["kwargs"]["tasks"], *rest], args, kwargs, place)
        else:
            if args or kwargs:
                first = {**first}
                give(first, args, kwargs)
            self.messages += self._message(first, rest, place)

    def _start_group(
        self, group: Step, args: Sequence[Any], kwargs: Mapping[str, Any], place: Place
    ) -> None:
        id = group["options"]["task_id"]
        for index, member in enumerate(group["kwargs"]["tasks"]):
            self.start([member], args, kwargs, Place(place.root, place.parent, id, index))

    def _start_chord(
        self,
        chord: Step,
        rest: Sequence[Step],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        place: Place,
    ) -> None:
        options, header = chord["options"], chord["kwargs"]["header"]
        id, body = options["task_id"], chord["kwargs"]["body"]
        first = _first_id(header[0])
        rest = self.keep(rest)
        at = Place(
            place.root or first, _last_id(header[-1]), place.group, place.index, place.chord,
            place.body,
        )  # fmt: skip
        message = self.body([body, *rest], at, id, options.get("on_error") or "fail")
        self.opened.append(Chord(id, len(header), message, clock.time() + KEPT_FOR))
        shared = self._celery_body(body, rest, id, place) if self._shared else None
        for index, member in enumerate(header):
            self.start(
                [member],
                args,
                kwargs,
                Place(place.root, place.parent, id, index, (id, index, ""), shared),
            )

    def _celery_body(self, body: Step, rest: Sequence[Step], id: str, place: Place) -> Step:
        """A chord's body with all that follows it, as Celery's workers send it."""
        steps = [{**step, "options": dict(step["options"])} for step in (body, *rest)]
        steps[0]["options"].setdefault("group_id", id)
        if place.body is not None:
            steps[-1]["options"] |= {
                "chord": place.body, "group_id": place.group, "group_index": place.index,
            }  # fmt: skip
        return chain_of(steps)

    def body(self, steps: Sequence[Step], place: Place, chord: str, policy: str) -> Message:
        """The message of a chord's body, which gets the results when it runs."""
        join = (chord, policy, not steps[0]["immutable"])
        message, *_ = self._message(steps[0], steps[1:], place, join=join)
        return plain_message(message, private=True)

    def keep_apart(self, start: int) -> None:
        """Let the messages from a place on be read by nobody but this package."""
        self.messages[start:] = [plain_message(m, private=True) for m in self.messages[start:]]

    def keep(self, rest: Sequence[Step]) -> list[Step]:
        """Steps to come; large ones are kept in the store, and one that refers to them remains."""
        if not rest or self._shared or rest[0]["task"] == REST:
            return list(rest)
        tail = list(rest[-1:]) if rest[-1]["task"] == REST else []
        steps = rest[: len(rest) - len(tail)]
        try:
            written = [dumps(step) for step in steps]
        except EncodeError:  # another serializer than JSON may well write them
            return list(rest)
        if sum(map(len, written)) <= LARGE:
            return list(rest)
        id = new_id()
        written += [dumps(step) for step in tail]
        self.kept.append(Kept(id, tuple(written), clock.time() + KEPT_FOR))
        return [rest_of(id, 0, len(written))]

    def _message(
        self,
        step: Step,
        rest: Sequence[Step],
        place: Place,
        *,
        join: tuple[str, str, bool] | None = None,
    ) -> tuple[Message, ...]:
        app, name, options = self._app, step["task"], step["options"]
        given: dict[str, Any] = {k: value for k, value in options.items() if k not in OURS}
        own = options.get("headers")
        headers = dict(own) if own else {}
        if join is not None:
            headers[JOIN] = join
        if headers:
            given["headers"] = headers
        if name in {"celery.map", "celery.starmap"}:
            given.setdefault("route_name", step["kwargs"]["task"]["task"])
        if self._priority is not None:
            given.setdefault("priority", self._priority)
        ends = not rest
        embed_chord = options.get("chord") or (place.body if ends else None)
        steps = list(rest)
        if steps and place.body is not None and steps[-1]["task"] != REST:
            last = {**steps[-1], "options": {**steps[-1]["options"]}}
            last["options"] |= {
                "chord": place.body, "group_id": place.group, "group_index": place.index,
            }  # fmt: skip
            steps[-1] = last
        standing = Standing(
            options.get("root_id") or place.root,
            options.get("parent_id") or place.parent,
            options.get("group_id") or (place.group if ends else None),
            _first_given(options.get("group_index"), place.index if ends else None),
            place.chord,
        )
        if steps:
            given["chain"] = self.keep(steps)[::-1]
        if embed_chord is not None:
            given["chord"] = embed_chord
        task = app.tasks.get(name)
        args, kwargs = step["args"], step["kwargs"]
        final = route(app, name, args, kwargs, task, given)
        message = build_message(
            app.conf, name, args, kwargs, task, by_name=not self._checked or join is not None,
            standing=standing, **final,
        )  # fmt: skip
        from umbel.app.sending.parcel import all_of

        return all_of(message)


NOTHING: Final = Workflow()


def plain_message(message: Message, *, private: bool = False) -> Message:
    """A message without what only its sender needs."""
    return Message(
        message.tag, message.id, message.queue, message.payload, message.priority, message.due,
        private,
    )  # fmt: skip


def _first_given(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _first_id(member: Step) -> str:
    """The id of the task with which a member begins."""
    kind = member["subtask_type"]
    if kind == "chain":
        return _first_id(member["kwargs"]["tasks"][0])
    if kind == "chord":
        return _first_id(member["kwargs"]["header"][0])
    return cast("str", member["options"]["task_id"])


def _last_id(member: Step) -> str:
    """The id of the task with which a member ends."""
    kind = member["subtask_type"]
    if kind == "chain":
        return _last_id(member["kwargs"]["tasks"][-1])
    if kind == "chord":
        return _last_id(member["kwargs"]["body"])
    return cast("str", member["options"]["task_id"])


def outline(
    app: App,
    shelf: Shelf,
    sig: Signature[Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[Outline, Any]:
    """The messages of a workflow, and its result."""
    kwargs = dict(kwargs or {})
    copied = _copy(sig, kwargs, options)
    frozen: Any = copied
    id = options.get("task_id")
    result = frozen.freeze(*([id] if id else []))
    member = copied.options.pop(CHORD, None)
    steps = flatten(copied)
    place = Place(options.get("root_id"), options.get("parent_id"))
    request = current.get()
    if request is not None and not request.called_directly:
        place = place.moved(
            root=place.root or request.root_id or request.id, parent=place.parent or request.id
        )
    made = Outline(app, shelf, checked=True, priority=inherited_priority(app))
    if member is not None:
        # Added to a running chord (`Task.add_to_chord`).
        chord, index, key = member
        place = place.moved(chord=(chord, index, key), group=chord, index=index)
        if key:
            made.grown.append((chord, 1))
        if steps[-1]["subtask_type"] == "group":
            steps = join_steps([*steps, accumulate()])
    if steps and not is_empty(steps[0]):
        made.start(steps, args or (), kwargs, place)
    return made, _single(result)


def _copy(
    sig: Signature[Any], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> Signature[Any]:
    """A copy of a workflow with a call's options, and with the body that a chord is called with."""
    if sig.subtask_type == "group" and (options.get("link") or options.get("link_error")):
        raise TypeError(
            "A group has no links: link to its tasks, or let a task follow it, which makes it a "
            "chord. Nothing was queued."
        )
    copied = sig.clone()
    if sig.subtask_type == "chord":
        body = kwargs.pop("body", None)
        if body is not None:
            copied.kwargs["body"] = maybe_signature(body, copied.app, clone=True)
        if copied.kwargs["body"] is None:
            raise TypeError("A chord needs a body: chord(header)(body). Nothing was queued.")
    _set_options(copied, {key: value for key, value in options.items() if value is not None})
    return copied


def _single(result: Any) -> Any:
    """The result of a group that consists of one group."""
    from umbel.result import GroupResult

    if isinstance(result, GroupResult):
        members: list[Any] = result.results
        if len(members) == 1 and isinstance(members[0], GroupResult):
            return members[0]
    return result


def _set_options(sig: Signature[Any], given: Mapping[str, Any]) -> None:
    """Put a call's options into a workflow's own."""
    lasting = {"group_id", "stamped_headers", *(sig.options.get("stamped_headers") or ())}
    for key, value in given.items():
        if key in {"task_id", "root_id", "parent_id"} | NOT_OF_TASKS:
            continue
        if key in {"link", "link_error"} and sig.subtask_type is not None:
            sig.options[key] = [*listed(sig.options.get(key)), *listed(value)]
        elif key not in lasting or key not in sig.options:
            sig.options[key] = value


NOT_OF_TASKS: Final = frozenset({
    "add_to_parent", "retry", "retry_policy", "timeout", "confirm_timeout", "result_cls",
    "producer", "connection",
})  # fmt: skip
"""Options that tell how to publish, not what."""


def inherited_priority(app: App) -> int | None:
    """The priority that a running task gives to what it sends."""
    request = current.get()
    if request is None or not app.conf.task_inherit_parent_priority:
        return None
    info = request.delivery_info or {}
    return cast("int | None", info.get("priority"))


def send(
    app: App,
    sig: Signature[Any],
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Any:
    """`Signature.apply_async`."""
    made, result = outline(app, shelf_of(app), sig, args, kwargs, options)
    publish(app, made, options)
    return sent(result, options)


def publish(app: App, made: Outline, options: Mapping[str, Any]) -> None:
    """Store a workflow's first messages, and what the store has to know of it, in one step."""
    from umbel.app.sending.batch import publish_whole
    from umbel.app.sending.parcel import Parcel, announce

    workflow = made.workflow
    if not made.messages and workflow is None:
        return
    publish_whole(app, made.messages, workflow, options)
    for message in made.messages:
        if isinstance(message, Parcel):
            announce(message)


def sent(result: AsyncResult[Any], options: Mapping[str, Any]) -> AsyncResult[Any]:
    """Count a workflow among the running task's children."""
    if options.get("add_to_parent", True) and current.get() is not None:
        from umbel.app.request import add_child

        add_child(result)
    return result
