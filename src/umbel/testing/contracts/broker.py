"""What a broker does with messages: publish, claim, wake, count, purge."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from umbel.engines.broker import Broker, Delivery, LeaseLost, Message, PutBack
from umbel.engines.state import Engine, StateStore
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    claim_ids,
    claim_one,
    fires,
    ids_of,
    message,
    messages,
    record,
    settlement,
)


class BrokerContract(EngineContract):
    """`umbel.engines.broker.Broker`, all but `settle` and `accept` (`SettlementContract`)."""

    # ---------------------------------------------------------------------------------- publish

    def test_a_claim_gives_what_was_published(self, broker: Broker, worker: int) -> None:
        payload = bytes(range(256)) * 4000
        broker.publish([Message("é:ü:1", "é:ü", "größe", payload, 7)])
        claim = broker.claim(worker, ["größe"], 1)
        (delivery,) = claim.deliveries
        assert (delivery.queue, delivery.payload) == ("größe", payload)
        assert delivery.priority == max(level for level in broker.levels if level <= 7)
        assert delivery.worker == worker
        assert (delivery.deliveries, delivery.suspect, delivery.early) == (0, False, False)
        assert delivery.unknown_since is None
        assert claim.next_due is None

    def test_an_empty_payload_comes_back_empty(self, broker: Broker, worker: int) -> None:
        broker.publish([Message("a:1", "a", "q", b"")])
        assert claim_one(broker, worker).payload == b""

    def test_an_empty_broker_gives_nothing(self, broker: Broker, worker: int) -> None:
        broker.publish([])
        claim = broker.claim(worker, ["q"], 10)
        assert (claim.deliveries, claim.next_due) == ([], None)

    def test_two_messages_of_one_task_are_two(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a", nonce="1"), message("a", nonce="2")])
        assert claim_ids(broker, worker) == ["a", "a"]

    # ------------------------------------------------------------------------------------ order

    def test_the_oldest_comes_first(self, broker: Broker, worker: int) -> None:
        ids = [f"task-{n}" for n in range(50)]
        broker.publish(messages(ids[:20]))
        for id in ids[20:]:
            broker.publish([message(id)])
        claimed = claim_ids(broker, worker, limit=7)
        assert claimed == ids[:7]
        while more := claim_ids(broker, worker, limit=7):
            claimed += more
        assert claimed == ids

    def test_the_most_urgent_comes_first(self, broker: Broker, worker: int) -> None:
        broker.publish([message(f"{p}-{n}", priority=p) for n in "ab" for p in (0, 9, 3, 6)])
        expected = ["9-a", "9-b", "6-a", "6-b", "3-a", "3-b", "0-a", "0-b"]
        assert claim_ids(broker, worker, limit=3) == expected[:3]
        assert claim_ids(broker, worker) == expected[3:]

    def test_urgency_then_age_decide_among_queues(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a", queue="x"), message("b", queue="y", priority=4)])
        broker.publish([message("c", queue="y"), message("d", queue="x", priority=4)])
        broker.publish([message("e", queue="x"), message("f", queue="elsewhere", priority=9)])
        claimed = claim_ids(broker, worker, ["x", "y"], limit=4)
        claimed += claim_ids(broker, worker, ["x", "y"])
        # How old a message is among those of another queue, not every engine can tell.
        assert sorted(claimed[:2]) == ["b", "d"]
        assert sorted(claimed[2:]) == ["a", "c", "e"]
        assert claimed.index("a") < claimed.index("e")

    def test_every_queue_gets_its_turn(self, broker: Broker, worker: int) -> None:
        broker.publish([message(f"{queue}-{n}", queue=queue) for n in range(20) for queue in "xyz"])
        claimed = [claim_ids(broker, worker, ["x", "y", "z"], limit=1)[0][0] for _ in range(12)]
        assert Counter(claimed) == {"x": 4, "y": 4, "z": 4}

    def test_one_claim_in_16_serves_the_least_urgent_level(
        self, broker: Broker, worker: int
    ) -> None:
        broker.publish([message(f"urgent-{n}", priority=9) for n in range(60)])
        broker.publish([message(f"least-{n}", priority=1) for n in range(60)])
        broker.publish([message(f"middle-{n}", priority=5) for n in range(60)])
        claimed = [claim_ids(broker, worker, limit=1)[0].split("-")[0] for _ in range(48)]
        assert Counter(claimed) == {"urgent": 45, "least": 3}
        served = [n for n, level in enumerate(claimed) if level == "least"]
        assert [b - a for a, b in pairwise(served)] == [16, 16]

    def test_every_claim_is_as_full_as_it_can_be(self, broker: Broker, worker: int) -> None:
        # Also the one in 16: a worker that gets less than it asked for may take the queue for empty
        # and go to sleep.
        broker.publish([message(f"urgent-{n}", priority=9) for n in range(400)])
        broker.publish([message(f"least-{n}", priority=0) for n in range(3)])
        sizes = [len(broker.claim(worker, ["q"], 20).deliveries) for _ in range(20)]
        assert sizes == [20] * 20
        assert len(broker.claim(worker, ["q"], 20).deliveries) == 3

    # ------------------------------------------------------------------------------------ claim

    def test_a_claim_takes_no_more_than_its_limit(self, broker: Broker, worker: int) -> None:
        broker.publish(messages("abc"))
        assert claim_ids(broker, worker, limit=0) == []
        assert claim_ids(broker, worker, limit=2) == ["a", "b"]
        assert claim_ids(broker, worker, limit=2) == ["c"]

    def test_a_claimed_message_is_nobody_elses(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        other = state.register(record("celery@other"))
        broker.publish(messages("ab"))
        assert claim_ids(broker, worker, limit=1) == ["a"]
        assert claim_ids(broker, other) == ["b"]
        assert claim_ids(broker, worker) == claim_ids(broker, other) == []

    def test_only_the_named_queues_are_claimed_from(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a", queue="x"), message("b", queue="y")])
        assert claim_ids(broker, worker, []) == []
        assert claim_ids(broker, worker, ["z"]) == []
        assert claim_ids(broker, worker, ["y", "z", "y"]) == ["b"]

    def test_a_number_is_never_used_twice(self, broker: Broker, worker: int) -> None:
        seen = set()
        for round_ in range(3):
            broker.publish([message("a", nonce=f"{round_}"), message("b", nonce=f"{round_}")])
            deliveries = broker.claim(worker, ["q"], 2).deliveries
            seen |= {delivery.number for delivery in deliveries}
            broker.settle([settlement(delivery) for delivery in deliveries])
        assert len(seen) == 6

    def test_an_attempt_is_a_new_one_at_each_claim(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a")])
        first = claim_one(broker, worker)
        broker.settle([settlement(first, PutBack())])
        second = claim_one(broker, worker)
        assert (second.number, second.attempt) > (first.number, first.attempt)

    def test_who_never_registered_may_not_claim(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a")])
        with pytest.raises(LeaseLost):
            broker.claim(worker + 1000, ["q"], 1)
        assert claim_ids(broker, worker) == ["a"]

    def test_who_was_declared_dead_may_not_claim(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        state.declare_dead(worker)
        with pytest.raises(LeaseLost):
            broker.claim(worker, ["q"], 1)
        state.unregister(worker)
        with pytest.raises(LeaseLost):
            broker.claim(worker, ["q"], 1)
        assert claim_ids(broker, state.register(record())) == ["a"]

    # ---------------------------------------------------------------------------------- delayed

    def test_a_delayed_message_waits_for_its_time(self, broker: Broker, worker: int) -> None:
        soon, late = time.time() + 0.3, time.time() + FAR
        broker.publish([message("late", due=late), message("soon", due=soon), message("now")])
        claim = broker.claim(worker, ["q"], 10)
        assert ids_of(claim.deliveries) == ["now"]
        assert claim.next_due == soon
        while time.time() < soon:
            time.sleep(soon - time.time())
        claim = broker.claim(worker, ["q"], 10)
        assert ids_of(claim.deliveries) == ["soon"]
        assert claim.next_due == late

    def test_what_is_due_already_is_ready_at_its_place(self, broker: Broker, worker: int) -> None:
        past = time.time() - 5
        broker.publish([message("a", due=past), message("b"), message("c", due=past - 5)])
        broker.publish([message("d", due=past, priority=5)])
        claim = broker.claim(worker, ["q"], 10)
        assert ids_of(claim.deliveries) == ["d", "a", "b", "c"]
        assert claim.next_due is None

    def test_many_that_become_due_at_once_are_all_claimed(
        self, broker: Broker, worker: int
    ) -> None:
        ids = [f"task-{n}" for n in range(1200)]
        broker.publish([message(id, due=time.time() - 1) for id in ids])
        claimed: list[str] = []
        while True:
            claim = broker.claim(worker, ["q"], 100)
            claimed += ids_of(claim.deliveries)
            # As long as some are due, the claim says so: its caller need not wait.
            if not claim.deliveries and claim.next_due is None:
                break
        assert sorted(claimed) == sorted(ids)

    # ----------------------------------------------------------------------------------- paused

    def test_a_paused_queue_is_passed_over(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a", queue="x", priority=9), message("b", queue="y")])
        broker.publish([message("c", queue="x", due=time.time() - 1)])
        state.pause("x")
        assert claim_ids(broker, worker, ["x", "y"]) == ["b"]
        assert claim_ids(broker, worker, ["x"]) == []
        state.resume("x")
        assert claim_ids(broker, worker, ["x", "y"]) == ["a", "c"]

    # ----------------------------------------------------------------------------------- counts

    def test_counts_tell_what_lies_where(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        assert broker.counts() == []
        before = time.time()
        broker.publish([message(id, queue="x") for id in "abc"])
        broker.publish([message("d", queue="x", due=time.time() + FAR)])
        broker.publish([message("e", queue="y")])
        after = time.time()
        broker.claim(worker, ["x"], 1)
        broker.claim(worker, ["y"], 1)
        state.pause("x")
        state.pause("nothing here")
        empty, x, y = broker.counts()
        assert (empty.queue, x.queue, y.queue) == ("nothing here", "x", "y")
        assert (empty.ready, empty.delayed, empty.claimed, empty.oldest) == (0, 0, 0, None)
        assert (x.ready, x.delayed, x.claimed) == (2, 1, 1)
        assert (y.ready, y.delayed, y.claimed, y.oldest) == (0, 0, 1, None)
        assert (empty.paused, x.paused, y.paused) == (True, True, False)
        assert x.oldest is None or before <= x.oldest <= after

    # ------------------------------------------------------------------------------------ purge

    def test_purge_drops_what_waits(self, broker: Broker, worker: int) -> None:
        broker.publish([message(id, queue="x") for id in "abc"])
        broker.publish([message("d", queue="x", due=time.time() + FAR)])
        broker.publish([message("e", queue="y"), message("f", queue="z")])
        held = _claim_first(broker, worker, "x")
        assert broker.purge(["x", "y", "nowhere"]) == 4
        assert broker.purge(["x", "y"]) == 0
        assert [count.queue for count in broker.counts()] == ["x", "z"]
        assert broker.claim(worker, ["x"], 1).next_due is None
        assert broker.settle([settlement(held, PutBack())]) == []
        assert claim_ids(broker, worker, ["x", "y", "z"]) == ["a", "f"]

    def test_a_purged_message_may_come_again(self, broker: Broker, worker: int) -> None:
        ids = [f"task-{n}" for n in range(1100)]
        broker.publish(messages(ids))
        assert broker.purge(["q"]) == 1100
        broker.publish(messages(ids[:3]))
        assert claim_ids(broker, worker) == ids[:3]

    # ----------------------------------------------------------------------------------- wakers

    def test_a_waker_fires_on_a_message(self, broker: Broker) -> None:
        waker = broker.listen(["q"])
        try:
            waker.drain()
            assert not fires(waker, 0)
            broker.publish([message("a")])
            assert fires(waker)
            waker.drain()
            assert not fires(waker, 0)
            # Who sleeps until the next due time has to hear of an earlier one.
            broker.publish([message("b", due=time.time() + FAR)])
            assert fires(waker)
        finally:
            waker.close()

    def test_a_waker_fires_when_messages_come_back(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("ab"))
        a, b = broker.claim(worker, ["q"], 2).deliveries
        state.pause("q")
        waker = broker.listen(["q"])
        try:
            waker.drain()
            broker.settle([settlement(a, PutBack())])
            assert fires(waker)
            waker.drain()
            broker.settle([settlement(b, follow_ups=(message("c"),))])
            assert fires(waker)
            waker.drain()
            state.resume("q")
            assert fires(waker)
        finally:
            waker.close()

    def test_a_waker_wakes_a_sleeping_thread(self, broker: Broker) -> None:
        waker = broker.listen(["q"])
        try:
            waker.drain()
            with ThreadPoolExecutor(1) as pool:
                woken = pool.submit(fires, waker)
                broker.publish([message("a")])
                assert woken.result()
        finally:
            waker.close()

    def test_every_waker_fires_and_a_closed_one_is_no_trouble(self, broker: Broker) -> None:
        wakers = [broker.listen(["q"]) for _ in range(3)]
        try:
            wakers.pop(1).close()
            for waker in wakers:
                waker.drain()
            broker.publish([message("a")])
            assert all(fires(waker) for waker in wakers)
        finally:
            for waker in wakers:
                waker.close()

    def test_a_waker_that_nobody_drains_holds_nobody_up(self, broker: Broker) -> None:
        waker = broker.listen(["q"])
        try:
            for n in range(3000):
                broker.publish([message(f"task-{n}")])
            assert fires(waker)
            for _ in range(10):
                waker.drain()
            assert not fires(waker, 0)
            broker.publish([message("last")])
            assert fires(waker)
        finally:
            waker.close()

    def test_what_was_published_before_a_drain_is_there_after_it(
        self, broker: Broker, worker: int
    ) -> None:
        # Drain, look, sleep: no message may slip through between look and sleep.
        waker = broker.listen(["q"])
        total = 2000
        try:
            with ThreadPoolExecutor(1) as pool:
                done = pool.submit(_publish_singly, broker, total)
                claimed = 0
                while claimed < total:
                    assert fires(waker), f"slept with {total - claimed} messages to come"
                    waker.drain()
                    while deliveries := broker.claim(worker, ["q"], 100).deliveries:
                        claimed += len(deliveries)
                done.result()
            assert claimed == total
        finally:
            waker.close()

    # ---------------------------------------------------------------------------------- threads

    def test_threads_claim_each_message_exactly_once(self, engine: Engine) -> None:
        producers, claimers, each = 3, 3, 400
        total = producers * each
        ended = threading.Event()

        def produce(producer: int) -> None:
            for start in range(0, each, 8):
                engine.broker.publish([message(f"{producer}-{n}") for n in range(start, start + 8)])

        def consume(consumer: int) -> list[str]:
            worker = engine.state.register(record(f"celery@{consumer}"))
            mine: list[str] = []
            while True:
                last = ended.is_set()
                deliveries = engine.broker.claim(worker, ["q"], 16).deliveries
                assert engine.broker.settle([settlement(held) for held in deliveries]) == []
                mine += ids_of(deliveries)
                if last and not deliveries:
                    return mine

        with ThreadPoolExecutor(producers + claimers) as pool:
            consumed = [pool.submit(consume, n) for n in range(claimers)]
            for produced in [pool.submit(produce, n) for n in range(producers)]:
                produced.result()
            ended.set()
            claimed = [id for future in consumed for id in future.result()]
        assert len(claimed) == total
        assert len(set(claimed)) == total
        assert engine.broker.counts() == []


def _claim_first(broker: Broker, worker: int, queue: str) -> Delivery:
    return broker.claim(worker, [queue], 1).deliveries[0]


def _publish_singly(broker: Broker, total: int) -> None:
    for n in range(total):
        broker.publish([message(f"task-{n}")])
