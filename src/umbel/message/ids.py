"""The ids of tasks."""

from __future__ import annotations

import os
import time
from typing import Final

FORM: Final = "%08x-%04x-7%03x-%s%s-%s"  # takes half the time of an f-string
VARIANT: Final = {digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")}
"""Two bits of the digit are chance."""


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): its time comes first, so ids made together sort together.

    A store's indexes then grow at one end, which halves the work of a task whose result is kept.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    chance = os.urandom(8).hex()
    return (
        FORM
        % (
            milliseconds >> 16,
            milliseconds & 0xFFFF,
            rest * 4096 // 1_000_000,  # the millisecond's fraction, in 12 bits
            VARIANT[chance[0]],
            chance[1:4],
            chance[4:],
        )
    )
