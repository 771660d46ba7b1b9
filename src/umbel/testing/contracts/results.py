"""What a result store does."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import time

import pytest

from umbel.engines.broker import Broker, Waker
from umbel.engines.results import ResultStore
from umbel.engines.state import Engine, StateStore
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    claim_one,
    fires,
    look_up,
    message,
    result,
    settlement,
    timeless,
)


class ResultStoreContract(EngineContract):
    """`umbel.engines.results.ResultStore`."""

    def test_a_result_comes_back_as_it_was_put(self, results: ResultStore) -> None:
        kept = result("é:1", "FAILURE", bytes(range(256)) * 4000, time.time() + FAR)
        results.put([kept, result("b", meta=b"")])
        assert look_up(results, "é:1") == {"é:1": timeless(kept)}
        assert results.get(["b"])["b"].expires is None

    def test_only_what_is_there_is_found(self, results: ResultStore) -> None:
        results.put([result("a"), result("c")])
        assert results.get([]) == {}
        assert results.get(["b"]) == {}
        assert results.get(["c", "b", "a", "a"]) == {"a": result("a"), "c": result("c")}
        results.put([])

    def test_many_at_once(self, results: ResultStore) -> None:
        ids = [f"task-{n}" for n in range(2500)]
        results.put([result(id, meta=id.encode()) for id in ids])
        found = results.get([*ids, "nobody"])
        assert {id: r.meta for id, r in found.items()} == {id: id.encode() for id in ids}
        results.forget(ids[1:])
        assert list(results.get(ids)) == ids[:1]

    @pytest.mark.parametrize("first", ["STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
    def test_a_later_state_replaces_an_earlier_one(self, results: ResultStore, first: str) -> None:
        expires = time.time() + FAR
        results.put([result("a", first, b"1", expires)])
        results.put([result("a", "FAILURE", b"2")])
        assert results.get(["a"]) == {"a": result("a", "FAILURE", b"2")}
        results.put([result("a", "STARTED", b"3"), result("a", "SUCCESS", b"4", expires)])
        assert look_up(results, "a") == {"a": result("a", "SUCCESS", b"4")}

    @pytest.mark.parametrize("second", ["STARTED", "RETRY", "FAILURE", "REVOKED", "SUCCESS"])
    def test_a_success_is_never_overwritten(
        self, results: ResultStore, broker: Broker, state: StateStore, worker: int, second: str
    ) -> None:
        first = result("a", "SUCCESS", b"first", time.time() + FAR)
        results.put([first, result("a", second, b"second")])
        results.put([result("a", second, b"third")])
        broker.publish([message("a")])
        held = claim_one(broker, worker)
        assert broker.settle([settlement(held, result=result("a", second, b"fourth"))]) == []
        broker.publish([message("a", nonce="2")])
        assert state.revoke([result("a", second, b"fifth")], until=time.time() + FAR) == ["a"]
        assert look_up(results, "a") == {"a": timeless(first)}

    @pytest.mark.parametrize("end", ["FAILURE", "REVOKED"])
    def test_a_late_word_of_progress_does_not_undo_an_end(
        self, results: ResultStore, end: str
    ) -> None:
        results.put([result("a", "PROGRESS", b"1"), result("a", "PROGRESS", b"2")])
        assert results.get(["a"])["a"].meta == b"2"
        results.put([result("a", end, b"end", time.time() + FAR)])
        for late in ("PROGRESS", "STARTED", "RETRY"):
            results.put([result("a", late, b"late"), result("b", late, b"first")])
        assert results.get(["a", "b"])["a"].status == end
        assert results.get(["b"])["b"].status == "RETRY"
        results.put([result("a", "SUCCESS", b"again")])
        assert results.get(["a"])["a"].meta == b"again"

    def test_an_expired_result_is_as_absent(self, results: ResultStore, state: StateStore) -> None:
        now = time.time()
        results.put([result("a", expires=now - 1), result("b", expires=now + FAR), result("c")])
        results.put([result("d", "FAILURE", expires=now - 1)])
        assert sorted(results.get(["a", "b", "c", "d"])) == ["b", "c"]
        assert results.get(["a"]) == {}
        # Another run of the same id may store its own result, over a SUCCESS too.
        again = result("a", "FAILURE", b"again", now + FAR)
        results.put([again])
        assert look_up(results, "a") == {"a": timeless(again)}
        for _ in range(3):
            state.keep_house()
        assert sorted(results.get(["a", "b", "c", "d"])) == ["a", "b", "c"]

    def test_a_result_expires_when_its_time_has_come(self, results: ResultStore) -> None:
        expires = time.time() + 0.2
        results.put([result("a", expires=expires)])
        while results.get(["a"]):
            assert time.time() < expires + 1
            time.sleep(0.01)
        assert time.time() > expires - 0.01

    def test_a_forgotten_result_is_gone(self, results: ResultStore) -> None:
        results.put([result("a"), result("b")])
        results.forget(["a", "nobody"])
        results.forget([])
        assert results.get(["a", "b"]) == {"b": result("b")}
        results.put([result("a", "FAILURE")])
        assert results.get(["a"]) == {"a": result("a", "FAILURE")}

    def test_a_waker_fires_on_each_way_to_a_result(self, engine: Engine, worker: int) -> None:
        results = engine.results
        waker: Waker = results.listen()

        def look() -> list[str]:
            waker.drain()
            return sorted(results.get(["a", "b", "c", "nobody"], waker))

        try:
            assert look() == []
            assert not fires(waker, 0)
            results.put([result("a")])
            assert fires(waker)
            assert "a" in look()
            assert not fires(waker, 0)
            engine.broker.publish([message("b")])
            held = claim_one(engine.broker, worker)
            engine.broker.settle([settlement(held, result=result("b"))])
            assert fires(waker)
            assert "b" in look()
            engine.broker.publish([message("c")])
            engine.state.revoke([result("c", "REVOKED")], until=time.time() + FAR)
            assert fires(waker)
            assert "c" in look()
        finally:
            waker.close()

    def test_a_waker_fires_on_each_change_of_one_result(self, results: ResultStore) -> None:
        waker: Waker = results.listen()
        try:
            for n, status in enumerate(["STARTED", "PROGRESS", "PROGRESS", "SUCCESS"]):
                waker.drain()
                results.get(["a"], waker)
                results.put([result("a", status, b"%d" % n)])
                assert fires(waker)
            waker.drain()
            assert results.get(["a"], waker)["a"].status == "SUCCESS"
        finally:
            waker.close()
