"""Compression of bodies and results, under the names and content types that Kombu gives it.

A compressed text may be tiny and unfold to gigabytes, so it is unfolded piece by piece, and given
up as soon as it grows beyond the limit, or out of all proportion to what has been read of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

from umbel.exceptions import DecodeError, ImproperlyConfigured

PIECE: Final = 64 << 10
"""Bytes that are unfolded at a time."""
CHUNK: Final = 16 << 10
"""Bytes that are read at a time."""
FREE: Final = 4 << 20
"""Bytes that any text may unfold to."""
RATIO: Final = 200
"""How often its own size a text may unfold to, beyond `FREE` bytes."""
XZ_MEMORY: Final = 80 << 20
"""Bytes that xz may take for its dictionary; its strongest preset needs 65 MiB."""


class _Decompressor(Protocol):
    """What `bz2`, `lzma` and `zstd` agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Compression(NamedTuple):
    """One way to compress."""

    content_type: str
    """What stands in a message's `compression` header."""
    names: tuple[str, ...]
    compress: Callable[[bytes], bytes]
    decompressor: Callable[[], _Decompressor]


class _Zlib:
    """zlib's decompressor with the others' interface."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Brotli:
    """Brotli's decompressor with the others' interface."""

    unused_data = b""

    def __init__(self) -> None:
        self._inner = _library("brotli", "brotli").Decompressor()

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    @property
    def needs_input(self) -> bool:
        return bool(self._inner.can_accept_more_data())

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return cast("bytes", self._inner.process(data, output_buffer_limit=max_length))


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'Compression with {extra} needs a library: pip install "umbel[{extra}]"'
        ) from error


def _zstd() -> Any:
    try:
        return importlib.import_module("compression.zstd")  # from Python 3.14 on
    except ImportError:
        return _library("backports.zstd", "zstd")


def _xz_decompressor() -> _Decompressor:
    lzma: Any = importlib.import_module("lzma")
    return cast("_Decompressor", lzma.LZMADecompressor(memlimit=XZ_MEMORY))


def _call(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported when it is first needed."""

    def call(*given: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*given)

    return call


_ALL: Final = (
    # zlib's format, whatever the name says: nobody who writes gzip's is understood.
    Compression("application/x-gzip", ("zlib", "gzip"), _call("zlib", "compress"), _Zlib),
    Compression(
        "application/x-bz2", ("bzip2", "bzip"), _call("bz2", "compress"),
        _call("bz2", "BZ2Decompressor"),
    ),
    Compression(
        "application/x-lzma", ("lzma", "xz"), _call("lzma", "compress"), _xz_decompressor
    ),
    Compression(
        "application/x-brotli", ("brotli",),
        lambda data: cast("bytes", _library("brotli", "brotli").compress(data)), _Brotli,
    ),
    Compression(
        "application/zstd", ("zstd", "zstandard"),
        lambda data: cast("bytes", _zstd().compress(data)),
        lambda: cast("_Decompressor", _zstd().ZstdDecompressor()),
    ),
)  # fmt: skip
_BY_NAME: Final = {name: one for one in _ALL for name in (one.content_type, *one.names)}


def find(name: str) -> Compression:
    """A compression by its name or content type. `ImproperlyConfigured` names those there are."""
    found = _BY_NAME.get(name)
    if found is None:
        names = ", ".join(name for one in _ALL for name in one.names)
        raise ImproperlyConfigured(f"There is no compression {name!r}; there is: {names}.")
    return found


def compress(data: bytes, name: str) -> tuple[bytes, str | None]:
    """The compressed bytes and the content type to say so.

    What shrinks so much that `decompress` would not trust it stays as it is; its type is None.
    """
    method = find(name)
    compressed = method.compress(data)
    if len(data) > FREE:
        try:
            decompress(compressed, name, len(data))
        except DecodeError:
            return data, None
    return compressed, method.content_type


def decompress(data: bytes, name: str, limit: int) -> bytes:
    """What was compressed, if it has no more than `limit` bytes.

    `DecodeError` for an unknown method, a damaged text, and one that grows too much; that takes no
    more memory than has been unfolded by then.
    """
    method = _BY_NAME.get(name)
    if method is None:
        raise DecodeError(f"compressed by an unknown method: {name[:60]!r}")
    decompressor = method.decompressor()
    pieces: list[bytes] = []
    size = read = 0
    while not decompressor.eof:
        chunk = b""
        if decompressor.needs_input:
            chunk = data[read : read + CHUNK]
            read += len(chunk)
        try:
            piece = decompressor.decompress(chunk, PIECE)
        except Exception as error:  # noqa: BLE001  (each library has its own)
            raise DecodeError(f"not readable as {method.names[0]}: {error}") from None
        if not (chunk or piece or decompressor.eof):
            raise DecodeError(f"the {method.names[0]} text ends too early")
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise DecodeError(
                f"unfolds to more than {limit / 2**20:g} MiB (task_max_message_bytes)"
            )
        if size > FREE and size > RATIO * read:
            raise DecodeError(f"unfolds to more than {RATIO} times its size")
    if decompressor.unused_data or read < len(data):
        raise DecodeError(f"there is more behind the end of the {method.names[0]} text")
    return b"".join(pieces)
