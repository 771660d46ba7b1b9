"""`App.connection()`: asking whether the broker answers, in kombu's words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from umbel.exceptions import OperationalError

if TYPE_CHECKING:
    from umbel.app.app import App


class Connection:
    """The way to an app's broker (`kombu.Connection`); there are no channels behind it.

    Nothing has to be opened or closed by hand: the app opens its store when it is used first.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def __repr__(self) -> str:
        return f"<Connection: {self.as_uri()}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def as_uri(self) -> str:
        """The broker's URL, its password masked."""
        return self._app.engine.name

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        try:
            self.connect()
        except OperationalError:
            return False
        return True

    def connect(self) -> Connection:
        """Ask the broker something; `OperationalError` if it does not answer."""
        self._app.engine.broker.counts()
        return self

    def ensure_connection(
        self,
        errback: Callable[[OperationalError, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2.0,
        interval_step: float = 2.0,
        interval_max: float = 30.0,
        timeout: float | None = None,
    ) -> Connection:
        """Ask until the broker answers, and return this connection.

        `max_retries`: how often to ask again before the `OperationalError` is raised; None or 0:
        for ever, as in kombu. The pauses grow from `interval_start` seconds by `interval_step`
        up to `interval_max`; `errback(error, pause)` is called before each. `timeout`: seconds
        after which no further try is made.
        """
        end = None if timeout is None else time.monotonic() + timeout
        tries, pause = 0, interval_start
        while True:
            try:
                return self.connect()
            except OperationalError as error:
                tries += 1
                late = end is not None and time.monotonic() + pause > end
                if late or (max_retries and tries > max_retries):
                    raise
                if errback is not None:
                    errback(error, pause)
            time.sleep(pause)
            pause = min(pause + interval_step, interval_max)

    def release(self) -> None:
        """Do nothing: the app keeps its store open for the next message (`App.close` closes it)."""

    close = release
