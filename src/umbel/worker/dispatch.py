"""Who gets which delivery: read-ahead by estimated run time, recall, suspects alone."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from umbel.engines.broker import MAX_CLAIM
from umbel.worker.children import Child, Children
from umbel.worker.gate import Held

READ_AHEAD: Final = 0.02
"""Seconds of estimated work that a child may hold: enough to cover one commit and one claim."""
WINDOW: Final = 64
"""Most deliveries that a child may hold. After a kill of the whole worker, no more bodies than
this can run a second time for each child."""
READ_AHEAD_BYTES: Final = 8 << 20
UNKNOWN_COST: Final = READ_AHEAD
"""Estimate for a task that has not run yet: it travels singly."""
STUCK: Final = 0.025
"""Seconds of one run after which nothing else waits behind it in its child."""
HOARD: Final = 0.05
"""Seconds for which a claimed delivery may wait here without a slot before it goes back."""
SUSPECT_HOARD: Final = 2.0
"""The same for a suspect, for which a fresh child has to start first."""
SMOOTHING: Final = 0.2


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
        cost = runtime + 0.00003  # what the pipeline itself takes
        known = self._costs.get(name)
        self._costs[name] = cost if known is None else known + SMOOTHING * (cost - known)
        self._average += SMOOTHING * (cost - self._average)

    def add(self, held: Held) -> None:
        """Take in a claimed delivery."""
        held.since = time.monotonic()
        held.cost = self._costs.get(held.headers.task, UNKNOWN_COST)
        (self.suspects if held.delivery.suspect else self.hand).append(held)

    def capacity(self) -> int:
        """How many more deliveries to claim now."""
        room = 0.0
        for child in self._children.by_slot.values():
            if not self._open(child):
                continue
            window = min(WINDOW, self._max_tasks - child.done) if self._max_tasks else WINDOW
            free = min((READ_AHEAD - child.load) / self._average, window - len(child.held))
            room += max(free, 0 if child.held else 1)
        return min(MAX_CLAIM, max(0, int(room) - len(self.hand) - len(self.suspects)))

    def _open(self, child: Child) -> bool:
        return (
            child.ready
            and not (child.retiring or child.alone or child.killed or child.stuck)
            and child.verdict is None
            and child.link.unsent < READ_AHEAD_BYTES
        )

    def plan(self) -> list[tuple[Child, list[Held]]]:
        """Assign what is in hand; the deliveries are the children's from here on."""
        plan: list[tuple[Child, list[Held]]] = []
        if self.suspects:
            self._place_suspects(plan)
        if not self.hand:
            return plan
        children = self._children.by_slot.values()
        ready = [c for c in children if self._open(c) and len(c.held) < WINDOW]
        gifts: dict[int, list[Held]] = {}
        while self.hand and ready:
            child = min(ready, key=_load)
            held = self.hand[0]
            full = held.early or child.load + held.cost > READ_AHEAD
            if child.held and full:
                ready.remove(child)
                continue
            self.hand.popleft()
            self._assign(child, held)
            gifts.setdefault(child.slot, []).append(held)
            if child.retiring or child.alone or len(child.held) >= WINDOW:
                ready.remove(child)
        by_slot = self._children.by_slot
        plan += [(by_slot[slot], held) for slot, held in gifts.items()]
        return plan

    def _assign(self, child: Child, held: Held) -> None:
        child.held[held.delivery.number] = held
        child.load += held.cost
        child.alone = held.early or held.delivery.suspect
        if self._max_tasks and child.done + len(child.held) >= self._max_tasks:
            child.retiring = True

    def _place_suspects(self, plan: list[tuple[Child, list[Held]]]) -> None:
        """A suspect runs alone in a child that has run nothing before."""
        children = list(self._children.by_slot.values())
        for child in children:
            if self.suspects and self._open(child) and not child.held and not child.done:
                held = self.suspects.popleft()
                self._assign(child, held)
                plan.append((child, [held]))
        on_the_way = sum(1 for c in children if c.retiring or not c.ready)
        for child in children:
            if on_the_way >= len(self.suspects):
                return
            if self._open(child) and not child.held:
                child.retiring = True  # its successor is fresh
                on_the_way += 1

    def release(self, child: Child, number: int) -> Held | None:
        """Take a delivery from a child: it has ended there, or goes elsewhere."""
        held = child.held.pop(number, None)
        if held is not None:
            child.load = max(0.0, child.load - held.cost) if child.held else 0.0
        return held

    def recall(self, child: Child) -> list[Held]:
        """Take back everything that a child has not started."""
        numbers = child.link.recall()
        recalled = [held for n in numbers if (held := self.release(child, n)) is not None]
        child.alone = child.alone and bool(child.held)
        return recalled

    def rebalance(self, now: float) -> None:
        """Recall what waits behind a long run, or in one child while another is idle."""
        children = self._children.by_slot.values()
        for child in children:
            number, start = self._children.table.running(child.slot)
            busy = number in child.held or child.finishing is not None
            child.stuck = busy and now - start > STUCK
        idle = not self.hand and any(self._open(c) and not c.held for c in children)
        for child in children:
            waiting = len(child.held) - (child.finishing is None)
            if waiting > 0 and (child.stuck or idle or child.verdict is not None):
                self._return_to_hand(self.recall(child))

    def _return_to_hand(self, recalled: list[Held]) -> None:
        for held in reversed(recalled):
            held.cost = self._costs.get(held.headers.task, UNKNOWN_COST)
            (self.suspects if held.delivery.suspect else self.hand).appendleft(held)

    def take_back(self, child: Child) -> None:
        """Put what a child has not started first in hand again."""
        self._return_to_hand(self.recall(child))

    def drop(self, ids: set[str]) -> list[Held]:
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
            len(child.held) > 1 for child in self._children.by_slot.values()
        )


def _load(child: Child) -> float:
    return child.load
