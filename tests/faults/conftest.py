"""What the fault suite's tests start from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.conftest import RecordProof
from tests.faults.processes import Project
from umbel.exceptions import UmbelError


@pytest.fixture
def project(tmp_path: Path, seed: str) -> Iterator[Project]:
    """A store, and processes that end with the test."""
    if sys.platform != "linux":
        pytest.skip("processes are found through /proc")
    project = Project(tmp_path, Random(seed), seed)
    yield project
    project.close()


@pytest.fixture
def see_plant(project: Project) -> Callable[..., None]:
    """`see_plant("early_ack", test, "lost", …)`: the test must fail by that word, with the bug."""

    def see(plant: str, test: Callable[..., None], match: str, *arguments: object) -> None:
        project.plant = plant
        failures = (AssertionError, TimeoutError, UmbelError, pytest.fail.Exception)
        with pytest.raises(failures, match=match):
            test(project, *arguments)

    return see


@pytest.fixture
def record_nothing() -> RecordProof:
    """For a test that runs with a planted bug: its figures prove nothing."""
    return lambda **figures: None
