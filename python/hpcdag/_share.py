"""Requests about what sessions share on the scheduler: locks, events, variables, queues, published results.

Owns numbers of requests, what waits for an answer, what is sent again after a cut, and the connection that
processes without a client have for this alone. What the things are for users is in `locks`; the messages are
described in docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from . import _discovery, _frames, _tasks
from ._link import Link
from .errors import HpcdagError, RefusedError

_SHARE, _SHARED = 16, 14

#: Larger values do not fit on the scheduler, bytes.
VALUE_BYTES_MAX = 64 << 10

_CONNECT_TIMEOUT = 30.0

#: Nothing is collected before it is sent, seconds.
_FOREVER = 3600.0

#: What may wait, and is withdrawn when its caller is interrupted.
_WAITING = ("Acquire", "Wait", "Get", "Put")

#: What tasks may bring that others wait for.
_BROUGHT_BY_TASKS = ("Event", "Variable", "Queue")

#: What came of a request: its word, what goes with it, the value.
Answer = tuple[str, Any, bytes]


class _Request:
    """One that has no answer yet, or whose answer is being taken."""

    def __init__(self, fields: list[Any], body: bytes, abandoned: bool) -> None:
        self.fields = fields
        self.body = body
        self.abandoned = abandoned
        self.ready = threading.Event()
        self.answer: Answer | None = None


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
        self._heard: list[int] = []
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
        """Asks and waits for the answer: its word and what goes with it; for a value what `take` makes of it.

        `timeout` is for the scheduler, seconds. Raises RefusedError with the scheduler's words.
        """
        milliseconds = None if timeout is None else max(0, round(timeout * 1000))
        known = [list(task) for task in tasks]
        request = self._send([kind, verb, name, owner, limit, milliseconds, known], value, False)
        try:
            # Looks from time to time, for a session may end without a word. Who waits for what other tasks
            # bring gives them its slot; not who waits for a lock: of those there would be ever more.
            with _tasks.away() if kind in _BROUGHT_BY_TASKS and timeout != 0 else contextlib.nullcontext():
                while not request.ready.wait(1.0):
                    self._check()
            assert request.answer is not None
            word, more, body = request.answer
            if word == "Refused":
                raise RefusedError(str(more))
            result = (word, take(body) if take is not None and word == "Value" else more)
        except BaseException:
            self._give_up(request)
            raise
        with self._lock:
            self._open.pop(request.fields[0], None)
            self._heard.append(request.fields[0])
        if word == "Value" and more:
            # The scheduler keeps these results for the answer's sake until it is heard.
            self.tell("Session", "Heard")
        return result

    def tell(self, kind: str, verb: str, name: str = "", owner: str = "", limit: int | None = None) -> None:
        """Asks without waiting; the answer does not matter."""
        self._send([kind, verb, name, owner, limit, None, []], b"", True)

    def _send(self, fields: list[Any], value: bytes, abandoned: bool) -> _Request:
        with self._lock:
            self._check()
            self._last += 1
            heard, self._heard = self._heard, []
            request = _Request([self._last, heard, *fields], value, abandoned)
            self._open[self._last] = request
            self._queue(_frame(request))
        return request

    def _give_up(self, request: _Request) -> None:
        """The caller was interrupted, or has no use for the answer."""
        with self._lock, contextlib.suppress(HpcdagError):
            request.abandoned = True
            if request.answer is not None:
                self._undo(request)
            elif request.fields[3] in _WAITING:
                self.tell("Session", "Withdraw", limit=request.fields[0])

    def _undo(self, request: _Request) -> None:
        """What nobody waits for any more has an answer."""
        number, _, kind, verb, name, owner = request.fields[:6]
        self._open.pop(number, None)
        self._heard.append(number)
        assert request.answer is not None
        if verb == "Acquire" and request.answer[0] == "Done":
            self.tell(kind, "Release", name, owner)

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
                self._undo(request)

    def resume(self) -> None:
        """The connection stands again: all that has no answer is said again."""
        with self._lock:
            waiting = [request for request in self._open.values() if request.answer is None]
            if self._bound:
                self.tell("Session", "Bind")
            for request in waiting:
                self._queue(_frame(request))


def _frame(request: _Request) -> list:
    head = _frames.pack_head(_SHARE, request.fields, len(request.body))
    return [head, request.body] if request.body else [head]


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

    def _collect(self) -> float:
        return _FOREVER

    def _end(self, error: Exception) -> None:
        with self.lock:
            self.ended = self.ended or error
            self._closing = True


_lock = threading.Lock()
_own: dict[str, _Own] = {}


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
        found = getattr(session, "_shares", None)
        if found is None:
            found = session._shares = Board(session.lock, session.queue, session.check, bound=False)
            session.handle(_SHARED, found.hear)
            session.on_resume(found.resume)
        return found


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for own in _own.values():
        own._after_fork()
    _own.clear()


os.register_at_fork(after_in_child=_after_fork)
