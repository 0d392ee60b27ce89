"""Columns: raw little-endian values in the body of a frame, one column after the other.

Owns the layout (u32 number of values, u32 bytes per value, the values, zeros up to a multiple of eight
bytes); which columns a message has is the message's affair.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable

from ._frames import FrameError

_HEAD = struct.Struct("<II")
_PAD = (b"", *(bytes(8 - n) for n in range(1, 8)))

#: Type codes by what a column's values are.
U8, U32, U64 = "B", "I", "Q"

if sys.byteorder != "little":
    raise ImportError("hpcdag needs a little-endian processor")


def column(values: Iterable[int] | bytes | bytearray | memoryview | array, code: str = U8) -> list:
    """The pieces of one column, to be joined or sent one after the other. Buffers are not copied.

    `code` is the type of values that come as a list; buffers (`array`, `memoryview`) bring their own.
    """
    if not isinstance(values, (bytes, bytearray, memoryview, array)):
        values = array(code, values)
    view = memoryview(values)
    pad = _PAD[view.nbytes % 8]
    pieces = [_HEAD.pack(len(view), view.itemsize), view.cast("B") if view.nbytes else b""]
    if pad:
        pieces.append(pad)
    return pieces


class Reader:
    """Reads the columns of `body` in the order in which they were written."""

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._rest = memoryview(body).cast("B")

    def column(self, code: str, count: int | None = None) -> memoryview:
        """The next column as a view of type `code`; raises `FrameError` if it is another or has not
        `count` values."""
        if len(self._rest) < _HEAD.size:
            raise FrameError("a column is missing")
        n, size = _HEAD.unpack_from(self._rest)
        padded = -(-n * size // 8) * 8
        if (
            size != array(code).itemsize
            or (count is not None and n != count)
            or _HEAD.size + padded > len(self._rest)
        ):
            raise FrameError(f"a column has {n} values of {size} bytes, which is not what was expected")
        raw = self._rest[_HEAD.size : _HEAD.size + n * size]
        self._rest = self._rest[_HEAD.size + padded :]
        return raw.cast(code)

    def finish(self) -> None:
        """Raises `FrameError` if something is left."""
        if len(self._rest):
            raise FrameError(f"{len(self._rest)} bytes follow the columns")
