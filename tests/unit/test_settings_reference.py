"""What is written from the tables of settings is what they say."""

from pathlib import Path

import pytest

from umbel import App
from umbel.app.settings import keywords, reference
from umbel.app.settings.compat import DIFFERENCES
from umbel.app.settings.names import KNOWN
from umbel.app.settings.table import Settings
from umbel.exceptions import ImproperlyConfigured

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "settings.md"
KEYWORDS = ROOT / "src" / "umbel" / "app" / "settings" / "keywords.py"


def test_the_page_is_what_the_tables_say() -> None:
    command = "python -m umbel.app.settings.reference > docs/reference/settings.md"
    assert PAGE.read_text() == reference.write_reference(), f"It is stale: run {command}"


def test_the_types_are_what_the_tables_say() -> None:
    command = "python -m umbel.app.settings.reference keywords > src/umbel/app/settings/keywords.py"
    assert KEYWORDS.read_text() == reference.write_keywords(), f"It is stale: run {command}"


def test_each_setting_with_an_effect_is_explained_once() -> None:
    texts = {
        name: text for group in reference.read_table().values() for name, text in group.items()
    }
    assert [name for name in Settings.__annotations__ if not texts.get(name)] == []
    both = [name for name in Settings.__annotations__ if name in KNOWN]
    assert both == [], "These have an effect now: take them out of umbel/app/settings/names.py"


def test_the_differences_are_of_settings_that_there_are() -> None:
    for one in DIFFERENCES:
        assert one.setting in Settings.__annotations__
        assert getattr(Settings, one.setting) != one.celery


def test_what_checkers_take_is_taken_and_what_they_do_not_know_is_refused() -> None:
    app = App("keywords", broker="memory://", set_as_current=False)
    known = keywords.GivenSettings.__annotations__
    assert set(known) == set(Settings.__annotations__) | set(keywords.IdleSettings.__annotations__)
    for name in known:
        setattr(app.conf, name, app.conf[name])
    app.conf.read()
    refused = {name for name in KNOWN if name.islower()} - set(known)
    assert "task_protocol" in refused
    for name in refused:
        with pytest.raises(ImproperlyConfigured, match="is refused"):
            setattr(app.conf, name, "given")
