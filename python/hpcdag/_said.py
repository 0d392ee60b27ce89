"""How much tasks print: of several calls that came together, the worker is told whose is how much.

Owns the streams of an executor, which count what goes through them. What is printed past them, by libraries
in other languages or by processes, is not counted and belongs to whoever is told of next.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

#: Bytes so far.
count = 0


class _Counted(io.FileIO):
    def write(self, data: Any, /) -> Any:
        global count
        written = super().write(data)
        count += written or 0
        return written


def install() -> None:
    """Makes the streams of this process count. Those who have the old ones write as before."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        with contextlib.suppress(Exception):
            old.flush()
            raw = io.BufferedWriter(_Counted(fd, "wb", closefd=False))
            new = io.TextIOWrapper(raw, encoding=old.encoding, errors=old.errors, line_buffering=True)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
