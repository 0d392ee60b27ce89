"""MessagePack: `pack` and `unpack` with the `msgpack` package where it is there, else in pure Python.

Owns the mapping of values: None, bool, int (-2**63 .. 2**64-1), float (64 bits), str (UTF-8), bytes-like
(bin), list and tuple (array), dict (map; any key that can be hashed). Extension types are not used.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Any

try:
    import msgpack as _native
except ImportError:
    _native = None

# Nested deeper than this is an attack or a mistake; the C package has the same kind of limit.
_DEPTH_MAX = 200


class UnpackError(ValueError):
    """Bytes that are not one MessagePack value."""


def _head(out: bytearray, n: int, fix: int, fix_max: int, codes: tuple[int, int, int]) -> None:
    """Writes the head of something with `n` members; `codes` for 8, 16 and 32 bits, 0 where there is none."""
    one, two, four = codes
    if n <= fix_max:
        out.append(fix | n)
    elif one and n <= 0xFF:
        out += bytes((one, n))
    elif n <= 0xFFFF:
        out += struct.pack(">BH", two, n)
    elif n <= 0xFFFFFFFF:
        out += struct.pack(">BI", four, n)
    else:
        raise ValueError(f"{n} members or bytes are too many for MessagePack")


def _pack_int(out: bytearray, value: int) -> None:
    if -32 <= value < 128:
        out += struct.pack(">b", value)
    elif value >= 0:
        for code, letter, bits in ((0xCC, "B", 8), (0xCD, "H", 16), (0xCE, "I", 32), (0xCF, "Q", 64)):
            if value < 1 << bits:
                out += struct.pack(">B" + letter, code, value)
                return
        raise OverflowError(f"{value} does not fit into 64 bits")
    else:
        for code, letter, bits in ((0xD0, "b", 8), (0xD1, "h", 16), (0xD2, "i", 32), (0xD3, "q", 64)):
            if value >= -1 << (bits - 1):
                out += struct.pack(">B" + letter, code, value)
                return
        raise OverflowError(f"{value} does not fit into 64 bits")


def _pack(out: bytearray, value: Any, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply for MessagePack")
    if value is None:
        out.append(0xC0)
    elif value is True:
        out.append(0xC3)
    elif value is False:
        out.append(0xC2)
    elif isinstance(value, int):
        _pack_int(out, value)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        raw = value.encode()
        _head(out, len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB))
        out += raw
    elif isinstance(value, (bytes, bytearray, memoryview)):
        n = value.nbytes if isinstance(value, memoryview) else len(value)
        _head(out, n, 0, -1, (0xC4, 0xC5, 0xC6))
        out += value
    elif isinstance(value, (list, tuple)):
        _head(out, len(value), 0x90, 15, (0, 0xDC, 0xDD))
        for one in value:
            _pack(out, one, depth + 1)
    elif isinstance(value, dict):
        _head(out, len(value), 0x80, 15, (0, 0xDE, 0xDF))
        for key, one in value.items():
            _pack(out, key, depth + 1)
            _pack(out, one, depth + 1)
    else:
        raise TypeError(f"can not serialize {type(value).__name__!r} object")


# Code -> (format of what follows, what it is). Numbers are themselves; the others are lengths.
_CODES: dict[int, tuple[str, str]] = {
    0xC4: (">B", "bin"), 0xC5: (">H", "bin"), 0xC6: (">I", "bin"),
    0xCA: (">f", "number"), 0xCB: (">d", "number"),
    0xCC: (">B", "number"), 0xCD: (">H", "number"), 0xCE: (">I", "number"), 0xCF: (">Q", "number"),
    0xD0: (">b", "number"), 0xD1: (">h", "number"), 0xD2: (">i", "number"), 0xD3: (">q", "number"),
    0xD9: (">B", "str"), 0xDA: (">H", "str"), 0xDB: (">I", "str"),
    0xDC: (">H", "array"), 0xDD: (">I", "array"), 0xDE: (">H", "map"), 0xDF: (">I", "map"),
}  # fmt: skip
_PLAIN = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    """Reads values from `data`, at `at`."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> memoryview:
        end = self.at + n
        if end > len(self.data):
            raise UnpackError("a MessagePack value ends too early")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def value(self, depth: int = 0) -> Any:
        if depth > _DEPTH_MAX:
            raise UnpackError("nested too deeply")
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code < 0xC0:
            what, n = ("map", code & 15) if code < 0x90 else ("array", code & 15)
            if code >= 0xA0:
                what, n = "str", code & 31
        elif code in _PLAIN:
            return _PLAIN[code]
        elif code in _CODES:
            form, what = _CODES[code]
            (n,) = struct.unpack(form, self.take(struct.calcsize(form)))
        else:
            raise UnpackError(f"the code {code:#x} is not used here")
        if what == "number":
            return n
        if what == "bin":
            return bytes(self.take(n))
        if what == "str":
            return str(self.take(n), "utf-8")
        if what == "array":
            return [self.value(depth + 1) for _ in range(n)]
        made = {}
        for _ in range(n):
            key = self.value(depth + 1)
            made[key] = self.value(depth + 1)
        return made


def pack_pure(value: Any) -> bytes:
    """`pack` in Python."""
    out = bytearray()
    _pack(out, value, 0)
    return bytes(out)


def unpack_pure(data: bytes | bytearray | memoryview) -> Any:
    """`unpack` in Python."""
    reader = _Reader(memoryview(data).cast("B"))
    try:
        value = reader.value()
    except (UnicodeDecodeError, TypeError) as error:
        raise UnpackError(str(error)) from None
    if reader.at != len(reader.data):
        raise UnpackError(f"{len(reader.data) - reader.at} bytes follow a MessagePack value")
    return value


class _Packers(threading.local):
    """One for each thread: its buffer is so large that to make one anew costs more than most messages."""

    def __init__(self) -> None:
        self.packer = _native.Packer(use_bin_type=True)


_packers = _Packers() if _native else None


def _pack_native(value: Any) -> bytes:
    packer = _packers.packer
    try:
        return packer.pack(value)
    except BaseException:
        packer.reset()  # Of what it has of the value.
        raise


def _unpack_native(data: bytes | bytearray | memoryview) -> Any:
    try:
        return _native.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, _native.UnpackException) as error:
        raise UnpackError(str(error) or type(error).__name__) from None


#: The bytes of a value. Raises TypeError for what MessagePack has not, OverflowError beyond 64 bits.
pack: Callable[[Any], bytes] = _pack_native if _native else pack_pure
#: The one value that bytes are; raises `UnpackError` if they are not exactly one.
unpack: Callable[[Any], Any] = _unpack_native if _native else unpack_pure
