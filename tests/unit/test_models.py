"""Tasks with Pydantic models: what the function gets, what travels, what comes back."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Optional, Union
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from umbel import App, Task, shared_task
from umbel.app.shared import sharings
from umbel.exceptions import EncodeError, ImproperlyConfigured, RemoteError, UmbelWarning
from umbel.testing import Harness

celery: Any = importlib.import_module("celery")  # it has no types

app = App("models", task_serializer="json", accept_content=["json", "pickle"])


class User(BaseModel):
    name: str
    age: int = 1


class Admin(User):
    level: int = 9


class Event(BaseModel):
    id: UUID
    at: datetime


class Named(BaseModel):
    """Wants to know who validates it."""

    text: str

    @field_validator("text")
    @classmethod
    def _tell(cls, text: str, info: ValidationInfo) -> str:
        context: Any = info.context
        if context is None:
            return text
        return f"{text}:{context.get('word')}:{context['celery_task_name']}"


class Sealed(BaseModel):
    """Does not come back from its own dump as it was."""

    model_config = ConfigDict(extra="forbid")
    text: str

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"text": "another"}


class Unsendable(User):
    """Its dump works in no process."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise RuntimeError("only in a worker")


ID = UUID("12345678-1234-5678-1234-567812345678")
seen: list[Any] = []


def greet(user: User, times: int = 1) -> User:
    seen.append((user, times))
    return User(name=user.name * times, age=user.age)


def maybe(user: Optional[User] = None, other: Union[User, None] = None) -> User | None:  # noqa: UP007, UP045
    seen.append((user, other))
    return user


def spread(first: int, *users: User, **more: User) -> int:
    seen.append((first, users, more))
    return first


def plain(user: User, note: dict[str, Any]) -> dict[str, Any]:
    seen.append((user, note))
    return {"name": user.name}


def unlike(user: User) -> dict[str, Any]:
    return user  # type: ignore[return-value]  # what is not of the annotated class stays as it is


def another(user: User) -> Named:
    return user  # type: ignore[return-value]


def dated(event: Event) -> Event:
    seen.append(event)
    return event


def raising(user: User) -> User:
    raise LookupError(user.name)


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    seen.clear()
    known = len(sharings)
    yield
    del sharings[known:]


def make(function: Callable[..., Any], **options: Any) -> Task[..., Any]:
    own = App("models-own", set_as_current=False)
    return own.task(pydantic=True, **options)(function)


# ------------------------------------------------------------------------------- as in Celery


@pytest.mark.parametrize("options", [{}, {"pydantic_strict": True}], ids=["lax", "strict"])
@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (greet, ({"name": "a"},), {}),
        (greet, ({"name": "a", "age": 3}, 2), {}),
        (greet, ({"name": "a", "age": "3"},), {}),
        (greet, (User(name="a"),), {"times": 3}),
        (greet, (), {"user": {"name": "a"}}),
        (greet, ({"age": 3},), {}),
        (greet, (5,), {}),
        (greet, (None,), {}),
        (greet, (), {}),
        (greet, (User(name="a"), 1, 2), {}),
        (maybe, (), {}),
        (maybe, (None, {"name": "b"}), {}),
        (maybe, ({"name": "a"},), {}),
        (plain, ({"name": "a"}, {"name": "not a model"}), {}),
        (unlike, ({"name": "a"},), {}),
        (raising, ({"name": "a"},), {}),
        (another, ({"name": "a"},), {}),
        (dated, ({"id": str(ID), "at": "2030-01-01T00:00:00Z"},), {}),
        (dated, (Event(id=ID, at=datetime(2030, 1, 1, tzinfo=UTC)),), {}),
    ],
)
def test_a_call_does_what_it_does_in_celery(
    function: Any, args: Any, kwargs: Any, options: Any
) -> None:
    def call(task: Any) -> Any:
        seen.clear()
        try:
            value = task(*args, **kwargs)
        except (TypeError, ValueError, LookupError) as error:
            return type(error), str(error), list(seen)
        return type(value), value, list(seen)

    theirs = celery.Celery("theirs", set_as_current=False)
    name = f"models.{function.__name__}"
    expected = call(theirs.task(pydantic=True, name=name, **options)(function))
    assert call(make(function, name=name, **options)) == expected


# --------------------------------------------------------------------------------- in a worker


greets = app.task(pydantic=True, name="models.greet")(greet)


@app.task(pydantic=True, bind=True, max_retries=1, default_retry_delay=0)
def bound(self: Task[..., Any], user: User, again: User | None = None) -> User:
    seen.append((self.request.retries, user, again))
    if not self.request.retries:
        raise self.retry(args=[User(name="retried")], kwargs={"again": User(name="x")})
    return user


@app.task(pydantic=True)
async def agreet(user: User) -> User:
    await asyncio.sleep(0)
    seen.append(user)
    return user


@app.task(
    pydantic=True, pydantic_context={"word": "hello"}, pydantic_dump_kwargs={"exclude": {"age"}}
)
def told(named: Named) -> User:
    return User(name=named.text)


@pytest.mark.parametrize("argument", [{"name": "a", "age": 3}, User(name="a", age=3)])
def test_a_model_travels_as_a_plain_value(umbel: Harness, argument: Any) -> None:
    result = greets.delay(argument, times=2)
    (waiting,) = umbel.queued
    assert waiting.args == ({"name": "a", "age": 3},)
    umbel.run()
    assert seen == [(User(name="a", age=3), 2)]
    assert result.get() == {"name": "aa", "age": 3}


def test_every_way_of_sending_takes_models(umbel: Harness) -> None:
    user = User(name="a")
    dumped = {"name": "a", "age": 1}
    greets.delay(user=user)
    greets.apply_async([user], {})
    greets.apply_many([(user,), (dumped,)])
    greets.apply_many([()], {"user": user})

    async def send() -> None:
        await greets.adelay(user)
        await greets.aapply_async((), {"user": user})
        await greets.aapply_many([(user,)])
        await greets.aapply_many([()], {"user": user})

    asyncio.run(send())
    calls = [(task.args, task.kwargs) for task in umbel.queued]
    by_place: Any = ((dumped,), {})
    by_name: Any = ((), {"user": dumped})
    assert calls == [
        by_name, by_place, by_place, by_place, by_name, by_place, by_name, by_place, by_name,
    ]  # fmt: skip
    umbel.run()
    assert [one for one, _ in seen] == [user] * 9


def test_apply_gives_the_very_model() -> None:
    user = User(name="a")
    assert greets.apply((user,)).get() == {"name": "a", "age": 1}
    assert seen[0][0] is user


def test_eagerly_it_makes_the_same_journey() -> None:
    own = App("models-eager", set_as_current=False, task_always_eager=True)
    task = own.task(pydantic=True)(greet)
    user = User(name="a")
    assert task.delay(user).get() == {"name": "a", "age": 1}
    assert seen == [(user, 1)]
    assert seen[0][0] is not user


def test_a_bound_task_and_its_retry(umbel: Harness) -> None:
    result = bound.delay(User(name="first"))
    umbel.run()
    assert seen == [(0, User(name="first"), None), (1, User(name="retried"), User(name="x"))]
    assert result.get() == {"name": "retried", "age": 1}


def test_a_coroutine(umbel: Harness) -> None:
    result = agreet.delay({"name": "a"})
    umbel.run()
    assert seen == [User(name="a")]
    assert result.get() == {"name": "a", "age": 1}
    assert asyncio.run(agreet(User(name="b"))) == {"name": "b", "age": 1}


def test_validators_see_the_context_and_dumps_their_options(umbel: Harness) -> None:
    result = told.delay({"text": "hi"})
    umbel.run()
    assert result.get() == {"name": f"hi:hello:{told.name}"}


def test_the_context_has_the_app() -> None:
    found: list[Any] = []

    class Asking(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def _look(cls, text: str, info: ValidationInfo) -> str:
            found.append(info.context)
            return text

    def ask(asking: Asking) -> None: ...

    own = App("models-context", set_as_current=False)
    ask.__annotations__["asking"] = Asking
    task = own.task(pydantic=True, name="ask")(ask)
    task({"text": "x"})
    assert found == [{"celery_app": own, "celery_task_name": "ask"}]


def test_what_is_no_such_model_fails_the_task(umbel: Harness) -> None:
    result = greets.delay({"age": 3})
    (ended,) = umbel.run(propagate=False)
    assert seen == []
    assert ended.state == "FAILURE"
    assert isinstance(ended.result, ValidationError)
    with pytest.raises(RemoteError, match="name\n  Field required") as caught:
        result.get()
    assert type(caught.value).__name__ == "ValidationError"
    assert "umbel/app" not in (result.traceback or "models.py")


def test_arguments_are_held_against_the_function_when_they_are_sent(umbel: Harness) -> None:
    for args in ((), (User(name="a"), 1, 2)):
        with pytest.raises(TypeError, match="Nothing was queued"):
            greets.delay(*args)
    with pytest.raises(TypeError, match="Nothing was queued"):
        greets.apply_many([(User(name="a"), 1, 2)])
    with pytest.raises(TypeError, match="args must be a tuple or list"):
        greets.apply_async(5)  # type: ignore[arg-type]
    assert not umbel.queued


# --------------------------------------------------------------------------------- its limits


def test_a_model_that_would_come_back_as_another_is_not_sent(umbel: Harness) -> None:
    def take(user: User, sealed: Sealed | None = None, anything: Any = None) -> None: ...

    task = app.task(pydantic=True, name="models.take")(take)
    user = User(name="a")
    for args, kwargs in [
        ((Admin(name="a"),), {}),  # would come back as a User
        ((user, Sealed(text="t")), {}),
        ((user,), {"anything": user}),  # nothing says that it is a model
        (([user],), {}),
        ((Unsendable(name="a"),), {}),
    ]:
        with pytest.raises(EncodeError, match=r"pass its model_dump\(\)"):
            task.apply_async(args, kwargs)
    assert not umbel.queued


def test_a_model_that_says_how_it_is_sent_is_asked(umbel: Harness) -> None:
    class Telling(User):
        def __json__(self) -> dict[str, Any]:
            return {"name": "as it says"}

    def take(user: Any) -> None: ...

    take.__annotations__["user"] = Telling
    app.task(pydantic=True, name="models.telling")(take).delay(Telling(name="a"))
    (waiting,) = umbel.queued
    assert waiting.args == ({"name": "as it says"},)


def test_pickle_sends_models_as_they_are(umbel: Harness) -> None:
    user, admin = User(name="a"), Admin(name="a")
    greets.apply_async((user,), serializer="pickle")
    greets.apply_many([(admin,)], {"times": 2}, serializer="pickle")
    assert [task.args for task in umbel.queued] == [(user,), (admin,)]
    umbel.run()
    assert [type(user) for user, _ in seen] == [User, Admin]


def test_a_base_class_sees_the_models_before_they_are_sent(umbel: Harness) -> None:
    class Noting(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            seen.append(args)
            return super().apply_async(args, kwargs, **options)

    user = User(name="a")
    app.task(pydantic=True, base=Noting, name="models.noting")(greet).delay(user)
    assert seen == [(user,)]
    assert umbel.queued[0].args == ({"name": "a", "age": 1},)


def test_the_rest_of_the_arguments_are_models_each(umbel: Harness) -> None:
    task = app.task(pydantic=True, name="models.spread")(spread)
    user = User(name="a")
    task.delay(1, user, {"name": "b"}, best=user)
    umbel.run()
    assert seen == [(1, (user, User(name="b")), {"best": user})]


def test_annotations_that_nobody_has_are_told_and_the_others_hold() -> None:
    def half(user: User, other: "Nowhere") -> User:  # type: ignore[name-defined]  # noqa: F821
        seen.append((user, other))
        return user

    task = make(half)
    with pytest.warns(UmbelWarning, match=r"count as no models: other: Nowhere"):
        assert task({"name": "a"}, {"name": "b"}) == {"name": "a", "age": 1}
    assert seen == [(User(name="a"), {"name": "b"})]


def test_a_model_may_be_defined_after_its_task() -> None:
    def early(user: "Late") -> None:  # type: ignore[name-defined]  # noqa: F821
        seen.append(user)

    task = make(early)
    globals()["Late"] = User
    try:
        task({"name": "a"})
    finally:
        del globals()["Late"]
    assert seen == [User(name="a")]


def test_a_shared_task_validates_with_its_app() -> None:
    found: list[Any] = []

    class Asking(BaseModel):
        @field_validator("*")
        @classmethod
        def _look(cls, value: str, info: ValidationInfo) -> str:
            found.append((info.context or {})["celery_app"])
            return value

        text: str

    def ask(asking: Any) -> None: ...

    ask.__annotations__["asking"] = Asking
    shared = shared_task(pydantic=True, name="models.shared")(ask)
    first, second = App("one", set_as_current=False), App("two", set_as_current=False)
    for own in (first, second):
        own.set_current()
        shared({"text": "x"})
    app.set_current()
    assert found == [first, second]


def test_without_the_library_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(ImproperlyConfigured, match=r'greet: .*pip install "umbel\[pydantic\]"'):
        make(greet)


def test_other_tasks_know_nothing_of_it() -> None:
    @app.task(name="models.other", pydantic_strict=True)
    def other(user: User) -> User:
        return user

    assert type(other).apply_async is Task.apply_async
    assert type(other).apply_many is Task.apply_many
    assert not hasattr(other, "pydantic_strict")
    value: Any = {"name": "a"}
    assert other(value) is value
