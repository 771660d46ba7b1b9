"""What a state store does with periodic tasks."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import threading

from umbel.engines.broker import Broker
from umbel.engines.state import ScheduleChange, ScheduleRecord, StateStore
from umbel.testing.contracts.values import EngineContract, claim_ids, fires, message


class ScheduleContract(EngineContract):
    """The part of `umbel.engines.state.StateStore` that is about periodic tasks."""

    def test_a_record_is_kept_as_it_was_written(self, state: StateStore) -> None:
        assert state.schedules() == []
        mine = record("a", version=2**62 + 3, due=1_700_000_000.123456, body=b"\x00{}\xff" * 9)
        rest = record("b", due=None)
        assert state.change_schedules([added(rest), added(mine)]) == []
        assert state.schedules() == [mine, rest]
        assert state.schedules(["b", "c"]) == [rest]
        assert state.schedules([]) == []

    def test_what_is_due_comes_in_the_order_of_its_times(self, state: StateStore) -> None:
        records = [record(f"e{n}", due=float(n)) for n in (5, 1, 4, 2, 3)]
        state.change_schedules([added(one) for one in [*records, record("never", due=None)]])
        due, coming = state.due_schedules(3.0, 10)
        assert ([one.name for one in due], coming) == (["e1", "e2", "e3"], 4.0)
        due, coming = state.due_schedules(3.5, 2)
        assert ([one.name for one in due], coming) == (["e1", "e2"], 4.0)
        assert state.due_schedules(0.5, 10) == ([], 1.0)
        due, coming = state.due_schedules(9.0, 10)
        assert (len(due), coming) == (5, None)

    def test_a_tick_moves_its_record_and_publishes(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        state.change_schedules([added(record("a", due=1.0))])
        next_one = record("a", version=8, due=2.0)
        waker = broker.listen(["q"])
        try:
            waker.drain()
            tick = ScheduleChange("a", 7, next_one, (message("one"), message("two")))
            assert state.change_schedules([tick]) == []
            assert fires(waker)
        finally:
            waker.close()
        assert state.schedules() == [next_one]
        assert state.due_schedules(1.5, 10) == ([], 2.0)
        assert claim_ids(broker, worker) == ["one", "two"]

    def test_a_message_may_wait_for_its_own_time(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        later = message("later", due=4e9)
        state.change_schedules([ScheduleChange("a", 0, record("a"), (later,))])
        assert claim_ids(broker, worker) == []
        assert [(count.queue, count.delayed) for count in broker.counts()] == [("q", 1)]

    def test_a_change_from_another_state_is_refused_with_its_messages(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        state.change_schedules([added(record("a", due=1.0)), added(record("b", due=1.0))])
        stale = ScheduleChange("a", 6, record("a", version=9), (message("stale"),))
        gone = ScheduleChange("c", 7, record("c", version=9), (message("gone"),))
        there = ScheduleChange("a", 0, record("a", version=9), (message("there"),))
        good = ScheduleChange("b", 7, record("b", version=9, due=2.0), (message("good"),))
        assert state.change_schedules([stale, gone, there, good]) == ["a", "c", "a"]
        assert [(one.name, one.version) for one in state.schedules()] == [("a", 7), ("b", 9)]
        assert claim_ids(broker, worker) == ["good"]

    def test_a_tick_is_fired_once(self, broker: Broker, state: StateStore, worker: int) -> None:
        state.change_schedules([added(record("a", due=1.0))])
        mine = ScheduleChange("a", 7, record("a", version=8, due=2.0), (message("mine"),))
        yours = ScheduleChange("a", 7, record("a", version=9, due=2.0), (message("yours"),))
        assert state.change_schedules([mine]) == []
        assert state.change_schedules([yours]) == ["a"]
        state.change_schedules([mine])  # again, as its answer was lost
        assert claim_ids(broker, worker) == ["mine"]
        assert state.schedules() == [mine.record]

    def test_a_removed_record_is_gone(self, broker: Broker, state: StateStore, worker: int) -> None:
        state.change_schedules([added(record("a", due=1.0)), added(record("b", due=1.0))])
        last = ScheduleChange("a", 7, None, (message("last"),))
        assert state.change_schedules([last, ScheduleChange("b", 6, None)]) == ["b"]
        assert [one.name for one in state.schedules()] == ["b"]
        assert claim_ids(broker, worker) == ["last"]
        tick = ScheduleChange("a", 7, record("a", version=8), (message("late"),))
        assert state.change_schedules([tick]) == ["a"]
        # One of the same name that is added later is another one.
        assert state.change_schedules([added(record("a", version=5, due=3.0))]) == []
        assert state.change_schedules([tick]) == ["a"]
        assert claim_ids(broker, worker) == []

    def test_more_changes_than_one_transaction_holds(self, state: StateStore) -> None:
        many = [record(f"e{n:04}", due=float(n)) for n in range(1200)]
        assert state.change_schedules([added(one) for one in many]) == []
        assert state.schedules() == many
        removals = [ScheduleChange(one.name, 7, None) for one in many]
        assert state.change_schedules(removals) == []
        assert state.due_schedules(9e9, 10) == ([], None)

    def test_of_many_at_once_one_fires_each_tick(
        self, broker: Broker, state: StateStore, worker: int
    ) -> None:
        state.change_schedules([added(record("a", version=10, due=1.0))])
        fired: list[int] = []

        def run(me: int) -> None:
            for tick in range(1, 31):
                while True:
                    (now,) = state.schedules(["a"])
                    if now.due != tick:
                        break
                    told = message(f"t{tick}", nonce=f"{me}")
                    step = record("a", version=10 * (tick + 1) + me, due=tick + 1.0)
                    change = ScheduleChange("a", now.version, step, (told,))
                    if not state.change_schedules([change]):
                        fired.append(tick)

        threads = [threading.Thread(target=run, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(fired) == list(range(1, 31))
        assert sorted(claim_ids(broker, worker)) == sorted(f"t{tick}" for tick in range(1, 31))


def record(
    name: str, *, version: int = 7, due: float | None = None, body: bytes = b"{}"
) -> ScheduleRecord:
    """A periodic task."""
    return ScheduleRecord(name, version, due, body)


def added(new: ScheduleRecord) -> ScheduleChange:
    """The change that adds it."""
    return ScheduleChange(new.name, 0, new)
