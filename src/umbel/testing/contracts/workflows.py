"""What an engine keeps of workflows: chords are joined once, however their members end."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import threading
import time

import pytest

from umbel.engines.broker import (
    Acknowledge,
    Broker,
    Bury,
    Chord,
    Joining,
    Kept,
    Message,
    Part,
    PutBack,
    StoredResult,
    Workflow,
)
from umbel.engines.results import ResultStore
from umbel.engines.state import StateStore
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    bury,
    claim_ids,
    claim_one,
    fires,
    message,
    messages,
    record,
    result,
    settlement,
)

ENDS = pytest.mark.parametrize("end", [Acknowledge(), bury()], ids=["acknowledge", "bury"])


def chord(
    size: int, id: str = "chord", *, body: Message | None = None, expires: float | None = None
) -> Chord:
    """A chord with a body of its own."""
    return Chord(id, size, body or message(f"{id}-body"), expires)


def part(index: int, data: bytes | None = None, *, key: str = "", chord: str = "chord") -> Part:
    """The end of a chord's member; its data is its index."""
    return Part(chord, index, b"%d" % index if data is None else data, key)


def opened(*chords: Chord) -> Workflow:
    """What begins chords."""
    return Workflow(opened=chords)


def joined(*parts: Part) -> Workflow:
    """What counts members."""
    return Workflow(parts=parts)


class WorkflowContract(EngineContract):
    """Chords and kept steps, in `Broker.publish`, `Broker.settle` and `StateStore.revoke`."""

    # --------------------------------------------------------------------------------- joining

    def test_the_last_part_publishes_the_body(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        assert results.chords() == []
        broker.publish(messages("ab"), opened(chord(2)))
        a, b = broker.claim(worker, ["q"], 2).deliveries
        assert results.progress("chord") == (0, 2)
        broker.settle([settlement(a, workflow=joined(part(1)))])
        assert results.progress("chord") == (1, 2)
        assert results.chords() == [Joining("chord", 2, 1, chord(2).body)]
        assert claim_ids(broker, worker) == []
        broker.settle([settlement(b, workflow=joined(part(0)))])
        assert results.progress("chord") == (2, 2)
        assert claim_ids(broker, worker) == ["chord-body"]
        assert results.parts("chord") == [b"0", b"1"]

    @ENDS
    def test_a_part_counts_whatever_the_end_of_its_message(
        self, broker: Broker, worker: int, end: Acknowledge | Bury
    ) -> None:
        broker.publish(messages("a"), opened(chord(1)))
        broker.settle([settlement(claim_one(broker, worker), end, workflow=joined(part(0)))])
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_the_body_keeps_its_queue_priority_and_time(self, broker: Broker, worker: int) -> None:
        due = time.time() + FAR
        broker.publish(messages("ab"), opened(
            chord(1, "one", body=message("one-body", queue="other", priority=7)),
            chord(1, "two", body=message("two-body", due=due)),
        ))  # fmt: skip
        a, b = broker.claim(worker, ["q"], 2).deliveries
        broker.settle([
            settlement(a, workflow=joined(part(0, chord="one"))),
            settlement(b, workflow=joined(part(0, chord="two"))),
        ])  # fmt: skip
        claim = broker.claim(worker, ["q", "other"], 5)
        (body,) = claim.deliveries
        sent = message("one-body", queue="other", priority=7)
        level = max(level for level in broker.levels if level <= 7)
        assert (body.queue, body.priority, body.payload) == ("other", level, sent.payload)
        assert claim.next_due is not None
        assert abs(claim.next_due - due) < 0.01

    def test_all_parts_in_one_call(self, broker: Broker, results: ResultStore, worker: int) -> None:
        ids = [f"m{n}" for n in range(300)]
        broker.publish(messages(ids), opened(chord(300)))
        held = broker.claim(worker, ["q"], 300).deliveries
        broker.settle([
            settlement(one, workflow=joined(part(index))) for index, one in enumerate(held)
        ])  # fmt: skip
        assert claim_ids(broker, worker) == ["chord-body"]
        found = results.parts("chord")
        assert found == [b"%d" % n for n in range(300)]

    def test_several_chords_in_one_call(self, broker: Broker, worker: int) -> None:
        broker.publish(messages("abcd"), opened(chord(2, "one"), chord(2, "two")))
        held = broker.claim(worker, ["q"], 4).deliveries
        places = [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
        broker.settle([
            settlement(one, workflow=joined(part(index, chord=id)))
            for one, (id, index) in zip(held, places, strict=True)
        ])  # fmt: skip
        assert sorted(claim_ids(broker, worker)) == ["one-body", "two-body"]

    def test_a_part_that_comes_twice_counts_once(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        broker.publish(messages("abc"), opened(chord(2)))
        a, b, c = broker.claim(worker, ["q"], 3).deliveries
        broker.settle([settlement(a, workflow=joined(part(0, b"first")))])
        broker.settle([settlement(b, workflow=joined(part(0, b"again")))])
        assert results.progress("chord") == (1, 2)
        assert claim_ids(broker, worker) == []
        broker.settle([settlement(c, workflow=joined(part(1)))])
        assert results.parts("chord") == [b"first", b"1"]
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_a_part_after_the_end_publishes_no_second_body(
        self, broker: Broker, worker: int
    ) -> None:
        broker.publish(messages("ab"), opened(chord(1)))
        a, b = broker.claim(worker, ["q"], 2).deliveries
        broker.settle([settlement(a, workflow=joined(part(0)))])
        broker.settle([settlement(b, workflow=joined(part(1)))])
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_a_refused_settlement_does_not_count(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        broker.publish(messages("a"), opened(chord(1)))
        held = claim_one(broker, worker)
        broker.settle([settlement(held, PutBack())])
        assert broker.settle([settlement(held, workflow=joined(part(0)))]) == [held.number]
        assert results.progress("chord") == (0, 1)
        again = claim_one(broker, worker)
        broker.settle([settlement(again, workflow=joined(part(0)))])
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_a_part_of_no_chord_is_passed_over(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        broker.publish(messages("a"))
        held = claim_one(broker, worker)
        assert broker.settle([settlement(held, workflow=joined(part(0)))]) == []
        assert results.parts("chord") is None
        assert results.progress("chord") is None
        assert claim_ids(broker, worker) == []

    def test_a_chord_is_begun_once(self, broker: Broker, results: ResultStore, worker: int) -> None:
        broker.publish(messages("ab"), opened(chord(2)))
        a, _ = broker.claim(worker, ["q"], 2).deliveries
        broker.settle([settlement(a, workflow=joined(part(0)))])
        broker.publish([], opened(chord(2)))  # the same publish again, after a lost answer
        assert results.progress("chord") == (1, 2)

    def test_a_chord_grows(self, broker: Broker, results: ResultStore, worker: int) -> None:
        broker.publish(messages("a"), opened(chord(1)))
        a = claim_one(broker, worker)
        broker.publish(messages("b"), Workflow(grown=(("chord", 1),)))
        broker.settle([settlement(a, workflow=joined(part(0, b"x")))])
        b = claim_one(broker, worker)
        assert results.progress("chord") == (1, 2)
        broker.settle([settlement(b, workflow=joined(part(0, b"y", key="added")))])
        assert results.parts("chord") == [b"x", b"y"]
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_a_chord_begins_and_ends_within_one_step(self, broker: Broker, worker: int) -> None:
        broker.publish(messages("a"))
        held = claim_one(broker, worker)
        broker.settle([
            settlement(held, workflow=Workflow(opened=(chord(1),), parts=(part(0),)))
        ])  # fmt: skip
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_the_body_wakes_a_waiting_worker(self, broker: Broker, worker: int) -> None:
        broker.publish(messages("a"), opened(chord(1)))
        held = claim_one(broker, worker)
        waker = broker.listen(["q"])
        try:
            waker.drain()
            broker.settle([settlement(held, workflow=joined(part(0)))])
            assert fires(waker)
        finally:
            waker.close()

    def test_parts_from_many_threads_make_one_body(self, broker: Broker, worker: int) -> None:
        count = 120
        broker.publish(messages([f"m{n}" for n in range(count)]), opened(chord(count)))
        held = broker.claim(worker, ["q"], count).deliveries

        def settle(start: int) -> None:
            for index in range(start, count, 4):
                broker.settle([settlement(held[index], workflow=joined(part(index)))])

        threads = [threading.Thread(target=settle, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert claim_ids(broker, worker) == ["chord-body"]

    # ------------------------------------------------------------------- results, kept, dropped

    def test_results_of_steps_that_never_run(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        broker.publish(messages("a"))
        late: StoredResult = result("later", "FAILURE")
        held = claim_one(broker, worker)
        broker.settle([settlement(held, workflow=Workflow(results=(late,)))])
        assert results.get(["later"]) == {"later": late}

    def test_steps_are_kept_and_read_in_part(self, broker: Broker, results: ResultStore) -> None:
        steps = tuple(b"step %d" % n for n in range(20))
        broker.publish([], Workflow(kept=(Kept("rest", steps),)))
        assert results.kept("rest", 0, 20) == list(steps)
        assert results.kept("rest", 3, 5) == [b"step 3", b"step 4"]
        assert results.kept("rest", 19, 25) == [b"step 19"]
        assert results.kept("other", 0, 5) == []
        assert results.parts("rest") is None
        assert results.progress("rest") is None

    def test_what_is_dropped_is_gone(
        self, broker: Broker, results: ResultStore, worker: int
    ) -> None:
        broker.publish(messages("ab"), Workflow(opened=(chord(1),), kept=(Kept("rest", (b"s",)),)))
        a, b = broker.claim(worker, ["q"], 2).deliveries
        broker.settle([settlement(a, workflow=joined(part(0)))])
        broker.settle([settlement(b, workflow=Workflow(dropped=("chord", "rest", "nothing")))])
        assert results.parts("chord") is None
        assert results.kept("rest", 0, 1) == []
        # The same ids may be used again: a frozen workflow that is sent once more.
        broker.publish(messages("c"), opened(chord(1)))
        assert results.progress("chord") == (0, 1)

    def test_what_has_expired_is_dropped_by_house_keeping(
        self, broker: Broker, results: ResultStore, state: StateStore
    ) -> None:
        now = time.time()
        broker.publish([], Workflow(
            opened=(chord(2, "old", expires=now - 1), chord(2, "new", expires=now + FAR)),
            kept=(Kept("rest", (b"s",), now - 1), Kept("for-ever", (b"s",))),
        ))  # fmt: skip
        while state.keep_house():
            pass
        assert results.progress("old") is None
        assert results.progress("new") == (0, 2)
        assert results.kept("rest", 0, 1) == []
        assert results.kept("for-ever", 0, 1) == [b"s"]

    # --------------------------------------------------------------------------------- revoking

    def test_a_revoked_member_counts_if_it_was_waiting(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("ab"), opened(chord(2)))
        a = broker.claim(worker, ["q"], 1).deliveries[0]
        revoked = [result(id, "REVOKED") for id in "ab"]
        follow = {"a": joined(part(0, b"revoked")), "b": joined(part(1, b"revoked"))}
        waiting = state.revoke(revoked, until=time.time() + FAR, workflows=follow)
        assert waiting == ["b"]
        assert results.parts("chord") == [b"revoked"]
        broker.settle([settlement(a, workflow=joined(part(0)))])
        assert claim_ids(broker, worker) == ["chord-body"]

    def test_the_last_member_may_be_a_revoked_one(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("a"), opened(chord(1)))
        waker = broker.listen(["q"])
        try:
            waker.drain()
            state.revoke(
                [result("a", "REVOKED")], until=time.time() + FAR, workflows={"a": joined(part(0))}
            )
            assert fires(waker)
        finally:
            waker.close()
        assert claim_ids(broker, worker) == ["chord-body"]

    # --------------------------------------------------------------------------------- all or none

    def test_what_a_stale_worker_opens_is_not_there(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("a"))
        held = claim_one(broker, worker)
        broker.settle([settlement(held, PutBack())])
        other = state.register(record("celery@other"))
        claim_one(broker, other)
        late = Workflow(opened=(chord(1),), kept=(Kept("rest", (b"s",)),))
        broker.settle([settlement(held, workflow=late)])
        assert results.progress("chord") is None
        assert results.kept("rest", 0, 1) == []
