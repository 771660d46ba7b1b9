"""No public name of Celery is forgotten."""

from __future__ import annotations

from pathlib import Path

from tests.surface import verdicts
from tests.surface.table import PAGE, inventory, missing, page, resolves


def test_no_more_is_missing_than_is_known() -> None:
    """A name that has come leaves `missing.tsv`, and none is added."""
    assert missing() == (Path(__file__).parent / "missing.tsv").read_text()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "stale; run: python -m tests.surface.table"


def test_a_verdict_is_of_a_name_that_celery_has() -> None:
    names = set(inventory())
    judged = {*verdicts.REFUSED, *verdicts.LATER, *verdicts.WITHOUT_EFFECT}
    assert judged <= names, judged - names


def test_what_comes_later_is_no_stub() -> None:
    there = [key for key in verdicts.LATER if resolves(*key)]
    assert not there, "these names exist, so they do not come later"
