"""What an executor has been sent: calls, and the functions and batches that they refer to.

Owns these until they are dropped. Does not read the socket, and runs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

Parts = list[tuple[str, Any]]


class Call(NamedTuple):
    """A CALL's fields, and the inputs that came before it."""

    task: int
    key: str
    run: bytes
    batch: bytes
    index: int
    attempt: list[int]
    nthreads: int
    max_output: int | None
    time_limit_ms: int | None
    inputs: list[Parts]
    together: bool = False  #: came with others


class Loaded:
    """Functions and batches that the worker has sent, decoded when they are used first."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, bytes], memoryview] = {}
        self._made: dict[tuple[str, bytes], Any] = {}

    def load(self, kind: str, ident: bytes, data: memoryview) -> None:
        """Keeps what the worker has sent."""
        self._bytes[kind, ident] = data

    def drop(self, idents: list[bytes]) -> None:
        """These are not needed any more."""
        for ident in idents:
            for kind in ("function", "batch"):
                self._bytes.pop((kind, ident), None)
                self._made.pop((kind, ident), None)

    def _get(self, kind: str, ident: bytes, make: Callable[[memoryview], Any]) -> Any:
        made = self._made.get((kind, ident))
        if made is None:
            data = self._bytes.get((kind, ident))
            if data is None:
                raise LookupError(f"this executor was not sent the {kind} {ident.hex()}")
            made = self._made[kind, ident] = make(data)
            del self._bytes[kind, ident]
        return made

    def function(self, ident: bytes) -> Any:
        """The function of an id; raises what loading it raises."""
        from . import _decode

        return self._get("function", bytes(ident), _decode.load_function)

    def batch(self, ident: bytes) -> Any:
        """The batch of an id; raises what loading it raises."""
        made = self._made.get(("batch", ident))
        if made is None:
            from . import _decode

            made = self._get("batch", ident, lambda data: _decode.Batch(data, self.function))
        return made


def open_unchanged(path: str, size: int, mtime_ns: int) -> int:
    """A descriptor of a file that is as it was when the worker saw it; raises OSError otherwise."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    found = os.fstat(fd)
    if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
        os.close(fd)
        raise OSError(f"{path} has changed since it was made")
    return fd
