"""`redis+cluster://`: all keys of an app lie in one slot, and we go where it is served."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.faults.processes import Project
from tests.redis_server.conftest import Opener
from tests.redis_server.fleets import ClusterFleet, admin
from umbel import App
from umbel.engines.redis import RedisEngine
from umbel.engines.redis.topology import slot_of
from umbel.exceptions import ImproperlyConfigured
from umbel.testing.contracts import (
    BrokerContract,
    ResultStoreContract,
    SettlementContract,
    StateStoreContract,
)
from umbel.testing.contracts.values import message, record, result, settlement

pytestmark = pytest.mark.timeout(90)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterFleet]:
    fleet = ClusterFleet(tmp_path_factory.mktemp("cluster"))
    yield fleet
    fleet.kill()


def serving(fleet: ClusterFleet, slot: int) -> int:
    """The port of the server that serves a slot."""
    with admin(fleet.servers[0].port) as client:
        for first, last, node, *_ in client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return int(node[1])
    raise AssertionError(slot)


def keys_on(port: int) -> set[str]:
    with admin(port) as client:
        return set(client.scan_iter(count=1000))


def test_slots_are_counted_as_the_server_does(fleet: ClusterFleet) -> None:
    with admin(fleet.servers[0].port) as client:
        for tag in ("umbel", "shop", "ünï", "x" * 100):
            assert client.execute_command("CLUSTER", "KEYSLOT", f"{{{tag}}}:celery") == slot_of(tag)


@pytest.mark.parametrize("tag", ["umbel", "shop", "third", "other:"])
def test_all_keys_of_an_app_are_in_one_slot(fleet: ClusterFleet, tag: str) -> None:
    prefix = {} if tag == "umbel" else {"global_keyprefix": tag}
    before = {one.port: keys_on(one.port) for one in fleet.servers}
    app = App(
        "spread", broker=fleet.url, backend="broker", broker_transport_options=prefix,
        set_as_current=False,
    )  # fmt: skip
    engine = app.engine
    worker = engine.state.register(record(queues=("celery",)))
    app.send_task("nobody.knows", task_id="another-id", countdown=60)
    app.send_task("nobody.knows", task_id="an-id")
    (held,) = engine.broker.claim(worker, ["celery"], 5).deliveries
    assert engine.broker.settle([settlement(held, result=result("an-id"))]) == []
    assert "an-id" in engine.results.get(["an-id"])
    app.close()
    engine.close()
    home = serving(fleet, slot_of(tag.strip(":")))
    made = {port: keys_on(port) - before[port] for port in before}
    assert all(key.startswith(f"{{{tag.strip(':')}}}:") for key in made[home])
    assert len(made[home]) > 8
    assert not any(keys for port, keys in made.items() if port != home)


def test_it_goes_where_the_slot_goes(fleet: ClusterFleet, opener: Opener) -> None:
    tag = f"moving{next(_numbers)}"
    engine = opener(fleet.url, global_keyprefix=tag, result_keyprefix="")
    engine.broker.publish([message("a")])
    old = serving(fleet, slot_of(tag))
    new = next(one.port for one in fleet.servers if one.port != old)
    move(fleet, slot_of(tag), old, new)
    assert serving(fleet, slot_of(tag)) == new
    start = time.monotonic()
    engine.broker.publish([message("b")])
    worker = engine.state.register(record())
    assert len(engine.broker.claim(worker, ["q"], 5).deliveries) == 2
    assert time.monotonic() - start < 4


def move(fleet: ClusterFleet, slot: int, old: int, new: int) -> None:
    """Give a slot with all that lies in it to another server."""
    with admin(old) as source, admin(new) as target:
        ids = {client: client.execute_command("CLUSTER", "MYID") for client in (source, target)}
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.execute_command("MIGRATE", "127.0.0.1", new, "", 0, 5000, "KEYS", *keys)
        for server in fleet.servers:
            with admin(server.port) as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def test_while_a_slot_moves_a_publish_waits(fleet: ClusterFleet, opener: Opener) -> None:
    """Half of its keys are here and half there: no script can run, until all are there."""
    tag = f"moving{next(_numbers)}"
    engine = opener(fleet.url, global_keyprefix=tag, result_keyprefix="")
    engine.broker.publish([message("a")])
    slot = slot_of(tag)
    old = serving(fleet, slot)
    new = next(one.port for one in fleet.servers if one.port != old)
    with admin(old) as source, admin(new) as target:
        target.execute_command(
            "CLUSTER", "SETSLOT", slot, "IMPORTING", source.execute_command("CLUSTER", "MYID")
        )
        source.execute_command(
            "CLUSTER", "SETSLOT", slot, "MIGRATING", target.execute_command("CLUSTER", "MYID")
        )
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        source.execute_command("MIGRATE", "127.0.0.1", new, "", 0, 5000, "KEYS", *keys)
    ended: list[int] = []
    sleep = time.sleep

    def finish(seconds: float) -> None:
        if not ended:
            ended.append(1)
            move(fleet, slot, old, new)
        sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", finish)
        engine.broker.publish([message("b")], timeout=20)
    assert ended
    assert [count.ready for count in engine.broker.counts()] == [2]


def test_a_worker_runs_on_a_cluster(fleet: ClusterFleet, tmp_path: object, seed: str) -> None:
    project = Project(tmp_path, Random(seed), seed, url=fleet.url)  # type: ignore[arg-type]
    try:
        worker = project.worker()
        jobs = [project.send("work") for _ in range(50)]
        jobs.append(project.send("work", countdown=0.2))
        for job in jobs:
            job.get(timeout=20)
        worker.stop()
        project.oracle.judge(project.engine).demand_soundness()
    finally:
        project.close()


def test_a_cluster_has_one_database() -> None:
    with pytest.raises(ImproperlyConfigured, match="the database 0 only"):
        RedisEngine("redis+cluster://h/1", "redis+cluster://h/1")


class OnCluster:
    @pytest.fixture
    def engine(self, fleet: ClusterFleet) -> Iterator[RedisEngine]:
        options = {"global_keyprefix": f"contract{next(_numbers)}"}
        engine = RedisEngine(fleet.url, fleet.url, options)
        yield engine
        engine.close()


class TestBroker(OnCluster, BrokerContract):
    pass


class TestSettlements(OnCluster, SettlementContract):
    pass


class TestResults(OnCluster, ResultStoreContract):
    pass


class TestState(OnCluster, StateStoreContract):
    pass
