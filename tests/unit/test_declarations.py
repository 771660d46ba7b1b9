"""Options of a task are checked and put into one form where the task is made."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from umbel import App, Task, shared_task
from umbel.app.shared import sharings
from umbel.exceptions import ImproperlyConfigured

CLASSES = ("autoretry_for", "dont_autoretry_for", "throws")


@pytest.fixture
def app() -> App:
    return App("declared", broker="memory://declared", set_as_current=False)


def work() -> None:
    """Nothing."""


@pytest.mark.parametrize("option", CLASSES)
@pytest.mark.parametrize("given", [ValueError, [ValueError], {ValueError}, (ValueError,)])
def test_one_class_or_several_become_a_tuple(app: App, option: str, given: Any) -> None:
    task = app.task(name="declared.classes", **{option: given})(work)
    assert getattr(task, option) == (ValueError,)

    class Written(Task[..., Any]):
        name = "declared.written"
        locals()[option] = given

        def run(self) -> None:
            """Nothing."""

    assert getattr(app.register_task(Written), option) == (ValueError,)


@pytest.mark.parametrize(
    ("option", "given", "wanted"),
    [
        ("autoretry_for", "ValueError", "exception classes; got 'ValueError'"),
        ("autoretry_for", (ValueError, "x"), "exception classes; got (<class 'ValueError'>, 'x')"),
        ("dont_autoretry_for", int, "exception classes; got <class 'int'>"),
        ("throws", None, "exception classes; got None"),
        ("throws", ValueError("x"), "exception classes; got ValueError('x')"),
        ("max_retries", "5", "max_retries must be a whole number, or None for ever; got '5'"),
        ("max_retries", True, "a whole number"),
        ("default_retry_delay", "5", "a number of seconds, or a timedelta, 0 or more; got '5'"),
        ("default_retry_delay", -1, "0 or more"),
        ("default_retry_delay", float("nan"), "a number of seconds"),
        ("retry_backoff", "yes", "True, False or a number of seconds"),
        ("retry_backoff_max", None, "a number of seconds"),
        ("retry_jitter", "no", "True or False"),
        ("retry_kwargs", 5, "a dict of keywords of retry()"),
        ("retry_kwargs", {1: 2}, "a dict of keywords of retry()"),
    ],
)
def test_what_cannot_be_is_refused_at_the_decorator(
    app: App, option: str, given: Any, wanted: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(wanted)) as caught:
        app.task(name="declared.wrong", **{option: given})(work)
    assert str(caught.value).startswith(f"declared.wrong: {option} must be ")
    assert "declared.wrong" not in app.tasks
    known = len(sharings)
    with pytest.raises(TypeError, match=re.escape(wanted)):
        shared_task(name="declared.wrong", **{option: given})(work)
    assert len(sharings) == known
    with pytest.raises(TypeError, match=re.escape(wanted)):
        type("Wrong", (Task,), {option: given})


def test_what_is_set_on_an_instance_is_checked_when_it_is_registered(app: App) -> None:
    class Late(Task[..., Any]):
        name = "declared.late"

        def __init__(self) -> None:
            self.autoretry_for: Any = KeyError

        def run(self) -> None:
            """Nothing."""

    assert app.register_task(Late).autoretry_for == (KeyError,)
    app.tasks.unregister("declared.late")
    with pytest.raises(TypeError, match=r"declared\.late: max_retries must be"):
        app.register_task(Late, max_retries="5")


def test_annotations_are_checked(app: App) -> None:
    app.conf.task_annotations = {"declared.noted": {"autoretry_for": OSError}}
    task = app.task(name="declared.noted")(work)
    app.finalize()
    assert task.autoretry_for == (OSError,)
    app.conf.task_annotations = {"declared.bad": {"max_retries": "5"}}
    with pytest.raises(ImproperlyConfigured, match=r"task_annotations: declared\.bad: max_ret"):
        app.task(name="declared.bad")(work)


def test_durations_may_be_timedeltas(app: App) -> None:
    task = app.task(
        name="declared.spans",
        default_retry_delay=timedelta(minutes=1),
        retry_backoff=timedelta(seconds=2),
        retry_backoff_max=timedelta(hours=1),
    )(work)
    assert task.default_retry_delay == 60.0
    assert task.retry_backoff == 2.0
    assert task.retry_backoff_max == 3600.0


def test_a_bound_function_without_parameters_is_refused(app: App) -> None:
    nothing: Any = work
    with pytest.raises(TypeError, match=r"declared\.bound: bind=True .* first argument") as caught:
        app.task(name="declared.bound", bind=True)(nothing)
    assert "def work(self)" in str(caught.value)
    with pytest.raises(TypeError, match="first argument"):
        shared_task(name="declared.bound", bind=True)(nothing)
    assert "declared.bound" not in app.tasks

    def taking(*args: Any) -> None:
        """Takes what comes."""

    app.task(name="declared.taking", bind=True)(taking)
