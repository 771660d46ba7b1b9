"""Loggers for tasks (`celery.utils.log`).

    logger = get_task_logger(__name__)

Each record of such a logger carries `task_name` and `task_id`, for any formatter and for Sentry.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from umbel.app.log import (
    LOGGER,
    TASK_LOGGER,
    ColorFormatter,
    LoggingProxy,
    TaskFormatter,
    add_task_fields,
)
from umbel.app.log import read_level as mlevel
from umbel.app.refusals import refuse_names

__all__ = [
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "TaskFormatter",
    "get_logger",
    "get_task_logger",
    "mlevel",
]

LOG_LEVELS: Final[dict[str | int, int | str]] = {
    **{name: number for name, number in logging.getLevelNamesMapping().items()},  # noqa: C416
    **{number: name for name, number in logging.getLevelNamesMapping().items()},
}
"""The levels' numbers by name, and their names by number."""

base_logger: logging.Logger = logging.getLogger(LOGGER)
task_logger: logging.Logger = logging.getLogger(TASK_LOGGER)
worker_logger: logging.Logger = logging.getLogger("umbel.worker")


def get_task_logger(name: str) -> logging.Logger:
    """The logger for a module of tasks, usually `get_task_logger(__name__)`.

    Its lines go where the logger `umbel.task` sends them, unless a logger above it, such as that
    of its package, was set up to take them. `RuntimeError` for the names `umbel` and `umbel.task`.
    """
    if name in {LOGGER, TASK_LOGGER}:
        raise RuntimeError(
            f"The logger name {name!r} is taken; name it after your module: "
            "get_task_logger(__name__)."
        )
    logger = logging.getLogger(name)
    logger.addFilter(add_task_fields)  # once only, however often it is added
    if logger.parent is logging.root:
        logger.parent = task_logger
    return logger


def get_logger(name: str) -> logging.Logger:
    """The logger of that name; the standard library's `getLogger`."""
    return logging.getLogger(name)


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
