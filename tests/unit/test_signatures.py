"""Signatures as data: what they hold, how they change, what they are called."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest

from umbel import (
    App,
    AsyncResult,
    GroupResult,
    Signature,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
    subtask,
    xmap,
    xstarmap,
)
from umbel.canvas import StampingVisitor, maybe_subtask
from umbel.exceptions import ImproperlyConfigured, IncompleteStream, NotRegistered
from umbel.result import result_from_tuple
from umbel.testing import Harness

app = App("signatures", set_as_current=False)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def boom() -> None:
    raise ValueError("boom")


# ---------------------------------------------------------------------------------- what they hold


def test_its_parts() -> None:
    sig = add.signature((1,), {"y": 2}, {"queue": "q"}, immutable=True, priority=3)
    assert dict(sig) == {
        "task": add.name, "args": (1,), "kwargs": {"y": 2}, "subtask_type": None,
        "options": {"queue": "q", "priority": 3}, "immutable": True,
    }  # fmt: skip
    assert (sig.task, sig.name, sig.args, sig.kwargs) == (add.name, add.name, (1,), {"y": 2})
    assert (sig.options, sig.subtask_type, sig.immutable) == (sig["options"], None, True)
    assert (sig.id, sig.root_id, sig.parent_id) == (None, None, None)
    assert (sig.type, sig.app) == (add, app)
    sig.id, sig.args, sig.immutable = "id", (5,), False
    assert (sig["options"]["task_id"], sig["args"], sig["immutable"]) == ("id", (5,), False)
    assert add.subtask((1,)) == add.s(1)


def test_it_is_made_of_a_name_a_task_a_dict_or_another() -> None:
    assert signature("other", (1,), queue="q") == Signature("other", (1,), options={"queue": "q"})
    assert app.signature(add, (1,)) == add.s(1)
    assert app.signature("x").app is app
    made = signature({"task": add.name, "args": [1]}, app=app)
    assert list(made.args) == [1]
    assert (made.options, made.immutable) == ({}, False)
    original = add.s(1)
    other = subtask(original)
    assert other == original
    assert other is not original
    assert maybe_signature(None) is None
    assert maybe_signature(original) is original
    assert maybe_subtask(original, clone=True) is not original
    assert maybe_signature(dict(original), app=app).app is app


def test_json_and_pickle_bring_it_back() -> None:
    sig = chord([add.s(1, 1) | add.s(2)], group(total.s(), total.s()))
    for again in (
        Signature.from_dict(json.loads(json.dumps(sig)), app=app),
        pickle.loads(pickle.dumps(sig)),
    ):
        assert json.dumps(again) == json.dumps(sig)
        assert type(again) is chord
        assert type(again.tasks[0]) is chain
        assert type(again.body) is group


def test_types_of_ones_own() -> None:
    @Signature.register_type("special")
    class Special(Signature[Any]):
        @classmethod
        def from_dict(cls, d: Any, app: App | None = None) -> Special:
            return cls(d, app=app)

    try:
        found = Signature.from_dict({"task": "x", "subtask_type": "special"})
        assert type(found) is Special
    finally:
        del Signature.TYPES["special"]
    assert set(Signature.TYPES) == {"chain", "group", "chord", "chunks"}


def test_a_signature_without_an_app_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umbel._state.find_app", None)
    with pytest.raises(ImproperlyConfigured, match="A signature needs its app"):
        _ = Signature("x").app


def test_a_task_that_is_not_known() -> None:
    with pytest.raises(NotRegistered):
        _ = Signature("nobody", app=app).type


# --------------------------------------------------------------------------------- how they change


def test_merging() -> None:
    sig = add.signature((2,), {"z": 1}).set(queue="q", group_id="g")
    assert sig.merge((1,), {"z": 5}, {"queue": "r", "group_id": "h"}) == (
        (1, 2), {"z": 5}, {"queue": "r", "group_id": "g"},
    )  # fmt: skip
    assert add.signature((2,), immutable=True).merge((1,), {"z": 5}, {"queue": "r"}) == (
        (2,),
        {},
        {"queue": "r"},
    )


def test_a_clone_is_a_copy() -> None:
    sig = add.s(1).on_error(total.s())
    other = sig.clone()
    other.options["link_error"].append(5)
    other.kwargs["k"] = 1
    assert sig.options == {"link_error": [total.s()]}
    assert sig.kwargs == {}
    assert copy.deepcopy(sig) == sig
    whole = chain(add.s(1), group(add.s(2), add.s(3)))
    copied = whole.clone()
    copied.tasks[1].tasks[0].set(queue="q")
    assert whole.tasks[1].tasks[0].options == {}
    assert sig.partial((5,)).args == (5, 1)
    assert sig.replace((7,), {"a": 1}, {"queue": "q"}) == add.signature((7,), {"a": 1}, queue="q")


def test_set_and_immutable() -> None:
    sig = add.s(1)
    assert sig.set(immutable=True, queue="q") is sig
    assert (sig.immutable, sig.options) == (True, {"queue": "q"})
    members = group(add.s(1), add.s(2))
    members.set_immutable(True)
    assert all(task.immutable for task in members.tasks)
    whole = chord([add.s(1)], total.s())
    whole.set_immutable(True)
    assert (whole.tasks[0].immutable, whole.body.immutable) == (True, False)


def test_links() -> None:
    sig = add.s(1)
    link, errback = total.s(), add.s(5)
    assert sig.link(link) is link
    assert sig.link_error(errback) is errback
    assert sig.on_error(errback) is sig
    assert sig.options == {"link": [link], "link_error": [errback]}
    link.link(add.s(9))
    assert sig.flatten_links() == [sig, link, add.s(9)]
    assert sig.append_to_list_option("words", "a") == "a"
    sig.extend_list_option("words", ["b", "c"])
    assert sig.options["words"] == ["a", "b", "c"]


def test_freezing() -> None:
    sig = add.s(1)
    result = sig.freeze("the-id", group_id="g", root_id="r", parent_id="p", group_index=3)
    assert type(result) is AsyncResult
    assert (result.id, sig.id, sig.root_id, sig.parent_id) == ("the-id", "the-id", "r", "p")
    assert (sig.options["group_id"], sig.options["group_index"]) == ("g", 3)
    assert sig.freeze("another").id == "the-id"
    with pytest.raises(ValueError, match="empty chain"):
        chain().freeze()


def test_shown() -> None:
    name = add.name
    assert repr(add.s(1, y=2)) == f"{name}(1, y=2)"
    assert add.s(2).reprcall(1, y=3) == f"{name}(1, 2, y=3)"
    assert repr(add.s(1) | add.s(2)) == f"{name}(1) | {name}(2)"
    assert repr(group(add.s(1), add.s(2))) == f"group([{name}(1), {name}(2)])"
    assert repr(chord([add.s(1)], total.s())) == f"%{total.name}([{name}(1)])"
    assert repr(chord([add.s(1)])) == f"<chord without body: [{name}(1)]>"
    assert repr(chord([add.s(1)], total.s() | add.s(1))) == (
        f"%({total.name}([{name}(1)]) | {name}(1))"
    )
    assert repr(xmap(add.s(), [1])) == f"[{name}(x) for x in [1]]"
    assert repr(xstarmap(add.s(), range(100))).endswith("...]")
    assert repr(group()) == "group(<empty>)"


def test_what_is_no_signature_is_not_composed() -> None:
    for other in (5, "x", None):
        with pytest.raises(TypeError):
            _ = add.s(1) | other  # type: ignore[operator]


def test_sizes() -> None:
    assert len(group(add.s(1), add.s(2))) == 2
    assert bool(group())
    nested = chord([add.s(1), group(add.s(2), add.s(3)), add.s(4) | add.s(5)], total.s())
    assert nested.__length_hint__() == 4


def test_chunks_are_a_group_of_starmaps() -> None:
    parts = add.chunks([(1, 2), (3, 4), (5, 6)], 2).group()
    assert [part.kwargs["it"] for part in parts.tasks] == [[(1, 2), (3, 4)], [(5, 6)]]
    assert {part.task for part in parts.tasks} == {"celery.starmap"}
    assert type(add.chunks([], 2)) is chunks


# ------------------------------------------------------------------------------------------ stamps


class Visitor(StampingVisitor):
    """Tells the stamps of each part, and notes what it has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        self.seen.append(sig.task.rpartition(".")[2])
        return {"visited": True}

    def on_group_end(self, group: group[Any], **headers: Any) -> None:
        self.seen.append("end of group")

    def on_chain_end(self, chain: chain[Any], **headers: Any) -> None:
        self.seen.append("end of chain")


def test_a_visitor_sees_all_parts() -> None:
    visitor = Visitor()
    sig: Any = add.s(1, 1) | chord([add.s(2)], total.s()) | group(add.s(1), add.s(2))
    sig.stamp(visitor, tenant="acme")
    assert visitor.seen.count("add") == 4
    assert visitor.seen.count("end of chain") >= 1
    assert visitor.seen.count("end of group") >= 1
    first = sig.tasks[0].options
    assert (first["visited"], first["tenant"]) == (True, "acme")
    assert set(first["stamped_headers"]) == {"visited", "tenant"}


def test_a_chords_body_is_stamped_too() -> None:
    sig = chord([add.s(1)], total.s())
    sig.stamp(tenant="acme")
    assert sig.body.options["tenant"] == sig.tasks[0].options["tenant"] == "acme"


def test_links_are_stamped() -> None:
    sig = add.s(1)
    sig.link(total.s())
    sig.stamp_links(None, tenant="acme")
    assert "tenant" not in sig.options
    assert sig.options["link"][0].options["tenant"] == "acme"


def test_stamps_travel(umbel: Harness) -> None:
    seen = []

    @app.task(bind=True, name="stamped")
    def stamped(self: Any) -> None:
        seen.append((sorted(self.request.stamped_headers), self.request.stamps))
        if self.request.retries == 0:
            self.retry(countdown=0)

    sig = chain(stamped.si(), stamped.si())
    sig.stamp(tenant="acme", trace=["a", "b"])
    sig.apply_async()
    umbel.run(propagate=False)
    assert seen == [(["tenant", "trace"], {"tenant": "acme", "trace": ["a", "b"]})] * 4


# ----------------------------------------------------------------------------------- group results


def test_a_groups_result(umbel: Harness) -> None:
    result = group(add.s(n, n) for n in range(3)).apply_async()
    assert type(result) is GroupResult
    assert result.children == result.results
    assert str(result) == result.id
    assert repr(result).startswith(f"<GroupResult: {result.id} [")
    assert (result.waiting(), result.completed_count()) == (True, 0)
    umbel.run()
    assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
    assert result.completed_count() == 3
    assert result.join() == result.join_native() == result.get() == [0, 2, 4]
    assert dict(result.iter_native()).keys() == {member.id for member in result}
    assert result[1].get() == 2
    assert result == result_from_tuple(json.loads(json.dumps(result.as_tuple())), app)
    assert result == result.id
    assert hash(result) == hash(result.id)
    assert result != 5
    assert result.as_list() == [member.id for member in result]
    result.forget()
    assert not result.ready()


def test_a_group_is_saved_and_restored(umbel: Harness) -> None:
    whole: Any = add.s(1, 1) | group(add.s(1), add.s(2) | group(add.s(3), add.s(4)))
    result = whole.apply_async()
    result.save()
    umbel.run()
    found: Any = GroupResult.restore(result.id, app=app)
    assert found == result
    assert found.get(timeout=0) == [3, [7, 8]]
    assert found.parent.get(timeout=0) == 2
    result.delete()
    assert GroupResult.restore(result.id, app=app) is None
    for refused in (result.save, result.delete):
        with pytest.raises(ValueError, match="one result store"):
            refused(backend=object())
    with pytest.raises(ValueError, match="one result store"):
        GroupResult.restore("x", backend=object())  # type: ignore[arg-type]


def test_a_result_may_be_returned(umbel: Harness) -> None:
    @app.task(name="returns_a_group")
    def returns() -> Any:
        return group(add.s(1, 1), add.s(2, 2)).apply_async()

    result = returns.delay()
    umbel.run()
    inner = result_from_tuple(result.get(), app)
    assert inner.get(timeout=0) == [2, 4]
    (child,) = result.children
    assert child == inner


def test_errors_of_a_group(umbel: Harness) -> None:
    result = group(add.s(1, 1), boom.s()).apply_async()
    umbel.run(propagate=False)
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=0)
    value, error = result.get(timeout=0, propagate=False)
    assert (value, repr(error)) == (2, "ValueError('boom')")
    assert result.failed()
    with pytest.raises(ValueError, match="boom"):
        result.maybe_throw()


def test_what_a_workflow_led_to(umbel: Harness) -> None:
    sig = add.s(1, 1)
    sig.link(add.s(5) | add.s(6))
    result = sig.apply_async()
    with pytest.raises(IncompleteStream):
        _ = result.graph
    umbel.run()
    assert [value for _, value in result.collect()] == [2, 13]
    graph = result.build_graph()
    assert len(graph) == 2
    assert result in graph
    text = io.StringIO()
    graph.to_dot(text)
    assert text.getvalue().count("->") == 1
    assert set(graph.edges()) < set(graph)
    assert dict(graph.items()).keys() == set(graph)


def test_values_come_by_callback(umbel: Harness) -> None:
    result = group(add.s(1, 1), add.s(2, 2)).apply_async()
    umbel.run()
    told: dict[str, int] = {}
    assert result.get(callback=told.__setitem__) == []
    assert list(told.values()) == [2, 4]


def test_progress_is_counted(umbel: Harness) -> None:
    members = group(add.s(n, n) for n in range(4)).apply_async()
    assert members.progress() == (0, 4)
    umbel.run(limit=3)
    assert members.progress() == (3, 4)
    result = chord([add.s(n, n) for n in range(4)], total.s()).apply_async()
    header: Any = result.parent
    umbel.run(limit=3)
    assert header.progress() == (2, 4)
    umbel.run()
    assert header.progress() == (4, 4)
    eager: Any = group(add.s(1, 1)).apply()
    assert eager.progress() == (1, 1)


def test_progress_is_shown_in_a_terminal(
    umbel: Harness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = group(add.s(n, n) for n in range(3)).apply_async()
    umbel.run()
    result.get(progress=True)
    assert capsys.readouterr().err == ""  # it is no terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    result.get(progress=True)
    told = capsys.readouterr().err
    assert told.startswith("\r1 of 3 tasks have ended")
    assert told.endswith("\r3 of 3 tasks have ended\n")
    result.get()
    assert capsys.readouterr().err == ""
