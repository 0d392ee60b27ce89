"""A thread that calls users' functions, so that what they do holds nobody up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from ._link import log


class Background:
    """Calls functions in their order, in a thread that begins with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue | None = None

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """`function(*args)` is called soon; what it raises is logged."""
        with self._lock:
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                thread = threading.Thread(
                    target=_call_all, args=(self._calls,), name="hpcdag-callbacks", daemon=True
                )
                thread.start()
        self._calls.put((function, args))

    def end(self) -> None:
        """The thread ends when all has been called."""
        if self._calls is not None:
            self._calls.put(None)


def _call_all(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        try:
            call[0](*call[1])
        except Exception:
            log.exception("a callback of a future failed")
