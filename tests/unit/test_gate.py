"""What a worker decides of a message before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from umbel import App, clock
from umbel.engines.broker import PutBack, StoredResult
from umbel.signals import task_received
from umbel.testing.contracts.values import record
from umbel.worker import gate as gate_module
from umbel.worker.gate import Gate, Held
from umbel.worker.settle import Settler


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    app = App("gate", broker=f"memory://{request.node.name}", set_as_current=False)
    yield app
    clock.shift(0)


def test_revocations_that_have_run_out_are_forgotten(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "REVOKED", 20)
    gate = Gate(app, Settler(app, "w1@here"), None, None)
    state = app.engine.state
    most, held = 0, dict[str, int]()
    for hour in range(50):
        clock.shift(hour * 3600)
        ids = [f"{hour}-{n}" for n in range(10)]
        state.revoke([StoredResult(id, "REVOKED", b"{}") for id in ids], until=clock.time() + 7000)
        version, held = state.revocations(0)
        assert gate.learn_revocations(version)
        assert not gate.learn_revocations(version)
        assert held.keys() <= gate.revoked.keys()
        most = max(most, len(gate.revoked))
    assert len(held) == 20
    assert most <= 20 + 2 * len(held)


def test_many_that_are_in_force_are_not_read_again_each_time(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "REVOKED", 2)
    gate = Gate(app, Settler(app, "w1@here"), None, None)
    state = app.engine.state
    told, ask = 0, state.revocations

    def count(after: int) -> tuple[int, dict[str, int]]:
        nonlocal told
        version, ids = ask(after)
        told += len(ids)
        return version, ids

    monkeypatch.setattr(state, "revocations", count)
    for n in range(500):
        state.revoke([StoredResult(str(n), "REVOKED", b"{}")], until=clock.time() + 3600)
        gate.learn_revocations(ask(0)[0])
    assert len(gate.revoked) == 500
    assert told < 5 * 500


def test_names_of_unknown_tasks_are_not_kept_without_end(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate_module, "TOLD", 10)
    gate = Gate(app, Settler(app, "w1@here"), None, None)
    worker = app.engine.state.register(record())
    for n in range(25):
        for _ in range(2):
            app.send_task(f"made.up.{n}", queue="q")
    for delivery in app.engine.broker.claim(worker, ["q"], 100).deliveries:
        gate.decide(delivery)
    assert len(gate._told) <= 10
    assert sum("is registered here" in text for text in caplog.messages) == 25


def test_what_goes_back_and_comes_again_is_received_once(app: App) -> None:
    """Each attempt is told of when it gets a slot, by each worker that gives it one."""
    task = app.task(name="gate.add")(lambda: None)
    gate, other = (Gate(app, Settler(app, name), None, None) for name in ("w1@here", "w2@here"))
    broker = app.engine.broker
    worker = app.engine.state.register(record())
    heard: list[str] = []

    def hear(sender: str, **_: Any) -> None:
        heard.append(sender)

    def claim(by: Gate) -> Held:
        (delivery,) = broker.claim(worker, ["celery"], 1).deliveries
        held = by.decide(delivery)
        assert isinstance(held, Held)
        return held

    task_received.connect(hear)
    try:
        task.delay()
        for _ in range(3):
            broker.settle([gate.give_up(claim(gate))])
        assert heard == [], "it had no slot"
        for by in (gate, gate, other, gate):
            held = claim(by)
            by.receive(held)
            by.receive(held)
            broker.settle([by.give_up(held)])
        assert heard == ["w1@here", "w2@here"]
        held = claim(gate)
        back = gate.give_up(held)
        broker.settle([msgspec.structs.replace(back, end=PutBack(deliveries=1))])
        gate.receive(claim(gate))
        assert heard == ["w1@here", "w2@here", "w1@here"], "another attempt"
    finally:
        task_received.disconnect(hear)
