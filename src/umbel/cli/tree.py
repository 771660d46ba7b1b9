"""A workflow as a tree: which of its steps has ended, waits or has failed, and why.

It is put together from what the store has anyway: the history, the messages that wait, and the
chords that are being joined. Nothing is fetched of results but that of the task that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from umbel import clock, states

if TYPE_CHECKING:
    from umbel.cli.invocation import Target
    from umbel.message.task import Headers

MOST: Final = 200_000
"""Ended attempts, and messages, that are looked through, the newest; more are not shown."""
SHOWN: Final = 20
"""Tasks of one group that are shown; of a larger one first those that have not succeeded."""
WAITS: Final = "WAITS"
RUNS: Final = "RUNS"
TO_COME: Final = "TO COME"
NOT_RUN: Final = "NOT RUN"
MARKS: Final = {states.SUCCESS: "✓", WAITS: "·", TO_COME: "·", RUNS: "▶", states.IGNORED: "✓"}


@dataclass
class Step:
    """A task of a workflow."""

    id: str
    task: str | None
    state: str
    """One of `umbel.states`, or how far it is."""
    why: str | None = None
    """Of one that has failed: the error; of one that has not ended: where it is."""
    root: str | None = None
    parent: str | None = None
    group: str | None = None
    joins: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state not in {WAITS, RUNS, TO_COME, states.RETRY}

    @property
    def bad(self) -> bool:
        """Whether it has failed."""
        return self.over and self.state not in {states.SUCCESS, states.IGNORED}


@dataclass
class Fan:
    """Tasks side by side."""

    id: str
    size: int
    ended: int
    parent: str | None = None
    """The task that they come after."""


@dataclass
class Tree:
    """All that the store knows of one workflow."""

    id: str
    """Of the task or group that was asked for."""
    steps: dict[str, Step] = field(default_factory=dict)
    groups: dict[str, Fan] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "id": self.id,
            "steps": [asdict(step) for step in self.steps.values()],
            "groups": [asdict(group) for group in self.groups.values()],
        }

    # ------------------------------------------------------------------ its order

    def members(self, group: str) -> list[Step]:
        """The tasks with which the members of a group begin."""
        return [
            step
            for step in self.steps.values()
            if step.group == group
            and not (step.parent in self.steps and self.steps[step.parent].group == group)
        ]

    def telling(self, members: Iterable[Step]) -> dict[str, Step]:
        """For each member of a group the step that tells how far it is: one that failed, or waits.

        By the id of the member's first step.
        """
        next_of = {
            step.parent: step
            for step in self.steps.values()
            if step.group is not None and step.parent is not None
        }
        found: dict[str, Step] = {}
        for first in members:
            step = first
            while (
                step.state in {states.SUCCESS, states.IGNORED}
                and (after := next_of.get(step.id)) is not None
                and after.group == first.group
            ):
                step = after
            found[first.id] = step
        return found

    def tops(self) -> list[Step | Fan]:
        """What it begins with."""
        first: list[Step | Fan] = [one for one in self.groups.values() if one.parent is None]
        return first + [
            step
            for step in self.steps.values()
            if step.parent not in self.steps
            and step.group not in self.groups
            and step.joins not in self.groups
        ]

    def after(self, one: Step | Fan) -> list[Step | Fan]:
        """What comes after a task, or after all tasks of a group."""
        if isinstance(one, Fan):
            return [step for step in self.steps.values() if step.joins == one.id]
        found: list[Step | Fan] = [fan for fan in self.groups.values() if fan.parent == one.id]
        return found + [
            step
            for step in self.steps.values()
            if step.parent == one.id
            and step.joins not in self.groups
            and (step.group not in self.groups or step.group == one.group)
        ]


# ------------------------------------------------------------------------------------- gathering


def gather(target: Target, id: str) -> Tree:
    """The workflow that a task, or a group, belongs to."""
    store = target.store
    known: dict[str, Step] = {}
    for entry in reversed(store.state.history(linked=True, limit=MOST)):
        known[entry.id] = _ended(entry)
    to_come: dict[str, list[Any]] = {}
    chords = {one.id: one for one in store.results.chords()}
    if store.broker.browsable:
        for waiting in store.broker.browse(limit=MOST):
            _note_message(target, known, to_come, waiting.payload, *_place(waiting))
    for chord in chords.values():
        if chord.body is not None and chord.body.id not in known:
            why = f"waits for {chord.size - chord.ended} of {chord.size}"
            _note_message(target, known, to_come, chord.body.payload, TO_COME, why)
    tree = Tree(id)
    start = id if id in known else _carrier(target, id, to_come) or id
    for found in _related(known, start, lambda asked: _alone(target, asked)):
        tree.steps[found.id] = found
        for group in (found.group, found.joins):
            if group is not None:
                tree.groups.setdefault(group, Fan(group, 0, 0))
    _add_what_comes(target, tree, to_come)
    _count(tree, chords)
    _note_dead_letters(target, tree)
    return tree


def _carrier(target: Target, id: str, to_come: Mapping[str, Sequence[Any]]) -> str | None:
    """The task whose message carries a step that is to come."""
    from umbel.app.execution.following import all_steps
    from umbel.canvas.plan import plain_steps

    for owner, chain in to_come.items():
        steps, _ = all_steps(target.app, target.store.results, chain)
        if any(step["options"].get("task_id") == id for step in (*steps, *plain_steps(steps))):
            return owner
    return None


def _note_dead_letters(target: Target, tree: Tree) -> None:
    letters = {one.id: one for one in target.store.state.dead_letters(limit=MOST)}
    for step in tree.steps.values():
        letter = letters.get(step.id)
        if letter is not None and step.over:
            step.why = f"{step.why or letter.detail} (dead letter {letter.number})"


def _ended(entry: Any) -> Step:
    return Step(
        entry.id, entry.task, entry.state, (entry.error or "").partition("\n")[0] or None,
        entry.root, entry.parent, entry.group, entry.joins,
    )  # fmt: skip


def _place(waiting: Any) -> tuple[str, str]:
    if waiting.worker is not None:
        return RUNS, f"claimed from the queue {waiting.queue}"
    if waiting.due is not None and waiting.due > clock.time():
        return WAITS, f"due in {waiting.due - clock.time():.0f} s in the queue {waiting.queue}"
    return WAITS, f"in the queue {waiting.queue}"


def _note_message(
    target: Target,
    known: dict[str, Step],
    to_come: dict[str, list[Any]],
    payload: bytes,
    state: str,
    why: str,
) -> None:
    """Note the task of a message, and what follows it."""
    from umbel.app.execution.following import read

    headers, message = read(target.app, payload)
    if headers is None:
        return
    known[headers.id] = _from_headers(headers, state, why)
    if message is not None and message.embed.get("chain"):
        to_come[headers.id] = message.embed["chain"]


def _from_headers(headers: Headers, state: str, why: str) -> Step:
    from msgspec import UNSET

    return Step(
        headers.id, headers.task, state, why,
        None if headers.root_id == headers.id else headers.root_id, headers.parent_id,
        headers.group if headers.chord is UNSET else headers.chord[0],
        None if headers.join is UNSET else headers.join[0],
    )  # fmt: skip


def _alone(target: Target, id: str) -> Step | None:
    """A task that the history tells nothing of as part of a workflow: a first one, or the last."""
    from umbel.exceptions import DecodeError, SecurityError
    from umbel.message import result as result_message

    attempts = target.store.state.history(id=id, limit=1)
    if attempts:
        return _ended(attempts[0])
    stored = target.store.results.get([id]).get(id)
    if stored is None:
        return None
    try:
        meta = result_message.decode(stored.meta, target.app.result_format)
    except (DecodeError, SecurityError) as error:
        return Step(id, None, stored.status, f"its result cannot be read: {error}")
    if stored.status not in states.PROPAGATE_STATES:
        return Step(id, meta.name, stored.status, None, None, meta.parent_id, meta.group_id)
    failure = result_message.restore_exception(meta.result, {})
    why = f"as a step before it has failed: {type(failure).__qualname__}: {failure}"
    return Step(id, meta.name, NOT_RUN, why, None, meta.parent_id, meta.group_id)


def _related(
    known: Mapping[str, Step], id: str, ask: Callable[[str], Step | None]
) -> Iterator[Step]:
    """The tasks that hang together with one, or with a group, in the order in which they are known.

    `ask` looks for a task that is not among the known ones.
    """
    by_tie: dict[str, list[str]] = {}
    for step in known.values():
        for tie in {step.root, step.parent, step.group, step.joins}:
            if tie is not None:
                by_tie.setdefault(tie, []).append(step.id)
    found: dict[str, Step] = {}
    looked = {id}
    waiting = [id]
    groups: set[str | None] = set()
    while waiting:
        tie = waiting.pop()
        here: Step | None = known.get(tie)
        if here is None and tie not in groups:
            here = ask(tie)
        ties: list[str | None] = list(by_tie.get(tie, ()))
        if here is not None:
            found[tie] = here
            groups |= {here.group, here.joins}
            ties += [here.root, here.parent, here.group, here.joins]
        for other in ties:
            if other is not None and other not in looked:
                looked.add(other)
                waiting.append(other)
    order = {one: place for place, one in enumerate(known)}
    yield from sorted(found.values(), key=lambda step: order.get(step.id, -1))


def _add_what_comes(target: Target, tree: Tree, to_come: Mapping[str, Sequence[Any]]) -> None:
    """Add the steps that the messages of a tree's tasks carry along."""
    from umbel.app.execution.following import all_steps

    for id in list(tree.steps):
        chain = to_come.get(id)
        if not chain:
            continue
        before: str = id
        steps, _ = all_steps(target.app, target.store.results, chain)
        for step in steps:
            before = _add_step(tree, step, before, tree.steps[id].group)


def _add_step(tree: Tree, step: Mapping[str, Any], before: str, group: str | None) -> str:
    """Add a step that is to come after a task; the id of the task with which it ends."""
    kind, inside, options = step["subtask_type"], step.get("kwargs") or {}, step["options"]
    if kind is None:
        new = Step(options["task_id"], step["task"], TO_COME, None, None, before, group)
        tree.steps.setdefault(new.id, new)
        return new.id
    members = inside["header"] if kind == "chord" else inside["tasks"]
    if kind == "chain":
        for one in members:
            before = _add_step(tree, one, before, group)
        return before
    fan = tree.groups.setdefault(options["task_id"], Fan(options["task_id"], 0, 0, before))
    fan.size = len(members)
    if kind == "group":
        return before
    body = inside["body"]
    new = Step(body["options"]["task_id"], body["task"], TO_COME, None, None, before, group, fan.id)
    tree.steps.setdefault(new.id, new)
    return new.id


def _count(tree: Tree, chords: Mapping[str, Any]) -> None:
    members: dict[str, list[Step]] = {}
    for step in tree.steps.values():
        if step.group is not None:
            members.setdefault(step.group, []).append(step)
    for group in tree.groups.values():
        own = members.get(group.id, [])
        ids = {step.id for step in own}
        firsts = [step for step in own if step.parent not in ids]
        parents = {step.parent for step in firsts} & tree.steps.keys()
        if group.parent is None and len(parents) == 1:
            (group.parent,) = parents
        if group.id in chords:
            group.size, group.ended = chords[group.id].size, chords[group.id].ended
        elif own:
            group.size = max(group.size, len(firsts))
            before = {step.parent for step in own}
            group.ended = sum(step.over for step in own if step.id not in before or step.bad)


# --------------------------------------------------------------------------------------- showing


def show(tree: Tree) -> None:
    """Print a tree for people."""
    tops = tree.tops()
    if not tops:
        click.echo(f"There is nothing of {tree.id} in the store: never sent, or forgotten.")
    for top in tops:
        for line in _lines(tree, top, ""):
            click.echo(line)


def _lines(tree: Tree, one: Step | Fan, indent: str) -> Iterator[str]:
    """A task or a group and what comes after it; one thing after another is not indented."""
    yield indent + _describe(tree, one)
    inner = indent + "   "
    if isinstance(one, Fan):
        members = tree.members(one.id)
        shown = _chosen(tree, members)
        for member in shown:
            yield from _lines(tree, member, inner)
        if len(shown) < len(members):
            yield f"{inner}… {_sum_up(tree, members, shown)}"
    after = tree.after(one)
    for other in after:
        yield from _lines(tree, other, indent if len(after) == 1 else inner)


def _chosen(tree: Tree, members: Sequence[Step]) -> list[Step]:
    if len(members) <= SHOWN:
        return list(members)
    telling = tree.telling(members)
    interesting = [step for step in members if telling[step.id].state != states.SUCCESS]
    interesting.sort(key=lambda step: not telling[step.id].bad)
    return interesting[:SHOWN]


def _sum_up(tree: Tree, members: Sequence[Step], shown: Sequence[Step]) -> str:
    """How many of which state are left out."""
    there = {step.id for step in shown}
    telling = tree.telling(members)
    counts: dict[str, int] = {}
    for step in members:
        if step.id not in there:
            state = telling[step.id].state
            counts[state] = counts.get(state, 0) + 1
    listed = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"and {sum(counts.values())} more: {listed}"


def _describe(tree: Tree, one: Step | Fan) -> str:
    if isinstance(one, Fan):
        return f"⋮ group {one.id}: {_progress(one)}"
    mark = "✗" if one.bad else MARKS.get(one.state, "·")
    asked = "  ← this one" if one.id == tree.id else ""
    why = f"  {one.why}" if one.why else ""
    return f"{mark} {one.task or 'unknown'} {one.id}  {one.state}{why}{asked}"


def _progress(group: Fan) -> str:
    return f"{group.ended} of {group.size} have ended"


# --------------------------------------------------------------------------------------- mermaid


def mermaid(tree: Tree) -> str:
    """A tree as a flowchart of Mermaid."""
    lines = ["flowchart TD"]
    names: dict[str, str] = {}

    def name(id: str) -> str:
        return names.setdefault(id, f"n{len(names)}")

    drawn = {step.id: step for step in tree.steps.values() if step.group not in tree.groups}
    for group in tree.groups.values():
        lines.append(f'    {name(group.id)}{{{{"group<br/>{_progress(group)}"}}}}')
        members = [step for step in tree.steps.values() if step.group == group.id]
        firsts = tree.members(group.id)
        chosen = {step.id for step in _chosen(tree, firsts)}
        left_out = {step.id for step in firsts} - chosen
        drawn |= {s.id: s for s in members if s.id not in left_out and s.parent not in left_out}
        if left_out:
            more = name(f"{group.id} more")
            text = _quote(_sum_up(tree, firsts, [s for s in firsts if s.id in chosen]))
            lines += [f'    {more}["{text}"]', f"    {name(group.id)} --> {more}"]
    for step in drawn.values():
        text = "<br/>".join(_quote(t) for t in (step.task, step.state, step.why) if t)
        lines.append(f'    {name(step.id)}["{text}"]{":::failed" if step.bad else ""}')
    lines += [
        f"    {name(before)} --> {name(after)}" for before, after in _edges(tree, drawn.values())
    ]
    if any(step.bad for step in drawn.values()):
        lines.append("    classDef failed stroke:#c00,stroke-width:3px")
    return "\n".join(lines)


def _edges(tree: Tree, drawn: Iterable[Step]) -> Iterator[tuple[str, str]]:
    there = {step.id: step for step in drawn}
    for group in tree.groups.values():
        if group.parent in there:
            yield group.parent, group.id
    for step in there.values():
        parent = there.get(step.parent or "")
        if step.joins in tree.groups:
            yield str(step.joins), step.id
        elif step.group in tree.groups and (parent is None or parent.group != step.group):
            yield str(step.group), step.id
        elif parent is not None:
            yield parent.id, step.id


def _quote(text: str) -> str:
    """Text inside a node."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
