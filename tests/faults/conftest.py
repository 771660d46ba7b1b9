"""What the fault suite's tests start from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.conftest import RecordProof
from tests.faults.processes import Project
from tests.servers import RedisServer
from umbel.engines.urls import forget_engine
from umbel.exceptions import UmbelError


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that break the workers, not the server."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no").start()
    yield server
    server.kill()


@pytest.fixture
def project(
    tmp_path: Path, seed: str, pytestconfig: pytest.Config, request: pytest.FixtureRequest
) -> Iterator[Project]:
    """A store, and processes that end with the test. A parameter names the engine."""
    if sys.platform != "linux":
        pytest.skip("processes are found through /proc")
    url = None
    if getattr(request, "param", pytestconfig.getoption("on")) == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
        server.empty(url)
    project = Project(tmp_path, Random(seed), seed, url=url)
    yield project
    project.close()
    if url is not None:
        forget_engine(url)  # it was of a server that is empty from here on


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
