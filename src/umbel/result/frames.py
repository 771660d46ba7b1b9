"""The frames of a traceback that was stored as text, made again for one that is raised here."""

from __future__ import annotations

import os
import re
import sys
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
    A file that is no source of this program stands in <…>: nothing prints lines of those.
    """
    last = text.rpartition(START)[2]  # its cause, printed above it, has a traceback of its own
    frames: TracebackType | None = None
    for file, line, name in reversed(FRAME.findall(last)):
        number = min(int(line), 2**31 - 1) if len(line) < 12 else 1
        code = _stand_in.__code__.replace(
            co_filename=file if _is_source(file) else f"<{file}>".replace("\0", "\\0"),
            co_name=name.replace("\0", "\\0"),
            co_firstlineno=max(number - 1, 0),  # what raises stands on its second line
        )
        try:
            exec(code, {"__name__": "remote", "_Stop": _Stop})  # noqa: S102  (our own code object)
        except _Stop as stop:
            trace = stop.__traceback__
            inner = trace.tb_next if trace is not None else None
            if inner is not None:
                frames = TracebackType(frames, inner.tb_frame, inner.tb_lasti, number)
    return frames


def _is_source(file: str) -> bool:
    """Whether a file belongs to a module that is loaded here, or could be imported."""
    if not file.endswith(".py") or not os.path.isabs(file) or "\0" in file:
        return False
    loaded = list(sys.modules.values())
    if any(
        vars(module).get("__file__") == file for module in loaded if hasattr(module, "__dict__")
    ):
        return True
    real = os.path.realpath(file)
    return any(real.startswith(os.path.join(os.path.realpath(root), "")) for root in sys.path)
