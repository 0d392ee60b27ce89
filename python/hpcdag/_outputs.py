"""What an executor hands to its worker, and gives back to the system.

Owns where the parts of a result go: small ones into the frame, larger ones into memory files.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from . import _channel, _result

# From this version on workers lend memory files: fresh pages cost more than computing what goes there.
LENT_VERSION = 3
# Smaller ones are made here.
LENT_BYTES_MIN = 1 << 20


def load(
    parts: Iterable[tuple[str, Any]], room: Callable[[int], int | None]
) -> tuple[list[Any], list[Any], list[int]]:
    """Where parts are: their places, the pieces of the frame's body, and descriptors, which the caller owns.

    `room` lends a memory file for so many bytes, or has none. Raises OSError when there is no memory.
    """
    places: list[Any] = []
    pieces: list[Any] = []
    fds: list[int] = []
    try:
        for name, data in parts:
            nbytes = memoryview(data).nbytes
            if nbytes > _result.INLINE_BYTES_MAX:
                fds.append(_channel.memory_file(data, room(nbytes)))
                places.append([name, {"Descriptor": nbytes}])
            else:
                pieces.append(data)
                places.append([name, {"Inline": nbytes}])
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return places, pieces, fds


def trim() -> None:
    """Gives free memory back to the system."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # Another C library than glibc.
    pool = sys.modules.get("pyarrow")
    if pool is not None:
        pool.default_memory_pool().release_unused()
