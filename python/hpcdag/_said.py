"""How much tasks print: of several calls that came together, the worker is told whose is how much.

Owns the streams of an executor, which count what goes through them. What is printed past them, by libraries
in other languages or by processes, is not counted and belongs to whoever is told of next.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any


class Counter:
    """Bytes so far."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


#: Of the whole process, or of its main thread if it runs tasks in several.
counter = Counter()


class _Counted(io.FileIO):
    counter: Counter

    def write(self, data: Any, /) -> Any:
        written = super().write(data)
        self.counter.n += written or 0
        return written


def stream(fd: int, counted: Counter, encoding: str, errors: str | None) -> io.TextIOWrapper:
    """A stream to a descriptor, which stays the caller's."""
    raw = _Counted(fd, "wb", closefd=False)
    raw.counter = counted
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=True)


def install() -> None:
    """Makes the streams of this process count. Those who have the old ones write as before."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        with contextlib.suppress(Exception):
            old.flush()
            new = stream(fd, counter, old.encoding, old.errors)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
