"""`sentinel://`: the primary is whom the sentinels name, also after a failover."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.conftest import RecordProof, Rounds
from tests.faults.processes import Project
from tests.redis_server.conftest import Opener
from tests.redis_server.fleets import MASTER, Fleet, admin, wait_for
from umbel import App
from umbel.exceptions import ImproperlyConfigured, OperationalError
from umbel.testing.contracts.values import message, record, result, settlement

pytestmark = pytest.mark.timeout(120)
OPTIONS = {"master_name": MASTER}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three sentinels whose primary stays."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), sentinels=3)
    yield fleet
    fleet.kill()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, replicas=1, sentinels=1)
    yield fleet
    fleet.kill()


def test_messages_and_results_go_to_the_primary(quiet: Fleet) -> None:
    app = App(
        "watched",
        broker=quiet.url,
        backend=quiet.url,
        broker_transport_options=OPTIONS,
        result_backend_transport_options=OPTIONS,
        set_as_current=False,
    )
    app.send_task("nobody.knows", task_id="an-id")
    engine = app.engine
    worker = engine.state.register(record(queues=("celery",)))
    (held,) = engine.broker.claim(worker, ["celery"], 5).deliveries
    assert engine.broker.settle([settlement(held, result=result("an-id"))]) == []
    with admin(quiet.primary.port) as primary:
        assert primary.exists("celery-task-meta-an-id") == 1
    assert "an-id" in engine.results.get(["an-id"])
    app.close()
    engine.close()


def test_the_first_sentinel_that_knows_is_enough(quiet: Fleet, opener: Opener) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.create_server(("127.0.0.1", 0)) as gone,
    ):
        ports = [gone.getsockname()[1], silent.getsockname()[1]]
        gone.close()
        dead = ";".join(f"sentinel://127.0.0.1:{port}" for port in ports)
        engine = opener(f"{dead};{quiet.url}", **OPTIONS)
        engine.broker.publish([message("a")])
        start = time.monotonic()
        engine._server.close()
        engine.broker.publish([message("b")])  # asks whom it has found the last time
        assert time.monotonic() - start < 1
        assert [count.ready for count in engine.broker.counts()] == [2]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"master_name": "another"}, "No such master"),
        ({"master_name": MASTER, "min_other_sentinels": 3}, "fewer than 3 other sentinels"),
        ({"master_name": MASTER, "sentinel_kwargs": {"password": "x"}}, "without any password"),
    ],
)
def test_what_the_sentinels_say_against_it_is_told(
    quiet: Fleet, opener: Opener, options: dict[str, object], why: str
) -> None:
    engine = opener(quiet.url, **options)
    with pytest.raises(OperationalError, match=f"no sentinel names a primary.*{why}"):
        engine.broker.publish([message("a")], timeout=1)


def test_options_of_the_connections_to_sentinels(quiet: Fleet, opener: Opener) -> None:
    """They are of the sentinels alone; login and database in the URL are the primary's."""
    engine = opener(
        quiet.url.replace("/0", "/3"),
        **OPTIONS,
        sentinel_kwargs={"socket_timeout": 2, "client_name": "asker"},
        client_name="worker",
    )
    engine.broker.counts()
    with admin(quiet.primary.port) as primary:
        assert ("worker", "3") in {(one["name"], one["db"]) for one in primary.client_list()}


def test_without_the_name_of_the_primary_it_says_what_to_add(opener: Opener) -> None:
    with pytest.raises(ImproperlyConfigured, match="'master_name': 'mymaster'"):
        opener("sentinel://h:26379/0")


def test_who_is_named_and_is_a_replica_gets_nothing(fleet: Fleet, opener: Opener) -> None:
    """Sentinels learn late of what is done behind their backs."""
    (replica,) = fleet.replicas
    with admin(fleet.primary.port) as first, admin(replica.port) as second:
        second.replicaof("NO", "ONE")
        first.replicaof("127.0.0.1", replica.port)
    engine = opener(fleet.url, **OPTIONS)
    with pytest.raises(OperationalError, match=f"{fleet.primary.port} is no primary any more"):
        engine.broker.publish([message("a")], timeout=0.3)


@pytest.mark.parametrize("how", ["by hand", "killed"])
def test_a_publish_waits_for_the_next_primary(fleet: Fleet, opener: Opener, how: str) -> None:
    engine = opener(fleet.url, **OPTIONS, min_replicas_ack=1)
    engine.broker.publish([message("a")])
    engine._server.replicas = 0  # there is none left afterwards
    replica = fleet.replicas[0]
    if how == "killed":
        fleet.primary.kill()
    else:
        with admin(fleet.sentinels[0].port) as sentinel:
            wait_for("it begins", lambda: sentinel.execute_command("SENTINEL", "FAILOVER", MASTER))
    engine.broker.publish([message("b")], timeout=40)
    wait_for("a new primary", lambda: fleet.named() == replica.port)
    engine.broker.publish([message("c")], timeout=40)
    assert fleet.is_primary(replica)
    with admin(replica.port) as client:
        found = client.llen(engine._keys.lists("q")[0])
    # What the old primary took after the new one was chosen is gone: nobody had confirmed it.
    assert found == 3 if how == "killed" else found in {2, 3}


@pytest.mark.parametrize(
    ("confirmed", "abrupt"),
    [
        (True, False),
        pytest.param(True, True, marks=pytest.mark.full),
        pytest.param(False, True, marks=pytest.mark.full),
    ],
)
def test_a_failover_under_load(
    fleet: Fleet,
    tmp_path: Path,
    seed: str,
    rounds: Rounds,
    record_proof: RecordProof,
    confirmed: bool,
    abrupt: bool,
) -> None:
    """Nothing that was confirmed is lost; else the losses are counted."""
    settings = {
        "broker_transport_options": OPTIONS,
        "result_backend_transport_options": OPTIONS,
        "redis_min_replicas_ack": int(confirmed),
        "task_publish_timeout": 30.0,
    }
    project = Project(tmp_path, Random(seed), seed, url=fleet.url, settings=settings)
    project.app.conf.update(settings)
    try:
        worker = project.worker()
        servers = [fleet.primary, *fleet.replicas]
        safe: set[str] = set()
        times = rounds(short=1, full=10)
        for _ in range(times):
            earlier = set(project.oracle.acknowledged)
            producer = project.producer()
            done = len(project.oracle.acknowledged)
            wait_for("work flows", lambda done=done: _sent(project) > done + 20)  # type: ignore[misc]
            safe |= project.oracle.acknowledged - earlier
            old = next(one for one in servers if fleet.is_primary(one))
            new = next(one for one in servers if one is not old)
            with admin(fleet.sentinels[0].port) as sentinel:
                wait_for("it begins", lambda: sentinel.sentinel_failover(MASTER))
            wait_for("a new primary", lambda new=new: fleet.named() == new.port)  # type: ignore[misc]
            if not abrupt:
                # For some seconds the sentinels let the old one take writes that will be dropped;
                # whoever does it with care does not wait for them.
                with admin(old.port) as client:
                    client.replicaof("127.0.0.1", new.port)
            wait_for("the old one follows", lambda new=new: fleet.in_step(new, 1))  # type: ignore[misc]
            sent = _sent(project)
            wait_for("work flows again", lambda sent=sent: _sent(project) > sent + 20)  # type: ignore[misc]
            between = set(project.oracle.acknowledged)
            project.stop_producers()
            project.oracle.read()
            safe |= project.oracle.acknowledged - between
            assert producer.returncode == 0
        wait_for("all is done", lambda: not _unfinished(project, confirmed=confirmed), 60)
        worker.stop()
        project.oracle.read()
        kept = project.engine.results.get(sorted(project.oracle.acknowledged)).keys()
        lost = project.oracle.acknowledged - kept
        again = len(project.oracle.runs) - len({run.job for run in project.oracle.runs.values()})
        figures = {"failovers": times, "sent": len(project.oracle.acknowledged), "lost": len(lost)}
        record_proof(**figures, again=again)
        print(figures)
        if confirmed:
            assert not lost
        # What else is lost was sent while the old primary still took it.
        assert not lost & safe
    finally:
        project.close()


def _sent(project: Project) -> int:
    project.oracle.read()
    return len(project.oracle.acknowledged)


def _unfinished(project: Project, *, confirmed: bool) -> bool:
    try:
        if confirmed:
            ids = sorted(project.oracle.acknowledged)
            return len(project.engine.results.get(ids)) < len(ids)
        return any(c.ready + c.claimed for c in project.engine.broker.counts())
    except OperationalError:
        return True
