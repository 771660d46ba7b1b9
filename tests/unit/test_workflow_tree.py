"""`umbel result ID --tree`: a workflow as it stands, put together from what the store has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from umbel import App, chain, chord, group
from umbel.cli import tree as trees
from umbel.exceptions import Reject
from umbel.testing.stepper import Stepper

CLOSED = "ConnectionError: web:13 is closed"
CLOSED_AS_SHOWN = "ConnectionError('web:13 is closed')"


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    url = {"memory": "memory://tree", "sqlite": f"sqlite:///{tmp_path}/queue.db"}[request.param]
    app = App("shop", broker=url, backend="broker", set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int], more: int = 0) -> int:
        return sum(numbers) + more

    @app.task(name="fail")
    def fail(*_: Any) -> None:
        raise ConnectionError("web:13 is closed")

    @app.task(name="reject")
    def reject(*_: Any) -> None:
        raise Reject("not mine", requeue=False)

    @app.task(name="spawn")
    def spawn() -> None:
        add.delay(1, 2)
        fail.apply_async(countdown=3600)

    yield app
    app.close()


@pytest.fixture
def work(app: App) -> Iterator[Callable[..., int]]:
    """Runs as many tasks as are asked for, or all that are due."""
    with Stepper(app) as stepper:

        def work(most: int = 1000) -> int:
            for done in range(most):
                if stepper.work_one() is None:
                    return done
            return most

        yield work


def tree_of(app: App, id: str) -> trees.Tree:
    target: Any = SimpleNamespace(app=app, store=app.engine)
    return trees.gather(target, id)


def outline(tree: trees.Tree, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines, without ids."""
    capsys.readouterr()
    trees.show(tree)
    text = capsys.readouterr().out
    for id in [*tree.steps, *tree.groups]:
        text = text.replace(f" {id}", "")
    return text.splitlines()


def sig(app: App, name: str, *args: Any) -> Any:
    return app.signature(name, args=args)


def test_a_chain_before_while_and_after(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = chain(sig(app, "add", 1, 1), sig(app, "add", 2), sig(app, "add", 3))
    result: Any = steps.apply_async()
    first = result.parent.parent.id
    assert outline(tree_of(app, first), capsys) == [
        "· add  WAITS  in the queue celery  ← this one",
        "· add  TO COME",
        "· add  TO COME",
    ]
    work(1)
    expected = ["✓ add  SUCCESS", "· add  WAITS  in the queue celery", "· add  TO COME"]
    for asked, place in ((first, 0), (result.parent.id, 1), (result.id, 2)):
        lines = outline(tree_of(app, asked), capsys)
        assert lines[place].endswith("  ← this one")
        assert [line.removesuffix("  ← this one") for line in lines] == expected
    work()
    assert outline(tree_of(app, result.id), capsys) == [
        "✓ add  SUCCESS", "✓ add  SUCCESS", "✓ add  SUCCESS  ← this one",
    ]  # fmt: skip


def test_a_chain_that_has_failed(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = chain(sig(app, "add", 1, 1), sig(app, "fail"), sig(app, "add", 3))
    result: Any = steps.apply_async()
    work()
    assert outline(tree_of(app, result.id), capsys) == [
        "✓ add  SUCCESS",
        "✗ fail  FAILURE  ConnectionError: web:13 is closed",
        f"✗ unknown  NOT RUN  as a step before it has failed: {CLOSED}  ← this one",
    ]
    assert outline(tree_of(app, result.parent.id), capsys) == [
        "✓ add  SUCCESS", "✗ fail  FAILURE  ConnectionError: web:13 is closed  ← this one",
    ]  # fmt: skip


def test_a_chord_before_while_and_after(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    members = [sig(app, "add", 1, 1), chain(sig(app, "add", 2), sig(app, "add", 3))]
    result: Any = (chord(members, sig(app, "total")) | sig(app, "add", 9)).apply_async()
    body, header = result.parent, result.parent.parent
    work(1)
    before = [
        "⋮ group: 1 of 2 have ended",
        "   ✓ add  SUCCESS",
        "   · add  WAITS  in the queue celery",
        "   · add  TO COME",
        "· total  TO COME  waits for 1 of 2",
        "· add  TO COME",
    ]
    for asked in (result.id, body.id, header.id, header[0].id, header[1].id):
        lines = outline(tree_of(app, asked), capsys)
        assert [line.removesuffix("  ← this one") for line in lines] == before
    work()
    after = [
        "⋮ group: 2 of 2 have ended", "   ✓ add  SUCCESS", "   ✓ add  SUCCESS",
        "   ✓ add  SUCCESS", "✓ total  SUCCESS", "✓ add  SUCCESS",
    ]  # fmt: skip
    for asked in (result.id, body.id, header.id, header[0].id):
        lines = outline(tree_of(app, asked), capsys)
        assert [line.removesuffix("  ← this one") for line in lines] == after


def test_a_large_chord_shows_what_has_failed(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    members = [sig(app, "add", n) for n in range(40)] + [sig(app, "fail")]
    result: Any = chord(members, sig(app, "total")).apply_async()
    work()
    assert outline(tree_of(app, result.id), capsys) == [
        "⋮ group: 41 of 41 have ended",
        "   ✗ fail  FAILURE  ConnectionError: web:13 is closed",
        "   … and 40 more: 40 SUCCESS",
        f"✗ total  FAILURE  ChordError: Dependency raised {CLOSED_AS_SHOWN}  ← this one",
    ]
    drawn = trees.mermaid(tree_of(app, result.id)).splitlines()
    assert drawn[0] == "flowchart TD"
    assert '    n0{{"group<br/>41 of 41 have ended"}}' in drawn
    assert any(line.endswith('["and 40 more: 40 SUCCESS"]') for line in drawn)
    assert sum(":::failed" in line for line in drawn) == 2
    assert len(drawn) < 14


def test_a_large_chord_of_chains_shows_what_waits(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    members = [chain(sig(app, "add", n, 1), sig(app, "add", 2)) for n in range(30)]
    result: Any = chord(members, sig(app, "total")).apply_async()
    work(30 + 28)
    lines = outline(tree_of(app, result.id), capsys)
    waits = ["   ✓ add  SUCCESS", "   · add  WAITS  in the queue celery"]
    assert lines == [
        "⋮ group: 28 of 30 have ended",
        *waits,
        *waits,
        "   … and 28 more: 28 SUCCESS",
        "· total  TO COME  waits for 2 of 30  ← this one",
    ]


def test_a_chain_of_chords_to_come(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Large, so that its rest is kept in the store."""
    steps = []
    for _ in range(6):
        steps += [group(sig(app, "add", "x" * 200) for _ in range(5)), sig(app, "total")]
    result: Any = chain(sig(app, "add", 1, 1), *steps).apply_async()
    last = result.id
    while result.parent is not None:
        result = result.parent
    for asked in (result.id, last):
        lines = outline(tree_of(app, asked), capsys)
        assert [line.removesuffix("  ← this one") for line in lines] == [
            "· add  WAITS  in the queue celery",
            *["⋮ group: 0 of 5 have ended", "· total  TO COME"] * 6,
        ]


def test_what_a_task_has_sent_and_what_was_buried(
    app: App, work: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    spawned = sig(app, "spawn").apply_async()
    work()
    first, *rest = outline(tree_of(app, spawned.id), capsys)
    assert first == "✓ spawn  SUCCESS  ← this one"
    assert rest[0] == "   ✓ add  SUCCESS"
    assert rest[1].startswith("   · fail  WAITS  due in 3")
    rejected = chord([sig(app, "reject"), sig(app, "add", 1)], sig(app, "total")).apply_async()
    work()
    lines = outline(tree_of(app, rejected.id), capsys)
    assert any("reject" in line and "(dead letter 1)" in line for line in lines)


def test_an_id_of_which_nothing_is_known(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert outline(tree_of(app, "nobody"), capsys) == [
        "There is nothing of nobody in the store: never sent, or forgotten."
    ]
