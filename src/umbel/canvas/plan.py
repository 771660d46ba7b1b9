"""How a workflow runs, worked out without I/O: as a flat list of steps.

A step is a plain signature, a group (only as the last step) or a chord whose body is a plain
signature. The tasks of a group or header are plain signatures or chains of such steps. All have
their ids. What comes out is a workflow that Celery's workers read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from umbel.canvas.signatures import listed
from umbel.canvas.workflows import is_empty
from umbel.message.ids import new_id

Step = dict[str, Any]
ACCUMULATE: Final = "celery.accumulate"
"""The task that returns its arguments: the body of a chord that has none that is a task."""
CHAINED: Final = ("link", "link_error", "task_id", "group_id", "group_index", "chord", "chain",
                  "root_id", "parent_id", "on_error")  # fmt: skip
"""Options of a chain that are not its first step's."""
POLICIES: Final = ("fail", "collect")
"""What becomes of a chord of which a task has failed: its body fails, or gets the exception."""
LATE: Final = ("countdown", "expires")
"""Options that count from when a task is sent, which of a chord's body nobody knows before."""


def flatten(sig: Mapping[str, Any]) -> list[Step]:
    """The steps of a workflow whose ids are fixed (`Signature.freeze`)."""
    kind = sig.get("subtask_type")
    if kind == "chain":
        return _flatten_chain(sig)
    if kind == "group":
        return _flatten_group(sig)
    if kind == "chord":
        return _flatten_chord(sig)
    return [plain(sig)]


def plain(sig: Mapping[str, Any]) -> Step:
    """A signature as a dict of its own with all of a signature's keys."""
    return {
        "task": sig["task"],
        "args": list(sig.get("args") or ()),
        "kwargs": dict(sig.get("kwargs") or {}),
        "options": dict(sig.get("options") or {}),
        "subtask_type": sig.get("subtask_type"),
        "immutable": bool(sig.get("immutable")),
    }


def join_steps(steps: Sequence[Step]) -> list[Step]:
    """Steps one after the other: a group that is followed by anything becomes a chord."""
    joined: list[Step] = []
    for step in steps:
        if joined and joined[-1]["subtask_type"] == "group":
            header = joined.pop()
            if step["subtask_type"] is None and not _is_late(step) and not _is_rest(step):
                joined.append(_chord_of(header, step))
                continue
            joined.append(_chord_of(header, accumulate()))
        joined.append(step)
    return joined


def accumulate(task_id: str | None = None) -> Step:
    """The step that passes a list on."""
    return {
        "task": ACCUMULATE,
        "args": [],
        "kwargs": {"index": 0},
        "options": {"task_id": task_id or new_id()},
        "subtask_type": None,
        "immutable": False,
    }


def rest_of(id: str, position: int, size: int) -> Step:
    """A step that stands for steps that are kept in the store, from a position on."""
    return {"task": REST, "args": [id, position, size], "subtask_type": None}


REST: Final = "umbel.rest"


def _is_rest(step: Step) -> bool:
    return bool(step["task"] == REST)


def _is_late(step: Step) -> bool:
    return any(step["options"].get(option) is not None for option in LATE)


def _chord_of(header: Step, body: Step) -> Step:
    options = {"task_id": header["options"]["task_id"]}
    policy = header["options"].get("on_error")
    if policy is not None:
        if policy not in POLICIES:
            raise ValueError(f"on_error is one of {', '.join(POLICIES)}; got {policy!r}.")
        options["on_error"] = policy
    return {
        "task": "celery.chord",
        "args": [],
        "kwargs": {
            "kwargs": {}, "header": _closed(header["kwargs"]["tasks"]), "body": body
        },
        "options": options,
        "subtask_type": "chord",
        "immutable": False,
    }  # fmt: skip


def _closed(members: Iterable[Step]) -> list[Step]:
    """A header's members, each ending in one task, which the chord counts."""
    return [_ending_in_a_task(member) for member in members]


def _ending_in_a_task(member: Step) -> Step:
    if member["subtask_type"] != "chain":
        return member
    *before, last = member["kwargs"]["tasks"]
    if last["subtask_type"] != "group":
        return member
    return chain_of([*before, _chord_of(last, accumulate())])


def chain_of(steps: Sequence[Step]) -> Step:
    """Steps as one member of a group."""
    if len(steps) == 1 and steps[0]["subtask_type"] is None:
        return steps[0]
    return {
        "task": "celery.chain",
        "args": [],
        "kwargs": {"tasks": list(steps)},
        "options": {},
        "subtask_type": "chain",
        "immutable": False,
    }


def _flatten_chain(sig: Mapping[str, Any]) -> list[Step]:
    steps: list[Step] = []
    empty: list[Step] = []
    for task in sig["kwargs"]["tasks"]:
        if is_empty(task):
            empty = flatten(task) or empty
        else:
            steps += flatten(task)
    steps = join_steps(steps or empty)
    options = dict(sig.get("options") or {})
    if steps:
        for errback in listed(options.get("link_error")):
            for step in steps:
                link(step, "link_error", errback)
        for callback in listed(options.get("link")):
            link(steps[-1], "link", callback)
        own = {key: value for key, value in options.items() if key not in CHAINED}
        if own:
            for_first(steps, lambda step: step["options"].update(own))
    return steps


def _flatten_group(sig: Mapping[str, Any]) -> list[Step]:
    members: list[Step] = []
    options = dict(sig.get("options") or {})
    for task in sig["kwargs"]["tasks"]:
        if is_empty(task):
            continue
        steps = flatten(task)
        if task.get("subtask_type") == "group":
            members += steps[0]["kwargs"]["tasks"]
        else:
            members.append(chain_of(steps))
    for option in ("link", "link_error"):
        for linked in listed(options.get(option)):
            for member in members:
                link(member, option, linked)
    own = {
        key: value
        for key, value in options.items()
        if key not in CHAINED and value is not None
    }  # fmt: skip
    if own:
        for_first(members, lambda step: step["options"].update(own), side_by_side=True)
    kept = {key: options[key] for key in ("task_id", "on_error") if key in options}
    kept.setdefault("task_id", new_id())
    whole = plain({"task": "celery.group", "subtask_type": "group", "options": kept})
    whole["kwargs"] = {"tasks": members}
    return [whole]


def _flatten_chord(sig: Mapping[str, Any]) -> list[Step]:
    inside, options = sig["kwargs"], dict(sig.get("options") or {})
    header = inside["header"]
    tasks = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
    shared = {key: value for key, value in options.items() if key not in CHAINED}
    of_group = {**shared, "task_id": options.get("task_id") or new_id()}
    if "on_error" in options:
        of_group["on_error"] = options["on_error"]
    (whole,) = _flatten_group({"kwargs": {"tasks": tasks}, "options": of_group})
    body = flatten(inside["body"])
    # A delay of the chord is its header's.
    of_body = {key: value for key, value in shared.items() if key not in {"countdown", "eta"}}
    if of_body:
        for_first(body, lambda step: step["options"].update(of_body))
    for errback in listed(options.get("link_error")):
        link(body[0], "link_error", errback)
    for callback in listed(options.get("link")):
        link(body[-1], "link", callback)
    given = list(sig.get("args") or ())
    if not whole["kwargs"]["tasks"]:
        # Nobody to wait for: the body runs at once, with no results, whatever came before.
        for_first(body, _with_no_results)
        return body
    if given or inside.get("kwargs"):
        for_first(
            whole["kwargs"]["tasks"],
            lambda step: give(step, given, inside.get("kwargs") or {}),
            side_by_side=True,
        )
    return join_steps([whole, *body])


def _with_no_results(step: Step) -> None:
    give(step, [[]], {})
    step["immutable"] = True


def give(step: Step, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Put a call's arguments before those of a step, unless it is immutable."""
    if not step["immutable"]:
        step["args"] = [*args, *step["args"]]
        step["kwargs"] = {**step["kwargs"], **kwargs}


def for_first(
    steps: Sequence[Step], change: Callable[[Step], object], *, side_by_side: bool = False
) -> None:
    """Change the plain signatures that such steps begin with; `side_by_side`: they all begin."""
    for step in steps if side_by_side else steps[:1]:
        kind = step["subtask_type"]
        if kind is None:
            change(step)
        elif kind == "chord":
            for_first(step["kwargs"]["header"], change, side_by_side=True)
        else:
            for_first(step["kwargs"]["tasks"], change, side_by_side=kind == "group")


def link(step: Step, option: str, linked: Any) -> None:
    """Link a signature to a step.

    Of a chord it is linked to the body, of a group to each task, of a chain to the last step, or if
    it is for errors to all.
    """
    kind = step["subtask_type"]
    if kind is None:
        links = listed(step["options"].get(option))
        if linked not in links:
            links.append(linked)
        step["options"][option] = links
    elif kind == "chord":
        link(step["kwargs"]["body"], option, linked)
    else:
        tasks = step["kwargs"]["tasks"]
        for task in tasks[-1:] if kind == "chain" and option == "link" else tasks:
            link(task, option, linked)


def plain_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """All plain signatures of such steps."""
    for step in steps:
        kind, inside = step["subtask_type"], step.get("kwargs") or {}
        if kind in {"group", "chain"}:
            yield from plain_steps(inside["tasks"])
        elif kind == "chord":
            yield from plain_steps([*inside["header"], inside["body"]])
        elif not _is_rest(step):
            yield step


def ids_of(steps: Iterable[Step]) -> list[str]:
    """The tasks that such steps would end with: each step's, a chord's body, a last group's."""
    ids: list[str] = []
    for step in steps:
        kind = step["subtask_type"]
        if kind == "group":
            ids += ids_of(step["kwargs"]["tasks"])
        elif kind == "chain":
            ids += ids_of(step["kwargs"]["tasks"][-1:])
        elif kind == "chord":
            ids += ids_of([step["kwargs"]["body"]])
        elif not _is_rest(step):
            ids.append(step["options"]["task_id"])
    return ids
