"""docs/reference/settings.md is what the tables say."""

from pathlib import Path

from umbel.app import reference
from umbel.app.compat import DIFFERENCES
from umbel.app.names import KNOWN
from umbel.app.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
COMMAND = "python -m umbel.app.reference > docs/reference/settings.md"


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text() == reference.write_reference(), f"It is stale: run {COMMAND}"


def test_each_setting_with_an_effect_is_explained_once() -> None:
    texts = reference.docstrings()
    assert [name for name in Settings.__annotations__ if not texts.get(name)] == []
    both = [name for name in Settings.__annotations__ if name in KNOWN]
    assert both == [], "These have an effect now: take them out of umbel/app/names.py"


def test_the_differences_are_of_settings_that_there_are() -> None:
    for one in DIFFERENCES:
        assert one.setting in Settings.__annotations__
        assert getattr(Settings, one.setting) != one.celery
