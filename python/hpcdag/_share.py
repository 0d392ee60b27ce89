"""Requests about what sessions share on the scheduler: locks, events, variables, queues, published results.

Owns numbers of requests, what waits for an answer, what is sent again after a cut, and the connection that
processes without a client have for this alone. What the things are for users is in `locks`; the messages are
described in docs/protocol.md.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from . import _discovery, _frames
from ._link import Link
from .errors import HpcdagError, RefusedError

_SHARE, _SHARED = 16, 14

#: Larger values do not fit on the scheduler, bytes.
VALUE_BYTES_MAX = 64 << 10

_CONNECT_TIMEOUT = 30.0

#: What came of a request: its word, what goes with it, the value.
Answer = tuple[str, Any, bytes]


class _Request:
    """One that has no answer yet, or whose answer is being taken."""

    def __init__(self, fields: list[Any], body: bytes) -> None:
        self.fields = fields
        self.body = body
        self.ready = threading.Event()
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.abandoned = False


class Board:
    """The requests of one session. `queue(frame)` sends a message once; `check()` raises if that is over."""

    def __init__(
        self, lock: Any, queue: Callable[[Sequence[Any]], None], check: Callable[[], None], *, bound: bool
    ) -> None:
        self._lock = lock
        self._queue = queue
        self._check = check
        self._bound = bound
        self._last = 0
        self._open: dict[int, _Request] = {}
        if bound:
            self.tell("Session", "Bind")

    def call(
        self,
        kind: str,
        verb: str,
        name: str = "",
        owner: str = "",
        *,
        limit: int | None = None,
        timeout: float | None = None,
        value: bytes = b"",
        tasks: Sequence[tuple[bytes, int]] = (),
        take: Callable[[bytes], Any] | None = None,
    ) -> Any:
        """Asks and waits for the answer: its word and what goes with it; for a value, what `take` makes of it.

        `timeout` is for the scheduler, seconds. Raises RefusedError with the scheduler's words.
        """
        milliseconds = None if timeout is None else max(0, round(timeout * 1000))
        request = self._send(kind, verb, name, owner, limit, milliseconds, value, tasks)
        try:
            request.ready.wait()
            if request.error is not None:
                raise request.error
            assert request.answer is not None
            word, more, body = request.answer
            if word == "Refused":
                raise RefusedError(str(more))
            return (word, take(body) if take is not None and word == "Value" else more)
        finally:
            self._taken(request)

    def tell(self, kind: str, verb: str, name: str = "", owner: str = "", limit: int | None = None) -> None:
        """Asks without waiting; the answer does not matter."""
        request = self._send(kind, verb, name, owner, limit, None, b"", ())
        request.abandoned = True

    def _send(
        self,
        kind: str,
        verb: str,
        name: str,
        owner: str,
        limit: int | None,
        milliseconds: int | None,
        value: bytes,
        tasks: Sequence[tuple[bytes, int]],
    ) -> _Request:
        with self._lock:
            self._check()
            self._last += 1
            number = self._last
            known = [list(task) for task in tasks]
            fields = [number, 0, kind, verb, name, owner, limit, milliseconds, known]
            request = self._open[number] = _Request(fields, value)
            self._queue(self._frame(request))
        return request

    def _frame(self, request: _Request) -> list:
        # What a request waits for is not heard; nor is an answer as long as somebody is taking it.
        request.fields[1] = min(self._open) - 1
        head = _frames.pack_head(_SHARE, request.fields, len(request.body))
        return [head, request.body] if request.body else [head]

    def _taken(self, request: _Request) -> None:
        """Nobody waits any more: the answer was taken, or the caller was interrupted."""
        number, _, kind, verb, name, owner = request.fields[:6]
        with self._lock:
            if request.answer is None and request.error is None:
                request.abandoned = True
                if verb in ("Acquire", "Wait", "Get", "Put"):
                    self.tell("Session", "Withdraw", limit=number)
                return
            self._open.pop(number, None)
            holds_results = request.answer is not None and request.answer[0] == "Value" and request.answer[1]
            interrupted = sys.exc_info()[0] is not None and request.error is None
        if interrupted and verb == "Acquire" and request.answer is not None and request.answer[0] == "Done":
            self.tell(kind, "Release", name, owner)
        if holds_results:
            # The scheduler keeps them for the answer's sake as long as that is not heard.
            self.tell("Session", "Heard")

    # Called by the thread of the connection

    def hear(self, control: list, body: memoryview) -> None:
        """An answer has come."""
        number, outcome = control
        word, more = (outcome, None) if isinstance(outcome, str) else next(iter(outcome.items()))
        with self._lock:
            request = self._open.get(number)
            if request is None or request.answer is not None:
                return
            request.answer = (word, more, bytes(body))
            request.ready.set()
            if request.abandoned:
                self._open.pop(number)
                _, _, kind, verb, name, owner = request.fields[:6]
                if verb == "Acquire" and word == "Done":
                    self.tell(kind, "Release", name, owner)

    def resume(self) -> None:
        """The connection stands again: all that has no answer is said again."""
        with self._lock:
            waiting = [request for request in self._open.values() if request.answer is None]
            if self._bound:
                self.tell("Session", "Bind")
            for request in waiting:
                self._queue(self._frame(request))

    def end(self, error: Exception) -> None:
        """There will be no answers any more."""
        with self._lock:
            waiting, self._open = list(self._open.values()), {}
            for request in waiting:
                if request.answer is None:
                    request.error = error
                    request.ready.set()


class _Own(Link):
    """A connection for this alone. What is held over it is let go when it ends, so with the process."""

    def __init__(self, path: str) -> None:
        super().__init__(path, None, _CONNECT_TIMEOUT)
        self.board = Board(self.lock, self._send, self.check, bound=True)
        self._thread.start()

    def _send(self, frame: Sequence[Any]) -> None:
        if self.connected:
            self._queue(frame)
        self.wake()

    def _hear(self, tag: int, control: list, body: memoryview) -> None:
        if tag == _SHARED:
            self.board.hear(control, body)
        elif tag == 9:
            self._end(HpcdagError(f"the cluster has been stopped: {control[0]}"))
        elif tag == 10 and self._pinged:
            self._pinged.popleft()

    def _say_all_again(self) -> None:
        self.board.resume()

    def _tidy(self) -> None:
        pass

    def _end(self, error: Exception) -> None:
        with self.lock:
            self.ended = self.ended or error
            self._closing = True
        self.board.end(error)


_lock = threading.Lock()
_own: dict[str, _Own] = {}
_of_sessions: weakref.WeakKeyDictionary[Any, Board] = weakref.WeakKeyDictionary()


def board(client: Any = None) -> Board:
    """Where to ask: over the connection of `client`, or of the process's default client; in tasks, and in
    processes without a client, over one of its own to the cluster that `HPCDAG_SCHEDULER_FILE` names.

    Raises NoSchedulerError if there is none.
    """
    if client is None and not os.environ.get("HPCDAG_EXECUTOR"):
        client = _default_client()
    if client is not None:
        return _of_session(client._session)
    path = os.path.abspath(_discovery.find())
    with _lock:
        own = _own.get(path)
        if own is None or own.ended is not None:
            own = _own[path] = _Own(path)
        return own.board


def _default_client() -> Any:
    module = sys.modules.get("hpcdag.client")
    if module is None:
        return None
    try:
        return module.default_client()
    except (ValueError, HpcdagError):
        return None


def _of_session(session: Any) -> Board:
    with _lock:
        found = _of_sessions.get(session)
        if found is None:
            found = Board(session.lock, session.queue, session.check, bound=False)
            session.handle(_SHARED, found.hear)
            session.on_resume(found.resume)
            _of_sessions[session] = found
        return found


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for own in _own.values():
        own._after_fork()
    _own.clear()


os.register_at_fork(after_in_child=_after_fork)
