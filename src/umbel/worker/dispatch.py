"""Who gets which delivery: read-ahead by estimated run time, recall, suspects alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container
from heapq import heapify, heappop, heapreplace
from typing import Final

from umbel.engines.broker import MAX_CLAIM
from umbel.worker.children import Child, Children
from umbel.worker.gate import NEVER, Held

READ_AHEAD: Final = 0.02
"""Seconds of estimated work that a child may hold for each slot: enough to cover one commit and
one claim. A task that takes longer counts as so much: it fills its slot's share."""
COVER: Final = 0.005
"""What a child of many slots may hold besides: as many deliveries as will find a slot within so
many seconds, at the pace at which its slots become free."""
WINDOW: Final = 64
"""Most deliveries that may wait in a child, with the one that runs. After a kill of the whole
worker, no more bodies than this, and one for each further slot, can run a second time."""
READ_AHEAD_BYTES: Final = 8 << 20
GATHER: Final = 0.004
"""Seconds for which outcomes gather where every process has twice as much work in hand: a turn of
the supervisor costs as much as ten tasks, for one outcome or for many."""
UNKNOWN_COST: Final = READ_AHEAD
"""Estimate for a task that has not run yet: it travels singly."""
STUCK: Final = 0.025
"""Seconds of one run, or half as much again as it was expected to take, after which nothing waits
for its slot."""
HOARD: Final = 0.05
"""Seconds for which a claimed delivery may wait here without a slot before it goes back; and for
which it may lie in a child that has a free slot and does not take it up."""
SHUT: Final = 0.25
"""Seconds for which a child that took nothing up gets nothing."""
SUSPECT_HOARD: Final = 2.0
"""The same for a suspect, for which a fresh child has to start first."""
SMOOTHING: Final = 0.2
LONGEST: Final = 1e7
"""Seconds; no run takes longer."""
LOOK_EACH: Final = 0.00001
"""Seconds between two looks at the slots of a child, for each of them."""


class Dispatcher:
    """Holds what is claimed and not handed out, and hands it out."""

    def __init__(self, children: Children, max_tasks: int | None) -> None:
        self._children = children
        self._max_tasks = max_tasks
        self.hand: deque[Held] = deque()
        self.suspects: deque[Held] = deque()
        self._costs: dict[str, float] = {}
        self._average = UNKNOWN_COST

    def learn(self, held: Held, runtime: float) -> None:
        """Take a run time into the estimates."""
        name = held.headers.task
        if not 0.0 <= runtime < LONGEST:
            return  # a task has tampered with the clock
        cost = runtime + 0.00003  # what the pipeline itself takes
        known = self._costs.get(name)
        self._costs[name] = cost if known is None else known + SMOOTHING * (cost - known)
        self._average += SMOOTHING * (cost - self._average)

    def add(self, held: Held) -> None:
        """Take in a claimed delivery."""
        held.since = time.monotonic()
        self._estimate(held)
        (self.suspects if held.delivery.suspect else self.hand).append(held)

    def _estimate(self, held: Held) -> None:
        cost = held.cost = self._costs.get(held.headers.task, UNKNOWN_COST)
        held.share = min(READ_AHEAD, cost)

    # ------------------------------------------------------------------ room

    def capacity(self) -> int:
        """How many more deliveries to claim now."""
        room = 0.0
        average = min(self._average, READ_AHEAD)
        for child in self._children:
            if not self._open(child) or child.spare:
                continue
            occupied = child.occupied
            if child.slots < child.records:  # it would start at once what is to wait
                room += max(0, child.slots - occupied)
                continue
            free = max(
                child.slots - occupied,
                (READ_AHEAD * child.slots - child.load) / average,
                self._cover(child) - max(0, occupied - child.slots),
            )
            window = WINDOW - 1 + child.slots
            if self._max_tasks:
                window = min(window, self._max_tasks - child.done)
            room += max(0.0, min(free, window - occupied))
        return min(MAX_CLAIM, max(0, int(room) - len(self.hand) - len(self.suspects)))

    def _open(self, child: Child) -> bool:
        return (
            child.ready
            and not (child.retiring or child.surplus or child.alone or child.killed or child.stuck)
            and child.verdict is None
            and child.link.unsent < READ_AHEAD_BYTES
        )

    def _cover(self, child: Child) -> int:
        """How many deliveries will find a slot in a moment, at the usual pace."""
        return int(child.slots * COVER / self._average)

    def _fits(self, child: Child, held: Held) -> bool:
        """Whether a child takes one more: for a free slot, or to wait a moment for one."""
        slots = child.slots
        waiting = len(child.held) + len(child.finishing) - slots
        if waiting < 0:
            return True
        if held.early or child.slots < child.records or waiting >= WINDOW - 1:
            return False
        return child.load + held.share <= READ_AHEAD * slots or waiting < self._cover(child)

    # ------------------------------------------------------------------ handing out

    def plan(self) -> list[tuple[Child, list[Held]]]:
        """Assign what is in hand; the deliveries are the children's from here on."""
        plan: list[tuple[Child, list[Held]]] = []
        if self.suspects:
            self._place_suspects(plan)
        if not self.hand:
            return plan
        gifts = [
            (_load(child), child.seat, child, list[Held]())
            for child in self._children
            if self._open(child) and not child.spare
        ]
        plan += [(child, given) for _, _, child, given in gifts]
        heapify(gifts)  # the child with the least load is the first
        hand = self.hand
        while hand and gifts:
            _, seat, child, given = gifts[0]
            held = hand[0]
            if not self._fits(child, held):
                heappop(gifts)
                continue
            hand.popleft()
            self._assign(child, held)
            given.append(held)
            if child.retiring:
                heappop(gifts)
            else:
                heapreplace(gifts, (_load(child), seat, child, given))
        return [(child, given) for child, given in plan if given]

    def _assign(self, child: Child, held: Held) -> None:
        child.held[held.delivery.number] = held
        if held.early:
            self._children.note_early(held.delivery.number)
        child.load += held.share
        child.taken_up = False
        if self._max_tasks and child.done + len(child.held) >= self._max_tasks:
            child.retiring = True

    def _place_suspects(self, plan: list[tuple[Child, list[Held]]]) -> None:
        """A suspect runs alone in a child that has run nothing before."""
        for child in self._children:
            if child.records > 1 and not child.spare:
                continue  # it has no time to become empty: a spare child is started for it
            if self.suspects and self._open(child) and not child.occupied and not child.done:
                held = self.suspects.popleft()
                self._assign(child, held)
                child.alone = True
                plan.append((child, [held]))
        if self.wants_spare:
            return
        on_the_way = sum(1 for c in self._children if c.retiring or not c.ready)
        for child in self._children:
            if on_the_way >= len(self.suspects):
                return
            if child.records == 1 and self._open(child) and not child.occupied:
                child.retiring = True  # its successor is fresh
                on_the_way += 1

    @property
    def wants_spare(self) -> bool:
        """Whether a child is to be started for a suspect alone."""
        return bool(self.suspects) and any(child.records > 1 for child in self._children)

    def release(self, child: Child, number: int) -> Held | None:
        """Take a delivery from a child: it has ended there, or goes elsewhere."""
        held = child.held.pop(number, None)
        if held is not None:
            child.load = max(0.0, child.load - held.share) if child.held else 0.0
        return held

    # ------------------------------------------------------------------ taking back

    def recall(self, child: Child) -> list[Held]:
        """Take back everything that a child has not started."""
        numbers = child.link.recall()
        recalled = [held for n in numbers if (held := self.release(child, n)) is not None]
        self._children.forget_early(numbers)
        child.alone = child.alone and bool(child.held)
        return recalled

    def rebalance(self, now: float) -> None:
        """Recall what waits behind long runs, or in one child while another has a free slot."""
        for child in self._children:
            if child.occupied:
                if now >= child.look_at:
                    self._look(child, now)
            else:
                child.stuck, child.taken_up, child.behind_since = now < child.shut_until, True, 0.0
        idle = not self.hand and any(
            c.occupied < c.slots and not c.spare and self._open(c) for c in self._children
        )
        for child in self._children:
            waits = child.occupied > child.slots
            if child.verdict is not None or child.culprit is not None:
                waits = bool(child.held)
            elif child.stuck:
                waits = waits or not child.taken_up
            elif not idle:
                continue
            if waits:
                self._return_to_hand(self.recall(child))

    def _look(self, child: Child, now: float) -> None:
        """See in the slot table what a child makes of what it holds."""
        busy = long = started = 0
        for _, number, start in self._children.running(child):
            held = child.held.get(number)
            started += held is not None
            held = held or child.finishing.get(number)
            if held is not None:  # else it has just ended
                busy += 1
                long += now - start > max(STUCK, 1.5 * held.cost)
        child.look_at = now + LOOK_EACH * child.records
        child.stuck = long >= max(1, child.slots)
        child.taken_up = started == len(child.held) or busy >= child.slots
        if child.taken_up or child.records == 1:
            child.behind_since = 0.0
            return
        child.behind_since = child.behind_since or now
        if now - child.behind_since > HOARD:
            child.shut_until, child.behind_since = now + SHUT, 0.0
        child.stuck = child.stuck or now < child.shut_until

    def _return_to_hand(self, recalled: list[Held]) -> None:
        for held in reversed(recalled):
            self._estimate(held)
            (self.suspects if held.delivery.suspect else self.hand).appendleft(held)

    def take_back(self, child: Child) -> None:
        """Put what a child has not started first in hand again."""
        self._return_to_hand(self.recall(child))

    def drop(self, ids: Container[str]) -> list[Held]:
        """Take out what was claimed and not handed out, of these task ids."""
        dropped = [h for h in (*self.hand, *self.suspects) if h.headers.id in ids]
        for held in dropped:
            (self.suspects if held.delivery.suspect else self.hand).remove(held)
        return dropped

    def empty(self) -> list[Held]:
        """Take out everything that was claimed and not handed out."""
        everything = [*self.hand, *self.suspects]
        self.hand.clear()
        self.suspects.clear()
        return everything

    def hoarded(self, now: float) -> list[Held]:
        """What has waited here too long for a slot and should go back to the store."""
        late: list[Held] = []
        for waiting, patience in ((self.hand, HOARD), (self.suspects, SUSPECT_HOARD)):
            while waiting and now - waiting[0].since > patience:
                late.append(waiting.popleft())
        return late

    def waits(self) -> bool:
        """Whether anything here may need a look soon without any news."""
        return bool(self.hand or self.suspects) or any(
            len(child.held) > child.slots or (child.records > 1 and not child.taken_up)
            for child in self._children
        )

    def gathering(self) -> float:
        """Seconds for which nothing needs the supervisor, because no slot will want for work."""
        least = min((_surplus(child) for child in self._children), default=0.0)
        return GATHER if least >= 2 * GATHER else 0.0

    def reopening(self, now: float) -> float:
        """Monotonic time at which the first child that got nothing for a while may get more."""
        return min((c.shut_until for c in self._children if c.shut_until > now), default=NEVER)


def _surplus(child: Child) -> float:
    """Estimated seconds of work that wait for the slot of a child of one."""
    if child.slots > 1 or len(child.held) < 2 or child.retiring or child.killed or child.stuck:
        return 0.0
    return child.load - next(iter(child.held.values())).share


def _load(child: Child) -> float:
    """A free slot first, then the least work."""
    return child.load + 1e6 if len(child.held) >= child.slots else child.load
