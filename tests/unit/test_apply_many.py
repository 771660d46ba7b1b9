"""Many messages of one task at once: what is sent, what is refused, what a failure leaves."""

import asyncio
import copy
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from umbel import App, AsyncResult, Exchange, Queue
from umbel.app.sending.batch import SIZE
from umbel.engines.broker import Message
from umbel.exceptions import EncodeError, OperationalError, PartlySentError
from umbel.message import task as task_message
from umbel.result import EagerResult
from umbel.signals import after_task_publish, before_task_publish
from umbel.testing import Harness

app = App("many", broker="memory://many", result_backend="broker")


def plus(x: int, y: int = 0, *, z: int = 0) -> int:
    return x + y + z


async def shout(text: str) -> str:
    return text.upper()


add = app.task(plus)


@app.task(ignore_result=True, queue="bulk", priority=4)
def quiet(x: int) -> None: ...


@app.task
def spread(count: int) -> int:
    add.apply_many([(number, 1) for number in range(count)])
    add.apply_many([(0, 1)], add_to_parent=False)
    return count


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    yield
    app.engine.broker.purge([count.queue for count in app.engine.broker.counts()])


def waiting(queue: str | None = None) -> list[Any]:
    return app.engine.broker.browse(queue, limit=10_000)


def test_each_item_is_a_task_and_its_result_stands_at_its_place(umbel: Harness) -> None:
    items: list[Any] = [(1, 2), (3, 4), (5,)]
    results = add.apply_many(items)
    assert [task.args for task in umbel.queued.of(add)] == [(1, 2), (3, 4), (5,)]
    assert [task.id for task in umbel.queued] == [result.id for result in results]
    assert len({result.id for result in results}) == 3
    umbel.run()
    assert [result.get() for result in results] == [3, 7, 5]


def test_items_come_from_any_iterable_and_may_be_lists() -> None:
    assert len(add.apply_many((n, n) for n in range(3))) == 3
    assert add.apply_many(iter([])) == []
    rows: list[Any] = [[1, 2], [3, 4]]
    add.apply_many(rows)
    bodies = [task_message.decode(one.payload).args for one in waiting()]
    assert bodies == [[0, 0], [1, 1], [2, 2], [1, 2], [3, 4]]


def test_keywords_and_options_hold_for_all() -> None:
    add.apply_many(
        [(1,), (2,)], {"z": 3}, queue="q", priority=9, countdown=60, expires=90, time_limit=5,
        headers={"tenant": "acme"}, shadow="sums",
    )  # fmt: skip
    messages = [task_message.decode(one.payload) for one in waiting("q")]
    assert [message.args for message in messages] == [[1], [2]]
    for one, message in zip(waiting("q"), messages, strict=True):
        assert (message.kwargs, one.priority) == ({"z": 3}, 9)
        assert one.due is not None
        assert message.headers.expires is not None
        assert [*(message.headers.timelimit or ()), message.headers.shadow] == [5, None, "sums"]
        assert b'"tenant":"acme"' in one.payload.replace(b": ", b":")


def test_the_tasks_own_options_apply() -> None:
    results = quiet.apply_many([(1,), (2,)])
    assert [one.priority for one in waiting("bulk")] == [4, 4]
    assert [result.get() for result in results] == [None, None]
    assert [r.ignored for r in quiet.apply_many([(1,)], ignore_result=False)] == [False]


def test_each_item_is_routed_by_itself() -> None:
    own = App(
        "many-routed",
        broker="memory://many-routed",
        task_routes=lambda name, args, *_, **__: {"queue": f"shard{args[0] % 2}"},
        set_as_current=False,
    )
    task = own.task(plus)
    task.apply_many([(n,) for n in range(5)])
    assert [(c.queue, c.ready) for c in own.engine.broker.counts()] == [
        ("shard0", 3),
        ("shard1", 2),
    ]


def test_a_fanout_copies_each_of_them() -> None:
    fan = Exchange("fan", "fanout")
    own = App(
        "many-fan",
        broker="memory://many-fan",
        task_queues=[Queue("a1", fan), Queue("a2", fan)],
        set_as_current=False,
    )
    task = own.task(plus)
    results = task.apply_many([(n,) for n in range(3)], queue="a1")
    ids = [result.id for result in results]
    for queue in ("a1", "a2"):
        found = [
            task_message.decode(one.payload).headers.id for one in own.engine.broker.browse(queue)
        ]
        assert found == ids


def test_what_cannot_be_sent_is_told_with_its_item_and_nothing_is_queued() -> None:
    good: list[Any] = [(n,) for n in range(SIZE + 10)]
    for bad, kind, words in [
        ((1, 2, 3), TypeError, "Nothing was queued"),
        ((object(),), EncodeError, "Argument 1 of"),
        (7, TypeError, "args must be a tuple or list"),
    ]:
        with pytest.raises(kind, match=words) as caught:
            add.apply_many([*good, bad])  # type: ignore[list-item]
        assert caught.value.__notes__[0].startswith(f"It is item {SIZE + 10} of those")
        assert app.engine.broker.counts() == []


def test_an_id_for_all_is_refused() -> None:
    for items in ([], [(1,)]):
        with pytest.raises(TypeError, match=r"takes no task_id.*Nothing was queued"):
            add.apply_many(items, task_id="x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="Did you mean 'countdown'"):
        add.apply_many([(1,)], countdwn=3)  # type: ignore[call-overload]
    assert app.engine.broker.counts() == []


class Failing:
    """A broker that refuses some publishes, and notes how many messages each was."""

    def __init__(self, *refused: int) -> None:
        self.refused, self.sizes = set(refused), list[int]()
        self.timeouts: list[float] = []

    def __call__(self, messages: Sequence[Message], *, timeout: float = 5.0) -> None:
        self.sizes.append(len(messages))
        self.timeouts.append(timeout)
        if len(self.sizes) in self.refused:
            raise OperationalError("the store is away.")
        type(app.engine.broker).publish(app.engine.broker, messages, timeout=timeout)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*refused: int) -> Failing:
        publish = Failing(*refused)
        monkeypatch.setattr(app.engine.broker, "publish", publish)
        return publish

    yield make
    monkeypatch.undo()


ITEMS = [(n,) for n in range(2 * SIZE + 1)]


def send_plainly(**options: Any) -> list[AsyncResult[int]]:
    return add.apply_many(ITEMS, **options)


def send_from_a_coroutine(**options: Any) -> list[AsyncResult[int]]:
    return asyncio.run(add.aapply_many(ITEMS, **options))


SENDS = pytest.mark.parametrize("send", [send_plainly, send_from_a_coroutine])


@SENDS
def test_many_are_stored_in_batches_each_under_the_deadline(failing: Any, send: Any) -> None:
    broker = failing()
    results = send(timeout=3)
    assert broker.sizes == [SIZE, SIZE, 1]
    assert all(2.9 < seconds <= 3 for seconds in broker.timeouts)
    assert [task_message.decode_headers(one.payload).id for one in waiting()] == results


@SENDS
def test_when_the_first_batch_fails_nothing_is_queued(failing: Any, send: Any) -> None:
    broker = failing(1)
    with pytest.raises(OperationalError, match="the store is away") as caught:
        send(retry=False)
    assert type(caught.value) is OperationalError
    assert (broker.sizes, waiting()) == ([SIZE], [])


@SENDS
def test_when_a_later_batch_fails_the_error_tells_what_is_queued(failing: Any, send: Any) -> None:
    broker = failing(2)
    words = rf"The first {SIZE} of {2 * SIZE + 1} .*are queued.*store is away.*number {SIZE} on"
    with pytest.raises(PartlySentError, match=words) as caught:
        send(retry=False)
    error = caught.value
    assert broker.sizes == [SIZE, SIZE]
    assert [task_message.decode_headers(one.payload).id for one in waiting()] == error.results
    assert [task_message.decode(one.payload).args for one in waiting()] == [
        [n] for n in range(SIZE)
    ]
    assert isinstance(error.__cause__, OperationalError)
    again = pickle.loads(pickle.dumps(PartlySentError(str(error), error.results[:1])))
    assert (str(again), again.results) == (str(error), error.results[:1])
    assert copy.copy(error).results == error.results


@SENDS
def test_a_batch_that_failed_is_tried_again(failing: Any, send: Any) -> None:
    broker = failing(1, 3)
    results = send(retry_policy={"interval_start": 0, "interval_step": 0.001})
    assert broker.sizes == [SIZE, SIZE, SIZE, SIZE, 1]
    assert [task_message.decode_headers(one.payload).id for one in waiting()] == results


def test_receivers_hear_of_each_before_and_after() -> None:
    heard: list[Any] = []

    def before(sender: Any, body: Any, headers: Any, **_: Any) -> None:
        heard.append(("before", sender, list(body[0]), len(waiting())))
        body[0][0] += 10

    def after(sender: Any, body: Any, **_: Any) -> None:
        heard.append(("after", sender, list(body[0]), len(waiting())))

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        add.apply_many([(1,), (2,)])
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert heard == [
        ("before", add.name, [1], 0),
        ("before", add.name, [2], 0),
        ("after", add.name, [11], 2),
        ("after", add.name, [12], 2),
    ]


def test_they_are_children_of_the_task_that_sends_them(umbel: Harness) -> None:
    result = spread.delay(3)
    umbel.run()
    assert [child.get() for child in result.children or ()] == [1, 2, 3]


def test_eagerly_they_run_here_and_now() -> None:
    own = App("many-eager", broker="memory://", task_always_eager=True, set_as_current=False)
    task = own.task(plus)
    results = task.apply_many([(1, 2), (3, 4)], {"z": 1})
    assert all(isinstance(result, EagerResult) for result in results)
    assert [result.get() for result in results] == [4, 8]
    afetch = own.task(shout)
    again = asyncio.run(afetch.aapply_many([("a",), ("b",)]))
    assert [result.get() for result in again] == ["A", "B"]


def test_the_event_loop_goes_on_while_many_are_made() -> None:
    turns: list[int] = []
    seen: list[int] = []

    async def count() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    def items() -> Iterator[tuple[int]]:
        yield from ((n,) for n in range(3 * SIZE))
        seen.append(len(turns))

    async def send() -> None:
        counting = asyncio.create_task(count())
        await add.aapply_many(items())
        counting.cancel()

    asyncio.run(send())
    assert seen == [3]
    assert len(waiting()) == 3 * SIZE


def test_a_coroutine_sends_the_same() -> None:
    results = asyncio.run(add.aapply_many([(1,), (2,)], {"z": 3}, queue="q", ignore_result=True))
    messages = [task_message.decode(one.payload) for one in waiting("q")]
    assert [(message.args, message.kwargs) for message in messages] == [
        ([1], {"z": 3}),
        ([2], {"z": 3}),
    ]
    assert [message.headers.ignore_result for message in messages] == [True, True]
    assert [result.ignored for result in results] == [True, True]


def test_on_a_file_too_they_are_all_there(tmp_path: Path) -> None:
    own = App("many-file", broker=f"sqlite:///{tmp_path}/queue.db", set_as_current=False)
    task = own.task(plus)
    with own:
        results = task.apply_many([(n, n) for n in range(2 * SIZE + 7)])
        found = own.engine.broker.browse(limit=10_000)
        assert [task_message.decode_headers(one.payload).id for one in found] == results
