"""Slots: what a pool is made of, and all that a pool has to know of the rest.

A child process has a number of slots, and runs one delivery at a time in each. A pool says how:
in the main thread, in threads, as asyncio tasks, as greenlets. It is one class (`Pool`) that is
made with the child's `Bench` and has three things to do:

* `run` takes deliveries from the bench and runs them until there are no more. A pool whose slots
  may block gives each slot a thread of some kind, in which it calls `Bench.work`: that is all. A
  pool that must not block waits until `Bench.source` can be read, calls `Bench.take` while it has
  a free slot, and takes the run through `Pipeline.open` and `Pipeline.close` itself, with
  `Slot.begin` before and `Bench.conclude` (or `Bench.send` and `Slot.end`) after it.
* `interrupt` raises `SoftTimeLimitExceeded` in the function that runs in a slot. It must hit that
  function and nothing else: from the moment at which the pool puts the delivery's number into
  `Slot.inside` to that at which it takes it out.
* `stack` tells where a slot's code stands, where no thread's stack shows it.

A token that a child has read is a delivery that it has started, and its outcome leaves before the
same slot takes another: on this rests what is known after a crash (`umbel.pools.link`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from _thread import start_new_thread
from collections.abc import Callable
from time import sleep
from types import FrameType
from typing import TYPE_CHECKING, Final, Protocol

from umbel.app.execution.outcome import Outcome
from umbel.app.execution.pipeline import Call, Pipeline, Rest
from umbel.engines.run_file import ASKED, ENDED, NUMBER, RECORD, SOFT, STACK, START, THREAD
from umbel.exceptions import SoftTimeLimitExceeded
from umbel.pools.link import RETIRE, ChildEnd

if TYPE_CHECKING:
    from umbel.pools.coroutine import Interruptible

POSTPONE: Final = 0.002
"""Seconds until a soft limit that met a call of the store tries again."""
DECISION: Final = 0.0005
"""Seconds between two looks at what the supervisor has decided; it takes no longer."""
TASK: Final = "Task"
"""How the stack begins of what no thread's stack shows."""
WAITING: Final = "umbel.engines.waiting"
MANY: Final = 20
"""Stacks that are told of one child at most."""
Job = tuple[int, bytes, int]
"""A delivery's number, its payload, and how many of its attempts were charged."""


class Pool(Protocol):
    """How the slots of a child run code."""

    def __init__(self, bench: Bench) -> None:
        """Make it, in the child's main thread, before any delivery comes."""
        ...

    def run(self) -> None:
        """Run what comes until there are no more; return when all of it has ended."""
        ...

    def interrupt(self, slot: Slot, frame: FrameType | None) -> bool:
        """Raise `SoftTimeLimitExceeded` in the function that runs in a slot.

        Called from a signal handler, in the main thread, which stands in `frame`. True has the
        handler raise it there. Where it cannot be raised just now, nothing is done: the call comes
        again in a moment. Without a frame it is another thread that calls, inside a host's process.
        """
        ...

    def stack(self, slot: Slot) -> list[str]:
        """Where its code stands, outermost frame first, as faulthandler writes frames.

        Empty where it is to be seen on the stack of the thread that `Slot.enter` named.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds, after `run`."""
        ...


class Slot:
    """One slot: its record in the table, and what it runs."""

    __slots__ = ("_base", "_words", "coroutine", "guard", "inside", "struck", "thread")

    def __init__(self, words: memoryview[int], record: int) -> None:
        self._words = words
        self._base = record * RECORD
        self.inside: int = 0
        """The number of the delivery that is inside the user's function, else 0."""
        self.struck: int = 0
        """The number of the delivery that was told of its soft limit."""
        self.coroutine: Interruptible | None = None
        self.thread: int = 0
        """The thread that runs its function."""
        self.guard: threading.Lock = threading.Lock()
        """Held while `inside` changes, and while another thread acts on it."""

    def begin(self, number: int) -> None:
        """A delivery starts here, now: its handlers and its function come next."""
        words, base = self._words, self._base
        words[base + START] = time.monotonic_ns()
        words[base + NUMBER] = number

    def detach(self, words: memoryview[int]) -> None:
        """From now on write into `words`: the record may be another slot's soon."""
        self._words = words

    def end(self) -> None:
        """What ran here has ended, and its outcome has left."""
        self._words[self._base + NUMBER] = 0

    def name_thread(self, thread: int) -> None:
        """Tell which thread runs what runs here (`threading.get_ident`)."""
        if thread != self.thread:
            self.thread = self._words[self._base + THREAD] = thread

    def is_over_limit(self) -> bool:
        """Whether what is inside is the delivery whose soft limit has passed, and not told yet."""
        inside = self.inside
        if inside in {0, self.struck}:
            return False
        return inside == self._words[self._base + SOFT] & ~(ENDED | ASKED)

    def ended_on_request(self) -> int:
        """The number of what runs here, if it is settled as terminated: its own end is void."""
        number = self._words[self._base + NUMBER]
        return number if number and self._words[self._base + SOFT] == number | ENDED else 0

    def is_void(self) -> bool:
        """Whether what has just ended here, and has told so, was terminated before.

        While the supervisor looks at just that, it is waited for.
        """
        number = self._words[self._base + NUMBER]
        while (word := self._words[self._base + SOFT]) == number | ASKED:
            sleep(DECISION)
        return word == number | ENDED

    def is_early(self) -> bool:
        """Whether the soft limit has passed of what is here and not inside the function.

        It may be on its way there: a handler runs before it, or its event loop is being made.
        """
        words, base = self._words, self._base
        number = words[base + NUMBER]
        return self.inside == 0 != number == words[base + SOFT] != self.struck

    def is_asked_for_stack(self) -> bool:
        """Whether the supervisor wants to know where this slot's code stands."""
        number = self._words[self._base + NUMBER]
        return number != 0 and number == self._words[self._base + STACK]


class Bench:
    """The slots of a child, and the deliveries that come for them."""

    def __init__(
        self, link: ChildEnd, slots: list[Slot], pipeline: Pipeline, pid: int, stacks: int
    ) -> None:
        self.slots: list[Slot] = slots
        self.pipeline = pipeline
        self.over: bool = False
        """Nothing more will come."""
        self._link = link
        self._stacks = stacks
        self._token: int | None = None
        self._taking = threading.Lock()
        self._sending = threading.Lock()
        self._pid = pid
        self._in_handler = False
        self._again = False

    # ------------------------------------------------------------------ deliveries

    def next(self) -> Job | None:
        """Wait for a delivery; None when nothing more will come. Any thread may ask."""
        with self._taking:  # a token and its payload, by one thread: both come in one order
            return None if self.over else self._next()

    def _next(self) -> Job | None:
        number = self._link.next_token()
        if number == RETIRE:
            self.over = True
            return None
        return (number, *self._link.payload(number))

    def take(self) -> Job | None:
        """A delivery if one is there, without waiting; for one thread, and not beside `next`."""
        number = self._token
        if number is None and not self.over:
            number = self._link.token_now()
            if number == RETIRE:
                self.over = True
                return None
        if number is None:
            return None
        found = self._link.payload_now(number)
        self._token = number if found is None else None
        return None if found is None else (number, *found)

    @property
    def source(self) -> int:
        """The descriptor that becomes readable when `take` may find more than it did."""
        tokens, payloads = self._link.sources
        return tokens if self._token is None else payloads

    def work(self, slot: Slot, call: Call, next_: Callable[[], Job | None] | None = None) -> None:
        """Run deliveries in a slot, one after the other, until nothing more will come.

        `next_` is called for each delivery, in place of `next`, where waiting for one must not
        block the thread: it waits for `source`, and asks `take`.
        """
        open_, perform = self.pipeline.open, self.pipeline.perform
        alone = len(self.slots) == 1  # a lock that nobody contends costs a tenth of a short run
        take, send = (self._next, self._send) if alone else (self.next, self.send)
        take = next_ or take
        while (job := take()) is not None:
            run = open_(*job)
            rest: Rest | None = None
            if isinstance(run, Outcome):
                outcome = run
            else:
                slot.begin(job[0])
                outcome, rest = perform(run, call)
            if rest is None:
                send(outcome)
                slot.end()
            else:
                self.conclude(slot, outcome, rest)

    def conclude(self, slot: Slot, outcome: Outcome, rest: Rest | None) -> None:
        """Send an outcome, and do what is left of its run."""
        # It leaves before the slot takes another, so a crash in that cannot take it along.
        if rest is None:
            self.send(outcome)
        else:
            outcome.busy = True
            slot.struck = outcome.number  # its function is over: no soft limit waits for it
            self.send(outcome)
            if not slot.is_void():
                rest()
            self.send(Outcome(outcome.number, "finished"))
        slot.end()

    def send(self, outcome: Outcome) -> None:
        """Hand an outcome to the supervisor. Any thread may do it."""
        with self._sending:
            self._send(outcome)

    def _send(self, outcome: Outcome) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a process that the task has forked has come out of its function
        self._link.send(outcome)

    def give_up(self) -> None:
        """End the process, from a handler of what broke a slot's loop: it would run nothing more.

        A `SystemExit` says that the supervisor is gone.
        """
        if isinstance(sys.exception(), SystemExit):
            os._exit(0)
        traceback.print_exc()
        os._exit(1)

    # ------------------------------------------------------------------ signals

    def on_soft_limit(self, pool: Pool, frame: FrameType | None) -> None:
        """SIGUSR1: raise `SoftTimeLimitExceeded`, but only inside the deliveries it is meant for.

        Each slot's record names its own.
        """
        self._again = True
        if self._in_handler:
            return  # it came while another one is being dealt with, which goes on with this
        self._in_handler = True
        try:
            raises = False
            while self._again:
                self._again = False
                for slot in self.slots:
                    if number := slot.ended_on_request():
                        self.pipeline.void.add(number)
                    if slot.is_over_limit():
                        raises = pool.interrupt(slot, frame) or raises
        finally:
            self._in_handler = False
        if any(slot.is_over_limit() or slot.is_early() for slot in self.slots):
            self.come_again(pool)
        if raises:
            raise SoftTimeLimitExceeded

    def come_again(self, pool: Pool) -> None:  # noqa: ARG002  (what other benches need)
        """Have `on_soft_limit` called again in a moment."""
        postpone()

    def tell_stacks(self, pool: Pool) -> None:
        """SIGUSR2, after faulthandler: what is on no thread's stack."""
        asked = [slot for slot in self.slots if slot.is_asked_for_stack()]
        for slot in asked or [slot for slot in self.slots if slot.inside][:MANY]:
            if lines := self.stack(pool, slot):
                text = "\n".join([f"{TASK} (most recent call last):", *lines])
                os.write(self._stacks, text.encode("utf-8", "replace") + b"\n")

    def stack(self, pool: Pool, slot: Slot) -> list[str]:
        """Where a slot's code stands, if nobody else tells."""
        return pool.stack(slot)


def frames_of(frame: FrameType | None) -> list[str]:
    """A stack, outermost frame first, as faulthandler writes frames."""
    lines: list[str] = []
    while frame is not None:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    return lines[::-1]


def is_in_store(frame: FrameType | None) -> bool:
    """Whether a frame is of a call of the store, and not merely waits for what it may tell.

    A soft limit raised there would leave open whether what is being sent was sent.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("umbel.engines.") and name != WAITING:
            return True
        frame = frame.f_back
    return False


def postpone() -> None:
    """Have the signal of the soft limit come again in a moment."""
    # By what is no greenlet, in a process that is patched too: these names are of before.
    start_new_thread(_come_again, ())


def _come_again() -> None:
    sleep(POSTPONE)
    os.kill(os.getpid(), signal.SIGUSR1)
