"""Bugs to plant in a worker's processes, each of which some fault test must see.

`planted/sitecustomize.py` applies one in every process of a worker that was started for it: the
supervisor, the fork server and the children alike. Nothing in the package knows of them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from umbel.engines.run_file import Remains

PLANTS: dict[str, Callable[[], None]] = {}


def plant(function: Callable[[], None]) -> Callable[[], None]:
    PLANTS[function.__name__] = function
    return function


def swap(owner: object, name: str, bug: object) -> None:
    """Put a bug in the place of what is there; an error if nothing is."""
    assert hasattr(owner, name), f"{owner} has no {name}: this plant is out of date"
    setattr(owner, name, bug)


def swap_lua(name: str, right: str, wrong: str) -> None:
    """The same in a script of Redis, where that is the engine."""
    if os.environ.get("UMBEL_BROKER_URL", "").startswith("redis"):
        from umbel.engines.redis.connection import Script, script

        found = script(name)
        assert right in found.text, f"{name}.lua has no {right}: this plant is out of date"
        text = found.text.replace(right, wrong)
        found.text, found.sha = text, Script.digest(text)


# ----------------------------------------------------------------------------------------- delivery


@plant
def early_ack() -> None:
    """Every message is acknowledged before its task runs."""
    from umbel.app.settings.table import Settings

    swap(Settings, "task_acks_late", False)


@plant
def dropped_on_death() -> None:
    """A task whose process died is taken for done."""
    from umbel.engines.broker import Acknowledge, Settlement
    from umbel.worker.settle import Settler

    def lost(self: Any, delivery: Any, headers: Any, *_: Any, **__: Any) -> Settlement:
        return Settlement(delivery.number, delivery.worker, delivery.attempt, Acknowledge())

    swap(Settler, "lost", lost)


@plant
def all_held_charged() -> None:
    """What a child had not started cannot be taken back when it dies, and is charged."""
    from umbel.pools.link import SupervisorEnd

    swap(SupervisorEnd, "recall", lambda self: [])
    company_charged()


@plant
def forgotten_ack() -> None:
    """Now and then a result is stored and its message stays."""
    from umbel.engines.broker import PutBack
    from umbel.worker.settle import Settler

    ended = Settler.ended
    count = 0

    def forget(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        settlement = ended(self, *arguments)
        return msgspec.structs.replace(settlement, end=PutBack()) if count % 20 == 0 else settlement

    swap(Settler, "ended", forget)


@plant
def late_commit() -> None:
    """Outcomes gather for seconds before they are committed."""
    from umbel.worker.supervisor import Supervisor

    commit = Supervisor._commit
    last = time.monotonic()

    def gather(self: Any) -> None:
        nonlocal last
        if self.shutdown.how or time.monotonic() - last > 1.5:
            last = time.monotonic()
            commit(self)

    swap(Supervisor, "_commit", gather)


# ----------------------------------------------------------------------------------------- recovery


@plant
def no_recovery() -> None:
    """Dead workers are struck off the list, and what they held stays claimed."""
    from umbel.worker.recovery import Judge

    def forget(self: Any, record: Any, *_: Any) -> None:
        with self._engine.broker._database.write() as connection:
            connection.execute("DELETE FROM worker WHERE number = ?", (record.number,))

    swap(Judge, "_recover", forget)


@plant
def unstarted_lost() -> None:
    """What a dead worker had not started is taken for done."""
    from umbel.engines.broker import Acknowledge, Settlement
    from umbel.worker import recovery

    settle_orphan = recovery.settle_orphan

    def drop(settler: Any, claim: Any, started: Any) -> Any:
        if started is not None and claim.number not in started.running:
            return Settlement(claim.number, claim.worker, claim.attempt, Acknowledge())
        return settle_orphan(settler, claim, started)

    swap(recovery, "settle_orphan", drop)


@plant
def all_suspected_charged() -> None:
    """Everything that a dead worker held is charged an attempt."""
    from umbel.message import task as task_message
    from umbel.worker import recovery

    def charge(settler: Any, claim: Any, started: Any) -> Any:
        headers = task_message.decode_headers(claim.payload)
        return settler.lost(claim, headers, "its worker died", "")

    swap(recovery, "settle_orphan", charge)


@plant
def nothing_started() -> None:
    """A dead worker's running tasks are taken for not started."""
    from umbel.worker import recovery

    proof: Any = vars(recovery)["proof_of_death"]

    def no_table(record: Any, run_dir: Any) -> Any:
        return None if proof(record, run_dir) is None else Remains(frozenset(), frozenset())

    swap(recovery, "proof_of_death", no_table)


@plant
def pid_proves_death() -> None:
    """A worker counts as dead when this namespace has no such process, or it is ourselves."""
    from umbel.worker import recovery

    def judge_by_pid(record: Any, run_dir: Any) -> Any:
        return Remains(frozenset(), frozenset()) if record.pid == os.getpid() else None

    swap(recovery, "proof_of_death", judge_by_pid)


@plant
def no_name_check() -> None:
    """A second worker of the same name takes the first one for dead."""
    from umbel.worker import recovery

    swap(recovery, "proof_of_death", lambda *_: Remains(frozenset(), frozenset()))


@plant
def busy_workers_do_not_renew() -> None:
    """The lease stands still while a child runs anything."""
    from umbel.worker.leases import LeaseKeeper

    run = LeaseKeeper.run

    def wait_for_idleness(self: Any) -> None:
        state = self._engine.state
        renew = state.renew
        table = self._incarnation.run_file.descriptor

        def renew_if_idle(worker: int) -> bool:
            from umbel.engines.run_file import HEAD, RECORD

            words = memoryview(os.pread(table, 8 * RECORD * 8, HEAD)).cast("Q")
            return bool(any(words[::RECORD])) or bool(renew(worker))

        state.renew = renew_if_idle
        run(self)

    swap(LeaseKeeper, "run", wait_for_idleness)


@plant
def no_leases() -> None:
    """Only a free lock counts; a worker that stands still keeps its work for ever."""
    from umbel.worker.recovery import Watch

    swap(Watch, "overdue", lambda self, records, now: [])


@plant
def lost_lease_ignored() -> None:
    """A worker that was declared dead does not register again."""
    from umbel.worker.supervisor import Supervisor

    def stand_still(self: Any) -> None:
        self._next_look = time.monotonic() + 3600

    swap(Supervisor, "_renew_incarnation", stand_still)


@plant
def no_fence() -> None:
    """Whatever is settled is believed, and a worker never learns that it was declared dead."""
    from umbel.engines.sqlite import broker

    swap(broker, "ACKNOWLEDGE", "DELETE FROM message WHERE number = ? AND (1 OR ? OR ?)")
    swap_lua(
        "settle",
        "local held = redis.call('HDEL', KEYS[1], number) == 1",
        "redis.call('HDEL', KEYS[1], number) local held = true",
    )
    lost_lease_ignored()


@plant
def orphans() -> None:
    """Nobody ends the children when their supervisor or fork server is gone."""
    from umbel.pools import forkserver, link
    from umbel.worker import children

    def wait_for_ever(self: Any) -> int:
        token = self._tokens.recv(link.TOKEN.size)
        while not token:
            time.sleep(1)
        return int(link.TOKEN.unpack(token)[0])

    swap(children.Processes, "abandon", lambda self: None)
    swap(forkserver, "die_with_parent", lambda parent: None)
    swap(forkserver, "send_signal", lambda pid, number: None)
    swap(link.ChildEnd, "next_token", wait_for_ever)


# ----------------------------------------------------------------------------- poison and its cause


@plant
def poison_for_ever() -> None:
    """No attempt is charged, so a deadly task never becomes a dead letter."""
    from umbel.worker.settle import Settler

    lost = Settler.lost

    def free(self: Any, delivery: Any, *rest: Any) -> Any:
        return lost(self, msgspec.structs.replace(delivery, deliveries=-1), *rest)

    swap(Settler, "lost", free)


@plant
def poison_not_alone() -> None:
    """Suspects run among the others, in a process that has run something before."""
    from umbel.worker.dispatch import Dispatcher

    def anywhere(self: Any, plan: Any) -> None:
        for child in self._children:
            if self.suspects and self._open(child) and child.done:
                held = self.suspects.popleft()
                held.delivery.suspect = False
                self._assign(child, held)
                plan.append((child, [held]))

    swap(Dispatcher, "_place_suspects", anywhere)


@plant
def cause_unknown() -> None:
    """How a child ended is not looked at."""
    from umbel.worker import ends

    swap(ends, "describe_exit", lambda status, memory: "gone")


# ------------------------------------------------------------------------------------------- limits


@plant
def no_limits() -> None:
    """Nobody looks at time limits."""
    from umbel.worker.limits import Limits

    swap(Limits, "enforce", lambda self, now: float("inf"))


@plant
def no_escalation() -> None:
    """A soft limit that is ignored stays ignored."""
    from umbel.worker.limits import Limits

    def of_hard_limit(self: Any, held: Any, start: float) -> float:
        return float("inf") if held.hard is None else start + float(held.hard)

    swap(Limits, "_time_to_kill", of_hard_limit)


@plant
def no_stacks() -> None:
    """A child is killed without being asked for its stacks."""
    from umbel.worker.children import Child

    swap(Child, "last_stacks", lambda self, thread=0: "")


@plant
def soft_limit_anywhere() -> None:
    """The soft limit's signal raises wherever it lands."""
    from umbel.exceptions import SoftTimeLimitExceeded
    from umbel.pools.slots import Bench

    def strike(self: Any, *_: Any) -> None:
        raise SoftTimeLimitExceeded

    swap(Bench, "on_soft_limit", strike)


@plant
def soft_limit_at_random() -> None:
    """The soft limit's signal is not aimed at one delivery, and is sent late."""
    from umbel.exceptions import SoftTimeLimitExceeded
    from umbel.pools.slots import Bench
    from umbel.worker.limits import Limits

    def strike(self: Any, *_: Any) -> None:
        if any(slot.inside for slot in self.slots):
            raise SoftTimeLimitExceeded

    look_at = Limits._look_at

    def twice(self: Any, child: Any, held: Any, *rest: Any) -> float:
        sent = held.soft_at
        again = look_at(self, child, held, *rest)
        if held.soft_at != sent:
            again_later = threading.Timer(0.01, self._children.signal, (child, signal.SIGUSR1))
            again_later.start()
        return again

    swap(Bench, "on_soft_limit", strike)
    swap(Limits, "_look_at", twice)


@plant
def swallowed_soft_limit_async() -> None:
    """A coroutine that waits is not told of its soft limit."""
    from umbel.pools.coroutine import Interruptible

    swap(Interruptible, "interrupt", lambda self, loop: None)


# --------------------------------------------------------------------------------------- neighbours


@plant
def company_charged() -> None:
    """All that ran in a process that died is charged."""
    from umbel.worker.ends import Ends

    lose = Ends._lose

    def charge(self: Any, child: Any, held: Any, cause: str, *, alone: bool) -> Any:
        return lose(self, child, held, cause, alone=True)

    swap(Ends, "_lose", charge)


@plant
def neighbours_charged() -> None:
    """What was killed for another one's sake is charged."""
    from umbel.worker.ends import Ends

    def charge(self: Any, held: Any, culprit: Any) -> Any:
        return self._settler.lost(held.delivery, held.headers, "its neighbour", "")

    swap(Ends, "_interrupt", charge)


@plant
def no_patience() -> None:
    """A child is killed at once, whatever else it runs."""
    from umbel.worker import limits

    swap(limits, "NEIGHBOURS", 0.0)


@plant
def late_strikes() -> None:
    """A thread is struck a moment later, whatever it does by then."""
    from umbel.exceptions import SoftTimeLimitExceeded
    from umbel.pools import threads

    def strike(slot: Any) -> None:
        slot.struck = slot.inside
        raise_in = vars(threads)["_raise_in"]
        threading.Timer(0.003, raise_in, (slot.thread, SoftTimeLimitExceeded)).start()

    swap(threads, "strike", strike)


@plant
def late_throws() -> None:
    """A greenlet is struck a moment later, whatever it does by then."""
    from umbel.exceptions import SoftTimeLimitExceeded
    from umbel.pools.greenlets import Greenlets

    def throw(self: Greenlets, slot: Any, number: int) -> None:
        slot.struck = number

        def strike() -> None:
            time.sleep(0.003)
            self.soon(self._homes[slot].throw, SoftTimeLimitExceeded)

        self.spawn(strike)

    swap(Greenlets, "_throw", throw)


@plant
def early_forgotten() -> None:
    """Nobody keeps what was acknowledged early and handed out."""
    from umbel.worker.children import Children

    swap(Children, "note_early", lambda self, number: None)


@plant
def no_recall() -> None:
    """What a child holds stays there."""
    from umbel.worker.dispatch import Dispatcher

    swap(Dispatcher, "rebalance", lambda self, now: None)


# ---------------------------------------------------------------------------------- retry, shutdown


@plant
def retry_as_message() -> None:
    """As in Celery: each call of retry() sends a message of its own."""
    from umbel.app.task import Task

    retry = Task.retry

    def send_another(self: Any, *arguments: Any, **options: Any) -> Any:
        request = self.request
        self.app.send_task(self.name, request.args, request.kwargs, task_id=request.id)
        return retry(self, *arguments, **options)

    swap(Task, "retry", send_another)


@plant
def retry_by_exception() -> None:
    """Only a Retry that leaves the function counts."""
    from umbel.app.execution.pipeline import Pipeline
    from umbel.exceptions import Retry

    conclude = Pipeline._conclude

    def conclude_by_error(self: Any, task: Any, request: Any, *rest: Any) -> Any:
        if not isinstance(rest[-1], Retry):
            request.retry = None
        return conclude(self, task, request, *rest)

    swap(Pipeline, "_conclude", conclude_by_error)


@plant
def shutdown_keeps_claims() -> None:
    """What was read ahead is not handed back."""
    from umbel.worker.dispatch import Dispatcher

    def drop(self: Any, child: Any) -> None:
        self.recall(child)

    swap(Dispatcher, "take_back", drop)


@plant
def shutdown_charges() -> None:
    """A cold shutdown's kill counts as the task's own."""
    from umbel.worker.settle import Settler

    put_back = Settler.put_back

    def charge(self: Any, delivery: Any, **options: Any) -> Any:
        settlement = put_back(self, delivery, **options)
        end = msgspec.structs.replace(settlement.end, deliveries=delivery.deliveries + 1)
        return msgspec.structs.replace(settlement, end=end)

    swap(Settler, "put_back", charge)


@plant
def no_recycling() -> None:
    """Children live for ever."""
    from umbel.worker.supervisor import Supervisor

    init = Supervisor.__init__

    def forget(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        assert hasattr(self, "_max_memory")
        self._max_memory = None
        swap(self._dispatcher, "_max_tasks", None)

    swap(Supervisor, "__init__", forget)


@plant
def recycling_drops() -> None:
    """A child that is to be replaced takes what it holds with it."""
    from umbel.worker.supervisor import Supervisor

    tend = Supervisor._tend_children

    def drop(self: Any, now: float) -> None:
        for child in self._children:
            if child.retiring:
                child.held.clear()
        tend(self, now)

    swap(Supervisor, "_tend_children", drop)


# ------------------------------------------------------------------------ early, unknown, odd input


@plant
def early_runs_again() -> None:
    """That a message was acknowledged early is forgotten."""
    from umbel.worker.gate import Gate

    decide = Gate.decide

    def forget(self: Any, delivery: Any) -> Any:
        held = decide(self, delivery)
        if hasattr(held, "early"):
            held.early = False
        return held

    swap(Gate, "decide", forget)


@plant
def expired_runs() -> None:
    """Nobody looks whether a message has expired."""
    from umbel.message import task as task_message

    parse = task_message.parse_time
    swap(task_message, "parse_time", lambda text: None if text else parse(text))


@plant
def unknown_dropped() -> None:
    """As in Celery: a task that is not known is discarded."""
    from umbel.engines.broker import Acknowledge, Settlement
    from umbel.worker.gate import Gate

    def discard(self: Any, delivery: Any, *_: Any) -> Settlement:
        return Settlement(delivery.number, delivery.worker, delivery.attempt, Acknowledge())

    swap(Gate, "unknown", discard)


@plant
def pause_ignored() -> None:
    """Paused queues are served."""
    from umbel.engines.sqlite.broker import SqliteBroker

    find = SqliteBroker._find

    def find_all(self: Any, connection: Any, queues: Any, limit: int) -> Any:
        return find(self, connection, ["celery", "other"], limit)

    swap(SqliteBroker, "_find", find_all)
    swap_lua("claim", "if redis.call('EXISTS', KEYS[2]) == 1 then", "if false then")


@plant
def priority_upside_down() -> None:
    """0 is the most urgent, as on Celery's Redis."""
    from umbel.engines.sqlite import broker

    swap(broker, "MOST_URGENT", broker.MOST_URGENT.replace("priority DESC", "priority"))
    swap_lua("claim", "take(queue, level, left)", "take(queue, levels + 1 - level, left)")


@plant
def least_urgent_starves() -> None:
    """No claim serves the least urgent level."""
    from umbel.engines.sqlite import broker

    swap(broker, "LEAST_URGENT_EVERY", 1 << 60)
    swap_lua("claim", "if ARGV[5] == '1' and left > 0 then", "if false then")


@plant
def bad_message_kills() -> None:
    """A message that cannot be read is an error of the worker's."""
    from umbel.worker.settle import Settler

    def fall(self: Any, delivery: Any, why: str, headers: Any = None) -> Any:
        raise ValueError(why)

    swap(Settler, "undecodable", fall)


@plant
def full_disk_drops() -> None:
    """What cannot be settled is let go of."""
    from umbel.engines.sqlite.broker import SqliteBroker
    from umbel.exceptions import OperationalError

    settle = SqliteBroker.settle

    def drop(self: Any, settlements: Any) -> Any:
        try:
            return settle(self, settlements)
        except OperationalError:
            return []

    swap(SqliteBroker, "settle", drop)


# --------------------------------------------------------------------------------------- schedulers


@plant
def none() -> None:
    """None at all."""


@plant
def skewed_clock() -> None:
    """The clock is wrong by WORKLOAD_SKEW seconds."""
    from umbel import clock

    clock.shift(float(os.environ["WORKLOAD_SKEW"]))


@plant
def ticks_not_unique() -> None:
    """A tick is inserted whether its entry has moved on or not."""
    from umbel.engines.sqlite import state

    swap_lua("schedule", "local fits = version == from", "local fits = true")
    change = state._change_schedule

    def insert(connection: Any, wanted: Any) -> bool:
        row = connection.execute(
            "SELECT version FROM schedule WHERE name = ?", (wanted.name,)
        ).fetchone()
        version = wanted.version if row is None else row[0]
        return change(connection, msgspec.structs.replace(wanted, version=version))

    swap(state, "_change_schedule", insert)


# ---------------------------------------------------------------------------------------- workflows


@plant
def part_forgotten() -> None:
    """Now and then a chord's member ends and is not counted."""
    from umbel.worker.settle import Settler

    ended = Settler.ended
    count = 0

    def forget(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        settlement = ended(self, *arguments)
        return msgspec.structs.replace(settlement, workflow=None) if count % 50 == 0 else settlement

    swap(Settler, "ended", forget)


@plant
def part_afterwards() -> None:
    """Members are counted in a step of their own, after they were acknowledged."""
    from umbel.engines.redis.broker import RedisBroker
    from umbel.engines.sqlite.broker import SqliteBroker

    on_redis = os.environ.get("UMBEL_BROKER_URL", "").startswith("redis")
    broker: Any = RedisBroker if on_redis else SqliteBroker
    settle = broker.settle

    def settle_first(self: Any, settlements: Any) -> Any:
        flows = [one.workflow for one in settlements if one.workflow is not None]
        refused = settle(self, [msgspec.structs.replace(one, workflow=None) for one in settlements])
        time.sleep(0.2)
        for flow in flows:
            self.publish([], flow)
        return refused

    swap(broker, "settle", settle_first)
