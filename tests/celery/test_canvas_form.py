"""Workflows as data are what Celery's are: the same JSON, however they are composed."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import celery
import celery.canvas
import pytest

import umbel
import umbel.canvas

Build = Callable[[Any], Any]


def make(package: Any, canvas: Any, task: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: getattr(canvas, name) for name in ("chain", "group", "chord", "signature")},
        Signature=canvas.Signature,
        maybe_signature=canvas.maybe_signature,
        chunks=canvas.chunks, xmap=canvas.xmap, xstarmap=canvas.xstarmap,
        StampingVisitor=canvas.StampingVisitor,
        add=task("add"), mul=task("mul"), total=task("total"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[SimpleNamespace, SimpleNamespace]]:
    theirs = celery.Celery("form", broker="memory://", set_as_current=False)
    ours = umbel.App("form", broker="memory://form", set_as_current=False)

    def task(app: Any) -> Callable[[str], Any]:
        def body(*args: Any, **kwargs: Any) -> None: ...

        return lambda name: app.task(name=name)(body)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield make(celery, celery.canvas, task(theirs)), make(umbel, umbel.canvas, task(ours))
    ours.close()


COMPOSED: dict[str, Build] = {
    "task": lambda c: c.add.s(1, 2),
    "keywords": lambda c: c.add.s(1, y=2),
    "immutable": lambda c: c.add.si(1, 2),
    "options": lambda c: c.add.signature((1,), {"y": 2}, {"queue": "q"}, countdown=3),
    "set": lambda c: c.add.s(1).set(queue="q", priority=3).set(immutable=True),
    "clone": lambda c: c.add.s(2).clone((1,), {"z": 3}, queue="q"),
    "clone-immutable": lambda c: c.add.si(2).clone((1,), {"z": 3}, queue="q"),
    "replace": lambda c: c.add.s(2, queue=1).replace((5,), {"k": 1}, {"expires": 3}),
    "signature-by-name": lambda c: c.signature("other", args=(1,), kwargs={"a": 2}, queue="q"),
    "signature-of-dict": lambda c: c.signature(dict(c.add.s(1))),
    "link": lambda c: linked(c.add.s(1), "link", c.mul.s(2)),
    "link-twice-the-same": lambda c: linked(linked(c.add.s(1), "link", c.mul.s(2)), "link",
                                            c.mul.s(2)),
    "link-error": lambda c: linked(c.add.s(1), "link_error", c.mul.s(2)),
    "on-error": lambda c: c.add.s(1).on_error(c.mul.s(2)),
    "task-task": lambda c: c.add.s(1, 2) | c.add.s(3),
    "three": lambda c: c.add.s(1, 2) | c.add.s(3) | c.mul.s(4),
    "chain": lambda c: c.chain(c.add.s(1, 2), c.add.s(3), c.mul.s(4)),
    "chain-of-list": lambda c: c.chain([c.add.s(1, 2), c.add.s(3)]),
    "chain-of-generator": lambda c: c.chain(c.add.s(n) for n in range(3)),
    "chain-of-one": lambda c: c.chain(c.add.s(1, 2)),
    "chain-with-options": lambda c: c.chain(c.add.s(1, 2), c.group(c.add.s(3)), task_id="x"),
    "empty-chain": lambda c: c.chain(),
    "chain-chain": lambda c: (c.add.s(1) | c.add.s(2)) | (c.add.s(3) | c.add.s(4)),
    "task-chain": lambda c: c.add.s(1) | (c.add.s(3) | c.add.s(4)),
    "chain-in-chain": lambda c: c.chain(c.add.s(1), c.chain(c.add.s(2), c.chain(c.add.s(3)))),
    "chain-links-move": lambda c: linked(c.add.s(1) | c.add.s(2), "link", c.mul.s(9)) | c.mul.s(3),
    "chain-errors-move": lambda c: (c.add.s(1) | c.add.s(2)).on_error(c.mul.s(9)) | c.mul.s(3),
    "group": lambda c: c.group(c.add.s(1, 2), c.add.s(3, 4)),
    "group-of-list": lambda c: c.group([c.add.s(1, 2), c.add.s(3, 4)]),
    "group-of-group": lambda c: c.group(c.group(c.add.s(1, 2), c.add.s(3, 4))),
    "group-of-one": lambda c: c.group(c.add.s(1, 2)),
    "group-with-options": lambda c: c.group([c.add.s(1, 2)], queue="q"),
    "empty-group": lambda c: c.group([]),
    "group-skew": lambda c: c.group(c.add.s(n) for n in range(4)).skew(start=1, stop=3),
    "group-immutable": lambda c: immutable(c.group(c.add.s(1), c.add.s(2))),
    "nested-group": lambda c: c.group(c.add.s(1), c.group(c.add.s(2), c.add.s(3))),
    "task-group": lambda c: c.add.s(1) | c.group(c.add.s(2), c.add.s(3)),
    "task-group-of-one": lambda c: c.add.s(1) | c.group(c.add.s(2)),
    "task-empty-group": lambda c: c.chain(c.add.s(1), c.group([])),
    "group-task": lambda c: c.group(c.add.s(2), c.add.s(3)) | c.total.s(),
    "group-chain": lambda c: c.group(c.add.s(2), c.add.s(3)) | (c.total.s() | c.add.s(1)),
    "group-group": lambda c: c.group(c.add.s(2), c.add.s(3)) | c.group(c.total.s(), c.total.s()),
    "group-empty-group": lambda c: c.group(c.add.s(2), c.add.s(3)) | c.group([]),
    "task-group-task": lambda c: c.add.s(1) | c.group(c.add.s(2), c.add.s(3)) | c.total.s(),
    "task-group-task-task": lambda c: (
        c.add.s(1) | c.group(c.add.s(2), c.add.s(3)) | c.total.s() | c.add.s(4)
    ),
    "two-groups": lambda c: (
        c.add.s(1) | c.group(c.add.s(2), c.add.s(3)) | c.group(c.total.s(), c.total.s())
    ),
    "two-chords-collapse": lambda c: (
        c.add.s(1) | c.group(c.add.s(2), c.add.s(3)) | c.total.s()
        | c.group(c.add.s(4), c.add.s(5)) | c.total.s()
    ),
    "chain-function-with-groups": lambda c: c.chain(
        c.add.s(1), c.group(c.add.s(2), c.add.s(3)), c.total.s(), c.group(c.add.s(4), c.add.s(5))
    ),
    "chord": lambda c: c.chord([c.add.s(1, 2), c.add.s(3, 4)], c.total.s()),
    "chord-of-group": lambda c: c.chord(c.group(c.add.s(1, 2), c.add.s(3, 4)), c.total.s()),
    "chord-without-body": lambda c: c.chord([c.add.s(1, 2)]),
    "chord-task": lambda c: c.chord([c.add.s(1, 2)], c.total.s()) | c.add.s(1),
    "chord-task-task": lambda c: c.chord([c.add.s(1, 2)], c.total.s()) | c.add.s(1) | c.add.s(2),
    "chord-chain": lambda c: c.chord([c.add.s(1, 2)], c.total.s()) | (c.add.s(1) | c.add.s(2)),
    "chord-group": lambda c: (
        c.chord([c.add.s(1, 2)], c.total.s()) | c.group(c.add.s(1), c.add.s(2))
    ),
    "chord-chord": lambda c: (
        c.chord([c.add.s(1)], c.total.s()) | c.chord([c.add.s(2)], c.total.s())
    ),
    "task-chord": lambda c: c.add.s(1) | c.chord([c.add.s(2)], c.total.s()),
    "task-chord-task": lambda c: c.add.s(1) | c.chord([c.add.s(2)], c.total.s()) | c.mul.s(2),
    "chord-link": lambda c: linked(c.chord([c.add.s(1)], c.total.s()), "link", c.mul.s(3)),
    "chord-link-error": lambda c: linked(
        c.chord([c.add.s(1)], c.total.s()), "link_error", c.mul.s(3)
    ),
    "chord-of-chord-link-error": lambda c: linked(
        c.chord([c.chord([c.add.s(1)], c.total.s()), c.add.s(2)], c.total.s()),
        "link_error", c.mul.s(3),
    ),
    "map": lambda c: c.xmap(c.add.s(), [1, 2, 3]),
    "task-map": lambda c: c.add.map([1, 2, 3]),
    "starmap": lambda c: c.add.starmap([(1, 2), (3, 4)]),
    "chunks": lambda c: c.add.chunks([(1, 2), (3, 4), (5, 6)], 2),
    "chunks-group": lambda c: c.add.chunks([(1, 2), (3, 4), (5, 6)], 2).group(),
    "stamp": lambda c: stamped(c, c.add.s(1), tenant="acme"),
    "stamp-again": lambda c: stamped(c, stamped(c, c.add.s(1), tenant="acme"), tenant="other"),
    "stamp-append": lambda c: stamped(
        c, stamped(c, c.add.s(1), tenant="acme"), append_stamps=True, tenant="other"
    ),
    "stamp-links": lambda c: stamped(
        c, linked(c.add.s(1), "link", c.mul.s(2)).on_error(c.total.s()), tenant="acme"
    ),
    "stamp-chain": lambda c: stamped(c, c.add.s(1) | c.add.s(2), tenant="acme"),
    "stamp-group": lambda c: stamped(c, c.group(c.add.s(1), c.add.s(2)), tenant="acme"),
    "visitor-task": lambda c: visited(c, c.add.s(1)),
    "visitor-chain": lambda c: visited(c, c.add.s(1) | linked(c.add.s(2), "link", c.mul.s(3))),
    "visitor-group": lambda c: visited(c, c.group(c.add.s(1), c.add.s(2).on_error(c.mul.s(1)))),
    "visitor-chord": lambda c: visited(c, c.chord([c.add.s(1)], c.total.s())),
    "from-dict-chain": lambda c: again(c, c.add.s(1) | c.add.s(2)),
    "from-dict-group": lambda c: again(c, c.group(c.add.s(1), c.add.s(2))),
    "from-dict-chord": lambda c: again(c, c.chord([c.add.s(1)], c.total.s())),
    "from-dict-nested": lambda c: again(
        c, c.add.s(1) | c.group(c.add.s(2) | c.add.s(3), c.add.s(4)) | c.total.s()
    ),
}  # fmt: skip


def linked(sig: Any, how: str, other: Any) -> Any:
    getattr(sig, how)(other)
    return sig


def immutable(sig: Any) -> Any:
    sig.set_immutable(True)
    return sig


def stamped(_: Any, sig: Any, **stamps: Any) -> Any:
    sig.stamp(**stamps)
    return sig


def visited(c: Any, sig: Any) -> Any:
    class Visitor(c.StampingVisitor):  # type: ignore[misc]
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_task": sig.task}

        def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_group": len(sig.tasks)}

        def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_chain": len(sig.tasks), "stamped_headers": ["on_chain"]}

        def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_body": True}

        def on_callback(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_callback": True}

        def on_errback(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"on_errback": True}

    sig.stamp(Visitor(), given="by hand")
    return sig


def again(c: Any, sig: Any) -> Any:
    return c.Signature.from_dict(json.loads(json.dumps(sig, default=list)))


def form(sig: Any) -> Any:
    """A signature as JSON has it: what is in no order is sorted, what is lazy is read."""

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)

    def sorted_stamps(value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("header"), dict):  # Celery's visitors make a group of it
                value["header"] = value["header"]["kwargs"]["tasks"]
            found = {key: sorted_stamps(item) for key, item in value.items()}
            if "stamped_headers" in found:
                found["stamped_headers"] = sorted(found["stamped_headers"])
            return found
        return [sorted_stamps(item) for item in value] if isinstance(value, list) else value

    return sorted_stamps(json.loads(json.dumps(sig, default=plain)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPOSED)
def test_it_is_composed_as_celery_composes_it(
    both: tuple[SimpleNamespace, SimpleNamespace], name: str
) -> None:
    theirs, ours = both
    assert form(COMPOSED[name](ours)) == form(COMPOSED[name](theirs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name for name in COMPOSED if not re.search("group|chord|empty", name)]
)
def test_it_is_shown_as_celery_shows_it(
    both: tuple[SimpleNamespace, SimpleNamespace], name: str
) -> None:
    theirs, ours = both
    assert repr(COMPOSED[name](ours)) == repr(COMPOSED[name](theirs))
