"""Tasks as classes, their options, and what happens when they are called here."""

import asyncio
import pickle
from typing import Any

import pytest

from umbel import App, AsyncTask, Task
from umbel.exceptions import (
    DuplicateTaskNameWarning,
    ImproperlyConfigured,
    NotRegistered,
    UmbelWarning,
)

app = App("tests.unit.test_tasks", broker="memory://tasks")


class Add(Task[[int, int], int]):
    name = "add"
    queue = "sums"
    max_retries = None

    def __init__(self) -> None:
        self.made = 1

    def run(self, x: int, y: int) -> int:
        return x + y + 0 * self.made


class Base(Task):
    label = "base"
    time_limit = 7.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ("seen", super().__call__(*args, **kwargs))


@app.task
def double(x: int) -> int:
    return 2 * x


def newest(of: App) -> Any:
    return of.engine.broker.browse(limit=1)[0]


def test_a_class_is_a_task_with_the_options_it_states() -> None:
    own = App("own", broker="memory://class")
    add = own.register_task(Add())
    assert own.tasks["add"] is add
    assert (add(2, 3), add.max_retries, add.default_retry_delay) == (5, None, 180)
    result = add.delay(2, 3)
    (waiting,) = own.engine.broker.browse(id=result.id)
    assert waiting.queue == "sums"
    with pytest.raises(TypeError, match=r"add: .*Nothing was queued"):
        add.delay(2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Nothing was queued"):
        add.delay(2, z=3)  # type: ignore[call-arg]


def test_a_class_without_a_name_is_named_as_a_function_would_be() -> None:
    class Nameless(Task):
        def run(self) -> None: ...

    task = App(broker="memory://nameless").register_task(Nameless)
    assert task.name == f"{__name__}.Nameless"


def test_a_base_class_gives_its_options_and_its_call() -> None:
    own = App("own", broker="memory://base")

    @own.task(base=Base, bind=True, colour="red")  # type: ignore[call-overload]
    def f(self: Any, x: int) -> Any:
        return self.label, self.colour, self.time_limit, self.request.args, x

    assert f(3) == ("seen", ("base", "red", 7.0, [3], 3))
    assert isinstance(f, Base)
    assert (f.__name__, f.__qualname__.rpartition(".")[2], f.__module__) == ("f", "f", __name__)


def test_the_apps_task_class_is_the_base_of_all() -> None:
    own = App("own", broker="memory://task-cls", task_cls=Base)

    @own.task
    def f() -> int:
        return 1

    assert isinstance(f, Base)
    assert own.Task.app is own
    with pytest.raises(ImproperlyConfigured, match="the class itself"):
        App(task_cls="mod:Base").task(print)  # type: ignore[arg-type]


def test_what_is_set_nowhere_reads_as_the_setting_does() -> None:
    own = App("own", broker="memory://settings")

    @own.task(ignore_result=None)
    def f() -> None: ...

    @own.task(ignore_result=False)
    def g() -> None: ...

    class Reset(Add):
        ignore_result = None

    reset = own.register_task(Reset())
    before: tuple[Any, ...] = (f.ignore_result, f.acks_late, f.time_limit)
    assert before == (False, True, None)
    own.conf.update(task_ignore_result=True, task_acks_late=False, task_time_limit=9)
    read: tuple[Any, ...] = (f.ignore_result, f.acks_late, f.time_limit)
    assert read == (True, False, 9)
    explicit: tuple[Any, ...] = (g.ignore_result, reset.ignore_result)
    assert explicit == (False, True)
    assert (f.ignores_result(None), g.ignores_result(None)) == (True, False)


def test_options_of_a_class_travel_with_its_messages() -> None:
    class Tuned(Task):
        name = "tuned"
        priority = 7
        time_limit = 30.0

        def run(self) -> None: ...

    own = App("own", broker="memory://tuned")
    own.register_task(Tuned()).delay()
    waiting = newest(own)
    assert waiting.priority == 7
    assert b"30.0" in waiting.payload


def test_a_likely_slip_in_an_option_is_pointed_out() -> None:
    own = App("own", broker="memory://slips")
    with pytest.warns(UmbelWarning, match=r"'max_retrys'.*'max_retries'") as caught:
        own.task(max_retrys=3)(abs)  # type: ignore[call-overload]
    assert caught[0].filename == __file__
    task = own.task(tenant="a")(round)  # type: ignore[call-overload]
    assert task.tenant == "a"


@pytest.mark.parametrize("option", ["backend", "Request", "Strategy"])
def test_options_that_replace_parts_of_celerys_worker_are_refused(option: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=option):
        app.task(**{option: object()})(abs)  # type: ignore[call-overload]


def test_arguments_are_not_checked_where_typing_is_off() -> None:
    own = App("own", broker="memory://typing", strict_typing=False)

    @own.task
    def loose() -> None: ...

    @own.task(typing=True)
    def strict() -> None: ...

    loose.delay(1, x=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        strict.delay(1)  # type: ignore[call-arg]


def test_two_functions_of_one_name_are_told_apart() -> None:
    own = App("own", broker="memory://double")

    @own.task(name="same")
    def first() -> int:
        return 1

    with pytest.warns(DuplicateTaskNameWarning, match=r"first.*second.*first one stays") as caught:

        @own.task(name="same")
        def second() -> int:
            return 2

    assert caught[0].filename == __file__
    assert own.tasks["same"]() == 1
    with pytest.warns(DuplicateTaskNameWarning, match="replaced"):
        own.register_task(Add(), name="same")
    assert own.tasks["same"](2, 3) == 5


def test_a_call_here_has_a_request_of_its_own() -> None:
    own = App("own", broker="memory://calls")

    @own.task(bind=True)
    def inner(self: Task[..., Any], x: int) -> Any:
        return self.request.args, self.request.called_directly, outer.request.args

    @own.task(bind=True)
    def outer(self: Task[..., Any]) -> Any:
        return inner(5), self.request.args

    assert outer() == (([5], True, []), [])
    assert inner.request.args == []


def test_a_coroutine_called_here_has_a_request_of_its_own() -> None:
    own = App("own", broker="memory://coroutines")

    class Later(AsyncTask[[int], int]):
        name = "later"

        async def run(self, x: int) -> int:
            await asyncio.sleep(0)
            return int(self.request.args[0]) + x

    @own.task(bind=True)
    async def several(self: Task[..., Any], x: int) -> Any:
        got = await asyncio.gather(*[own.tasks["later"](n) for n in range(3)])
        return got, self.request.args

    own.register_task(Later())
    assert asyncio.run(several(4)) == ([0, 2, 4], [4])


def test_tasks_are_pickled_by_name() -> None:
    app.set_current()
    assert pickle.loads(pickle.dumps(double)) is double
    assert pickle.loads(pickle.dumps({"task": double}))["task"].delay(4).id


def test_a_missing_name_is_told_with_the_nearest() -> None:
    with pytest.raises(NotRegistered, match=r"test_tasks.double"):
        _ = app.tasks[f"{__name__}.dubble"]
    own = App("own", broker="memory://registry")
    own.register_task(Add())
    own.tasks.unregister("add")
    with pytest.raises(NotRegistered, match="add"):
        own.tasks.unregister("add")
    own.tasks.register(Add)
    assert own.tasks["add"](1, 2) == 3


def test_annotations_override_options_and_wrap_methods() -> None:
    def twice(run: Any) -> Any:
        return lambda *args: run(*args) * 2

    own = App("own", broker="memory://annotations")
    own.register_task(Add())
    own.conf.task_annotations = {
        "add": {"queue": "annotated", "@run": twice},
        "*": {"label": "all"},
    }
    own.finalize()
    add: Any = own.tasks["add"]
    assert (add(2, 3), add.label) == (10, "all")
    result = add.delay(2, 3)
    assert own.engine.broker.browse(id=result.id)[0].queue == "annotated"
