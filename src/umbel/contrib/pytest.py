"""Celery's fixtures for pytest (`celery.contrib.pytest`): `-p umbel.contrib.pytest`.

An app in memory and a worker in a thread, for a test or for the session; to change them, override
`celery_config`, `celery_includes` and the like in a conftest. New tests are quicker, and see more,
with the fixture `umbel`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

from umbel.testing.plugin import umbel

if TYPE_CHECKING:
    from umbel.app import App, Task
    from umbel.contrib.testing.worker import TestWorkController

__all__ = ["NO_WORKER", "umbel"]

NO_WORKER: Final = os.environ.get("NO_WORKER")
"""Set in the environment, tests that ask for a worker are skipped."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "celery(**settings): settings of the app that this test's fixtures make"
    )


def _make_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[App]:
    """Return an app: `celery_app` the test's own, `celery_session_app` the session's.

    The session's is the current app.
    """
    from umbel.contrib.testing.app import TestApp, setup_default_app

    mark = request.node.get_closest_marker("celery")
    settings = {**celery_config, **(mark.kwargs if mark else {})}
    app = TestApp(config=settings, enable_logging=celery_enable_logging, **celery_parameters)
    with setup_default_app(app, use_trap=use_celery_app_trap):
        if request.scope == "session" and not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


celery_app = pytest.fixture(name="celery_app")(_make_app)
celery_session_app = pytest.fixture(scope="session", name="celery_session_app")(_make_app)


def _run_worker(
    app: App,
    includes: Sequence[str],
    pool: str,
    parameters: Mapping[str, Any],
    enable_logging: bool,
) -> Iterator[TestWorkController]:
    if NO_WORKER:
        pytest.skip("NO_WORKER is set")
    from umbel.contrib.testing.worker import start_worker

    for module in includes:
        importlib.import_module(module)
    options = {"pool": pool, **({"loglevel": "info"} if enable_logging else {}), **parameters}
    with start_worker(app, **options) as worker:
        yield worker


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override to return True, and whatever falls back to the current app is an error."""
    return False


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: App,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Task[..., Any] | type[Task[..., Any]]],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
) -> Iterator[TestWorkController]:
    """Run a worker for the session."""
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    yield from _run_worker(
        celery_session_app, celery_includes, celery_worker_pool, celery_worker_parameters,
        celery_enable_logging,
    )  # fmt: skip


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override to return True, and the worker's log is at INFO."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override to name modules that are imported before a worker starts."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Override to name the worker's pool: "solo", "threads" or "asyncio"."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Override to give settings for the app."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Override to give arguments of `App` for the app."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Override to give arguments of `start_worker`, such as the queues."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Task[..., Any] | type[Task[..., Any]]]:
    """Override to give tasks written as classes, which the session's app gets."""
    return []


@pytest.fixture
def celery_worker(
    celery_app: App,
    celery_includes: Sequence[str],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
) -> Iterator[TestWorkController]:
    """Run a worker for the test."""
    yield from _run_worker(
        celery_app, celery_includes, celery_worker_pool, celery_worker_parameters,
        celery_enable_logging,
    )  # fmt: skip


@pytest.fixture
def depends_on_current_app(celery_app: App) -> None:
    """Make the test's app the current one."""
    celery_app.set_current()
