"""Chains and chords across workers of Umbel and of the real Celery, on one Redis."""

from __future__ import annotations

import gc
import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import celery
import celery.canvas
import celery.result
import pytest
import redis

import umbel
import umbel.canvas
from tests.celery.peers import make_app
from tests.celery.processes import Peer, url_of
from tests.conftest import Rounds
from tests.servers import RedisServer
from umbel.exceptions import ImproperlyConfigured
from umbel.testing.stepper import Stepper

BOTH = ("umbel", "celery")
CANVAS: dict[str, ModuleType] = {"umbel": umbel.canvas, "celery": celery.canvas}
PATIENCE = 20.0
LATER = 0.2
"""Seconds by which a member ends after the others."""

pytestmark = pytest.mark.timeout(120)
senders = pytest.mark.parametrize("sender", BOTH)
orders = pytest.mark.parametrize("order", list(itertools.permutations(BOTH)), ids="-".join)
bodies = pytest.mark.parametrize("body", ["umbel", pytest.param("celery", marks=pytest.mark.full)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
    yield server
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # Celery leaves its sockets to the collector
    for one in gc.get_objects():
        if issubclass(type(one), celery.result.AsyncResult):
            one.backend = None  # as it goes, it would tell the server
    server.kill()


@pytest.fixture(scope="module")
def url(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One store, and a worker of each on a queue of its own, named after it."""
    url, folder = url_of(server, 1), tmp_path_factory.mktemp("workers")
    # What joins the results of a group within a header goes to the default queue.
    workers = [Peer(which, url, folder, "-Q", f"{which},interop") for which in BOTH]
    yield url
    for worker in workers:
        worker.stop()
        print(worker.log.read_text())


class Flow:
    """Builds workflows of one of the two; tasks are `interop.step`, and say who ran them."""

    def __init__(self, sender: str, url: str) -> None:
        self.app = make_app(sender, url)
        self.url = url
        canvas = CANVAS[sender]
        self.chain, self.group, self.chord = canvas.chain, canvas.group, canvas.chord
        self._signature = canvas.Signature

    def task(self, which: str, name: str, *, seconds: float = 0.0) -> Any:
        kwargs = {"seconds": seconds} if seconds else {}
        return self._signature("interop.step", (name,), kwargs, {"queue": which}, app=self.app)

    def failing(self, which: str, *args: Any) -> Any:
        sig = self._signature("interop.fail", args, {}, {"queue": which}, app=self.app)
        return sig.set(immutable=True)

    def errback(self, which: str) -> Any:
        return self._signature("interop.errback", (), {}, {"queue": which}, app=self.app)

    def errbacks(self, id: str) -> list[str]:
        """Who has run errbacks of a task, once one has."""
        end = time.monotonic() + PATIENCE
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < end:
                told = [line.decode().split() for line in client.lrange("errbacks", 0, -1)]
                if found := [which for which, whose in told if whose == id]:
                    return found
                time.sleep(0.02)
        return []

    def left_over(self) -> list[str]:
        """Keys of chords that have not ended."""
        with redis.Redis.from_url(self.url) as client:
            keys = [key.decode() for key in client.scan_iter(count=1000)]
        return [
            key
            for key in keys
            if key.startswith(("umbel:chord:", "umbel:parts:", "umbel:joined", "umbel:own:"))
            or (key.startswith("celery-taskset-meta-") and key[-2:] in {".s", ".j", ".t"})
        ]


@pytest.fixture(scope="module")
def flows(url: str) -> Iterator[dict[str, Flow]]:
    flows = {sender: Flow(sender, url) for sender in BOTH}
    yield flows
    flows["umbel"].app.close()


@pytest.fixture
def flow(sender: str, flows: dict[str, Flow]) -> Flow:
    return flows[sender]


def get(result: Any) -> Any:
    return result.get(timeout=PATIENCE)


@senders
@orders
def test_a_chain(flow: Flow, order: tuple[str, str]) -> None:
    a, b = order
    steps = [flow.task(which, name) for which, name in zip((a, b, a, b), "pqrs", strict=True)]
    value = f"p@{a}()"
    for which, name in zip((b, a, b), "qrs", strict=True):
        value = f"{name}@{which}({value})"
    assert get(flow.chain(*steps).apply_async()) == value


@senders
@orders
@bodies
def test_a_chord(flow: Flow, order: tuple[str, str], body: str) -> None:
    """The second of `order` brings the last part."""
    first, last = order
    header = [flow.task(last, "p", seconds=LATER), flow.task(first, "q"), flow.task(first, "r")]
    result = flow.chord(header, flow.task(body, "s")).apply_async()
    assert get(result) == f"s@{body}(['p@{last}()', 'q@{first}()', 'r@{first}()'])"


@senders
@orders
@bodies
def test_a_chord_of_chains(flow: Flow, order: tuple[str, str], body: str) -> None:
    first, last = order
    header = [
        flow.chain(flow.task(first, "p"), flow.task(last, "q", seconds=LATER)),
        flow.chain(flow.task(last, "r"), flow.task(first, "t")),
    ]
    whole = flow.chord(header, flow.task(body, "s")) | flow.task(first, "u")
    value = f"s@{body}(['q@{last}(p@{first}())', 't@{first}(r@{last}())'])"
    assert get(whole.apply_async()) == f"u@{first}({value})"


@senders
@orders
@bodies
def test_a_chord_in_a_chord(flow: Flow, order: tuple[str, str], body: str) -> None:
    first, last = order
    inner = flow.chord([flow.task(first, "p"), flow.task(last, "q")], flow.task(last, "r"))
    outer = flow.chord([inner, flow.task(first, "t")], flow.task(body, "s"))
    inside = f"r@{last}(['p@{first}()', 'q@{last}()'])"
    assert get(outer.apply_async()) == f"""s@{body}(["{inside}", 't@{first}()'])"""


@senders
@orders
@bodies
def test_a_chord_after_a_task(flow: Flow, order: tuple[str, str], body: str) -> None:
    first, last = order
    header = flow.group([flow.task(first, "p"), flow.task(last, "q", seconds=LATER)])
    whole = flow.chain(flow.task(last, "o"), header, flow.task(body, "s"))
    values = f"'p@{first}(o@{last}())', 'q@{last}(o@{last}())'"
    assert get(whole.apply_async()) == f"s@{body}([{values}])"


@senders
@orders
@bodies
def test_a_member_fails(flow: Flow, order: tuple[str, str], body: str) -> None:
    """Whoever brings the last part, the body fails by name, and its errback is called once."""
    failing, last = order
    bad = flow.failing(failing, "bang")
    ended = flow.task(body, "s").on_error(flow.errback(body))
    result = flow.chord([bad, flow.task(last, "p", seconds=LATER)], ended).apply_async()
    with pytest.raises(Exception, match=r"Dependency .* raised ValueError\('bang'") as caught:
        result.get(timeout=PATIENCE, follow_parents=False)  # else it is the member's, in Celery
    assert type(caught.value).__name__ == "ChordError"
    assert flow.errbacks(result.id) == [body]


def test_a_chord_of_celerys_ends_clearly_where_results_lie_elsewhere(server: RedisServer) -> None:
    places: dict[str, Any] = {"broker": url_of(server, 3), "backend": url_of(server, 4)}
    app = umbel.App("apart", **places, set_as_current=False)
    theirs = celery.Celery("apart", **places, set_as_current=False)

    def count(*args: Any) -> int:
        return len(args)

    both: list[Any] = [app, theirs]
    for one in both:
        one.task(count, name="count", shared=False)
    member = theirs.tasks["count"].s(1)
    sent = celery.canvas.chord([member, member.clone()], theirs.tasks["count"].s()).apply_async()
    ours: Any = umbel.canvas.Signature("count", (1,), app=app)
    body: Any = umbel.canvas.Signature("count", app=app)
    own: Any = umbel.canvas.chord([ours, ours], body).apply_async()
    with Stepper(app, node="apart@here") as worker:
        while worker.work_one() is not None:
            pass
    assert own.get(timeout=0) == 1
    with pytest.raises(ImproperlyConfigured, match="the same URL"):
        app.AsyncResult(str(sent.id)).get(timeout=0)
    app.close()


@pytest.mark.full
@pytest.mark.timeout(400)
def test_the_switch_and_back_with_chords_in_flight(
    server: RedisServer, tmp_path: Path, rounds: Rounds
) -> None:
    """Workers of one after those of the other, each stopped while chords are half done."""
    url, size, members = url_of(server, 2), rounds(30, 100), 6
    turns = rounds(2, 4)
    app = make_app("umbel", url)
    app.conf.compat = "celery"
    canvas = umbel.canvas

    def step(*args: Any, **options: Any) -> Any:
        return canvas.Signature("interop.step", args, {"seconds": 0.01}, options, app=app)

    def body(number: int) -> Any:
        return canvas.Signature("interop.note", (number,), app=app)

    results = [
        canvas.chord([step(member) for member in range(members)], body(number)).apply_async()
        for number in range(size)
    ]

    def done() -> int:
        return sum(result.ready() for result in results)

    with redis.Redis.from_url(url) as client:
        for turn in range(1, turns + 1):
            which, until = BOTH[(turn + 1) % 2], size * turn // turns
            options = ("--compat", "celery") if which == "umbel" else ()
            worker = Peer(which, url, tmp_path, *options)
            try:
                end = time.monotonic() + 2 * PATIENCE + size * 0.1
                while (count := done()) < until:
                    assert time.monotonic() < end, f"{count} of {until}:\n{worker.log.read_text()}"
                    time.sleep(0.01)
            finally:
                worker.stop()
            assert not any(client.exists(key) for key in ("umbel:joined", "umbel:own:interop"))
        notes = sorted(int(note) for note in client.lrange("notes", 0, -1))
        assert notes == list(range(size))
        states = {result.state for result in results}
    assert states == {"SUCCESS"}
    app.close()


@senders
@orders
@bodies
def test_a_member_that_ends_in_a_group(flow: Flow, order: tuple[str, str], body: str) -> None:
    first, last = order
    parts = flow.group([flow.task(first, "q"), flow.task(last, "r", seconds=LATER)])
    header = [flow.task(first, "p"), flow.chain(flow.task(first, "o"), parts)]
    result = flow.chord(header, flow.task(body, "s")).apply_async()
    inner = f"['q@{first}(o@{first}())', 'r@{last}(o@{first}())']"
    assert get(result) == f"s@{body}(['p@{first}()', {inner}])"
