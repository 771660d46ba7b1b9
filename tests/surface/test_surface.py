"""No public name of Celery is forgotten, and each verdict is what the package does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.surface import verdicts
from tests.surface.evidence import judges
from tests.surface.pins import PINS
from tests.surface.table import PAGE, Row, inventory, missing, page, resolves, rows
from umbel import App
from umbel.app import carried
from umbel.app.names import KNOWN
from umbel.cli import worker_options


def test_no_more_is_missing_than_is_known() -> None:
    """A name that has come leaves `missing.tsv`, and none is added."""
    assert missing() == (Path(__file__).parent / "missing.tsv").read_text()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "stale; run: python -m tests.surface.table"


def test_a_verdict_is_of_a_name_that_celery_has() -> None:
    names = set(inventory())
    judged = {*verdicts.REFUSED, *verdicts.LATER, *verdicts.WITHOUT_EFFECT, *PINS}
    assert judged <= names, judged - names


def test_what_comes_later_is_no_stub() -> None:
    there = [key for key in verdicts.LATER if resolves(*key)]
    assert not there, "these names exist, so they do not come later"


def test_each_pin_names_a_test_that_asserts_something() -> None:
    there = {test.where for test in judges()}
    assert set(PINS.values()) <= there, set(PINS.values()) - there


# --------------------------------------------------------------- each line of the log, read once


def accepted(*groups: str) -> list[Any]:
    found = [row for row in rows() if row.verdict == "without effect" and row.group in groups]
    return [pytest.param(row, id=row.name) for row in found]


@pytest.mark.parametrize("row", accepted("setting"))
def test_a_setting_without_effect_says_so(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    app = App("surface", set_as_current=False)
    default = KNOWN[row.name].default
    app.conf[row.name] = {"a": 1} if default == {} else not default
    with caplog.at_level(logging.INFO, "umbel.settings"):
        app.conf.log_notes()
    assert caplog.messages == [row.evidence]


@pytest.mark.parametrize("row", accepted("umbel worker"))
def test_a_workers_option_without_effect_says_so(row: Row) -> None:
    given: dict[str, Any] = {worker_options._name(one): None for one in worker_options.OPTIONS}
    option = next(one for one in worker_options.OPTIONS if row.name.split("/")[0] in one.names)
    given[worker_options._name(option)] = "1"
    assert worker_options.settle_legacy(given) == [row.evidence]
    assert given == {}


@pytest.mark.parametrize("row", accepted("apply_async"))
def test_an_option_of_sending_without_effect_says_so(
    row: Row, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carried, "_told", set())
    for _ in range(2):
        carried.carry("a.task", {row.name: ["x"]})
    assert caplog.messages == [row.evidence]


def test_every_row_that_is_accepted_has_its_line_read() -> None:
    read = {"setting", "umbel worker", "apply_async"}
    assert {row.group for row in rows() if row.verdict == "without effect"} == read
