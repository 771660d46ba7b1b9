"""What counts as a test that judges a name."""

from __future__ import annotations

import ast

import pytest

from tests.surface.evidence import Judge, is_used, read

MODULE = """
import pytest
from umbel import imported
from umbel.tests import used

CONSTANT = "app.conf.by_constant = 3"

@app.task(by_option=True)
def task(): ...

@pytest.fixture
def fixture():
    app.conf.by_fixture = 1

def test_that_asserts_nothing():
    used.nothing()

def test_that_asserts(fixture):
    from umbel import inside
    run(CONSTANT, "umbel worker --by-word 3", by_keyword=1)
    task.delay()
    make("import other\\napp.by_code(by_code_keyword=2)")
    assert used.by_attribute

@pytest.mark.parametrize("name", ["by_parameter"])
@pytest.mark.usefixtures("fixture")
def test_that_raises(name):
    with pytest.raises(ValueError):
        getattr(used, name)
"""


@pytest.fixture(scope="module")
def judges() -> dict[str, Judge]:
    return {one.where: one for one in read(ast.parse(MODULE), "f.py")}


def test_only_tests_that_assert_count(judges: dict[str, Judge]) -> None:
    assert list(judges) == ["f.py::test_that_asserts", "f.py::test_that_raises"]


@pytest.mark.parametrize(
    ("group", "name", "where"),
    [
        ("App.", "by_attribute", "asserted"),
        ("apply_async", "by_keyword", "body"),
        ("umbel worker", "--by-word", "body"),
        ("App.", "by_code", "body"),
        ("apply_async", "by_code_keyword", "body"),
        ("setting", "by_constant", "reached"),
        ("App.", "by_fixture", "reached"),
        ("@task", "by_option", "reached"),
        ("Task.", "by_option", "reached"),
        ("umbel.utils", "imported", ""),
        ("umbel.utils", "inside", ""),
        ("App.", "nothing", ""),
        ("App.", "by_keyword", ""),
        ("apply_async", "by_attribute", ""),
    ],
)
def test_a_name_counts_in_the_way_of_its_group(
    judges: dict[str, Judge], group: str, name: str, where: str
) -> None:
    judge = judges["f.py::test_that_asserts"]
    places = ("asserted", "body", "reached")
    found = next((place for place in places if is_used(getattr(judge, place), group, name)), "")
    assert found == where


def test_parameters_and_named_fixtures_count(judges: dict[str, Judge]) -> None:
    judge = judges["f.py::test_that_raises"]
    assert is_used(judge.asserted, "App.", "by_parameter")
    assert is_used(judge.reached, "App.", "by_fixture")
