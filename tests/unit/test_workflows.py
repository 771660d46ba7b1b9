"""Workflows as they run: what follows what, with which results, ids and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from umbel import App, AsyncResult, GroupResult, Signature, Task, chain, chord, group, states
from umbel.app.sending.workflow import LARGE
from umbel.engines.memory import MemoryEngine
from umbel.exceptions import (
    ChordError,
    EncodeError,
    Ignore,
    ImproperlyConfigured,
    Reject,
    TaskRevokedError,
)
from umbel.result import EagerResult
from umbel.testing import Harness

app = App("flows")


told: list[Any] = []


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    told.clear()
    yield
    told.clear()


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[Any]) -> int:
    return sum(numbers)


@app.task
def echo(*args: Any) -> Any:
    told.append(args)
    return args[0] if len(args) == 1 else list(args)


@app.task
def boom(*args: Any) -> None:
    raise ValueError("boom", *args)


@app.task(bind=True)
def who(self: Task[..., Any], *args: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id, "root": request.root_id, "parent": request.parent_id,
        "group": request.group, "index": request.group_index, "args": list(args),
        "nesting": request.replaced_task_nesting, "stamps": request.stamps,
        "priority": (request.delivery_info or {}).get("priority"),
    }  # fmt: skip


@app.task
def note_id(id: str) -> None:
    told.append(("id", id))


@app.task
def note_error(request: Any, error: BaseException, traceback: str | None) -> None:
    told.append(("error", request.id, request.task, request.args, repr(error), bool(traceback)))


@app.task
def describe(results: list[Any]) -> list[str]:
    return [repr(result) for result in results]


def run(umbel: Harness, sig: Any, *args: Any, **options: Any) -> Any:
    """Send a workflow and work it off."""
    result = sig.apply_async(args, **options)
    umbel.run(propagate=False)
    return result


def store() -> MemoryEngine:
    engine = app.engine
    assert isinstance(engine, MemoryEngine)
    return engine


def clean() -> bool:
    """Whether the store holds nothing of workflows any more."""
    return not store().store.workflows and not store().store.messages


# ------------------------------------------------------------------------------------ composing


@pytest.mark.parametrize(
    ("sig", "value"),
    [
        (add.s(1, 2) | add.s(3), 6),
        (chain(add.s(1, 2), add.s(3), add.s(4)), 10),
        (chain(add.s(1, 2)), 3),
        (add.s(1, 2) | add.si(5, 5), 10),
        (add.s(1, 2) | group(add.s(1), add.s(2)), [4, 5]),
        (add.s(1, 2) | group(add.s(1), add.s(2)) | total.s(), 9),
        (group(add.s(1, 2), add.s(3, 4)), [3, 7]),
        (group(add.s(n, n) for n in range(5)), [0, 2, 4, 6, 8]),
        (group(add.s(1, 1), group(add.s(2, 2), group(add.s(3, 3)))), [2, 4, 6]),
        (group(add.s(1, 1) | add.s(10), add.s(2, 2)), [12, 4]),
        (group(add.s(1, 1), add.s(2, 2)) | total.s() | add.s(1), 7),
        (group(add.s(1, 1), add.s(2, 2)) | group(total.s(), echo.s()), [6, [2, 4]]),
        (group(add.s(1, 1), add.s(2, 2)) | group(total.s(), total.s()) | total.s(), 12),
        (chord([add.s(1, 1), add.s(2, 2)], total.s()), 6),
        (chord(add.s(1, 1), total.s()), 2),
        (chord((add.s(n, n) for n in range(10)), total.s()), 90),
        (chord([add.s(1, 1), add.s(2, 2) | group(add.s(1), add.s(2))], echo.s()), [2, [5, 6]]),
        (chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)], echo.s()), [2, 4, 6]),
        (chord([chord([add.s(1, 1)], total.s()), add.s(3, 3)], echo.s()), [2, 6]),
        (chord([add.s(1, 1) | chord([add.s(3), add.s(4)], total.s())], echo.s()), [11]),
        (chord([add.s(1, 1)], chord([total.s(), total.s()], total.s())), 4),
        (chord([add.s(1, 1)], total.s() | add.s(1) | add.s(1)), 4),
        (chord([add.s(1, 1)], group(total.s(), total.s())), [2, 2]),
        (chord([add.s(1, 1)], total.s()) | chord([add.s(1), add.s(2)], total.s()), 7),
        (add.s(1, 1) | chord([add.s(1), add.s(2)], total.s()) | add.s(3), 10),
        (chord([], total.s()), 0),
        (chord([add.s(1, 1)], add.si(5, 5)), 10),
        (chord([add.s(1, 1)], add.si(5, 5) | add.s(1)), 11),
        (group(add.s(1, 1), add.s(1, 2)) | group(add.si(5, 5), total.s()), [10, 5]),
        (chord([], total.s() | add.s(4)), 4),
        (add.s(1, 1) | chord([], total.s()) | add.s(4), 4),
        (chain(add.s(1, 1), group(), add.s(3)), 5),
        (add.s(1, 1) | group(add.s(5)), 7),
        (group(add.s(1, 1) | group(add.s(1), add.s(2))), [3, 4]),
        (group(add.s(1, 1) | group(add.s(1), add.s(2)), add.s(5, 5)), [[3, 4], 10]),
        (group(), []),
        (add.map([]), []),
        (echo.map([1, 2]), [1, 2]),
        (add.starmap([(1, 2), (3, 4)]), [3, 7]),
        (add.starmap([(1, 2), (3, 4)]) | total.s(), 10),
        (add.chunks([(n, n) for n in range(5)], 2), [[0, 2], [4, 6], [8]]),
        (chord(add.chunks([(n, n) for n in range(4)], 2).group(), echo.s()), [[0, 2], [4, 6]]),
    ],
    ids=repr,
)
def test_what_comes_out(umbel: Harness, sig: Any, value: Any) -> None:
    result = run(umbel, sig)
    assert result.get(timeout=0) == value
    assert clean()
    assert sig.apply().get() == value


def test_arguments_of_the_call_go_to_the_first_steps(umbel: Harness) -> None:
    assert run(umbel, add.s(2) | add.s(3), 1).get(timeout=0) == 6
    assert run(umbel, group(add.s(1), add.s(2)), 10).get(timeout=0) == [11, 12]
    assert run(umbel, chord([add.s(1), add.si(5, 5)], total.s()), 10).get(timeout=0) == 21
    assert run(umbel, chain(group(add.s(1), add.s(2)), total.s()), 10).get(timeout=0) == 23
    assert run(umbel, group(echo.s() | echo.s(), echo.s()), 3).get(timeout=0) == [3, 3]


def test_keywords_of_the_call(umbel: Harness) -> None:
    result = add.s(1).apply_async(kwargs={"y": 5})
    members = group(add.s(1), add.s(2)).apply_async(kwargs={"y": 5})
    umbel.run()
    assert (result.get(timeout=0), members.get(timeout=0)) == (6, [6, 7])


def test_calling_is_sending(umbel: Harness) -> None:
    results: list[Any] = [
        (add.s(1, 2) | add.s(3))(),
        group(add.s(1), add.s(2))(3),
        chord([add.s(1, 1)])(total.s()),
        add.s(1).delay(2),
        chunk_sums(),
    ]
    umbel.run()
    assert [result.get(timeout=0) for result in results] == [6, [4, 5], 2, 3, [[3], [7]]]


def chunk_sums() -> GroupResult[list[Any]]:
    return add.chunks([(1, 2), (3, 4)], 1)()


def test_a_plain_signature_called_runs_here() -> None:
    assert add.s(1)(2) == 3


def test_coroutines_send_too(umbel: Harness) -> None:
    async def main() -> None:
        first = await (add.s(1, 2) | add.s(3)).adelay()
        second = await group(add.s(1), add.s(2)).aapply_async((1,))
        await asyncio.to_thread(umbel.run)
        assert await first.aget(timeout=1) == 6
        assert await second.aget(timeout=1) == [2, 3]

    asyncio.run(main())


def test_a_tilde_sends_and_waits(umbel: Harness) -> None:
    app.conf.task_always_eager = True
    try:
        assert ~(add.s(1, 2) | add.s(3)) == 6
    finally:
        app.conf.task_always_eager = False


# ------------------------------------------------------------------------------ links and options


def test_links_get_the_result(umbel: Harness) -> None:
    sig = add.s(1, 2)
    sig.link(echo.s("first"))
    sig.link(echo.si("second"))
    result = run(umbel, sig)
    assert sorted(told, key=repr) == [("second",), (3, "first")]
    children = result.children
    assert children is not None
    assert [child.get(timeout=0) for child in children] == [[3, "first"], "second"]


def test_a_link_of_apply_async(umbel: Harness) -> None:
    add.apply_async((1, 2), link=echo.s())
    umbel.run()
    assert told == [(3,)]


def test_a_link_may_be_a_workflow(umbel: Harness) -> None:
    sig = add.s(1, 2)
    sig.link(group(add.s(1), add.s(2)) | total.s() | echo.s("end"))
    run(umbel, sig)
    assert told == [(9, "end")]


def test_a_chains_link_is_its_last_steps(umbel: Harness) -> None:
    sig = add.s(1, 2) | add.s(3)
    sig.link(echo.s())
    run(umbel, sig)
    run(umbel, add.s(1, 2) | add.s(4), link=echo.s())
    assert told == [(6,), (7,)]


def test_a_chords_link_is_its_bodys(umbel: Harness) -> None:
    sig = chord([add.s(1, 2)], total.s())
    sig.link(echo.s())
    run(umbel, sig)
    run(umbel, chord([add.s(1, 3)], total.s()), link=echo.s())
    assert told == [(3,), (4,)]


def test_a_groups_link_is_its_first_tasks_and_gets_nothing(umbel: Harness) -> None:
    sig = group(add.s(1, 2), add.s(3, 4))
    sig.link(echo.s("after"))
    run(umbel, sig)
    assert told == [("after",)]
    for option in ("link", "link_error"):
        with pytest.raises(TypeError, match="A group has no links"):
            group(add.s(1, 2)).apply_async(**{option: echo.s()})


def test_several_links_are_a_group(umbel: Harness) -> None:
    sig = who.s()
    sig.link(who.s(1))
    sig.link(who.s(2))
    result = run(umbel, sig)
    one, two = [child.get(timeout=0) for child in result.children]
    assert one["group"] == two["group"] is not None
    assert (one["index"], two["index"]) == (0, 1)
    assert one["parent"] == two["parent"] == one["root"] == result.id


def test_options_of_the_parts(umbel: Harness) -> None:
    (add.s(1, 2).set(queue="a") | add.s(1).set(queue="b", priority=7)).apply_async()
    assert [task.queue for task in umbel.queued] == ["a"]
    umbel.run(limit=1)
    (task,) = umbel.queued
    assert (task.queue, task.priority) == ("b", 7)


def test_options_of_a_chain_are_its_first_steps(umbel: Harness) -> None:
    (add.s(1, 2) | add.s(1)).apply_async(queue="a", countdown=60)
    (task,) = umbel.queued
    assert task.queue == "a"
    assert task.eta is not None
    umbel.advance(seconds=61)
    umbel.run(limit=1)
    assert [task.queue for task in umbel.queued] == ["celery"]


def test_options_of_a_group_are_those_of_each_task(umbel: Harness) -> None:
    group(add.s(1, 2), add.s(1, 1) | add.s(1)).apply_async(queue="a", priority=4)
    assert [(task.queue, task.priority) for task in umbel.queued] == [("a", 4), ("a", 4)]
    group([add.s(1, 2)], queue="b").apply_async()
    assert umbel.queued[-1].queue == "b"


def test_options_of_a_chord_are_those_of_header_and_body(umbel: Harness) -> None:
    chord([add.s(1, 2)], total.s()).apply_async(queue="a", countdown=60)
    (task,) = umbel.queued
    assert task.queue == "a"
    assert task.eta is not None
    umbel.advance(seconds=61)
    umbel.run(limit=1)
    (task,) = umbel.queued
    assert (task.queue, task.eta) == ("a", None)


def test_a_bodys_own_delay_counts_from_when_it_is_sent(umbel: Harness) -> None:
    result = chord([add.s(1, 2).set(countdown=100)], total.s().set(countdown=50)).apply_async()
    umbel.advance(seconds=101)
    umbel.run()
    (task,) = umbel.queued.of(total)
    assert task.eta is not None
    assert timedelta(seconds=45) < task.eta - umbel.now <= timedelta(seconds=50)
    umbel.advance(seconds=51)
    umbel.run()
    assert result.get(timeout=0) == 3


def test_priority_is_inherited_where_the_setting_says_so(umbel: Harness) -> None:
    sig = who.si().set(priority=6) | who.si() | who.si().set(priority=2)
    result = run(umbel, sig)
    assert result.parent.get()["priority"] == 0
    app.conf.task_inherit_parent_priority = True
    try:
        result = run(umbel, sig)
    finally:
        app.conf.task_inherit_parent_priority = False
    assert (result.parent.get()["priority"], result.get()["priority"]) == (6, 2)


def test_a_wrong_argument_is_found_when_it_is_sent(umbel: Harness) -> None:
    loose: Any = add
    for sig in (add.s(1) | add.s(1), group(loose.s(1, 1, 1)), chord([add.s()], add.s())):
        with pytest.raises(TypeError, match="Nothing was queued"):
            sig.apply_async()
    with pytest.raises(EncodeError, match="Nothing was queued"):
        group(add.s(1, 1), loose.s(object(), 1)).apply_async()
    assert umbel.queued == []


def test_a_chord_needs_a_body() -> None:
    with pytest.raises(TypeError, match="A chord needs a body"):
        chord([add.s(1, 1)])()


# ------------------------------------------------------------------------------------------- ids


def test_ids_of_a_chain(umbel: Harness) -> None:
    result = run(umbel, who.s() | who.s() | who.s(), task_id="the-last")
    steps = [result.parent.parent, result.parent, result]
    found = [step.get() for step in steps]
    assert result.id == "the-last"
    assert [one["id"] for one in found] == [step.id for step in steps]
    assert {one["root"] for one in found} == {steps[0].id}
    assert [one["parent"] for one in found] == [None, steps[0].id, steps[1].id]


def test_ids_of_a_group(umbel: Harness) -> None:
    result = run(umbel, group(who.s(), who.s()))
    one, two = result.get()
    assert (one["group"], one["index"], two["index"]) == (result.id, 0, 1)
    assert (one["root"], two["root"]) == (one["id"], two["id"])
    assert [one["id"], two["id"]] == [member.id for member in result]


def test_ids_of_a_chord(umbel: Harness) -> None:
    result = run(umbel, chord([who.s(), who.s()], who.s()), task_id="the-body")
    body, header = result.get(), result.parent.get()
    assert result.id == body["id"] == "the-body"
    assert {member["group"] for member in header} == {result.parent.id}
    assert [member["index"] for member in header] == [0, 1]
    assert body["parent"] in {member["id"] for member in header}
    assert body["root"] in {member["id"] for member in header}


def test_what_a_task_sends_is_of_its_workflow(umbel: Harness) -> None:
    @app.task(name="sends")
    def sends() -> Any:
        return (who.s() | who.s()).apply_async()

    result = sends.delay()
    umbel.run()
    inner = result.get(timeout=0)
    children: Any = result.children
    assert inner[0][0] == children[0].id
    last: Any = AsyncResult(inner[0][0], app=app).get()
    assert last["root"] == result.id
    first: Any = AsyncResult(inner[0][1][0][0], app=app).get()
    assert (first["root"], first["parent"]) == (result.id, result.id)


def test_results_are_known_before_it_is_sent(umbel: Harness) -> None:
    sig: Any = chain(add.s(1, 2), group(add.s(1), add.s(2)), total.s(), add.s(1))
    frozen = sig.freeze()
    result = run(umbel, sig)
    assert result == frozen
    assert result.as_tuple() == frozen.as_tuple()
    assert frozen.get(timeout=0) == 10
    assert frozen.parent.parent.get(timeout=0) == [4, 5]


def test_a_frozen_chord_runs_again(umbel: Harness) -> None:
    sig = chord([echo.s(1), echo.s(2)], total.s())
    sig.freeze()
    assert run(umbel, sig).get(timeout=0) == 3
    assert run(umbel, sig).get(timeout=0) == 3
    assert told == [(1,), (2,), (1,), (2,)]


def test_sending_does_not_change_a_signature(umbel: Harness) -> None:
    sig = chain(add.s(1, 2), group(add.s(1), add.s(2) | add.s(3)), total.s()).on_error(echo.s())
    before = json.dumps(sig)
    first, second = run(umbel, sig), run(umbel, sig)
    assert json.dumps(sig) == before
    assert first.id != second.id


# ---------------------------------------------------------------------------------------- failures


def test_a_failed_step_ends_the_chain(umbel: Harness) -> None:
    result = run(umbel, add.s(1, 2) | boom.s() | echo.s() | echo.s())
    assert told == []
    assert [step.state for step in (result, result.parent, result.parent.parent)] == [
        states.FAILURE
    ] * 3
    assert result.parent.parent.parent.get() == 3
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=0)
    assert result.traceback == result.parent.parent.traceback
    assert clean()


def test_a_failed_member_fails_the_chord(umbel: Harness) -> None:
    result = run(umbel, chord([echo.s(1), boom.s(2), echo.s(3)], echo.s()) | echo.s())
    assert sorted(told) == [(1,), (3,)]
    failed = result.parent.parent[1]
    with pytest.raises(ChordError) as caught:
        result.get(timeout=0)
    assert str(caught.value) == f"Dependency {failed.id} raised ValueError('boom', 2)"
    assert result.parent.state == result.state == states.FAILURE
    assert result.parent.parent[0].get() == 1
    assert clean()


def test_failures_may_be_collected(umbel: Harness) -> None:
    for sig in (
        chord([echo.s(1), boom.s(2)], describe.s(), on_error="collect"),
        group(echo.s(1), boom.s(2), on_error="collect") | describe.s(),
        chord(group(echo.s(1), boom.s(2), on_error="collect"), describe.s()),
        echo.si(0) | group([echo.si(1), boom.si(2)], on_error="collect") | describe.s(),
        chord([echo.s(1), boom.s(2)], describe.s()).set(on_error="collect"),
    ):
        assert run(umbel, sig).get(timeout=0) == ["1", "ValueError('boom', 2)"]
        assert sig.apply().get() == ["1", "ValueError('boom', 2)"]
    assert clean()


def test_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="on_error"):
        chord([echo.s(1)], echo.s(), on_error="ignore").apply_async()


def test_errbacks_of_both_kinds_are_called_once(umbel: Harness) -> None:
    sig = boom.s(1).on_error(note_id.s()).on_error(note_error.s())
    result = run(umbel, sig)
    assert sorted(told, key=repr) == [
        ("error", result.id, boom.name, [1], "ValueError('boom', 1)", True),
        ("id", result.id),
    ]


def test_errbacks_with_arguments_of_their_own(umbel: Harness) -> None:
    @app.task(name="errback_more")
    def more(request: Any, error: BaseException, traceback: Any, word: str, *, key: int) -> None:
        told.append((request.id, repr(error), word, key))

    @app.task(name="errback_word")
    def with_word(id: str, word: str) -> None:
        told.append((id, word))

    result = run(umbel, boom.s().on_error(more.s("word", key=5)).on_error(with_word.s("other")))
    assert (result.id, "ValueError('boom')", "word", 5) in told
    assert (result.id, "other") in told


def test_a_bound_errback_gets_the_id(umbel: Harness) -> None:
    @app.task(name="errback_bound", bind=True)
    def bound(self: Task[..., Any], id: str, more: int = 5) -> None:
        told.append((id, more, self.request.parent_id))

    result = run(umbel, boom.s().on_error(bound.s()))
    assert told == [(result.id, 5, result.id)]


def test_an_errback_that_is_not_known_here_is_sent_on(umbel: Harness) -> None:
    result = boom.s().on_error(Signature("elsewhere", queue="other", app=app)).apply_async()
    umbel.run(limit=1, propagate=False)
    (task,) = umbel.queued
    assert (task.name, task.args, task.queue) == ("elsewhere", (result.id,), "other")


def test_errbacks_of_a_chain_are_called_for_the_step_that_failed(umbel: Harness) -> None:
    sig = (add.s(1, 2) | boom.s() | echo.s()).on_error(note_id.s())
    result = run(umbel, sig)
    assert told == [("id", result.parent.id)]


def test_errbacks_of_a_chord_are_called_once_for_its_body(umbel: Harness) -> None:
    sig = chord([boom.s(1), boom.s(2), echo.si(3)], total.s().on_error(note_error.s()))
    result = run(umbel, sig)
    first = result.parent[0].id
    text = f"ChordError(\"Dependency {first} raised ValueError('boom', 1)\")"
    assert told == [(3,), ("error", result.id, total.name, [], text, True)]


def test_errbacks_of_a_chord_and_its_header(umbel: Harness) -> None:
    app.conf.task_allow_error_cb_on_chord_header = True
    try:
        sig = chord([boom.s(1), echo.si(3)], total.s())
        sig.link_error(note_id.s())
    finally:
        app.conf.task_allow_error_cb_on_chord_header = False
    result = run(umbel, sig)
    assert told == [(3,), ("id", result.parent[0].id), ("id", result.id)]
    sig = chord([boom.s(1)], total.s())
    with pytest.warns(PendingDeprecationWarning, match="task_allow_error_cb_on_chord_header"):
        sig.link_error(note_id.s())
    told.clear()
    result = run(umbel, sig)
    assert told == [("id", result.id)]


def test_each_task_of_a_group_body_fails_and_calls_its_errbacks(umbel: Harness) -> None:
    body = group(total.s().on_error(note_id.s()), echo.s().on_error(note_id.s()))
    result = run(umbel, chord([boom.s(1)], body))
    assert sorted(told) == sorted([("id", result[0].id), ("id", result[1].id)])
    for member in result:
        assert isinstance(member.result, ChordError)
    assert clean()


def test_a_failure_in_a_nested_chord_reaches_the_outer_one(umbel: Harness) -> None:
    inner = chord([boom.s(1)], total.s()) | echo.s()
    result = run(umbel, chord([echo.si(1), inner], echo.s().on_error(note_id.s())))
    assert told == [(1,), ("id", result.id)]
    assert isinstance(result.result, ChordError)
    assert "ChordError" in str(result.result)
    assert clean()


def test_a_failure_before_the_last_step_of_a_member_counts(umbel: Harness) -> None:
    member = add.s(1, 1) | boom.s() | group(echo.s(), echo.s())
    result = run(umbel, chord([echo.si(1), member], echo.s()))
    assert isinstance(result.result, ChordError)
    assert clean()


def test_what_cannot_be_passed_on_fails_the_step(umbel: Harness) -> None:
    @app.task(name="unfit")
    def unfit() -> object:
        return object()

    result = run(umbel, unfit.s() | echo.s())
    assert told == []
    assert isinstance(result.result, EncodeError)
    result = run(umbel, chord([unfit.s()], echo.s()))
    assert isinstance(result.result, ChordError)


# --------------------------------------------------------- every way in which a member can end


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def flaky(self: Task[..., Any], how: str) -> Any:
    if how == "retried":
        return self.retry() if self.request.retries == 0 else "retried"
    if how == "exhausted":
        raise self.retry(exc=KeyError("exhausted"))
    if how == "ignored":
        raise Ignore
    if how == "rejected":
        raise Reject("rejected")
    return how


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("returned", "'returned'"),
        ("retried", "'retried'"),
        ("exhausted", "KeyError('exhausted')"),
        ("ignored", "None"),
        ("rejected", "Reject('rejected', False)"),
    ],
)
def test_a_chord_ends_however_its_task_does(umbel: Harness, how: str, found: str) -> None:
    sig = chord([flaky.s(how), echo.s(1)], describe.s(), on_error="collect")
    result = sig.apply_async()
    for _ in range(3):
        umbel.run(propagate=False)
        umbel.advance(seconds=1)
    value = result.get(timeout=0)
    assert value[1] == "1"
    assert value[0].replace("reject requeue=False: rejected", "Reject('rejected', False)") == found


def test_a_chord_ends_if_a_member_is_revoked(umbel: Harness) -> None:
    result = chord([echo.s(1), echo.s(2)], describe.s(), on_error="collect").apply_async()
    header: Any = result.parent
    assert header[1].revoke()
    umbel.run(propagate=False)
    assert result.get(timeout=0) == ["1", "TaskRevokedError('revoked')"]
    assert told == [(1,)]


def test_a_chord_ends_if_all_members_are_revoked(umbel: Harness) -> None:
    result = chord([echo.s(1), echo.s(2) | echo.s()], describe.s()).apply_async()
    header: Any = result.parent
    assert header.revoke() == 1  # the second one's last step is not in the store yet
    umbel.run(propagate=False)
    assert header[1].state == states.REVOKED
    with pytest.raises(ChordError, match="TaskRevokedError"):
        result.get(timeout=0)
    assert clean()


def test_a_member_that_is_revoked_while_it_waits_for_its_time(umbel: Harness) -> None:
    result = chord([echo.s(1).set(countdown=3600)], describe.s(), on_error="collect").apply_async()
    header: Any = result.parent
    header[0].revoke()
    umbel.run(propagate=False)
    assert result.get(timeout=0) == ["TaskRevokedError('revoked')"]


def test_revoking_the_first_step_ends_the_chain(umbel: Harness) -> None:
    result: Any = (echo.s(1) | echo.s() | echo.s()).apply_async()
    first = result.parent.parent
    first.revoke()
    assert [step.state for step in (result, result.parent, first)] == [states.REVOKED] * 3
    with pytest.raises(TaskRevokedError):
        result.get(timeout=0)
    umbel.run()
    assert told == []


def test_a_whole_workflow_is_revoked(umbel: Harness) -> None:
    sig = echo.s(1) | group(echo.s(), echo.s() | echo.s()) | echo.s("body") | echo.s("end")
    result = sig.apply_async()
    umbel.run(limit=1)
    result.revoke(workflow=True)
    umbel.run(propagate=False)
    assert told == [(1,)]
    assert result.state in {states.REVOKED, states.FAILURE}
    assert clean()


def test_a_chord_ends_if_a_member_expires(umbel: Harness) -> None:
    sig = chord([echo.s(1), echo.s(2).set(expires=10)], describe.s(), on_error="collect")
    result = sig.apply_async()
    umbel.advance(seconds=11)
    umbel.run(propagate=False)
    assert result.get(timeout=0) == ["1", "TaskRevokedError('expired')"]


def test_a_chord_ends_if_a_member_is_unknown(umbel: Harness) -> None:
    header = [echo.s(1), Signature("nobody.knows", app=app)]
    result = chord(header, describe.s(), on_error="collect").apply_async()
    for _ in range(8):
        umbel.run(propagate=False)
        umbel.advance(seconds=11)
    (one, two) = result.get(timeout=0)
    assert one == "1"
    assert two.startswith("NotRegistered(")
    assert [letter.reason for letter in umbel.dead] == ["unknown"]


def test_a_chord_ends_if_no_member_can_be_read(umbel: Harness) -> None:
    app.conf.accept_content = ["json", "yaml"]
    try:
        result = chord(
            [echo.s(1).set(serializer="yaml"), echo.s(2).set(serializer="yaml")],
            describe.s(), on_error="collect",
        ).apply_async()  # fmt: skip
    finally:
        app.conf.accept_content = ["json"]
    umbel.run(propagate=False)
    one, two = result.get(timeout=0)
    assert one.startswith("ContentDisallowed(")
    assert two.startswith("ContentDisallowed(")
    assert [letter.reason for letter in umbel.dead] == ["disallowed"] * 2


def test_a_body_whose_results_are_gone_fails(umbel: Harness) -> None:
    result = chord([echo.s(1)], echo.s()).apply_async()
    umbel.run(limit=1)
    store().store.workflows.clear()
    umbel.run(propagate=False)
    with pytest.raises(ChordError, match="not in the store any more"):
        result.get(timeout=0)


def test_a_body_that_retries_gets_the_results_again(umbel: Harness) -> None:
    @app.task(name="again", bind=True, default_retry_delay=0)
    def again(self: Task[..., Any], numbers: list[int], more: int = 0) -> Any:
        told.append((numbers, more))
        if self.request.retries == 0:
            raise self.retry(kwargs={"more": 5})
        if self.request.retries == 1:
            raise self.retry()
        if self.request.retries == 2:
            raise self.retry(args=([9],), kwargs={})
        return numbers

    result = run(umbel, chord([echo.si(1), echo.si(2)], again.s()))
    assert told[2:] == [([1, 2], 0), ([1, 2], 5), ([1, 2], 5), ([9], 0)]
    assert result.get(timeout=0) == [9]


# --------------------------------------------------------------------------------- replace and add


@app.task(bind=True)
def replaced(self: Task[..., Any], how: str, x: int = 1) -> Any:
    found: dict[str, Signature[Any]] = {
        "task": add.s(x, 10),
        "chain": add.s(x, 10) | add.s(1),
        "group": group(add.s(x, 1), add.s(x, 2)),
        "chain-group": add.s(x, 10) | group(add.s(1), add.s(2)),
        "chord": chord([add.s(x, 1), add.s(x, 2)], total.s()),
        "again": replaced.s("task", x + 1),
        "fails": boom.s(x),
        "who": who.s(x),
    }
    return self.replace(found[how])


REPLACED = [
    ("task", 11), ("chain", 12), ("group", [2, 3]), ("chain-group", [12, 13]), ("chord", 5),
    ("again", 12),
]  # fmt: skip


@pytest.mark.parametrize(("how", "value"), REPLACED)
def test_a_task_is_replaced(umbel: Harness, how: str, value: Any) -> None:
    result = run(umbel, replaced.s(how))
    assert result.get(timeout=0) == value
    result = run(umbel, replaced.s(how) | echo.s("next"))
    assert result.get(timeout=0) == [value, "next"]
    assert result.parent.get(timeout=0) == value
    result = run(umbel, chord([echo.si(0), replaced.s(how)], echo.s()))
    assert result.get(timeout=0) == [0, value]
    assert replaced.s(how).apply().get() == value
    assert replaced(how) == value
    assert clean()


def test_a_replacement_inherits(umbel: Harness) -> None:
    sig = replaced.s("who", 5)
    sig.stamp(tenant="acme")
    sig.link(echo.s("link"))
    result = run(umbel, sig, task_id="kept")
    found = result.get(timeout=0)
    assert (found["id"], found["root"], found["parent"]) == ("kept", "kept", "kept")
    assert (found["nesting"], found["stamps"]) == (1, {"tenant": "acme"})
    assert told == [(found, "link")]


def test_a_failed_replacement_calls_the_errbacks(umbel: Harness) -> None:
    result = run(umbel, replaced.s("fails").on_error(note_id.s()), task_id="kept")
    assert told == [("id", "kept")]
    assert result.state == states.FAILURE


def test_what_cannot_replace(umbel: Harness) -> None:
    with pytest.raises(ImproperlyConfigured, match="must not be part of a chord"):
        add.replace(add.s(1, 1).set(chord=add.s()))
    with pytest.raises(ImproperlyConfigured, match="empty chain"):
        add.replace(chain())


def test_a_task_may_change_its_replacement(umbel: Harness) -> None:
    class Changing(Task[..., Any]):
        def on_replace(self, sig: Signature[Any]) -> Any:
            return super().on_replace(sig | add.s(100))

    @app.task(name="changing", base=Changing, bind=True)
    def changing(self: Task[..., Any]) -> Any:
        return self.replace(add.s(1, 1))

    assert run(umbel, changing.s()).get(timeout=0) == 102


@app.task(bind=True)
def adding(self: Task[..., Any], more: int, lazy: bool = False) -> int:
    if more:
        found = self.add_to_chord(adding.s(more - 1, lazy), lazy=lazy)
        if lazy:
            found.delay()
    return more


@pytest.mark.parametrize("lazy", [False, True])
def test_a_member_adds_to_its_chord(umbel: Harness, lazy: bool) -> None:
    result = run(umbel, chord([adding.s(3, lazy), echo.si(7)], echo.s()))
    assert result.get(timeout=0) == [3, 2, 1, 0, 7]
    assert clean()


def test_only_a_member_adds_to_a_chord(umbel: Harness) -> None:
    result = run(umbel, group(adding.s(1)))
    with pytest.raises(ValueError, match="not member of any chord"):
        result.get(timeout=0)


def test_a_running_call_as_a_signature(umbel: Harness) -> None:
    @app.task(name="mirror", bind=True)
    def mirror(self: Task[..., Any], x: int) -> Any:
        if x:
            made = self.signature_from_request(args=(x - 1,), queue="other")
            assert self.subtask_from_request(args=(x - 1,), queue="other") == made
            return json.loads(json.dumps(made))
        return None

    result: Any = run(umbel, chord([mirror.s(1).set(shadow="name")], echo.s()))
    (sig,) = result.get(timeout=0)
    assert (sig["task"], sig["args"]) == ("mirror", [0])
    assert sig["options"]["task_id"] == result.parent[0].id
    assert (sig["options"]["shadow"], sig["options"]["queue"]) == ("name", "other")


# ------------------------------------------------------------------------------------------ size


def test_a_large_rest_is_stored_once(umbel: Harness) -> None:
    steps = [chord([add.si(1, 2) for _ in range(20)], total.s()) for _ in range(20)]
    result: Any = chain(*steps).apply_async()
    sizes = [len(waiting.payload) for waiting in store().broker.browse(limit=1000)]
    assert len(sizes) == 20
    assert max(sizes) < 1500
    (kept,) = [flow for flow in store().store.workflows.values() if not flow.size]
    assert sum(map(len, kept.pieces.values())) > LARGE
    written = store().store.workflows
    assert len(written) == 2  # the kept rest, and the first chord
    umbel.run()
    assert result.get(timeout=0) == 60
    assert clean()


def test_a_small_rest_travels_in_the_message(umbel: Harness) -> None:
    (add.s(1, 2) | add.s(3) | add.s(4)).apply_async()
    assert store().store.workflows == {}


def test_a_large_rest_of_a_failed_step(umbel: Harness) -> None:
    steps = [chord([add.si(1, 2) for _ in range(20)], total.s()) for _ in range(20)]
    result = run(umbel, chain(boom.si(1), *steps, echo.s()).on_error(note_id.s()))
    assert result.state == states.FAILURE
    assert clean()
    assert len(told) == 1


def test_a_large_rest_of_a_revoked_step(umbel: Harness) -> None:
    steps = [chord([add.si(1, 2) for _ in range(20)], total.s()) for _ in range(20)]
    result: Any = chain(echo.si(1), *steps, echo.s()).apply_async()
    node = result
    while node.parent is not None:
        node = node.parent
    node.revoke()
    assert result.state == states.REVOKED
    assert clean()


def test_a_replacement_before_a_large_rest(umbel: Harness) -> None:
    steps = [chord([add.si(1, 2) for _ in range(20)], total.s()) for _ in range(20)]
    for how in ("task", "chain-group"):
        result = run(umbel, chain(replaced.si(how), *steps))
        assert result.get(timeout=0) == 60
        assert clean()


def test_a_rest_that_json_cannot_hold_travels_in_the_message(umbel: Harness) -> None:
    pickling = App(
        "pickled flows", set_as_current=False, task_serializer="pickle", result_serializer="pickle",
        accept_content=["pickle"],
    )  # fmt: skip

    @pickling.task(name="pickled")
    def pickled(*args: Any) -> Any:
        return tuple(args)

    result = run(umbel, chord([pickled.s(1)], pickled.si(frozenset({2}), b"x" * LARGE)))
    assert result.get(timeout=0) == (frozenset({2}), b"x" * LARGE)
    result = run(umbel, pickled.s(1) | pickled.si(frozenset({2}), b"x" * LARGE))
    assert result.get(timeout=0) == (frozenset({2}), b"x" * LARGE)
    pickling.close()


# ------------------------------------------------------------------------------------------- eager


def test_eager_failures(umbel: Harness) -> None:
    result: Any = (add.s(1, 2) | boom.s() | echo.s()).apply()
    assert result.state == states.FAILURE
    assert isinstance(result.result, ValueError)
    assert result.parent.parent.get() == 3
    with pytest.raises(ValueError, match="boom"):
        result.get()
    with pytest.raises(ValueError, match="boom"):
        (add.s(1, 2) | boom.s()).apply(throw=True)
    result = chord([boom.s(1)], echo.s().on_error(note_id.s())).apply()
    assert isinstance(result.result, ChordError)
    assert told == [("id", result.id)]


def test_what_an_eager_call_leads_to_runs_too() -> None:
    add.apply((1, 2), link=echo.s("after"))
    assert told == [(3, "after")]


def test_an_eager_app_runs_workflows_where_they_are_sent() -> None:
    eager = App("eager flows", task_always_eager=True, set_as_current=False)

    @eager.task(name="eager_add")
    def plus(x: int, y: int) -> int:
        return x + y

    assert (plus.s(1, 2) | plus.s(3)).delay().get() == 6
    assert group(plus.s(1, n) for n in range(3)).delay().get() == [1, 2, 3]
    assert eager.opened is None  # no store was needed
    eager.close()


# ---------------------------------------------------------------------------------------- messages


def test_a_message_says_what_follows(umbel: Harness) -> None:
    (add.s(1, 2) | add.s(3)).apply_async()
    payload = store().broker.browse()[0].payload
    envelope = msgspec.json.decode(payload)
    assert "umbel-chord" not in envelope["headers"]
    chord([add.s(1, 2)], total.s()).apply_async()
    member = msgspec.json.decode(store().broker.browse()[1].payload)
    id = member["headers"]["group"]
    assert member["headers"]["umbel-chord"] == [id, 0, ""]
    umbel.run(limit=3)
    body = msgspec.json.decode(store().broker.browse()[-1].payload)
    assert body["headers"]["umbel-join"] == [id, "fail", True]


def test_the_headers_are_not_the_users(umbel: Harness) -> None:
    @app.task(name="headers", bind=True)
    def headers(self: Task[..., Any], *args: Any) -> Any:
        return self.request.headers

    result = run(umbel, chord([headers.s().set(headers={"own": 1})], headers.s()))
    assert result.parent.get(timeout=0) == [{"own": 1}]
    assert result.get(timeout=0) is None


def test_signed_workflows_run(umbel: Harness) -> None:
    app.conf.security_hmac_key = "k" * 40
    try:
        result = run(umbel, echo.s(1) | group(add.s(1), add.s(2)) | total.s() | echo.s("end"))
    finally:
        app.conf.security_hmac_key = None
    assert result.get(timeout=0) == [5, "end"]


def test_a_group_result_by_its_members_ids(umbel: Harness) -> None:
    sent = [echo.delay(number) for number in (1, 2)]
    umbel.run()
    made = app.GroupResult("of-mine", [app.AsyncResult(one.id) for one in sent])
    assert (made.id, made.get(timeout=0)) == ("of-mine", [1, 2])


def test_the_graph_of_an_eager_call_is_the_call() -> None:
    result = echo.apply((1,))
    assert isinstance(result, EagerResult)
    assert list(result.graph) == list(result.build_graph()) == [result]


def test_results_are_of_the_app_that_sends_and_not_of_the_current_one(umbel: Harness) -> None:
    """The current app may keep no results, or other ones."""
    with App("another", broker="memory://another"):
        results: list[Any] = [
            (add.s(1, 2) | add.s(3))(),
            group(add.s(1), add.s(2))(3),
            chord([add.s(1, 1)])(total.s()),
            chord([add.s(1, 1)], total.s())(),
            chunk_sums(),
        ]
    assert [result.app for result in results] == [app] * len(results)
    assert results[2].parent.app is app
    umbel.run()
