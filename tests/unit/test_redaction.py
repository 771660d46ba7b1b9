"""Arguments marked secret are shown nowhere, and neither are they in what a task raises."""

import json
import logging
import traceback
from typing import Any

import pytest

from umbel import App, Task
from umbel.cli.dead import _read_message
from umbel.engines.state import DeadLetter
from umbel.exceptions import ImproperlyConfigured
from umbel.message import task as task_message
from umbel.testing import Harness

SECRET = "hunter2-is-secret"


class CustomError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __str__(self) -> str:
        return f"refused {self.text}"


GROUPS = {
    "group": lambda secret: ExceptionGroup(f"of {secret}", [ValueError(1)]),
    "in a group": CustomError,
}


@pytest.fixture
def app(umbel: Harness) -> App:  # noqa: C901  (a task that fails in many ways)
    app = App("vault")

    @app.task(name="login", secret=("password",))
    def login(user: str, password: str, how: str = "ok") -> str:
        if how == "quote":
            raise ValueError(f"{user} gave {password!r}")
        if how == "cause":
            try:
                raise KeyError(password)
            except KeyError as error:
                raise RuntimeError("no") from error
        if how == "custom":
            raise CustomError(password)
        if how in GROUPS:
            raise ExceptionGroup("several", [GROUPS[how](password)])
        if how == "code":
            compile(f"x = {password} (", "formula", "exec")
        if how == "give back":
            return f"password {password}"
        return "in"

    @app.task(name="debug", bind=True, secret=("password", "pin"))
    def debug(self: Task[..., Any], password: str, *, pin: int) -> None:
        logging.getLogger("vault").warning("Request: %r", self.request)

    @app.task(name="again", bind=True, secret=("token",), max_retries=1, default_retry_delay=1)
    def again(self: Task[..., Any], *, token: dict[str, str]) -> None:
        raise self.retry(exc=OSError(f"refused: {token['value']}"))

    return app


def everything_shown(app: App, umbel: Harness, caplog: pytest.LogCaptureFixture, id: str) -> str:
    """All that the store shows of a task and all that was logged."""
    stored = app.engine.results.get([id])
    history = app.engine.state.history(id=id)
    logged = [
        caplog.handler.format(record) + repr(record.args) + str(record.__dict__.get("data"))
        for record in caplog.records
    ]
    return "\n".join([*(str(one.meta) for one in stored.values()), repr(history), *logged])


def test_arguments_are_hidden_in_the_message(app: App) -> None:
    login = app.tasks["login"]
    for args, kwargs, shown in (
        (("ann", SECRET), {}, ("('ann', ********)", "{}")),
        (("ann",), {"password": SECRET}, ("('ann',)", "{'password': ********}")),
    ):
        sent = login.apply_async(args, kwargs)
        [waiting] = app.engine.broker.browse(id=sent.id)
        headers = task_message.decode_headers(waiting.payload)
        assert (headers.argsrepr, headers.kwargsrepr) == shown
        assert headers.secret == ["password", 1]
        assert SECRET not in json.dumps(json.loads(waiting.payload)["headers"])
        message = task_message.decode(waiting.payload)
        assert SECRET in [*message.args, *message.kwargs.values()]


def test_a_message_without_secrets_has_no_header_for_them(app: App) -> None:
    sent = app.send_task("other", (SECRET,))
    [waiting] = app.engine.broker.browse(id=sent.id)
    assert "umbel-secret" not in json.loads(waiting.payload)["headers"]


@pytest.mark.parametrize("how", ["ok", "quote", "cause", "custom", "group", "in a group", "code"])
def test_errors_and_logs_do_not_tell(
    app: App, umbel: Harness, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = app.tasks["login"].delay("ann", SECRET, how)
    umbel.run(propagate=False)
    assert sent.state == ("SUCCESS" if how == "ok" else "FAILURE")
    shown = everything_shown(app, umbel, caplog, sent.id)
    assert SECRET not in shown
    if how != "ok":
        assert how in {"group", "in a group", "code"} or "********" in shown
        error = sent.result
        assert isinstance(error, Exception)
        names = {
            "quote": "ValueError", "cause": "RuntimeError", "custom": "CustomError",
            "group": "ExceptionGroup", "in a group": "ExceptionGroup", "code": "SyntaxError",
        }  # fmt: skip
        assert type(error).__name__ == names[how]
        assert SECRET not in "".join(traceback.format_exception(error))


def test_a_request_that_is_printed_does_not_tell(
    app: App, umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    app.tasks["debug"].delay(SECRET, pin=123)
    umbel.run()
    assert "args" in caplog.text
    assert "Request: <Request" in caplog.text
    assert SECRET not in caplog.text
    assert "'pin': '********'" in caplog.text


def test_rare_options_leave_the_marks_in_the_message(app: App) -> None:
    sent = app.tasks["login"].apply_async(("ann", SECRET), headers={"x": 1})
    [waiting] = app.engine.broker.browse(id=sent.id)
    assert task_message.decode_headers(waiting.payload).secret == ["password", 1]


def test_extended_results_do_not_tell(app: App, umbel: Harness) -> None:
    app.conf.result_extended = True
    sent = app.tasks["login"].delay("ann", SECRET)
    named = app.tasks["login"].delay("ann", password=SECRET)
    umbel.run()
    for result, args in ((sent, ["ann", "********"]), (named, ["ann"])):
        assert result.args == args
        assert SECRET not in str(app.engine.results.get([result.id])[result.id].meta)


def test_what_a_task_returns_is_its_own_affair_but_not_in_the_log(
    app: App, umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = app.tasks["login"].delay("ann", SECRET, "give back")
    umbel.run()
    assert sent.get(timeout=1) == f"password {SECRET}"
    assert SECRET not in caplog.text
    assert "password ********" in caplog.text


def test_retries_do_not_tell(app: App, umbel: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent = app.tasks["again"].delay(token={"value": SECRET})
    umbel.run(propagate=False)
    assert sent.state == "RETRY"
    assert SECRET not in everything_shown(app, umbel, caplog, sent.id)
    umbel.advance(seconds=2)
    umbel.run(propagate=False)
    assert sent.state == "FAILURE"
    assert SECRET not in everything_shown(app, umbel, caplog, sent.id)


def test_a_name_that_is_no_parameter_is_refused(app: App) -> None:
    @app.task(name="typo", secret=("pasword",))
    def typo(password: str) -> None:
        pass

    with pytest.raises(ImproperlyConfigured, match=r"'pasword'.*it has: password"):
        typo.delay(SECRET)

    @app.task(name="open", secret=("rest", "any"))
    def open_ended(first: int, *rest: str, **named: str) -> None:
        pass

    sent = open_ended.delay(1, SECRET, SECRET, any=SECRET, other="x")
    [waiting] = app.engine.broker.browse(id=sent.id)
    headers = task_message.decode_headers(waiting.payload)
    assert headers.argsrepr == "(1, ********, ********)"
    assert headers.kwargsrepr == "{'any': ********, 'other': 'x'}"


def test_a_base_class_may_name_what_not_every_task_has(app: App) -> None:
    class Careful(Task[..., Any]):
        secret = ("password", "token")

    @app.task(name="careful", base=Careful)
    def careful(token: str) -> None:
        pass

    sent = careful.delay(SECRET)
    [waiting] = app.engine.broker.browse(id=sent.id)
    assert task_message.decode_headers(waiting.payload).argsrepr == "(********,)"


def test_how_deep_arguments_are_shown_is_a_setting(umbel: Harness) -> None:
    deep = [[[[[["x"]]]]]]
    for levels, shown in ((3, "([[[...]]],)"), (9, "([[[[[['x']]]]]],)")):
        app = App("deep", task_repr_maxlevels=levels)
        sent = app.send_task("t", (deep,))
        [waiting] = app.engine.broker.browse(id=sent.id)
        assert task_message.decode_headers(waiting.payload).argsrepr == shown


def test_dead_letters_are_shown_without_them(app: App) -> None:
    sent = app.tasks["login"].delay("ann", SECRET)
    [waiting] = app.engine.broker.browse(id=sent.id)
    letter = DeadLetter(
        number=1, id=sent.id, task="login", queue="celery", reason="lost", detail="", at=0.0,
        deliveries=3, payload=waiting.payload,
    )  # fmt: skip
    assert _read_message(app, letter)["args"] == ["ann", "********"]


@pytest.mark.parametrize("accepted", [True, False])
def test_nor_are_those_that_are_not_json(app: App, accepted: bool) -> None:
    app.conf.accept_content = ["msgpack", "pickle"] if accepted else ["json"]
    for serializer, readable in (("msgpack", accepted), ("pickle", False)):  # which is code
        sent = app.tasks["login"].apply_async(("ann", SECRET), serializer=serializer)
        [waiting] = app.engine.broker.browse(id=sent.id)
        letter = DeadLetter(
            number=1, id=sent.id, task="login", queue="celery", reason="lost", detail="", at=0.0,
            deliveries=3, payload=waiting.payload,
        )  # fmt: skip
        shown = _read_message(app, letter)
        assert shown["args"] == (["ann", "********"] if readable else None)
        assert json.loads(waiting.payload)["body"] not in str(shown["payload"])
        assert readable or sent.id in shown["payload"]


def test_a_handler_that_raises_does_not_tell(
    app: App, umbel: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    class Careless(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise ValueError(f"not so: {kwargs['password']}")

    @app.task(name="careless", base=Careless, secret=("password",))
    def careless(password: str) -> None: ...

    careless.delay(password=SECRET)
    umbel.run()
    assert "its on_success handler raised" in caplog.text
    assert SECRET not in caplog.text
