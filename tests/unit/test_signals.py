"""Signals: who is called, with what, and for how long."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import pytest

from umbel import signals
from umbel.signals import Signal


def test_a_receiver_gets_signal_sender_and_keywords_and_its_answer_comes_back() -> None:
    signal = Signal(name="rang")

    @signal.connect
    def receive(sender: object, signal: Signal, **kwargs: Any) -> tuple[object, ...]:
        return sender, signal, kwargs

    assert signal.send("door", how="twice") == [(receive, ("door", signal, {"how": "twice"}))]
    assert signal.send_robust("door") == [(receive, ("door", signal, {}))]


def test_a_sender_limits_a_receiver_to_what_that_one_sends() -> None:
    signal, seen = Signal(), []
    one, two = object(), object()
    signal.connect(lambda sender, **_: seen.append(sender), sender=one, weak=False)
    signal.connect(
        lambda sender, **_: seen.append(sender), sender=str(b"name", "ascii"), weak=False
    )
    for sender in (two, one, "name", "other", None):
        signal.send(sender)
    assert seen == [one, "name"]
    assert signal.has_listeners(one)
    assert not signal.has_listeners(two)


def test_receivers_are_held_weakly_unless_asked_otherwise() -> None:
    signal = Signal()

    class Listener:
        def hear(self, **kwargs: Any) -> str:
            return "heard"

    def fleeting(**kwargs: Any) -> None: ...

    listener = Listener()
    signal.connect(fleeting)
    signal.connect(listener.hear)
    signal.connect(lambda **_: "kept", weak=False)
    assert [answer for _, answer in signal.send(None)] == [None, "heard", "kept"]
    del fleeting, listener
    gc.collect()
    assert [answer for _, answer in signal.send(None)] == ["kept"]


def test_connected_twice_is_called_once_and_can_be_disconnected() -> None:
    signal, seen = Signal(), []

    class Listener:
        def hear(self, **kwargs: Any) -> None:
            seen.append("method")

    listener = Listener()

    def one(**kwargs: Any) -> None:
        seen.append("one")

    def two(**kwargs: Any) -> None:
        seen.append("two")

    for _ in range(2):
        signal.connect(listener.hear)
        signal.connect(one, dispatch_uid="only")
    signal.connect(two, dispatch_uid="only")
    signal.send(None)
    assert seen == ["method", "one"]
    assert signal.disconnect(listener.hear)
    assert not signal.disconnect(listener.hear)
    assert signal.disconnect(dispatch_uid="only")
    assert not signal.receivers
    assert not signal.has_listeners()


def test_a_receiver_must_take_keyword_arguments() -> None:
    def strict(sender: object) -> None: ...

    with pytest.raises(ValueError, match=r"strict must accept keyword arguments: add \*\*kwargs"):
        Signal().connect(strict)


def test_what_a_receiver_raises_is_logged_and_returned_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signal = Signal(name="rang")

    @signal.connect
    def broken(**kwargs: Any) -> None:
        raise LookupError("no bell")

    @signal.connect()
    def sound(**kwargs: Any) -> str:
        return "ding"

    with caplog.at_level(logging.ERROR):
        answers = [answer for _, answer in signal.send(None)]
    assert isinstance(answers[0], LookupError)
    assert answers[1] == "ding"
    assert "no bell" in caplog.text
    assert caplog.records[0].exc_info is not None


def test_retry_calls_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    signal, left = Signal(), [1, 2]

    @signal.connect(retry=True)
    def flaky(**kwargs: Any) -> str:
        if left:
            raise ConnectionError(left.pop())
        return "worked"

    assert [answer for _, answer in signal.send(None)] == ["worked"]
    assert pauses == [2.0, 4.0]
    assert signal.disconnect(flaky)


def test_every_name_is_a_signal_that_knows_its_name() -> None:
    for name in signals.__all__:
        if name != "Signal":
            assert getattr(signals, name).name == name
