"""What stored results are written in: a serializer, and a compression that tells of itself.

A stored result has no headers. Its serializer is the one that writer and reader have configured;
its compression stands in front of it, as Celery 5.7 writes it:

    00 "celery-compressed" 00 content type 00 compressed bytes
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from umbel.exceptions import DecodeError
from umbel.message import content
from umbel.message.compression import compress, decompress, find
from umbel.message.content import JSON, JSON_ONLY

MAGIC: Final = b"\x00celery-compressed\x00"
MAX_BYTES: Final = 32 << 20
"""Bytes to which a compressed result may unfold where no other limit is given."""


class Format(NamedTuple):
    """How an app's results are written, and what it reads."""

    content_type: str = JSON
    compression: str | None = None
    accept: frozenset[str] = JSON_ONLY
    limit: int = MAX_BYTES


PLAIN: Final = Format()
"""JSON, not compressed."""


def make_format(
    serializer: str, compression: str | None, accept: Iterable[str], limit: int
) -> Format:
    """The format of some settings; its own serializer is accepted in any case."""
    kind = content.find(serializer).content_type
    if compression:
        find(compression)
    made = Format(kind, compression or None, content.content_types(accept) | {kind}, limit)
    return PLAIN if made == PLAIN else made


def write(fields: dict[str, Any], form: Format) -> bytes:
    """A meta's bytes. `EncodeError` if the serializer cannot write one of its values."""
    data, *_ = content.encode(fields, form.content_type)
    if form.compression:
        compressed, kind = compress(data, form.compression)
        if kind is not None:
            return MAGIC + kind.encode("ascii") + b"\0" + compressed
    return data


def read(data: bytes | memoryview, form: Format) -> Any:
    """What was written. `DecodeError`, `ContentDisallowed` or `SecurityError` if it cannot be."""
    data = bytes(data)
    if data.startswith(MAGIC):
        kind, end, data = data[len(MAGIC) :].partition(b"\0")
        if not end:
            raise DecodeError("not a stored result: it ends within the name of its compression")
        data = decompress(data, kind.decode("ascii", "replace"), form.limit)
    # What was stored before the setting was changed is still read: nothing but JSON begins so.
    kind_read = JSON if data[:1] == b"{" else form.content_type
    return content.decode(data, kind_read, form.accept)
