"""The reference interpreter of workflows is right: the real Celery comes to the same."""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import celery.canvas
import celery.signals
import hypothesis
import pytest
from celery.contrib.testing.worker import start_worker

import umbel.canvas
from tests.conftest import RecordProof, Rounds
from tests.property import test_workflows as ours
from tests.property.reference import Chain, Chord, Group, Node, Task, expect, tasks_of

PATIENCE = 5.0


@pytest.fixture(scope="module")
def theirs() -> Iterator[celery.Celery]:
    """An app of the real Celery, with a worker of its own in a thread."""
    app = celery.Celery(
        "confirms", broker="memory://", backend="cache+memory://", set_as_current=False
    )
    app.conf.update(
        broker_transport_options={"polling_interval": 0.001}, worker_hijack_root_logger=False
    )
    ours.define(app)
    # Its worker would set the level of the root logger for every test that follows.
    celery.signals.setup_logging.connect(leave_logging_alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with start_worker(app, pool="solo", perform_ping_check=False):
            yield app
    celery.signals.setup_logging.disconnect(leave_logging_alone)


def leave_logging_alone(**_: object) -> None:
    """Set up no logging: whoever is connected to the signal has done it."""


def is_agreed(node: Node) -> bool:
    """Whether both come to the same by intention. docs/differences.md has the others:

    a group of one that is a step or a body, of which Celery keeps the list in some compositions; a
    member of a header that ends in a group, for whose results Celery waits in its worker, and so
    for ever if they need its only slot; a group directly in a group, whose results Celery turns
    round, and a chord there whose body is one, which it does not find with every result store; a
    chain after a group that is a chord's body, of which Celery waits for the first task alone; and
    what becomes of parts that never run and are no single tasks, which Celery leaves pending.
    """
    parts: tuple[Node, ...] = ()
    if isinstance(node, Chain):
        pairs = itertools.pairwise(node.steps)
        if any(map(is_one, node.steps)) or any(itertools.starmap(is_odd, pairs)):
            return False
        parts = node.steps
    elif isinstance(node, Group):
        if has_groups(node.members):
            return False
        parts = node.members
    elif isinstance(node, Chord):
        if (
            is_one(node.body)
            or has_groups(node.header)
            or any(map(ends_apart, node.header))
            or (fails(node) and len(tasks_of(node.body)) > 1)
        ):
            return False
        parts = (*node.header, node.body)
    if isinstance(node, Chain):
        failing = next((n for n, step in enumerate(node.steps) if fails(step)), len(node.steps))
        if not all(map(is_simple, node.steps[failing + 1 :])):
            return False
    return all(map(is_agreed, parts))


def is_one(node: Node) -> bool:
    return isinstance(node, Group) and len(node.members) == 1


def is_odd(step: Node, following: Node) -> bool:
    if isinstance(following, Chain) and isinstance(step, (Group, Chord)):
        return True
    return isinstance(step, Group) and any(map(ends_apart, step.members))


def ends_apart(node: Node) -> bool:
    """Whether it ends in a group."""
    if isinstance(node, Chord):
        return ends_apart(node.body)
    return isinstance(node, Group) or (isinstance(node, Chain) and ends_apart(node.steps[-1]))


def is_simple(node: Node) -> bool:
    return isinstance(node, Task) or (isinstance(node, Chain) and all(map(is_simple, node.steps)))


def has_groups(members: tuple[Node, ...]) -> bool:
    return any(
        isinstance(member, Group) or (isinstance(member, Chord) and not is_simple(member.body))
        for member in members
    )


def fails(node: Node) -> bool:
    return any(task.fails for task in tasks_of(node))


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_celery_comes_to_the_same(
    theirs: celery.Celery, rounds: Rounds, record_proof: RecordProof, seed: str, tmp_path: Path
) -> None:
    count = rounds(40, 300)
    numbers = itertools.count()
    confirmed = 0
    left: list[Node] = []
    """What Celery has not brought to an end."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[hypothesis.Phase.generate],
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(node=ours.described())
    def confirm(node: Node) -> None:
        nonlocal confirmed
        hypothesis.assume(is_agreed(node) and not collects(node))
        # Of several errors Celery names any.
        hypothesis.assume(sum(task.fails for task in tasks_of(node)) < 2)
        for app in apps:
            ours.forget(app, node)
            ours.check(app, node, ours.settle(app, ours.build(node, umbel.canvas, app)))
        if check_theirs(theirs, node, f"{next(numbers)}-"):
            confirmed += 1
        else:
            left.append(node)
            hypothesis.reject()

    with contextlib.ExitStack() as stack:
        apps = [stack.enter_context(ours.opened(kind, tmp_path)) for kind in ours.STORES]
        confirm()
    assert confirmed == count
    assert len(left) <= 1 + count / 20, left
    record_proof(confirmed=confirmed, left=len(left), stores=list(ours.STORES))


def collects(node: Node) -> bool:
    if isinstance(node, Chord):
        return node.collect or any(map(collects, (*node.header, node.body)))
    if isinstance(node, Chain):
        return any(map(collects, node.steps))
    return isinstance(node, Group) and any(map(collects, node.members))


def check_theirs(app: Any, node: Node, prefix: str) -> bool:
    """Compare what becomes of it in Celery; False if not all of it comes to an end there.

    Now and then a chord of which a member is a chord that fails is left pending.
    """
    value, expected = expect(node)
    ours.runs.clear()
    ours.errbacks.clear()
    result = ours.build(node, celery.canvas, app, prefix).apply_async()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not (
        all(app.AsyncResult(prefix + name).ready() for name in expected.states)
        and len(ours.errbacks) >= len(expected.errbacks)
    ):
        time.sleep(0.002)
    if not all(app.AsyncResult(prefix + name).ready() for name in expected.states):
        return False
    found = {task.name: ours.state_of(app, prefix + task.name) for task in tasks_of(node)}
    assert found == {name: expected.states.get(name, "pending") for name in found}
    assert Counter(name for name, _ in ours.runs) == Counter(expected.ran)
    assert sorted(ours.errbacks) == sorted(prefix + name for name in expected.errbacks)
    order = {name: place for place, (name, _) in enumerate(ours.runs)}
    for name, place in order.items():
        assert all(order[before] < place for before in expected.after[name])
    if not any(task.fails for task in tasks_of(node)):
        ours.check_value(result, value)
    return True
