"""Apps for tests (`celery.contrib.testing.app`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from umbel.app import App
from umbel.app.current import State
from umbel.app.refusals import refuse_names
from umbel.engines.urls import forget_engine

DEFAULT_TEST_CONFIG: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "broker_url": "memory://",
        "result_backend": "broker",
        "accept_content": ["json"],
        "enable_utc": True,
        "timezone": "UTC",
    }
)
"""The settings of a test's app that gives none of its own."""
SAME_STORE: Final = frozenset({"cache+memory://", "memory://"})
"""Results in memory beside messages in memory, as Celery's tests write it."""
_numbers = count(1)


class Trap:
    """In the place of the current app: whatever it is asked for is an error."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name in {"_is_coroutine", "_is_coroutine_marker"}:
            raise AttributeError(name)  # asked for by unittest.mock, of anything
        raise RuntimeError(
            f"This depends on the current app (it asked for {name!r}), and the test's app trap is "
            "set: pass the app, or do not override the fixture use_celery_app_trap."
        )


def TestApp(  # noqa: N802  (Celery's name)
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,  # noqa: ARG001  (what a worker here logs, `start_worker` decides)
    set_as_current: bool = False,
    backend: str | None = None,
    broker: str | None = None,
    **arguments: Any,
) -> App:
    """An app whose messages and results are in memory, and its own, unless `config` says else.

    `config` are settings; `broker` and `backend` outweigh it; the rest goes to `App`.
    """
    settings = {**DEFAULT_TEST_CONFIG, **(config or {})}
    if broker is not None:
        settings["broker_url"] = broker
    if backend is not None:
        settings["result_backend"] = backend
    if settings["broker_url"] == DEFAULT_TEST_CONFIG["broker_url"]:
        # Of its own: what another test has left over is none of this one's business.
        settings["broker_url"] = f"memory://test-{next(_numbers)}"
        if settings["result_backend"] in SAME_STORE:
            settings["result_backend"] = "broker"
    return App(name or "celery.tests", set_as_current=set_as_current, **settings, **arguments)


TestApp.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name


@contextlib.contextmanager
def set_trap(app: App) -> Iterator[None]:  # noqa: ARG001  (Celery's)
    """Inside the block, whatever falls back to the current app raises `RuntimeError`."""
    before = State.current, State.default
    State.current = State.default = cast("App", Trap())
    try:
        yield
    finally:
        State.current, State.default = before


@contextlib.contextmanager
def setup_default_app(app: App, use_trap: bool = False) -> Iterator[None]:
    """After the block the current app is the one it was, and `app` is closed."""
    before = State.current, State.default
    try:
        with set_trap(app) if use_trap else contextlib.nullcontext():
            yield
    finally:
        if app is not before[0]:
            url = app.broker_url
            app.close()
            if url.startswith("memory://test-"):
                forget_engine(url)
        State.current, State.default = before


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
