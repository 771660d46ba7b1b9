"""The supervisor: one loop that reads outcomes, settles, claims and hands out.

Outcomes are committed at once when no commit is in flight; while one is, more gather, and so
batches form by themselves. The loop's thread is the only one that claims, dispatches and settles.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from umbel import clock, signals
from umbel.app import App
from umbel.app.log import LogOptions
from umbel.engines.broker import Claim, Delivery, LeaseLost, Settlement
from umbel.engines.state import Engine
from umbel.exceptions import OperationalError
from umbel.pools.child import IMPORT_FAILED
from umbel.pools.kinds import Layout, lay_out
from umbel.pools.link import Setup
from umbel.worker.children import Child, Children
from umbel.worker.dispatch import READ_AHEAD, Dispatcher
from umbel.worker.ends import Ends
from umbel.worker.gate import NEVER, Gate, Held
from umbel.worker.leases import Incarnation, LeaseKeeper, NodeTaken
from umbel.worker.limits import Limits
from umbel.worker.notices import Notices
from umbel.worker.scale import Scale
from umbel.worker.settle import Settler
from umbel.worker.shutdown import Shutdown
from umbel.worker.stacks import StackReport

logger: logging.Logger = logging.getLogger("umbel.worker")

SLOW_LOOK: Final = 1.0
"""Seconds after which an idle worker looks for work even if nobody woke it."""
NEWS: Final = 0.1
"""Seconds within which a worker without a free slot looks what was revoked, if the store rings."""
STORE_RETRY: Final = 0.5
"""Seconds between two tries when the store cannot be written."""
UNRESPONSIVE: Final = 10.0
"""Seconds after which a child that has work and does not start it is replaced."""
SHORT_LIVED: Final = 1.0
"""A child that dies sooner (s) without having run anything is replaced only after a pause."""


@dataclass(frozen=True)
class Options:
    """What a worker was asked for; None takes the setting's value."""

    app_name: str
    """Where its children find the app, `module:attribute`; nothing is read of it inside a host."""
    node: str | None = None
    queues: Sequence[str] = ()
    concurrency: int | None = None
    pool: str | None = None
    processes: int | None = None
    autoscale: tuple[int, int] | None = None
    """The least and the most processes (or slots in each) between which it scales by itself."""
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    log: LogOptions = field(default_factory=LogOptions)
    replace: bool = False
    include: Sequence[str] = ()
    """Modules that are imported besides the app's."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the command line, as text."""


class Supervisor:
    """One worker.

    With no name in its options it has the one that its log was set up for, or none (`NodeTaken`).
    `own_engine` is for the lease, which must wait for nothing else: by default the app's store,
    over connections of its own.
    """

    def __init__(
        self,
        app: App,
        options: Options,
        children: Children,
        shutdown: Shutdown,
        own_engine: Engine | None = None,
    ) -> None:
        conf = app.conf
        self.app = app
        self.options = options
        self.queues: tuple[str, ...] = tuple(options.queues) or tuple(app.amqp.queues.consume_from)
        self.layout: Layout = lay_out(
            options.pool or conf.worker_pool,
            options.concurrency,
            options.processes,
            conf.worker_concurrency,
            options.autoscale,
        )
        self.scale: Scale = Scale(self.layout, conf.worker_autoscale_keepalive)
        self._told_slots = self.layout.total
        max_tasks = options.max_tasks_per_child or conf.worker_max_tasks_per_child
        max_memory = options.max_memory_per_child or conf.worker_max_memory_per_child
        self._max_memory = max_memory if children.kills else None
        self._own_engine = own_engine
        self._broker = app.engine.broker
        self.incarnation: Incarnation = Incarnation(
            app, options.node, self.queues, self.layout.total, conf.worker_lease,
            self.layout.bounds,
        )  # fmt: skip
        self._children = children
        self._dispatcher = Dispatcher(children, max_tasks)
        self._settlements: list[Settlement] = []
        self._retry_at = 0.0
        self._complaint = ""
        self._dry = False
        self._heard = False
        """The waker has fired, and nobody has drained it yet."""
        self._next_look = 0.0
        self._next_due: float | None = None
        self._next_limit = NEVER
        self._revocations_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._spawn_at = 0.0
        self._on_ready: Callable[[], None] | None = None
        self.shutdown: Shutdown = shutdown
        self._stacks = StackReport(self._children)
        self._lease_lost = False
        self._exit_code = 0

    # ------------------------------------------------------------------ start and end

    def run(self, on_ready: Callable[[], None]) -> int:
        """Work until told to stop; the process's exit code. `on_ready` is called once."""
        self._on_ready = on_ready
        if self.layout.pool == "eventlet":
            logger.warning("eventlet is being retired by its authors; -P gevent does the same")
        signals.worker_init.send(self)
        lease = self.app.conf.worker_lease
        with contextlib.ExitStack() as ends:
            ends.callback(self._selector.close)
            ends.callback(self._children.close)
            run_file = self.incarnation.register(
                replace=self.options.replace, announced=self.options.log.node
            )
            ends.callback(self._leave)
            wake = ends.enter_context(self.shutdown.listen())
            self._notices = Notices(self.app, self.incarnation.node)
            ends.callback(self._notices.close)
            self._settler = Settler(self.app, self.incarnation.node, self._notices)
            self._gate = Gate(
                self.app, self._settler, self.options.time_limit, self.options.soft_time_limit
            )
            self._ends = Ends(
                self._settlements, self._dispatcher, self._gate, self._settler, self._max_memory
            )
            grace = self.app.conf.task_soft_time_limit_grace
            self._limits = Limits(self._children, grace, self._ends, self._read_outcomes)
            own_engine = self._own_engine
            if own_engine is None:
                own_engine = self.app.connect()
                ends.callback(own_engine.close)
            keeper = LeaseKeeper(
                self.app, self.incarnation, own_engine, lease, self._note_lost_lease
            )
            keeper.start()
            ends.callback(keeper.stop)
            self._waker = self._broker.listen(self.queues)
            ends.callback(self._stop_listening)
            ends.callback(self._children.close)  # before the lease ends
            self._children.hand_over(run_file.descriptor)
            signals.celeryd_after_setup.send(self.hostname, instance=self, conf=self.app.conf)
            for _ in range(self.scale.processes):
                self._spawn()
            if not self.scale.processes:
                self._announce()
            self._loop(wake)
        signals.worker_shutdown.send(self)
        return self._exit_code

    @property
    def hostname(self) -> str:
        """Its node name (Celery's word)."""
        return self.incarnation.node

    def _stop_listening(self) -> None:
        self._waker.close()

    def _leave(self) -> None:
        with contextlib.suppress(OperationalError):
            self.incarnation.leave()

    def _note_lost_lease(self) -> None:
        self._lease_lost, self._dry = True, False

    # ------------------------------------------------------------------ the loop

    def _loop(self, wake: socket.socket) -> None:
        for source in (self._children.control, wake, self._waker):
            self._selector.register(source, selectors.EVENT_READ)
        announced: str | None = None
        while True:
            self._listen(wake)
            if not self._reap():
                return
            self._commit()
            self.shutdown.pass_deadline()
            if self.shutdown.how is not None:
                if announced != self.shutdown.how:
                    announced = self.shutdown.how
                    self._begin_shutdown()
                if not len(self._children) and (
                    not self._settlements or self.shutdown.how == "cold"
                ):
                    return
            now = time.monotonic()
            self._tend_children(now)
            if self.shutdown.how is None:
                self._fetch(now)
            if self._heard:
                self._heard = False
                self._waker.drain()
            self._watch_revocations(now)
            self._hand_out(now)
            self._next_limit = self._limits.enforce(time.monotonic())
            if self.shutdown.stacks_wanted:
                self.shutdown.stacks_wanted = False
                self._stacks.ask()
            self._stacks.tell()

    def _listen(self, wake: socket.socket) -> None:
        """Sleep until there is news, and take it in."""
        if self.shutdown.how is None and (pause := self._dispatcher.gathering()):
            time.sleep(max(0.0, min(pause, self._next_limit - time.monotonic())))
        for key, _ in self._selector.select(self._timeout()):
            if isinstance(key.data, Child):
                self._read_outcomes(key.data)
            elif key.fileobj is self._waker:
                self._heard, self._dry = True, False
                self.scale.look_soon()
                self._revocations_at = min(self._revocations_at, time.monotonic() + NEWS)
            elif key.fileobj is wake:
                wake.recv(4096)

    def _timeout(self) -> float:
        """Seconds to sleep at most."""
        now = time.monotonic()
        if self._settlements:
            return max(0.0, self._retry_at - now)
        times = [now + SLOW_LOOK]
        if self.shutdown.how is None and self._dispatcher.capacity():
            times.append(self._next_look if self._dry else now)
            if self._next_due is not None:
                times.append(now + max(0.0, self._next_due - clock.time()))
        times += [self._next_limit, self.shutdown.deadline, self._dispatcher.reopening(now)]
        busy = any(child.held for child in self._children)
        if busy:
            times.append(self._revocations_at)
        times.append(self.scale.next_look(busy=busy))
        if self._stacks.due is not None:
            times.append(self._stacks.due)
        if self._dispatcher.waits() or self._has_unsent():
            times.append(now + READ_AHEAD)
        if self._spawn_at > now:
            times.append(self._spawn_at)
        return max(0.0, min(times) - now)

    def _has_unsent(self) -> bool:
        return any(child.link.unsent for child in self._children)

    # ------------------------------------------------------------------ outcomes and ends

    def _read_outcomes(self, child: Child) -> None:
        child.shut_until = 0.0  # it does something
        for outcome in child.link.outcomes():
            if outcome.number == 0:
                child.ready = True
                if all(c.ready for c in self._children):
                    self._announce()
                continue
            self._ends.by_outcome(child, outcome)
        if child.link.at_end and not child.killed:
            # It is ending, or its task has closed the worker's descriptors: no outcome can come.
            self._selector.unregister(child.link)
            child.cut = True
            self._children.kill(child)

    def _announce(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
            signals.worker_ready.send(self)

    def _reap(self) -> bool:
        """Deal with the children that have ended; False if the worker cannot go on."""
        try:
            reports = self._children.reports()
        except ConnectionError:
            logger.critical("The fork server has died; this worker ends and its work goes back")
            self._children.abandon()
            for child in self._children:
                self._read_outcomes(child)
            self._commit()
            self._exit_code = 1
            return False
        for child, report in reports:
            if "unborn" in report:
                cause = os.strerror(report["errno"])
                logger.error("No process could be started: %s; trying again", cause)
                self._drop_child(child)
                self._spawn_at = time.monotonic() + SHORT_LIVED
            else:
                self._child_ended(child, report)
        return self._exit_code == 0 or self.shutdown.how is not None

    def _child_ended(self, child: Child, report: dict[str, int]) -> None:
        self._read_outcomes(child)
        status = report["status"]
        cold = self.shutdown.how == "cold" and child.killed
        self._ends.by_death(child, status, report["memory"], cold=cold)
        expected = child.told_to_end or (child.killed and not child.cut)
        self._drop_child(child)
        if self.shutdown.how is not None:
            return
        if not child.ready and os.waitstatus_to_exitcode(status) == IMPORT_FAILED:
            logger.critical("A child could not import the app; see its traceback above")
            if self._on_ready is not None:
                self.shutdown.how, self._exit_code = "cold", 1
                return
        if not expected and not child.ready and time.monotonic() - child.born < SHORT_LIVED:
            self._spawn_at = time.monotonic() + SHORT_LIVED

    def _drop_child(self, child: Child) -> None:
        with contextlib.suppress(KeyError):  # its link may have come to its end before
            self._selector.unregister(child.link)
        self._children.forget(child)

    # ------------------------------------------------------------------ commits and claims

    def _commit(self) -> None:
        """Settle what has ended. While the store cannot be written, keep it and try again."""
        if not self._settlements or time.monotonic() < self._retry_at:
            return
        try:
            refused = self._broker.settle(self._settlements)
        except OperationalError as error:
            self._complain(error)
            self._retry_at = time.monotonic() + STORE_RETRY
            return
        except Exception:
            logger.exception("A batch of outcomes could not be stored; trying them one by one")
            try:
                refused = self._commit_one_by_one()
            except OperationalError as error:  # what is stored already will be refused next time
                self._complain(error)
                self._retry_at = time.monotonic() + STORE_RETRY
                return
        self._complaint = ""
        self._retry_at = 0.0
        self._children.forget_early(settlement.number for settlement in self._settlements)
        self._settlements.clear()
        self._notices.tell()
        if refused:
            logger.warning(
                "%d outcomes were refused: their messages had been taken over", len(refused)
            )

    def _commit_one_by_one(self) -> list[int]:
        """The net under `_commit`: one outcome that no store can take must not stop the others."""
        refused: list[int] = []
        for settlement in self._settlements:
            try:
                refused += self._broker.settle([settlement])
            except OperationalError:
                raise
            except Exception as error:  # noqa: BLE001  (told above; its message is kept as it is)
                refused += self._broker.settle([self._settler.unstorable(settlement, error)])
        return refused

    def _complain(self, error: Exception) -> None:
        """Tell of a store that cannot be used, once for each reason."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            logger.warning(
                "%s %d ended tasks are kept here; trying again every %g s",
                error,
                len(self._settlements),
                STORE_RETRY,
            )

    def _fetch(self, now: float) -> None:
        """Claim work for the free slots."""
        due = self._next_due is not None and self._next_due <= clock.time()
        if self._retry_at or (self._dry and not due and now < self._next_look):
            return
        if self._lease_lost:
            self._renew_incarnation()
            return
        want = self._dispatcher.capacity()
        if not want:
            return
        self._heard = False  # the claim takes in what the waker tells
        try:
            claim = self._broker.claim(self.incarnation.number, self.queues, want, self._waker)
            self._dry = len(claim.deliveries) < want
            self._next_due = claim.next_due
            self._next_look = now + SLOW_LOOK
            self._revocations_at = now + SLOW_LOOK  # it tells whether there is anything new
            self._take_in(claim)
        except LeaseLost:
            self._lease_lost, self._dry = True, False
        except OperationalError as error:
            self._complain(error)
            self._next_look, self._dry = now + STORE_RETRY, True

    def _take_in(self, claim: Claim) -> None:
        """Decide on each claimed delivery."""
        decisions = []
        try:
            self._apply(self._gate.learn_revocations(claim.revocations))
            decisions = [self._decide(delivery) for delivery in claim.deliveries]
            early = [d.delivery for d in decisions if isinstance(d, Held) and d.early]
            lost = set(self._broker.accept(early)) if early else set()
        except OperationalError:
            # Nothing has started: all of it goes back as soon as the store can be written.
            self._settlements += [self._settler.put_back(d) for d in claim.deliveries]
            raise
        for decision in decisions:
            if isinstance(decision, Settlement):
                self._settlements.append(decision)
            elif decision.delivery.number not in lost:
                self._dispatcher.add(decision)
        self._commit()

    def _decide(self, delivery: Delivery) -> Held | Settlement:
        """The net around the gate: no message ends a worker."""
        try:
            return self._gate.decide(delivery)
        except OperationalError:
            raise
        except Exception as error:
            logger.exception("A message that no decision could be made on becomes a dead letter")
            return self._settler.undecodable(delivery, f"no decision could be made: {error!r}")

    def _watch_revocations(self, now: float) -> None:
        """Learn what is to be terminated, while no claim tells it: all slots are taken."""
        if now < self._revocations_at or not any(child.held for child in self._children):
            return
        self._revocations_at = now + SLOW_LOOK
        try:
            self._apply(self._gate.look_for_revocations())
        except OperationalError as error:
            self._complain(error)

    def _apply(self, revoked: Mapping[str, int]) -> None:
        """Look at what was claimed before it was revoked: drop it, or end it if it runs."""
        if not revoked:
            return
        for child in self._children:
            self._dispatcher.take_back(child)
        self._settlements += [
            self._gate.drop(held.delivery, held.headers, "revoked")
            for held in self._dispatcher.drop(revoked)
        ]
        if not any(revoked.values()):
            return
        now = time.monotonic()
        for child in self._children:
            for held in child.held.values():
                if number := revoked.get(held.headers.id):
                    self._limits.terminate(child, held, number, now)

    def _is_leased(self) -> bool:
        """Whether the lease is there after all.

        The thread that keeps it may tell late of the loss of one that has been followed by another,
        and in a list where this worker itself lives no other can have its name.
        """
        try:
            return self.app.engine.state.renew(self.incarnation.number)
        except OperationalError:
            return False  # `register` meets it too, and is tried again

    def _renew_incarnation(self) -> None:
        """A judge has declared this worker dead, or its store was replaced: start afresh."""
        if self._is_leased():
            self._lease_lost = False
            return
        for child in self._children:
            self._dispatcher.recall(child)
            for held in child.held.values():
                held.disowned = True
        self._dispatcher.empty()
        self._settlements.clear()
        try:
            self.incarnation.register()
            self._selector.unregister(self._waker)
            self._waker.close()
            # The old one is gone if the store was replaced.
            self._waker = self._broker.listen(self.queues)
            self._selector.register(self._waker, selectors.EVENT_READ)
        except (OperationalError, NodeTaken) as error:
            self._complain(error)
            self._next_look, self._dry = time.monotonic() + STORE_RETRY, True
        else:
            logger.error(
                "This worker was declared dead or its store was replaced; it goes on as number %d, "
                "and what it was running will not be stored",
                self.incarnation.number,
            )
            self._lease_lost = False

    def _hand_out(self, now: float) -> None:
        if self._retry_at:
            return  # nothing new starts while ended tasks wait to be committed
        self._dispatcher.rebalance(now)
        plan = self._dispatcher.plan()
        for child, gifts in plan:
            for held in gifts:
                self._gate.receive(held)
                self._limits.watch(child, held, now)
            child.link.give(
                [(h.delivery.number, h.delivery.deliveries, h.delivery.payload) for h in gifts]
            )
        for held in self._dispatcher.hoarded(now):
            self._settlements.append(self._gate.give_up(held))
        self._commit()

    # ------------------------------------------------------------------ children

    def _spawn(self, *, spare: bool = False) -> None:
        setup = Setup(
            self.options.app_name,
            import_path(),
            self.incarnation.node,
            replace(self.options.log, node=self.incarnation.node),
            list(self.options.include),
            dict(self.options.settings),
            bool(self._max_memory),
            self.layout.pool,
            self.scale.room,
        )
        signals.worker_before_create_process.send(self)
        try:
            child = self._children.spawn(setup)
        except OSError as error:  # no descriptors left, for now
            logger.error("No child could be started: %s; trying again", error)  # noqa: TRY400
            self._spawn_at = time.monotonic() + SHORT_LIVED
            return
        child.spare = spare
        child.slots = min(child.records, self.scale.slots) if not spare else child.records
        self._selector.register(child.link, selectors.EVENT_READ, child)

    def _tend_children(self, now: float) -> None:
        """End those that are to be replaced, send what did not fit, start successors."""
        if self.shutdown.how is None:
            self._scale(now)
        present = leaving = spares = 0
        for child in self._children:
            if child.link.unsent:
                child.link.flush()
            if self._is_stuck(child, now):
                logger.error(
                    "Child %d (slot %d) has not taken up work for %g s and is replaced",
                    child.pid,
                    child.seat,
                    UNRESPONSIVE,
                )
                self._children.kill(child)
            leaves = child.retiring or child.surplus
            if leaves and child.ready and not child.held and not child.told_to_end:
                child.told_to_end = True
                child.link.retire()
            counts = not (child.spare or child.surplus)
            present += counts
            leaving += child.retiring and counts
            spares += child.spare
        if now < self._spawn_at or self.shutdown.how is not None:
            return
        processes = self.scale.processes
        if self.scale.room > 1:
            # What is leaving ends what it runs, and its successors do not wait for that; not too
            # many at once, as each takes memory.
            present -= min(leaving, processes)
            if self._dispatcher.wants_spare and not spares:
                self._spawn(spare=True)
        for _ in range(processes - present):
            self._spawn()

    def _scale(self, now: float) -> None:
        """Let the number of processes, or of their slots, be what it is to be."""
        scale, dispatcher = self.scale, self._dispatcher
        scale.look(
            now, self._children, len(dispatcher.hand) + len(dispatcher.suspects), self._count_ready
        )
        for child in scale.fit(self._children):
            dispatcher.take_back(child)  # it would start it
        if scale.total != self._told_slots:
            self._told_slots = scale.total
            self.incarnation.note_slots(scale.total)

    def _count_ready(self) -> int:
        """How many messages wait in this worker's queues; 0 if that cannot be told now."""
        self._waker.drain()  # from here on it tells of more
        try:
            counts = self._broker.counts()
        except OperationalError as error:
            self._complain(error)
            return 0
        return sum(c.ready for c in counts if c.queue in self.queues and not c.paused)

    def _is_stuck(self, child: Child, now: float) -> bool:
        """Whether a child has work and runs none of it, for too long."""
        if child.killed or not child.held or self._children.running(child):
            child.idle_since = now
        return now - child.idle_since > UNRESPONSIVE

    def _begin_shutdown(self) -> None:
        logger.warning("%s", self.shutdown.describe())
        signals.worker_shutting_down.send(
            self.hostname,
            sig=self.shutdown.signal,
            how=str(self.shutdown.how).capitalize(),
            exitcode=self._exit_code,
        )
        dispatcher = self._dispatcher
        for child in self._children:
            dispatcher.take_back(child)
            child.retiring = True
            if self.shutdown.how == "cold" or not child.ready:
                self._children.kill(child)
        self._settlements += [self._settler.put_back(h.delivery) for h in dispatcher.empty()]
        self._retry_at = 0.0
        self._commit()


def import_path() -> list[str]:
    """`sys.path` with the working directory spelled out."""
    import sys

    return [os.fspath(path) or os.getcwd() for path in sys.path]
