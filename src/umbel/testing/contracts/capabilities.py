"""What only brokers do that say so: know each tag, look into their queues."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import time

from umbel.engines.broker import Broker
from umbel.engines.state import Engine
from umbel.testing.contracts.values import (
    FAR,
    EngineContract,
    bury,
    claim_ids,
    claim_one,
    id_of,
    message,
    messages,
    settlement,
)


class UniqueTagsContract(EngineContract):
    """`Broker.unique_tags`: what is published twice is there once."""

    def test_it_says_so(self, broker: Broker) -> None:
        assert broker.unique_tags

    def test_publishing_a_tag_again_leaves_one(self, broker: Broker, worker: int) -> None:
        broker.publish([message("a"), message("a"), message("b")])
        broker.publish([message("a"), message("c")])
        assert claim_ids(broker, worker) == ["a", "b", "c"]

    def test_a_resend_of_a_claimed_message_is_no_second_task(
        self, broker: Broker, worker: int
    ) -> None:
        broker.publish([message("a")])
        delivery = claim_one(broker, worker)
        broker.publish([message("a")])
        assert claim_ids(broker, worker) == []
        assert broker.settle([settlement(delivery)]) == []
        assert broker.counts() == []

    def test_a_resend_of_a_delayed_message_is_no_second_task(
        self, broker: Broker, worker: int
    ) -> None:
        later = message("a", due=time.time() + FAR)
        broker.publish([later])
        broker.publish([later])
        assert [waiting.due for waiting in broker.browse(id="a")] == [later.due]
        assert claim_ids(broker, worker) == []

    def test_replaying_a_message_that_waits_again_is_no_second_task(
        self, engine: Engine, worker: int
    ) -> None:
        engine.broker.publish([message("a")])
        engine.broker.settle([settlement(claim_one(engine.broker, worker), bury("a"))])
        engine.broker.publish([message("a")])  # its producer sent it again
        engine.state.replay([letter.number for letter in engine.state.dead_letters()])
        assert claim_ids(engine.broker, worker) == ["a"]


class BrowsingContract(EngineContract):
    """`Broker.browsable`: messages are shown and found without a claim."""

    def test_it_says_so(self, broker: Broker) -> None:
        assert broker.browsable

    def test_browse_shows_messages_without_claiming_them(self, broker: Broker, worker: int) -> None:
        due = time.time() + FAR
        broker.publish([message("a", queue="x", priority=2), message("b", queue="y")])
        broker.publish([message("c", queue="x", due=due), message("d", queue="x")])
        held = broker.claim(worker, ["x"], 1).deliveries[0]
        a, c, d = sorted(broker.browse("x"), key=id_of)
        assert [id_of(waiting) for waiting in (a, c, d)] == ["a", "c", "d"]
        assert (a.number, a.queue, a.due) == (held.number, "x", None)
        assert a.priority == held.priority
        assert (a.worker, c.worker, d.worker) == (worker, None, None)
        assert (c.due, d.due, a.deliveries) == (due, None, 0)
        assert a.published is None or abs(a.published - time.time()) < FAR
        assert sorted(map(id_of, broker.browse())) == ["a", "b", "c", "d"]
        assert len(broker.browse(limit=2)) == 2
        assert broker.browse("elsewhere") == []
        assert claim_ids(broker, worker, ["x"]) == ["d"]

    def test_browse_finds_the_messages_of_one_task(self, broker: Broker, worker: int) -> None:
        ids = ["a", "a:b", "a:b:c", "ab", "", ":", "a%", "_", "a:", "A"]
        broker.publish(messages(ids))
        broker.publish([message("a:b", nonce="2", queue="other", due=time.time() + FAR)])
        claim_ids(broker, worker, limit=1)
        for id in ids:
            found = broker.browse(id=id)
            assert [id_of(waiting) for waiting in found] == [id] * (2 if id == "a:b" else 1)
        assert {waiting.queue for waiting in broker.browse(id="a:b")} == {"q", "other"}
        assert len(broker.browse(id="a:b", limit=1)) == 1
        assert broker.browse(id="nobody") == []
