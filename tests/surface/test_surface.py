"""No public name of Celery is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.surface import verdicts
from tests.surface.celery_names import differences
from tests.surface.evidence import judges
from tests.surface.pins import PINS
from tests.surface.table import PAGE, inventory, missing, page, resolves


def test_no_more_is_missing_than_is_known() -> None:
    """A name that has come leaves `missing.tsv`, and none is added."""
    assert missing() == (Path(__file__).parent / "missing.tsv").read_text()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "stale; run: python -m tests.surface.table"


def test_the_inventory_is_what_celery_has() -> None:
    """So it is of 5.7; of another version it tells what has come or gone since."""
    celery = pytest.importorskip("celery")
    if not celery.__version__.startswith("5.7."):
        pytest.skip(f"the inventory is of Celery 5.7, and {celery.__version__} is installed")
    assert differences() == ([], [])


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
