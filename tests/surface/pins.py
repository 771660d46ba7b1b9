"""Rows of the table and the test that judges them, where the search would cite another one."""

from __future__ import annotations

from typing import Final

PINS: Final[dict[tuple[str, str], str]] = {}
