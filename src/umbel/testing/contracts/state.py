"""What a state store does."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from umbel.engines.broker import Broker, HistoryEntry, PutBack
from umbel.engines.results import ResultStore
from umbel.engines.state import Engine, NameTaken, StateStore, WorkerRecord
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    bury,
    claim_ids,
    claim_one,
    entry,
    fires,
    id_of,
    ids_of,
    message,
    messages,
    record,
    result,
    settlement,
)

DAY = 86400.0


class StateStoreContract(EngineContract):
    """`umbel.engines.state.StateStore` and what belongs to the engine as a whole."""

    # ---------------------------------------------------------------------------------- workers

    def test_a_worker_is_on_record_as_it_registered(self, state: StateStore) -> None:
        assert state.workers() == []
        mine = record()
        number = state.register(mine)
        other = state.register(record("celery@other", queues=()))
        assert number != other
        first, second = sorted(state.workers(), key=lambda worker: worker.number != number)
        assert first == msgspec.structs.replace(mine, number=number)
        assert (second.node, second.number, second.queues) == ("celery@other", other, ())

    def test_a_name_is_taken_until_its_record_is_gone(self, state: StateStore) -> None:
        number = state.register(record())
        state.renew(number)
        for dead in (False, True):
            with pytest.raises(NameTaken) as taken:
                state.register(record(queues=("elsewhere",)))
            assert taken.value.record == msgspec.structs.replace(
                record(), number=number, renewals=1, dead=dead
            )
            state.declare_dead(number)
        assert len(state.workers()) == 1
        assert state.unregister(number)
        assert state.register(record()) != number

    def test_a_workers_number_is_never_used_again(self, state: StateStore) -> None:
        numbers = set()
        for _ in range(4):
            number = state.register(record())
            numbers.add(number)
            state.unregister(number)
        assert len(numbers) == 4

    def test_a_lease_is_a_counter(self, state: StateStore, worker: int) -> None:
        other = state.register(record("celery@other"))
        assert _record(state, worker).renewals == 0
        assert state.renew(worker)
        assert state.renew(worker)
        assert _record(state, worker).renewals == 2
        assert _record(state, other).renewals == 0

    def test_the_dead_and_the_gone_cannot_renew(self, state: StateStore, worker: int) -> None:
        state.declare_dead(worker)
        assert not state.renew(worker)
        assert _record(state, worker).renewals == 0
        state.unregister(worker)
        assert not state.renew(worker)
        assert state.workers() == []

    def test_a_judge_declares_a_worker_dead(self, state: StateStore, worker: int) -> None:
        assert not _record(state, worker).dead
        assert state.declare_dead(worker)
        assert _record(state, worker).dead
        assert state.declare_dead(worker)  # a second judge
        state.unregister(worker)
        assert not state.declare_dead(worker)

    def test_a_counter_that_has_moved_saves_its_worker(
        self, state: StateStore, worker: int
    ) -> None:
        state.renew(worker)
        assert not state.declare_dead(worker, renewals=0)
        assert not _record(state, worker).dead
        assert state.renew(worker)
        assert state.declare_dead(worker, renewals=2)
        assert _record(state, worker).dead
        assert not state.declare_dead(worker + 1000, renewals=0)

    def test_claims_can_be_settled_on_the_dead_ones_behalf(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        other = state.register(record("celery@other"))
        broker.publish([message(id, priority=3) for id in "abcd"])
        broker.claim(other, ["q"], 1)
        held = broker.claim(worker, ["q"], 3).deliveries
        assert state.claims(worker) == held
        assert state.claims(worker, limit=2) == held[:2]
        assert state.claims(worker + 1000) == []
        state.declare_dead(worker)
        since = time.time()
        back = PutBack(suspect=True, unknown_since=since, deliveries=1)
        assert broker.settle([settlement(d, back) for d in state.claims(worker)]) == []
        assert state.claims(worker) == []
        for delivery in broker.claim(other, ["q"], 3).deliveries:
            assert (delivery.suspect, delivery.deliveries) == (True, 1)
        assert [d.unknown_since for d in state.claims(other)] == [None, since, since, since]

    def test_who_holds_claims_stays_on_record(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        assert not state.unregister(worker)
        assert len(state.workers()) == 1
        broker.settle([settlement(held)])
        assert state.unregister(worker)
        assert state.workers() == []
        assert not state.unregister(worker)

    # -------------------------------------------------------------------------------- revocation

    def test_revoking_takes_a_waiting_message_out_at_once(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish([*messages("abc"), message("d", due=time.time() + FAR)])
        broker.publish([message("a", nonce="2", queue="other"), message("a:b")])
        revoked = [result(id, "REVOKED") for id in ("a", "d", "nobody")]
        ends = [entry(id, state="REVOKED") for id in ("a", "d", "nobody")]
        waiting = state.revoke(revoked, until=time.time() + FAR, history=ends)
        assert sorted(waiting) == ["a", "d"]
        assert sorted(state.history(), key=lambda one: one.id) == ends[:2]
        assert sorted(one.id for one in state.history(state="REVOKED")) == ["a", "d"]
        assert results.get(["a", "b", "d", "nobody"]) == {"a": revoked[0], "d": revoked[1]}
        claim = broker.claim(worker, ["q", "other"], 10)
        assert sorted(ids_of(claim.deliveries)) == ["a:b", "b", "c"]
        assert claim.next_due is None
        assert sorted(state.revocations(0)[1]) == ["a", "d", "nobody"]

    def test_revoking_lets_a_running_task_go_on(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        assert state.revoke([result("a", "REVOKED")], until=time.time() + FAR) == []
        assert results.get(["a"]) == {}
        assert broker.settle([settlement(held, result=result("a"))]) == []
        assert results.get(["a"]) == {"a": result("a")}

    def test_claims_tell_that_the_set_has_changed(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        until = time.time() + FAR
        version, ids = state.revocations(0)
        assert ids == {}
        assert broker.claim(worker, ["q"], 1).revocations == version
        for id in ("a", "b", "a"):
            state.revoke([result(id, "REVOKED")], until=until)
            newer = broker.claim(worker, ["q"], 1).revocations
            assert newer > version
            assert state.revocations(version) == (newer, {id: 0})
            assert state.revocations(newer) == (newer, {})
            version = newer
        assert sorted(state.revocations(0)[1]) == ["a", "b"]

    def test_a_revocation_ends_and_the_version_never_goes_back(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        now = time.time()
        state.revoke([result("a", "REVOKED")], until=now + FAR)
        state.revoke([result("b", "REVOKED")], until=now - 1)
        version = broker.claim(worker, ["q"], 1).revocations
        for _ in range(2):
            # What a claim says and what `revocations` says must meet, or a worker asks for ever.
            assert state.revocations(0) == (version, {"a": 0})
            assert broker.claim(worker, ["q"], 1).revocations == version
            state.keep_house()
        state.revoke([result("c", "REVOKED")], until=now + FAR)
        newest = broker.claim(worker, ["q"], 1).revocations
        assert newest > version
        assert state.revocations(version) == (newest, {"c": 0})

    def test_a_revocation_may_name_a_signal_for_what_runs(self, state: StateStore) -> None:
        until = time.time() + FAR
        state.revoke([result(id, "REVOKED") for id in "ab"], until=until, signal=15)
        state.revoke([result(id, "REVOKED") for id in "bc"], until=until)
        version, signals = state.revocations(0)
        assert signals == {"a": 15, "b": 15, "c": 0}  # one that was named stands
        state.revoke([result("a", "REVOKED")], until=until, signal=9)
        assert state.revocations(version)[1] == {"a": 9}
        state.revoke([result("a", "REVOKED")], until=time.time() - 1)
        state.keep_house()
        state.revoke([result("a", "REVOKED")], until=until)
        assert state.revocations(0)[1] == {"a": 0, "b": 15, "c": 0}  # none of a life before

    def test_a_thousand_revocations(
        self, broker: Broker, results: ResultStore, state: StateStore, worker: int
    ) -> None:
        ids = [f"task-{n}" for n in range(1100)]
        broker.publish(messages([*ids, "last"]))
        revoked = state.revoke([result(id, "REVOKED") for id in ids], until=time.time() + FAR)
        assert sorted(revoked) == sorted(ids)
        assert len(results.get(ids)) == 1100
        assert claim_ids(broker, worker) == ["last"]
        assert sorted(state.revocations(0)[1]) == sorted(ids)

    # ------------------------------------------------------------------------------------- pause

    def test_a_pause_lasts_until_its_end(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        broker.publish(messages("ab"))
        held = broker.claim(worker, ["q"], 1).deliveries[0]
        assert not state.resume("q")
        state.pause("q")
        state.pause("q")
        assert broker.settle([settlement(held, PutBack())]) == []  # what runs goes on
        assert claim_ids(broker, worker) == []
        assert state.resume("q")
        assert not state.resume("q")
        assert claim_ids(broker, worker) == ["a", "b"]

    # ------------------------------------------------------------------------------ dead letters

    def test_dead_letters_are_listed_newest_first(self, engine: Engine, worker: int) -> None:
        _bury(engine, worker, "abc")
        _bury(engine, worker, "d", task="app.other")
        state = engine.state
        letters = state.dead_letters()
        assert [letter.id for letter in letters] == ["d", "c", "b", "a"]
        assert len({letter.number for letter in letters}) == 4
        assert {letter.payload for letter in letters} == {b""}
        assert [letter.id for letter in state.dead_letters(limit=2)] == ["d", "c"]
        assert [letter.id for letter in state.dead_letters(task="app.add")] == ["c", "b", "a"]
        assert [letter.id for letter in state.dead_letters(task="app.add", limit=1)] == ["c"]
        assert state.dead_letters(task="app") == []

    def test_one_dead_letter_is_shown_whole(self, engine: Engine, worker: int) -> None:
        state = engine.state
        _bury(engine, worker, ["a", "12345678901234567890123"])
        _bury(engine, worker, ["a"])
        newest, _, oldest = state.dead_letters()
        assert state.dead_letter("a") == msgspec.structs.replace(
            newest, payload=message("a").payload
        )
        shown = state.dead_letter(str(oldest.number))
        assert shown == msgspec.structs.replace(oldest, payload=message("a").payload)
        assert state.dead_letter("nobody") is None
        assert state.dead_letter("987654321") is None
        digits = state.dead_letter("12345678901234567890123")
        assert digits is not None
        assert id_of(digits) == "12345678901234567890123"

    def test_a_dead_letters_number_comes_before_an_id_like_it(
        self, engine: Engine, worker: int
    ) -> None:
        state = engine.state
        _bury(engine, worker, ["first"])
        number = state.dead_letters()[0].number
        _bury(engine, worker, [str(number)])
        found = state.dead_letter(str(number))
        assert found is not None
        assert id_of(found) == "first"

    def test_a_replayed_message_starts_anew(self, engine: Engine, worker: int) -> None:
        broker, state = engine.broker, engine.state
        broker.publish([message("a", queue="x", priority=8)])
        held = claim_one(broker, worker, "x")
        broker.accept([held])
        broker.settle(
            [settlement(held, PutBack(deliveries=2, suspect=True, unknown_since=time.time()))]
        )
        held = claim_one(broker, worker, "x")
        broker.settle([settlement(held, bury("a"), result=result("a", "FAILURE"))])
        (letter,) = state.dead_letters()
        waker = broker.listen(["x"])
        try:
            waker.drain()
            assert state.replay([letter.number, letter.number + 1000]) == 1
            assert fires(waker)
        finally:
            waker.close()
        assert state.replay([letter.number]) == 0
        assert state.dead_letters() == []
        assert engine.results.get(["a"]) == {}  # pending again
        again = claim_one(broker, worker, "x")
        assert (id_of(again), again.queue) == ("a", "x")
        assert again.priority == max(level for level in broker.levels if level <= 8)
        assert (again.deliveries, again.suspect, again.early) == (0, False, False)
        assert again.unknown_since is None
        assert broker.settle([settlement(again, result=result("a"))]) == []
        assert engine.results.get(["a"]) == {"a": result("a")}

    def test_many_dead_letters_are_replayed_and_dropped(self, engine: Engine, worker: int) -> None:
        ids = [f"task-{n}" for n in range(1100)]
        _bury(engine, worker, ids)
        numbers = [letter.number for letter in engine.state.dead_letters(limit=2000)]
        assert engine.state.replay(numbers[:550]) == 550
        assert engine.state.drop(numbers) == 550
        assert engine.state.drop(numbers) == 0
        assert engine.state.dead_letters() == []
        (count,) = engine.broker.counts()
        assert count.ready == 550

    def test_a_dropped_dead_letter_leaves_the_result(self, engine: Engine, worker: int) -> None:
        _bury(engine, worker, "ab")
        engine.results.put([result("a", "FAILURE")])
        newer, older = engine.state.dead_letters()
        assert engine.state.drop([older.number, older.number + 1000]) == 1
        assert engine.state.dead_letters() == [newer]
        assert list(engine.results.get(["a"])) == ["a"]
        assert engine.broker.counts() == []

    # ----------------------------------------------------------------------------------- history

    def test_history_is_told_newest_first(self, engine: Engine, worker: int) -> None:
        entries = [entry("a"), entry("b", task="app.mul"), entry("a"), _bare_entry("c")]
        for ended in entries:
            _end(engine, worker, ended)
        state = engine.state
        assert state.history() == entries[::-1]
        assert state.history(limit=2) == entries[:1:-1]
        assert state.history(id="a") == [entries[2], entries[0]]
        assert state.history(id="a", limit=1) == [entries[2]]
        assert state.history(id="nobody") == []
        assert state.history(task="app.mul") == [entries[1]]
        assert state.history(task="app.mul", id="a") == []
        ended = entry("d", state="REVOKED")
        _end(engine, worker, ended)
        assert state.history(state="REVOKED") == [ended]
        assert state.history(task=ended.task, id="d", state="REVOKED", limit=5) == [ended]
        assert state.history(linked=True) == []
        member = msgspec.structs.replace(entry("e"), group="g")
        body = msgspec.structs.replace(entry("f"), root="e", parent="e", joins="g")
        for ended in (member, body):
            _end(engine, worker, ended)
        assert state.history(linked=True) == [body, member]

    def test_keeping_house_drops_what_is_long_past(self, engine: Engine, worker: int) -> None:
        now = time.time()
        for id, age in (("old", 400 * DAY), ("new", 60.0)):
            _end(engine, worker, entry(id, at=now - age))
        engine.state.keep_house()
        assert len(engine.state.history()) == 2  # no bound was given
        engine.state.keep_house(history_age=DAY)
        assert [ended.id for ended in engine.state.history()] == ["new"]
        for id in "abc":
            _end(engine, worker, entry(id))
        engine.state.keep_house(history_rows=2)
        assert [ended.id for ended in engine.state.history()] == ["c", "b"]

    # --------------------------------------------------------------------------------- the engine

    def test_an_engine_has_a_name_and_a_place_for_run_files(self, engine: Engine) -> None:
        assert engine.name
        assert isinstance(engine.run_dir, Path)
        engine.run_dir.mkdir(parents=True, exist_ok=True)
        (engine.run_dir / "file").write_bytes(b"x")

    def test_closing_an_engine_keeps_what_it_holds(self, engine: Engine, worker: int) -> None:
        engine.broker.publish([message("a")])
        engine.results.put([result("b")])
        engine.close()
        assert claim_ids(engine.broker, worker) == ["a"]
        assert list(engine.results.get(["b"])) == ["b"]
        engine.close()


def _record(state: StateStore, worker: int) -> WorkerRecord:
    (found,) = [record for record in state.workers() if record.number == worker]
    return found


def _bare_entry(id: str) -> HistoryEntry:
    return HistoryEntry(id=id, task="app.add", queue="q", state="FAILURE", at=time.time())


def _end(engine: Engine, worker: int, ended: HistoryEntry) -> None:
    engine.broker.publish([message(ended.id)])
    engine.broker.settle([settlement(claim_one(engine.broker, worker), history=ended)])


def _bury(engine: Engine, worker: int, ids: list[str] | str, *, task: str = "app.add") -> None:
    engine.broker.publish(messages(ids))
    while held := engine.broker.claim(worker, ["q"], 500).deliveries:
        engine.broker.settle([settlement(d, bury(id_of(d), task=task)) for d in held])
