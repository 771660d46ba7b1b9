"""When a judge may call another worker dead."""

from umbel.engines.state import WorkerRecord
from umbel.worker.recovery import Watch


def record(number: int, renewals: int, lease: float = 30.0) -> WorkerRecord:
    return WorkerRecord(
        f"w{number}", "host", 1, ("celery",), 2, lease, number=number, renewals=renewals
    )


def look(watch: Watch, renewals: int, start: float, end: float, step: float = 5.0) -> list[str]:
    dead: list[str] = []
    now = start
    while now <= end:
        dead += [r.node for r in watch.overdue([record(1, renewals)], now)]
        now += step
    return dead


def test_a_counter_that_stands_still_for_a_whole_lease_is_a_death() -> None:
    watch = Watch()
    assert look(watch, 7, 100.0, 125.0) == []
    assert look(watch, 7, 130.0, 130.0) == ["w1"]


def test_any_renewal_starts_the_lease_again() -> None:
    watch = Watch()
    assert look(watch, 7, 100.0, 125.0) == []
    assert look(watch, 8, 129.0, 150.0) == []
    assert look(watch, 8, 155.0, 160.0) == ["w1"]


def test_a_judge_that_was_held_up_itself_starts_again() -> None:
    watch = Watch()
    assert look(watch, 7, 100.0, 110.0) == []
    assert look(watch, 7, 1000.0, 1025.0) == []
    assert look(watch, 7, 1030.0, 1030.0) == ["w1"]


def test_an_unreachable_store_starts_the_watch_again() -> None:
    watch = Watch()
    assert look(watch, 7, 100.0, 125.0) == []
    watch.start_again()
    assert look(watch, 7, 130.0, 155.0) == []
    assert look(watch, 7, 160.0, 160.0) == ["w1"]


def test_a_short_lease_does_not_blind_a_judge_to_the_others() -> None:
    """Looks come each second, whatever the leases are."""
    watch = Watch()
    dead: list[str] = []
    for second in range(32):
        both = [record(1, 7), record(2, second, lease=1.5)]
        dead += [r.node for r in watch.overdue(both, 100.0 + second)]
    assert dead == ["w1", "w1"]
    assert look(Watch(), 7, 100.0, 103.0, step=1.0) == []
