"""What a workflow has to come to, worked out from its description alone.

A description is a tree of `Task`, `Chain`, `Group` and `Chord`. A task returns text that says what
it was called with, so that of the last one tells the whole flow. Nothing of the package is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple


class Task(NamedTuple):
    name: str
    immutable: bool = False
    fails: bool = False
    errback: bool = False


class Chain(NamedTuple):
    steps: tuple[Node, ...]


class Group(NamedTuple):
    members: tuple[Node, ...]


class Chord(NamedTuple):
    header: tuple[Node, ...]
    body: Node
    collect: bool = False


Node = Task | Chain | Group | Chord


class Join(NamedTuple):
    """A step that is the list of some parts' results: a chord is one, and then its body."""

    members: tuple[Steps, ...]
    collect: bool = False


Steps = tuple["Task | Join | Side", ...]


class Side(NamedTuple):
    """Parts side by side, as the last step: nobody waits for all of them."""

    members: tuple[Steps, ...]


class Failed(NamedTuple):
    """An error: that of a task, or ChordError because of one."""

    kind: str
    task: str


NOTHING: Final = object()  # no result comes before the first step


@dataclass
class Expected:
    """What to find once nothing is left to do."""

    states: dict[str, str | Failed] = field(default_factory=dict)
    """Of each task that ended: its result, or the error; the others are pending."""
    ran: set[str] = field(default_factory=set)  # tasks whose function was called, once each
    after: dict[str, set[str]] = field(default_factory=dict)  # those called before a task
    parents: dict[str, set[str] | None] = field(default_factory=dict)
    """Who may have sent a task, nobody if empty; None: somebody without a name."""
    errbacks: list[str] = field(default_factory=list)  # tasks whose errback is called, once each


def show(value: Any) -> str:
    """A result as the next task's text shows it."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return f"!{value.kind}:{value.task}" if isinstance(value, Failed) else str(value)


def tasks_of(node: Node) -> list[Task]:
    """All tasks of a description, in order."""
    if isinstance(node, Task):
        return [node]
    parts = (*node.header, node.body) if isinstance(node, Chord) else node[0]
    return [task for part in parts for task in tasks_of(part)]


def steps_of(node: Node) -> Steps:
    """A description as steps: a group that is followed by anything is joined."""
    if isinstance(node, Task):
        return (node,)
    if isinstance(node, Group):
        return (Side(flat(node.members)),)
    if isinstance(node, Chord):
        return _joined((Join(flat(node.header), node.collect), *steps_of(node.body)))
    steps: Steps = ()
    for step in node.steps:
        found = steps_of(step)
        while len(found) == 1 and isinstance(found[0], Side) and len(found[0].members) == 1:
            (found,) = found[0].members  # a group of one, as a step, is that one
        steps += found
    return _joined(steps)


def _joined(steps: Steps) -> Steps:
    *before, last = steps
    return (*(Join(s.members) if isinstance(s, Side) else s for s in before), last)


def flat(members: tuple[Node, ...]) -> tuple[Steps, ...]:
    """The parts of a group; those of groups in it are its own."""
    found: list[Steps] = []
    for member in members:
        found += flat(member.members) if isinstance(member, Group) else [steps_of(member)]
    return tuple(found)


def expect(node: Node) -> tuple[Any, Expected]:
    """What becomes of a workflow: its value (text, error, or a list of such), and all the rest."""
    found = Expected()
    return _run(steps_of(node), NOTHING, set(), set(), found), found


def _run(
    steps: Steps, value: Any, before: set[str], sent_by: set[str] | None, e: Expected
) -> Any:  # fmt: skip
    """Run steps with the result before them, after `before` has ended; the last one's result."""
    for place, step in enumerate(steps):
        if isinstance(step, Task):
            value = _call(step, value, before, sent_by, e)
        else:
            value = [_run(member, value, before, sent_by, e) for member in step.members]
        if isinstance(step, Join):
            errors = list(map(_error, value))
            value = [error or one for error, one in zip(errors, value, strict=True)]
            bad = next((error for error in errors if error), None)
            if bad and not step.collect:
                value = Failed("ChordError", bad.task)
        if isinstance(value, Failed):
            rest = [skipped for skipped in steps[place + 1 :] if not isinstance(skipped, Join)]
            for number, skipped in enumerate(rest):  # of a chord, the first of them is its body
                _fail(skipped, value, e, call=isinstance(step, Join) and number == 0)
            return value
        before = before | called(step)
        following = steps[place + 1] if place + 1 < len(steps) else None
        sent_by = _senders(step) if isinstance(following, Task) or isinstance(step, Task) else None
    return value


def _call(task: Task, value: Any, before: set[str], sent_by: set[str] | None, e: Expected) -> Any:
    e.ran.add(task.name)
    e.after[task.name] = before & e.ran
    e.parents[task.name] = sent_by
    if task.fails:
        return _fail(task, Failed("Broken", task.name), e, call=True)
    blind = task.immutable or value is NOTHING
    e.states[task.name] = f"{task.name}({'' if blind else show(value)})"
    return e.states[task.name]


def _error(value: Any) -> Failed | None:
    """The error of a member; one that ends side by side has failed as a chord has."""
    if isinstance(value, list):
        inner = next((error for one in value if (error := _error(one))), None)
        return inner and Failed("ChordError", inner.task)
    return value if isinstance(value, Failed) else None


def _fail(step: Task | Side, error: Failed, e: Expected, *, call: bool) -> Failed:
    """The tasks that a step ends with get an error; `call`: so their errbacks are called."""
    for task in _ends((step,)):
        e.states[task.name] = error
        if call and task.errback:
            e.errbacks.append(task.name)
    return error


def _ends(steps: Steps) -> list[Task]:
    last = steps[-1]
    several = () if isinstance(last, Task) else last.members
    return [last] if isinstance(last, Task) else [t for member in several for t in _ends(member)]


def called(step: Task | Join | Side) -> set[str]:
    """All tasks of a step."""
    if isinstance(step, Task):
        return {step.name}
    return {name for member in step.members for inner in member for name in called(inner)}


def _senders(step: Task | Join | Side) -> set[str] | None:
    """Who may send what follows a step."""
    if isinstance(step, Task):
        return {step.name}
    if all(isinstance(member[-1], Task) for member in step.members):
        return {task.name for member in step.members for task in _ends(member)}
    return None
