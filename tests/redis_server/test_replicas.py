"""Confirmations of replicas (`redis_min_replicas_ack`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server.conftest import Opener
from tests.redis_server.fleets import Fleet, admin, wait_for
from umbel import App
from umbel.exceptions import OperationalError
from umbel.testing.contracts.values import message, record, result, settlement


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, replicas=1)
    yield fleet
    fleet.kill()


def test_what_is_published_is_on_a_replica(fleet: Fleet, opener: Opener) -> None:
    engine = opener(fleet.primary.url, min_replicas_ack=1)
    with admin(fleet.replicas[0].port) as replica:
        for n in range(20):
            engine.broker.publish([message(f"t{n}")])
            assert replica.llen(engine._keys.lists("q")[0]) == n + 1
        worker = engine.state.register(record())
        held = engine.broker.claim(worker, ["q"], 20).deliveries
        for one in held:
            assert engine.broker.settle([settlement(one, result=result("t"))]) == []
            assert not replica.hexists(engine._keys.claims(worker), str(one.number))


def test_too_few_replicas_are_an_error_within_the_deadline(fleet: Fleet) -> None:
    app = App("careful", broker=fleet.primary.url, redis_min_replicas_ack=2, set_as_current=False)
    app.conf.task_publish_timeout = 2.0
    start = time.monotonic()
    with pytest.raises(OperationalError, match="only 1 of 2 replicas have confirmed") as caught:
        app.send_task("nobody.knows")
    assert 1.5 < time.monotonic() - start < 5
    assert "has stored this" in str(caught.value)
    (count,) = app.engine.broker.counts()
    assert count.ready == 1  # as the error says
    app.engine.close()


def test_a_replica_that_comes_back_in_time_is_enough(fleet: Fleet, opener: Opener) -> None:
    engine = opener(fleet.primary.url, min_replicas_ack=1)
    engine.broker.publish([message("a")])
    (replica,) = fleet.replicas
    replica.kill()
    with pytest.raises(OperationalError, match="only 0 of 1 replicas"):
        engine.broker.publish([message("b")], timeout=0.5)
    replica.start()
    engine.broker.publish([message("c")], timeout=20)
    with admin(replica.port) as client:
        assert client.llen(engine._keys.lists("q")[0]) == 3


def test_ends_go_on_without_replicas_and_it_is_told(
    fleet: Fleet, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opener(fleet.primary.url, min_replicas_ack=1)
    worker = engine.state.register(record())
    engine.broker.publish([message("a"), message("b")])
    held = engine.broker.claim(worker, ["q"], 2).deliveries
    fleet.replicas[0].kill()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for one in held:
            assert engine.broker.settle([settlement(one, result=result("a"))]) == []
    assert time.monotonic() - start < 10
    told = [line for line in caplog.messages if "only 0 of 1 replicas confirm" in line]
    assert len(told) == 1
    assert engine.state.claims(worker) == []


def test_a_resend_that_finds_itself_is_confirmed_too(fleet: Fleet, opener: Opener) -> None:
    """The server was lost after it took the message and before the replicas confirmed it."""
    engine = opener(fleet.primary.url, min_replicas_ack=1)
    engine.broker.publish([message("a")])
    (replica,) = fleet.replicas
    with admin(fleet.primary.port) as primary:
        replica.kill()
        wait_for(
            "the replica is gone", lambda: primary.info("replication")["connected_slaves"] == 0
        )
        confirm = engine._server._confirm  # type: ignore[attr-defined]

        def lose_it(connection: object, deadline: float) -> None:
            engine._server._confirm = confirm  # type: ignore[attr-defined]
            raise OSError("lost")

        engine._server._confirm = lose_it  # type: ignore[attr-defined]
        with pytest.raises(OperationalError, match="only 0 of 1 replicas"):
            engine.broker.publish([message("b")], timeout=0.5)
    assert [count.ready for count in engine.broker.counts()] == [2]


@pytest.mark.parametrize("early", [False, True])
def test_an_end_that_the_next_primary_does_not_know_is_made_good(
    fleet: Fleet, opener: Opener, caplog: pytest.LogCaptureFixture, early: bool
) -> None:
    """Its message is still claimed there by a worker that has forgotten it."""
    (replica,) = fleet.replicas
    engine = opener(f"{fleet.primary.url};{replica.url}")
    worker = engine.state.register(record())
    engine.broker.publish([message("a"), message("b")])
    first, second = engine.broker.claim(worker, ["q"], 2).deliveries
    if early:
        assert engine.broker.accept([first]) == []
    claims, marks = engine._keys.claims(worker), engine._keys.early(worker)
    with admin(replica.port) as client:
        wait_for("the claims are there", lambda: client.hlen(claims) == 2)
        wait_for("the mark is there", lambda: client.scard(marks) == int(early))
        client.replicaof("NO", "ONE")
    assert engine.broker.settle([settlement(first, result=result("a"))]) == []
    fleet.primary.kill()
    with caplog.at_level(logging.WARNING):
        wait_for("it goes on", replica._answers)
        engine.broker.counts()
        again = engine.broker.claim(worker, ["q"], 5).deliveries
    assert "1 tasks had ended of which" in caplog.text
    assert [one.payload for one in again] == ([] if early else [first.payload])
    assert [one.number for one in engine.state.claims(worker)] == [
        second.number, *(one.number for one in again)
    ]  # fmt: skip
    assert engine.broker.settle([settlement(one, result=result("a")) for one in again]) == []


def test_the_next_primary_gives_no_number_again(fleet: Fleet, opener: Opener) -> None:
    """It has not heard of the last claims, and a number is what tells one claim from another."""
    (replica,) = fleet.replicas
    engine = opener(f"{fleet.primary.url};{replica.url}")
    worker = engine.state.register(record())
    engine.broker.publish([message("a"), message("b")])
    with admin(replica.port) as client:
        wait_for("they are there", lambda: client.llen(engine._keys.lists("q")[0]) == 2)
        client.replicaof("NO", "ONE")
    before = engine.broker.claim(worker, ["q"], 2).deliveries
    fleet.primary.kill()
    after = engine.broker.claim(worker, ["q"], 2).deliveries
    assert [one.payload for one in after] == [one.payload for one in before]
    assert not {one.number for one in after} & {one.number for one in before}
    late = [settlement(one) for one in before]
    assert engine.broker.settle(late) == [one.number for one in before]
    assert engine.broker.settle([settlement(one) for one in after]) == []
