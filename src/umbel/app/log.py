"""Logging of a worker: its handlers and formatters (`celery.app.log`).

Logging that the user's code has set up is left as it is. In a bare project the root logger and
`umbel.task` get one handler each, and what tasks print goes to the log.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from umbel import signals
from umbel.app.refusals import refuse_names
from umbel.app.request import Request, current

if TYPE_CHECKING:
    from umbel.app.settings.table import Settings

__all__ = ["ColorFormatter", "JsonFormatter", "LoggingProxy", "TaskFormatter"]

LOGGER: Final = "umbel"
TASK_LOGGER: Final = "umbel.task"
REDIRECTED: Final = "umbel.redirected"
"""The logger of what tasks print."""
UNKNOWN: Final = "???"
"""Stands for the task's name and id where no task runs."""
COLORS: Final = {"DEBUG": 34, "WARNING": 33, "ERROR": 31, "CRITICAL": 35}


@dataclass(frozen=True)
class LogOptions:
    """What a worker's command line says of its log; it travels to the children."""

    level: str = "WARNING"
    file: str | None = None
    """A path with %h, %n, %d, %p, %i and %I (`expand_file`); None is stderr."""
    json: bool = False
    """One JSON object on each line."""
    color: bool | None = None
    """None: if stderr is a terminal."""
    node: str = ""
    """The worker's name, for the file's name and for JSON lines."""


def read_level(level: str | int | None) -> int | None:
    """A level's number, from its name in any case; None stays None. `ValueError` for no level."""
    if level is None or isinstance(level, int):
        return level
    levels = logging.getLevelNamesMapping()
    try:
        return levels[level.upper()]
    except KeyError:
        message = f"{level!r} is no level of logging; there are {', '.join(levels)}."
        raise ValueError(message) from None


def add_task_fields(record: logging.LogRecord) -> bool:
    """A filter that lets everything pass, with `task_name` and `task_id` of the running task."""
    request = current.get()
    if request is not None:
        record.__dict__.setdefault("task_name", request.task)
        record.__dict__.setdefault("task_id", request.id)
    return True


# ------------------------------------------------------------------ formatters


class ColorFormatter(logging.Formatter):
    """A formatter that colours a line by its level."""

    def __init__(
        self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None
    ) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def format(self, record: logging.LogRecord) -> str:
        """The line, in colour where the level has one."""
        text = super().format(record)
        color = COLORS.get(record.levelname) if self.use_color else None
        return text if color is None else f"\x1b[1;{color}m{text}\x1b[0m"


class TaskFormatter(ColorFormatter):
    """A formatter for lines of tasks: its format may name %(task_name)s and %(task_id)s."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; outside of a task both are "???"."""
        add_task_fields(record)
        record.__dict__.setdefault("task_name", UNKNOWN)
        record.__dict__.setdefault("task_id", UNKNOWN)
        return super().format(record)


STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message", "asctime", "task_name", "task_id", "data",
}  # fmt: skip


class JsonFormatter(logging.Formatter):
    """A formatter that writes a record as one JSON object on one line.

    Keys: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `pid`; where there is something to
    say `worker`, `task`, `task_id`, `exc` (a traceback) and `stack`; then what was given as
    `extra`.
    """

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        add_task_fields(record)
        fields = record.__dict__
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        told = (
            ("worker", self._worker),
            ("task", fields.get("task_name")),
            ("task_id", fields.get("task_id")),
            ("exc", record.exc_info and self.formatException(record.exc_info)),
            ("stack", record.stack_info and self.formatStack(record.stack_info)),
        )
        document.update((key, value) for key, value in told if value and value != UNKNOWN)
        for key, value in fields.items():
            if key not in STANDARD:
                document.setdefault(key, value)
        return json.dumps(document, default=str, ensure_ascii=False)


# ------------------------------------------------------------------ the set-up


def set_up_logging(
    conf: Settings, options: LogOptions, slot: int | None = None, *, redirects: bool = True
) -> None:
    """Set logging up in a supervisor, or in the child of a slot, whose prints go to the log.

    A receiver of the signal `setup_logging` does it instead. A root logger that has handlers is
    left alone, unless `worker_hijack_root_logger` says otherwise; a file that was asked for gets
    the lines all the same, and with `json` what writes to a terminal makes room. `OSError` if the
    file cannot be written.
    """
    level = logging.getLevelNamesMapping()[options.level.upper()]
    file = options.file and expand_file(options.file, options.node, slot)
    told = {"loglevel": level, "logfile": file, "colorize": _wants_color(conf, options)}
    answers = signals.setup_logging.send(None, format=conf.worker_log_format, **told)
    for receiver, answer in answers:
        if isinstance(answer, Exception):
            text = f"The receiver {receiver!r} of setup_logging could not set logging up"
            raise RuntimeError(text) from answer  # noqa: TRY004  (it is the receiver's result)
    if not answers:
        _set_up(conf, options, slot, told, redirects=redirects)
    if slot is not None:  # of a process, so of all that it runs
        Request.loglevel, Request.logfile = level, file


def _set_up(
    conf: Settings,
    options: LogOptions,
    slot: int | None,
    told: dict[str, Any],
    *,
    redirects: bool,
) -> None:
    root, tasks = logging.getLogger(), logging.getLogger(TASK_LOGGER)
    _make_room(conf, options)
    bare = all(isinstance(handler, logging.NullHandler) for handler in root.handlers)
    if not bare and options.file is None and not options.json:
        return
    own, for_tasks = _make_formatters(conf, options, color=told["colorize"])
    root.addHandler(_make_handler(told["logfile"], own, slot))
    root.setLevel(told["loglevel"])
    logging.captureWarnings(True)
    signals.after_setup_logger.send(None, logger=root, format=conf.worker_log_format, **told)
    if not bare:
        return
    if not tasks.handlers:
        tasks.addHandler(_make_handler(told["logfile"], for_tasks, slot))
        tasks.propagate = False
    tasks.setLevel(told["loglevel"])
    signals.after_setup_task_logger.send(
        None, logger=tasks, format=conf.worker_task_log_format, **told
    )
    if slot is not None and redirects and conf.worker_redirect_stdouts:
        redirect(conf.worker_redirect_stdouts_level)


def _make_room(conf: Settings, options: LogOptions) -> None:
    root = logging.getLogger()
    if conf.worker_hijack_root_logger:
        for name in (None, LOGGER, TASK_LOGGER, REDIRECTED):
            logging.getLogger(name).handlers.clear()
    elif options.json:
        root.handlers[:] = [h for h in root.handlers if type(h) is not logging.StreamHandler]


def _make_formatters(
    conf: Settings, options: LogOptions, *, color: bool
) -> tuple[logging.Formatter, logging.Formatter]:
    """The root logger's formatter, and that of tasks."""
    if options.json:
        formatter = JsonFormatter(options.node)
        return formatter, formatter
    return (
        ColorFormatter(conf.worker_log_format, color, conf.worker_log_datefmt),
        TaskFormatter(conf.worker_task_log_format, color, conf.worker_task_log_datefmt),
    )


def _make_handler(
    file: str | None, formatter: logging.Formatter, slot: int | None
) -> logging.Handler:
    process = "MainProcess" if slot is None else f"ForkPoolWorker-{slot + 1}"
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.__stderr__)
    else:
        from logging.handlers import WatchedFileHandler  # writes on in a new one after rotation

        handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")

    def name_process(record: logging.LogRecord) -> bool:
        if record.processName == "MainProcess":
            record.processName = process
        return add_task_fields(record)

    handler.addFilter(name_process)
    handler.setFormatter(formatter)
    return handler


def _wants_color(conf: Settings, options: LogOptions) -> bool:
    if options.file is not None or options.json or os.environ.get("NO_COLOR"):
        return False
    wished = conf.worker_log_color if options.color is None else options.color
    if wished is not None:
        return wished
    return sys.__stderr__ is not None and sys.__stderr__.isatty()


def expand_file(path: str, node: str, slot: int | None = None) -> str:
    """A path with its abbreviations replaced, as Celery has them.

    %p is the node's name, %n its part before the @ and %h the one behind, %d the host's domain,
    %i the number of the process (0 is the supervisor), %I the same with a dash, and nothing for
    the supervisor, %% a percent sign. `ValueError` for another one.
    """
    name, _, host = node.rpartition("@")
    host = host or socket.gethostname()
    index = 0 if slot is None else slot + 1
    values = {
        "p": node, "n": name, "h": host, "d": host.partition(".")[2], "i": str(index),
        "I": f"-{index}" if index else "", "%": "%",
    }  # fmt: skip

    def replace(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ValueError(
                f"{match[0]!r} in {path!r} is unknown; there are %p the node, %n its name, "
                "%h its host, %d the domain, %i and %I the process, %% a percent sign."
            )
        return values[match[1]]

    return re.sub(r"%(.?)", replace, path)


# ------------------------------------------------------------------ what tasks print


PIECES: Final = 1000
"""A line that is printed in more pieces than this is logged in parts."""


class LoggingProxy(io.TextIOBase):
    """A stream whose whole lines go to a logger (`celery.utils.log.LoggingProxy`).

    `loglevel`: their level; by default the logger's own, else ERROR. For all else it stands for
    `stream`, which it replaces: by default the program's stderr.
    """

    def __init__(
        self,
        logger: logging.Logger,
        loglevel: str | int | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._logger = logger
        self._level = read_level(loglevel) or logger.level or logging.ERROR
        self._stream = stream or cast("TextIO", sys.__stderr__)
        self._local = threading.local()

    def write(self, text: str) -> int:
        """Take text in, and log each line that it ends."""
        if getattr(self._local, "busy", False):  # a handler complains of its own failure
            return self._stream.write(text)
        rest = self._rest()
        first, *others = text.split("\n")
        rest.append(first)
        if others or len(rest) > PIECES:
            self._log("".join(rest))
            rest.clear()
        for line in others[:-1]:
            self._log(line)
        if others:
            rest.append(others[-1])
        return len(text)

    def _rest(self) -> list[str]:
        """The pieces of the line that this task, or outside of one this thread, has begun."""
        request = current.get()
        if request is not None:
            while request.outer is not None:
                request = request.outer
            request.begun = request.begun or {}
            return request.begun.setdefault(self, [])
        rest: list[str] | None = getattr(self._local, "rest", None)
        if rest is None:
            rest = self._local.rest = []
        return rest

    def flush(self) -> None:
        """Log what was begun."""
        if not getattr(self._local, "busy", False):
            self.end_line(self._rest())
        self._stream.flush()

    def end_line(self, rest: list[str]) -> None:
        """Log a line in its pieces, which nothing will follow."""
        line = "".join(rest)
        rest.clear()
        self._log(line)

    def _log(self, line: str) -> None:
        if not line.strip():
            return
        self._local.busy = True
        try:
            self._logger.log(self._level, "%s", line)
        finally:
            self._local.busy = False

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def fileno(self) -> int:
        """The descriptor of the stream that it replaces."""
        return self._stream.fileno()

    @property
    def buffer(self) -> object:
        """Bytes go to the stream that it replaces."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that it replaces."""
        return self._stream.encoding


def end_lines(request: Request) -> None:
    """Log what a run has printed last, without the end of a line: the next run begins its own."""
    for stream, rest in (request.begun or {}).items():
        stream.end_line(rest)


def redirect(level: str) -> None:
    """Log what is printed to stdout and stderr in this process, at a level."""
    logger = logging.getLogger(REDIRECTED)
    sys.stdout = cast("TextIO", LoggingProxy(logger, level, sys.stdout))
    sys.stderr = cast("TextIO", LoggingProxy(logger, level, sys.stderr))


if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
