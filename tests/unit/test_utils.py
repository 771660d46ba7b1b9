"""`umbel.utils` and `umbel.utils.log`; what Celery's modules have and Umbel's refuse."""

from __future__ import annotations

import importlib
import io
import logging
import sys

import pytest

import umbel
from umbel.app import default_app, pop_current_task, push_current_task, refusals
from umbel.app.current import State
from umbel.app.log import ColorFormatter as WorkersFormatter
from umbel.utils import cached_property, gen_unique_id, nodename, nodesplit, uuid
from umbel.utils.log import (
    LOG_LEVELS,
    ColorFormatter,
    LoggingProxy,
    base_logger,
    get_logger,
    mlevel,
    task_logger,
)


@pytest.mark.parametrize("module", refusals.MODULES)
def test_a_name_that_celery_has_not_either_is_simply_unknown(module: str) -> None:
    assert not hasattr(importlib.import_module(module), "no_such_name")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {module} import no_such_name", {})


def test_ids() -> None:
    assert len({uuid(), uuid(), gen_unique_id(), umbel.uuid()}) == 4
    assert len(gen_unique_id()) == 36


def test_names_of_workers() -> None:
    assert nodename("w1", "box") == "w1@box"
    assert nodesplit("w1@box.example.com") == ("w1", "box.example.com")
    assert nodesplit("box") == (None, "box")


def test_a_cached_property_is_asked_once() -> None:
    class Asked:
        times = 0

        @cached_property
        def answer(self) -> int:
            self.times += 1
            return 42

    asked = Asked()
    assert (asked.answer, asked.answer, asked.times) == (42, 42, 1)
    del asked.answer
    assert (asked.answer, asked.times) == (42, 2)


def test_levels_by_name_and_by_number() -> None:
    assert (LOG_LEVELS["WARNING"], LOG_LEVELS[30]) == (30, "WARNING")
    assert (LOG_LEVELS["FATAL"], LOG_LEVELS[10]) == (50, "DEBUG")
    assert umbel.utils.LOG_LEVELS is LOG_LEVELS
    assert (mlevel("debug"), mlevel("Error"), mlevel(7), mlevel(None)) == (10, 40, 7, None)
    with pytest.raises(ValueError, match="'loud' is no level"):
        mlevel("loud")


def test_loggers() -> None:
    assert get_logger("proj") is logging.getLogger("proj")
    assert (base_logger.name, task_logger.parent) == ("umbel", base_logger)


def test_a_formatter_that_colours() -> None:
    record = logging.makeLogRecord({"msg": "no", "levelno": 40, "levelname": "ERROR"})
    assert ColorFormatter("%(message)s").format(record) == "\x1b[1;31mno\x1b[0m"
    assert ColorFormatter("%(message)s", use_color=False).format(record) == "no"
    assert ColorFormatter is WorkersFormatter


def test_a_stream_that_is_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("printed")
    logger.setLevel("INFO")
    before = io.StringIO()
    proxy = LoggingProxy(logger, "WARNING", before)
    print("a", "b", file=proxy)
    proxy.write("half a ")
    print("line", file=LoggingProxy(logger))
    proxy.writelines(["line\n", "\n"])
    assert caplog.record_tuples == [
        ("printed", logging.WARNING, "a b"),
        ("printed", logging.INFO, "line"),
        ("printed", logging.WARNING, "half a line"),
    ]
    assert not proxy.isatty()
    assert before.getvalue() == ""
    assert LoggingProxy(get_logger("printed.below")).fileno() == sys.__stderr__.fileno()  # type: ignore[union-attr]


def test_a_handler_that_writes_into_its_own_logger_ends() -> None:
    logger, before = get_logger("round"), io.StringIO()
    proxy = LoggingProxy(logger, "ERROR", before)
    logger.addHandler(logging.StreamHandler(proxy))
    print("once", file=proxy)
    assert before.getvalue() == "once\n"
    logger.handlers.clear()


def test_the_current_task_and_the_default_app_can_be_set() -> None:
    before = State.current, State.default
    app = umbel.App("mine", set_as_current=False)
    task = app.task(name="mine.task")(lambda: None)
    app.set_default()
    assert default_app.main == "mine"
    push_current_task(task)
    assert umbel.current_task.name == "mine.task"
    assert pop_current_task() is task
    assert not umbel.current_task  # type: ignore[truthy-bool]  # it stands for one
    assert pop_current_task() is None
    State.current, State.default = before


def test_a_line_of_many_pieces_is_logged_without_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """A progress bar of dots: each is a write of its own."""
    logger = get_logger("printed")
    logger.setLevel("INFO")
    proxy = LoggingProxy(logger, "WARNING", io.StringIO())
    for _ in range(20_000):
        print(".", end="", file=proxy)
    proxy.flush()
    assert sum(len(record.getMessage()) for record in caplog.records) == 20_000
    assert len(caplog.records) < 100
