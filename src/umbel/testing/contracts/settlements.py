"""How claims end: all that a settlement causes, or nothing of it."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from umbel.engines.broker import Acknowledge, Broker, Bury, Delivery, PutBack, Workflow
from umbel.engines.results import ResultStore
from umbel.engines.state import Engine, StateStore
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    bury,
    claim_ids,
    claim_one,
    entry,
    id_of,
    ids_of,
    message,
    messages,
    record,
    result,
    settlement,
    take_over,
)

ENDS = pytest.mark.parametrize(
    "end", [Acknowledge(), PutBack(), bury()], ids=["acknowledge", "put-back", "bury"]
)


def _of_another_worker(engine: Engine, held: Delivery) -> Delivery:
    other = engine.state.register(record("celery@other"))
    return msgspec.structs.replace(held, worker=other)


def _of_an_old_attempt(engine: Engine, held: Delivery) -> Delivery:
    engine.broker.settle([settlement(held, PutBack())])
    claim_one(engine.broker, held.worker)
    return held


def _of_an_attempt_to_come(_: Engine, held: Delivery) -> Delivery:
    return msgspec.structs.replace(held, attempt=held.attempt + 1)


def _put_back(engine: Engine, held: Delivery) -> Delivery:
    engine.broker.settle([settlement(held, PutBack())])
    return held


def _taken_over(engine: Engine, held: Delivery) -> Delivery:
    claim_one(engine.broker, take_over(engine, held.worker))
    return held


STALE = pytest.mark.parametrize(
    "spoil",
    [_of_another_worker, _of_an_old_attempt, _of_an_attempt_to_come, _put_back, _taken_over],
    ids=lambda spoil: spoil.__name__.strip("_").replace("_", "-"),
)


class SettlementContract(EngineContract):
    """`Broker.settle` and `Broker.accept`."""

    # ------------------------------------------------------------------------------- three ends

    def test_a_settlement_does_all_that_it_says(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        done, ended = result("a"), entry("a")
        later = message("c", due=time.time() + FAR)
        refused = broker.settle(
            [settlement(held, result=done, follow_ups=(message("b"), later), history=ended)]
        )
        assert refused == []
        assert state.claims(worker) == []
        assert results.get(["a"]) == {"a": done}
        assert state.history() == [ended]
        claim = broker.claim(worker, ["q"], 10)
        assert ids_of(claim.deliveries) == ["b"]
        assert claim.next_due == later.due

    def test_nothing_to_settle_is_no_error(self, broker: Broker) -> None:
        assert broker.settle([]) == []

    def test_the_three_ends_in_one_call(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("abcd"))
        a, b, c, d = broker.claim(worker, ["q"], 4).deliveries
        ends = [
            settlement(a, result=result("a"), history=entry("a")),
            settlement(b, PutBack(deliveries=1), result=result("b", "RETRY"), history=entry("b")),
            settlement(c, bury("c"), result=result("c", "FAILURE"), history=entry("c")),
        ]
        assert broker.settle(ends) == []
        assert {id: found.status for id, found in results.get("abcd").items()} == {
            "a": "SUCCESS", "b": "RETRY", "c": "FAILURE",
        }  # fmt: skip
        assert [ended.id for ended in state.history()] == ["c", "b", "a"]
        assert [letter.id for letter in state.dead_letters()] == ["c"]
        assert [delivery.number for delivery in state.claims(worker)] == [d.number]
        assert claim_ids(broker, worker) == ["b"]

    def test_a_thousand_settlements_in_one_call(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        ids = [f"task-{n}" for n in range(1200)]
        broker.publish(messages(ids))
        held: list[Delivery] = []
        while more := broker.claim(worker, ["q"], 500).deliveries:
            held += more
        ends = [settlement(d, result=result(id_of(d)), history=entry()) for d in held]
        assert broker.settle(ends) == []
        assert len(results.get(ids)) == len(state.history(limit=2000)) == 1200
        assert broker.counts() == []

    def test_follow_ups_keep_their_order_and_are_not_doubled(
        self, broker: Broker, worker: int
    ) -> None:
        broker.publish(messages("ab"))
        a, b = broker.claim(worker, ["q"], 2).deliveries
        broker.publish([message("d")])
        follow_ups = tuple(messages("edc"))  # d lies there: a resend
        if broker.unique_tags:
            ends = [settlement(a, follow_ups=follow_ups), settlement(b, follow_ups=follow_ups)]
        else:
            ends = [settlement(a, follow_ups=(follow_ups[0], follow_ups[2])), settlement(b)]
        broker.settle(ends)
        assert claim_ids(broker, worker) == ["d", "e", "c"]

    # --------------------------------------------------------------------------------- put back

    def test_a_message_keeps_its_place(self, broker: Broker, worker: int) -> None:
        broker.publish([message(id, priority=3) for id in "abc"])
        a, b = broker.claim(worker, ["q"], 2).deliveries
        broker.publish([message("d", priority=3), message("e", priority=6)])
        broker.settle([settlement(b, PutBack()), settlement(a, PutBack())])
        assert claim_ids(broker, worker) == ["e", "a", "b", "c", "d"]

    def test_what_is_known_of_a_message_stays_with_it(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a", queue="x", priority=6)])
        held = claim_one(broker, worker, "x")
        since = time.time()
        broker.settle([settlement(held, PutBack(deliveries=2, suspect=True, unknown_since=since))])
        held = claim_one(broker, worker, "x")
        assert (held.deliveries, held.suspect, held.unknown_since) == (2, True, since)
        assert (held.queue, held.priority, id_of(held)) == ("x", 6, "a")
        assert [waiting.deliveries for waiting in broker.browse("x")] == [2]
        broker.settle([settlement(held, PutBack())])  # None: as it was
        held = claim_one(broker, worker, "x")
        assert (held.deliveries, held.suspect, held.unknown_since) == (2, True, since)
        broker.settle([settlement(held, PutBack(deliveries=0, suspect=False))])
        held = claim_one(broker, worker, "x")
        assert (held.deliveries, held.suspect, held.unknown_since) == (0, False, since)

    def test_a_message_can_be_put_back_for_later(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a"), message("b", due=time.time() + 2 * FAR)])
        due = time.time() + FAR
        broker.settle([settlement(claim_one(broker, worker), PutBack(due=due))])
        claim = broker.claim(worker, ["q"], 10)
        assert (claim.deliveries, claim.next_due) == ([], due)
        (count,) = broker.counts()
        assert (count.ready, count.delayed, count.claimed) == (0, 2, 0)

    def test_the_time_of_a_message_put_back_is_the_new_one(
        self, broker: Broker, worker: int
    ) -> None:
        broker.publish([message("a", due=time.time() - 1)])
        held = claim_one(broker, worker)
        broker.settle([settlement(held, PutBack(due=time.time() - 2))])
        held = claim_one(broker, worker)
        broker.settle([settlement(held, PutBack())])
        assert [waiting.due for waiting in broker.browse("q")] == [None]
        assert claim_ids(broker, worker) == ["a"]

    # ------------------------------------------------------------------------------------- bury

    def test_a_buried_message_keeps_its_story(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a", queue="x", priority=4)])
        before = time.time()
        broker.settle([settlement(claim_one(broker, worker, "x"), bury("a", deliveries=3))])
        (letter,) = state.dead_letters()
        assert (letter.id, letter.task, letter.queue) == ("a", "app.add", "x")
        assert (letter.reason, letter.detail, letter.deliveries) == ("lost", "signal 9", 3)
        assert before <= letter.at <= time.time()
        assert letter.payload == b""
        assert broker.counts() == []
        assert claim_ids(broker, worker, ["x"]) == []

    def test_a_burial_without_a_count_leaves_it(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        broker.settle([settlement(claim_one(broker, worker), PutBack(deliveries=2))])
        broker.settle([settlement(claim_one(broker, worker), bury("a", deliveries=None))])
        assert [letter.deliveries for letter in state.dead_letters()] == [2]

    # -------------------------------------------------------------------------------- the fence

    @ENDS
    @STALE
    def test_a_stale_settlement_leaves_no_trace(
        self,
        engine: Engine,
        worker: int,
        end: Acknowledge | PutBack | Bury,
        spoil: Callable[[Engine, Delivery], Delivery],
    ) -> None:
        broker = engine.broker
        broker.publish([message("a")])
        stale = spoil(engine, claim_one(broker, worker))
        before = broker.browse(), engine.state.workers()
        refused = broker.settle(
            [
                settlement(
                    stale,
                    end,
                    result=result("a"),
                    follow_ups=(message("b"),),
                    history=entry("a"),
                    workflow=Workflow(results=(result("later", "FAILURE"),)),
                )
            ]
        )
        assert refused == [stale.number]
        assert (broker.browse(), engine.state.workers()) == before
        assert engine.results.get(["a", "later"]) == {}
        assert engine.state.history() == []
        assert engine.state.dead_letters() == []

    @ENDS
    def test_a_settled_claim_cannot_be_settled_again(
        self, broker: Broker, results: ResultStore, worker: int, end: Acknowledge | PutBack | Bury
    ) -> None:
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        assert broker.settle([settlement(held, end)]) == []
        assert broker.settle([settlement(held, end, result=result("a"))]) == [held.number]
        assert results.get(["a"]) == {}

    @ENDS
    def test_the_others_of_the_batch_go_through(
        self, engine: Engine, worker: int, end: Acknowledge | PutBack | Bury
    ) -> None:
        broker = engine.broker
        broker.publish(messages("abc"))
        a, b, c = broker.claim(worker, ["q"], 3).deliveries
        stale = msgspec.structs.replace(b, attempt=b.attempt + 7)
        batch = [
            settlement(held, end, result=result(id, "FAILURE"), history=entry(id),
                       follow_ups=(message(id, nonce="2", queue="next"),))
            for held, id in ((a, "a"), (stale, "b"), (c, "c"))
        ]  # fmt: skip
        assert broker.settle(batch) == [b.number]
        assert sorted(engine.results.get(["a", "b", "c"])) == ["a", "c"]
        assert sorted(ended.id for ended in engine.state.history()) == ["a", "c"]
        assert claim_ids(broker, worker, ["next"]) == ["a", "c"]
        assert broker.settle([settlement(b)]) == []  # its claim is held as before

    def test_a_stale_and_a_good_settlement_of_one_message(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        old = claim_one(broker, worker)
        broker.settle([settlement(old, PutBack())])
        new = claim_one(broker, worker)
        good = settlement(new, result=result("a", meta=b"new"), history=entry("a"))
        stale = settlement(old, result=result("a", meta=b"old"), follow_ups=(message("b"),))
        assert broker.settle([stale, good]) == [old.number]
        assert results.get(["a"])["a"].meta == b"new"
        assert len(state.history()) == 1
        assert broker.counts() == []

    def test_one_settlement_twice_in_a_batch_counts_once(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        twice = [settlement(held, result=result("a"), history=entry("a")) for _ in range(2)]
        assert broker.settle(twice) == [held.number]
        assert list(results.get(["a"])) == ["a"]
        assert len(state.history()) == 1

    def test_the_successors_settlement_is_the_one_that_counts(
        self, engine: Engine, worker: int
    ) -> None:
        engine.broker.publish([message("a")])
        stale = claim_one(engine.broker, worker)
        successor = take_over(engine, worker)
        good = claim_one(engine.broker, successor)
        assert engine.broker.settle([settlement(stale, result=result("a", meta=b"stale"))])
        assert engine.broker.settle([settlement(good, result=result("a", meta=b"good"))]) == []
        assert engine.results.get(["a"])["a"].meta == b"good"

    def test_a_claim_that_nobody_put_back_may_still_be_settled(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        # A worker that was declared dead too early: what it finished before its claims went back
        # is finished.
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        state.declare_dead(worker)
        assert broker.settle([settlement(held, result=result("a"))]) == []
        assert list(results.get(["a"])) == ["a"]

    # ----------------------------------------------------------------------------------- accept

    def test_early_acknowledgement_is_kept_until_the_message_is_put_back(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("abc"))
        a, b, c = broker.claim(worker, ["q"], 3).deliveries
        assert broker.accept([a, b]) == []
        assert (a.early, b.early, c.early) == (True, True, False)
        assert [held.early for held in state.claims(worker)] == [True, True, False]
        broker.settle([settlement(a), settlement(b, PutBack()), settlement(c, PutBack())])
        assert [held.early for held in broker.claim(worker, ["q"], 2).deliveries] == [False] * 2

    def test_early_acknowledgement_of_a_lost_claim_changes_nothing(
        self, engine: Engine, worker: int
    ) -> None:
        engine.broker.publish([message("a")])
        stale = claim_one(engine.broker, worker)
        successor = take_over(engine, worker)
        assert engine.broker.accept([stale]) == [stale.number]
        assert claim_one(engine.broker, successor).early is False
