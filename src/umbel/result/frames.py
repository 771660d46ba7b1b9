"""The frames of a traceback that was stored as text, made again for one that is raised here."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Final

FRAME: Final = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
START: Final = "Traceback (most recent call last):\n"


class _Stop(Exception):  # noqa: N818
    """Raised in a stand-in's frame, to get hold of it."""


def _stand_in() -> None:
    raise _Stop


def remote_frames(text: str) -> TracebackType | None:
    """The frames that a printed traceback tells of, outermost first; None if it tells of none.

    They are stand-ins that carry the file, line and name of the worker's: a debugger or an error
    tracker shows where the task failed, but there are no variables. Nothing of the text is run.
    """
    last = text.rpartition(START)[2]  # its cause, printed above it, has a traceback of its own
    frames: TracebackType | None = None
    for file, line, name in reversed(FRAME.findall(last)):
        number = min(int(line), 2**31 - 1) if len(line) < 12 else 1
        code = _stand_in.__code__.replace(co_filename=file, co_name=name, co_firstlineno=number)
        try:
            exec(code, {"__name__": "remote", "_Stop": _Stop})  # noqa: S102  (our own code object)
        except _Stop as stop:
            trace = stop.__traceback__
            inner = trace.tb_next if trace is not None else None
            if inner is not None:
                frames = TracebackType(frames, inner.tb_frame, inner.tb_lasti, number)
    return frames
