"""What holds when several processes have one store open."""

# ruff: noqa: D102, S101  (tests: each name says what it shows)

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from umbel.engines.broker import PutBack
from umbel.engines.state import Engine
from umbel.testing.contracts.values import (
    PATIENCE,
    EngineContract,
    claim_ids,
    claim_one,
    fires,
    id_of,
    ids_of,
    message,
    record,
    result,
    settlement,
    take_over,
)

Opener = Callable[[], Engine]

_spawn = multiprocessing.get_context("spawn")


class SharingContract(EngineContract):
    """An engine that any number of processes open at once; needs the fixture `opener`."""

    def test_processes_claim_each_message_exactly_once(
        self, engine: Engine, opener: Opener
    ) -> None:
        producers = [_start(_produce, opener, f"p{n}", 400) for n in range(2)]
        consumers = [_start(_consume, opener, f"celery@{n}") for n in range(3)]
        for process, pipe in producers:
            _finish(process, pipe)
        for _, pipe in consumers:
            pipe.send("no more is coming")
        claimed = [id for process, pipe in consumers for id in _finish(process, pipe)]
        assert len(claimed) == 800
        assert set(claimed) == {f"p{producer}-{n}" for producer in range(2) for n in range(400)}
        assert engine.broker.counts() == []
        assert len(engine.results.get(claimed)) == 800

    def test_wakers_fire_across_processes(self, engine: Engine, opener: Opener) -> None:
        work, results = engine.broker.listen(["q"]), engine.results.listen()
        try:
            process, pipe = _start(_publish_on_command, opener)
            for waker in (work, results):
                waker.drain()
                engine.results.get(["r"], results)
                assert not fires(waker, 0)
            pipe.send("publish")
            assert fires(work)
            pipe.send("put a result")
            assert fires(results)
            _finish(process, pipe)
            assert list(engine.results.get(["r"])) == ["r"]
        finally:
            work.close()
            results.close()

    def test_a_name_is_given_to_one_of_many_at_once(self, engine: Engine, opener: Opener) -> None:
        children = [_start(_register, opener) for _ in range(3)]
        for _, pipe in children:
            pipe.send("go")
        numbers = [_finish(process, pipe) for process, pipe in children]
        assert sorted(number is not None for number in numbers) == [False, False, True]
        assert len(engine.state.workers()) == 1

    def test_a_stopped_worker_cannot_end_what_was_taken_from_it(
        self, engine: Engine, opener: Opener
    ) -> None:
        engine.broker.publish([message("a")])
        process, pipe = _start(_claim_and_settle_on_command, opener)
        worker = pipe.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            successor = take_over(engine, worker)
            held = claim_one(engine.broker, successor)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        pipe.send("settle")
        assert len(_finish(process, pipe)) == 1  # refused
        assert engine.results.get(["a"]) == {}
        assert claim_ids(engine.broker, successor) == []
        assert engine.broker.settle([settlement(held, result=result("a", meta=b"mine"))]) == []
        assert engine.results.get(["a"])["a"].meta == b"mine"

    def test_the_death_of_a_process_loses_nothing(self, engine: Engine, opener: Opener) -> None:
        process, pipe = _start(_publish_and_claim, opener)
        worker = pipe.recv()
        process.kill()
        process.join()
        (dead,) = engine.state.workers()
        assert dead.number == worker
        held = engine.state.claims(worker)
        assert ids_of(held) == ["a", "b"]
        assert engine.state.declare_dead(worker, renewals=dead.renewals)
        assert engine.broker.settle([settlement(delivery, PutBack()) for delivery in held]) == []
        assert engine.state.unregister(worker)
        successor = engine.state.register(record())
        assert claim_ids(engine.broker, successor) == ["a", "b", "c"]


def _start(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    """Start a process; `target` gets its end of a pipe first."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _finish(process: SpawnProcess, pipe: Connection) -> Any:
    """What a process sends last; it must then end well."""
    assert pipe.poll(PATIENCE), "the other process says nothing"
    answer = pipe.recv()
    process.join(PATIENCE)
    assert process.exitcode == 0
    return answer


def _produce(pipe: Connection, opener: Opener, name: str, total: int) -> None:
    broker = opener().broker
    for start in range(0, total, 20):
        broker.publish([message(f"{name}-{n}") for n in range(start, start + 20)])
    pipe.send("done")


def _consume(pipe: Connection, opener: Opener, node: str) -> None:
    engine = opener()
    worker = engine.state.register(record(node))
    waker = engine.broker.listen(["q"])
    mine: list[str] = []
    while True:
        last = pipe.poll()
        waker.drain()
        deliveries = engine.broker.claim(worker, ["q"], 16).deliveries
        ends = [settlement(held, result=result(id_of(held))) for held in deliveries]
        assert engine.broker.settle(ends) == []
        mine += ids_of(deliveries)
        if last and not deliveries:
            break
        if not deliveries:
            fires(waker, 0.02)
    waker.close()
    pipe.send(mine)


def _publish_on_command(pipe: Connection, opener: Opener) -> None:
    engine = opener()
    pipe.recv()
    engine.broker.publish([message("a")])
    pipe.recv()
    engine.results.put([result("r")])
    pipe.send("done")


def _register(pipe: Connection, opener: Opener) -> None:
    from umbel.engines.state import NameTaken

    engine = opener()
    pipe.recv()
    try:
        pipe.send(engine.state.register(record()))
    except NameTaken:
        pipe.send(None)


def _claim_and_settle_on_command(pipe: Connection, opener: Opener) -> None:
    engine = opener()
    worker = engine.state.register(record())
    held = claim_one(engine.broker, worker)
    pipe.send(worker)
    pipe.recv()
    pipe.send(engine.broker.settle([settlement(held, result=result("a", meta=b"stale"))]))


def _publish_and_claim(pipe: Connection, opener: Opener) -> None:
    engine = opener()
    worker = engine.state.register(record())
    engine.broker.publish([message(id) for id in "abc"])
    engine.broker.claim(worker, ["q"], 2)
    pipe.send(worker)
    time.sleep(PATIENCE)
