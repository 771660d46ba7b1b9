"""When a worker that scales by itself grows and shrinks, second by second."""

from __future__ import annotations

from typing import Any

import pytest

from umbel.exceptions import ImproperlyConfigured
from umbel.pools.kinds import Layout, lay_out
from umbel.pools.link import SupervisorEnd
from umbel.worker.children import Child
from umbel.worker.scale import NEVER, Scale


class Scaled:
    """Children that are busy as a test says."""

    def __init__(self, layout: Layout) -> None:
        self.scale = Scale(layout, keepalive=30.0)
        self.children: list[Child] = []
        self.waiting = 0
        self.asked = 0
        self.now = 1000.0
        self.fit()

    def fit(self) -> None:
        self.scale.fit(self.children)
        self.children = [child for child in self.children if not child.surplus or child.held]
        while sum(not child.surplus for child in self.children) < self.scale.processes:
            room = self.scale.room
            link = SupervisorEnd()
            link.close()  # nothing is sent
            child = Child(len(self.children), 0, room, room, link, -1)
            child.slots = min(room, self.scale.slots)
            self.children.append(child)

    def look(self, *busy: int, after: float = 0.25) -> int:
        """Let time pass; so many deliveries are in each child. The number from then on."""
        self.now += after
        for child, count in zip(self.children, busy, strict=True):
            held: Any = dict.fromkeys(range(count))
            child.held = held
        self.scale.look(self.now, self.children, 0, self._count)
        self.fit()
        return self.scale.number

    def _count(self) -> int:
        self.asked += 1
        return self.waiting


@pytest.fixture
def processes() -> Scaled:
    return Scaled(Layout("prefork", 1, 1, (1, 4)))


def test_one_look_at_full_slots_is_no_reason(processes: Scaled) -> None:
    processes.waiting = 9
    assert [processes.look(*busy) for busy in ([1], [0], [1], [0])] == [1, 1, 1, 1]
    assert processes.asked == 0
    assert processes.look(1) == 1
    assert processes.look(1) == 4
    assert processes.look(1, 1, 1, 1) == 4
    assert processes.asked == 1  # it has all that it may have


def test_as_many_as_there_is_work_for(processes: Scaled) -> None:
    processes.look(1)
    assert processes.look(1) == 1  # nothing waits
    processes.waiting = 1
    assert processes.look(1) == 2
    processes.waiting = 0
    processes.look(2, 1)  # one waits in a child
    assert processes.look(2, 1) == 3


def test_it_shrinks_to_what_it_has_used_of_late(processes: Scaled) -> None:
    processes.waiting = 9
    processes.look(1)
    processes.look(1)
    processes.look(1, 1, 1, 1)
    processes.waiting = 0
    assert [processes.look(0, 1, 1, 0, after=10) for _ in range(2)] == [4, 4]
    assert processes.look(1, 0, 0, 0, after=10) == 2
    assert [processes.look(0, 0, after=10) for _ in range(3)] == [2, 2, 1]
    assert processes.look(0, after=60) == 1


def test_who_needs_nothing_is_not_woken(processes: Scaled) -> None:
    processes.look(0)
    assert processes.scale.next_look(busy=False) == NEVER
    assert processes.scale.next_look(busy=True) == processes.now + 0.25
    assert Scale(Layout("prefork", 4, 1), 30).next_look(busy=True) == NEVER


def test_from_nothing_it_grows_at_once() -> None:
    none = Scaled(Layout("prefork", 0, 1, (0, 4)))
    assert none.look() == 0
    none.waiting = 2
    assert none.look() == 0  # a look each second
    none.scale.look_soon()
    assert none.look() == 2


@pytest.mark.parametrize(
    ("bounds", "asked", "words"),
    [
        ((1, 9999), {}, "A worker can have 1 to 4096 slots, not 9999"),
        ((0, 3), {"pool": "solo"}, "The pool solo has one slot"),
        ((1, 3), {"processes": 2}, "leave --processes out"),
        ((1, 3000), {"pool": "threads", "processes": 2}, "not 6000"),
    ],
)
def test_what_cannot_be_is_refused(
    bounds: tuple[int, int], asked: dict[str, Any], words: str
) -> None:
    pool, processes = asked.get("pool", "prefork"), asked.get("processes")
    with pytest.raises(ImproperlyConfigured, match=words):
        lay_out(pool, None, processes, bounds=bounds)


def test_one_slot_stays_one() -> None:
    solo = Scale(lay_out("solo", None, None), 30)
    for change in (solo.grow, solo.shrink):
        with pytest.raises(ValueError, match="The pool solo has one slot"):
            change()
    assert solo.total == 1


def test_slots_are_shared_out_over_the_processes() -> None:
    many = Scaled(Layout("threads", 2, 2, (2, 10)))
    many.waiting = 3
    many.look(2, 2)
    assert many.look(2, 2) == 4
    assert [child.slots for child in many.children] == [4, 4]
    assert [child.records for child in many.children] == [10, 10]
    assert many.scale.total == 8
    assert many.look(1, 0, after=31) == 2
    assert [child.slots for child in many.children] == [2, 2]
