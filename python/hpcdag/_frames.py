"""Frames: the header that every connection of hpcdag uses, and the control part behind it.

Owns bytes, and no sockets. All numbers are little-endian: u32 bytes of control part and body, u16 tag, u16
flags (on sockets of executors: the number of descriptors), u32 bytes of the control part.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from . import _msgpack

HEADER = struct.Struct("<IHHI")
HEADER_BYTES = HEADER.size

# Control part and body of one frame at most.
FRAME_BYTES_MAX = 64 << 20


class FrameError(ValueError):
    """Bytes that are not a frame, or a frame that would be too large."""


class Header(NamedTuple):
    """What comes before a frame's control part."""

    total: int  #: bytes of control part and body
    tag: int
    flags: int
    control: int  #: bytes of the control part


def pack_head(tag: int, control: Any, body_bytes: int = 0, flags: int = 0) -> bytes:
    """Header and control part of a frame with `body_bytes` of body, which the caller sends behind them.

    `control` is what `_msgpack.pack` takes: a list or tuple of the message's fields.
    """
    packed = _msgpack.pack(control)
    total = len(packed) + body_bytes
    if total > FRAME_BYTES_MAX:
        raise FrameError(f"message {tag} is too large: {total} bytes")
    return HEADER.pack(total, tag, flags, len(packed)) + packed


def unpack_header(data: bytes | bytearray | memoryview, limit: int = FRAME_BYTES_MAX) -> Header:
    """The header at the beginning of `data`; raises `FrameError` if it promises what can't be."""
    header = Header(*HEADER.unpack_from(data))
    if header.total > limit or header.control > header.total:
        raise FrameError(f"message {header.tag}: {header.control} of {header.total} bytes, at most {limit}")
    return header


def unpack_control(data: bytes | bytearray | memoryview) -> Any:
    """The fields of a control part."""
    try:
        return _msgpack.unpack(data)
    except _msgpack.UnpackError as error:
        raise FrameError(f"a control part is wrong: {error}") from None
