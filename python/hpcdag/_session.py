"""A client's session: what it has told the scheduler and heard from it.

Owns the order of messages and what is told again after a cut. The thread and the connection are `_link`'s,
what tasks are in is `_book`'s, results travel by `_peers`.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _book, _calls, _frames, _tasks
from ._background import Background
from ._book import Run
from ._hearing import Answer, Hearing
from .errors import CancelledError, RefusedError

(WATCH, OUTPUT_MISSING, ASK, RELEASE, WANT, CANCEL, RETRY, LEAVE) = (3, 7, 8, 11, 12, 13, 14, 15)

#: Single calls that follow others are collected for so long, seconds, unless somebody waits for one.
_COLLECT = 0.002

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session(Hearing):
    """One client's life with a scheduler. Methods without an underscore may be called by any thread.

    `timeout` is how long to try to reach the scheduler at first, seconds. Raises NoSchedulerError,
    RefusedError.
    """

    def __init__(
        self, path: str, address: str | None = None, timeout: float = 10.0, name: str | None = None
    ) -> None:
        self.name = name
        #: where results come from (`_peers.Peers`), set by the client
        self.peers: Any = None
        #: the client, for futures
        self.client: Callable[[], Any] = lambda: None
        self._ask_number = 0
        self._dropped: deque[tuple[Run, int]] = deque()
        self._open: tuple[Run, _calls.RunWriter] | None = None
        self._flushed = 0.0
        self._on_resume: list[Callable[[], None]] = []
        self._background = Background()
        super().__init__(path, address, timeout)
        _sessions.add(self)
        self._thread.start()

    def _say_all_again(self) -> None:
        for run in self.book.runs.values():
            if run.id is not None:
                if run.mine and run.live:
                    self._queue([_frames.pack_head(WATCH, [run.uuid, ""])])
                elif run.live:
                    tasks = [task for task, refs in enumerate(run.refs) if refs]
                    self._queue(_calls.tasks_frame(WANT, run.uuid, tasks))
            elif not run.mine:
                tasks = [task for task, refs in enumerate(run.refs) if refs]
                self._queue(_calls.tasks_frame(WANT, run.uuid, tasks))
            else:
                for frame in run.frames:
                    self._queue(frame)
                if run.complete:
                    # It may have been accepted, and done, and only the news was lost.
                    self._queue([_frames.pack_head(WATCH, [run.uuid, ""])])
        for frame, _ in self._asked.values():
            self._queue(frame)
        for resume in self._on_resume:
            resume()

    def _tidy(self) -> None:
        """Sends the open run, and releases what no future refers to any more."""
        if self._open is None and not self._dropped:
            return
        with self.lock:
            self._flush_open()
            self.let_go()

    def let_go(self) -> None:
        """Releases what no future refers to any more: nobody finds it by its key from now on."""
        dropped = self._dropped
        if dropped:
            with self.lock:
                taken = [dropped.popleft() for _ in range(len(dropped))]
                if self._open is not None:
                    # The scheduler does not know that run yet.
                    dropped.extend(drop for drop in taken if drop[0] is self._open[0])
                    taken = [drop for drop in taken if drop[0] is not self._open[0]]
                for (run, later), tasks in self.book.drop(taken).items():
                    self._say(_calls.tasks_frame(RELEASE, run, tasks, later))

    def _collect(self) -> float:
        if self._open is not None and (left := self._flushed + _COLLECT - time.monotonic()) > 0:
            return left
        return super()._collect()

    # Runs

    def open_run(self, name: str, environment: bytes) -> tuple[Run, _calls.RunWriter]:
        """A new run, whose pieces are sent as the writer flushes them; `writer.flush(True)` ends it."""
        with self.lock:
            self.check()
            self._flush_open()
            return self._new_run(name, environment)

    def _new_run(self, name: str, environment: bytes) -> tuple[Run, _calls.RunWriter]:
        run = Run(uuid.uuid4().bytes, name, True)
        self.book.runs[run.uuid] = run

        def send(frame: list, last: bool) -> None:
            self.send_piece(run, frame, last)

        return run, _calls.RunWriter(run.uuid, name, environment, send)

    def submit_graph(self, graph: Any, environment: bytes) -> Run:
        """Sends a run (`_graph.Graph`) while it is being encoded, and takes a reference to each of its
        results.

        Raises what encoding raises; nothing of the run is done then.
        """
        with self.lock:
            self.check()
            self._flush_open()
            run = self.book.runs[graph.run] = Run(graph.run, graph.name, True)
        try:
            for piece in graph.pieces():
                self.send_piece(run, _calls.piece_frame(graph, piece, environment), piece.last, graph)
        except BaseException:
            with self.lock:
                if run.frames:
                    self._say(_calls.abandoned_frame(run.uuid))
                run.reason = "it could not be encoded"
                self.book.runs.pop(run.uuid, None)
            raise
        finally:
            graph.close()
        return run

    def send_piece(self, run: Run, frame: list, last: bool, graph: Any = None) -> None:
        """Sends a piece of a run, and again after a cut until the run is accepted."""
        with self.lock:
            self.check()
            if last and graph is not None:
                results = graph.results
                if isinstance(results, range):
                    run.take_new(results.start, len(results))
                else:
                    for index in results:
                        run.take(index)
                run.keep += graph.keep
                run.brought += graph.brought
            run.frames.append(frame)
            run.complete = last
            if self.connected:
                self._queue(frame)
        self.wake()

    def shared_run(self, environment: Callable[[], bytes]) -> tuple[Run, _calls.RunWriter]:
        """The run that collects single calls until the thread sends it. The lock must be held meanwhile."""
        if self._open is None:
            self.check()
            self._open = self._new_run("calls", environment())
            self.wake()
        return self._open

    def _flush_open(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened[1].flush(True)
            self._flushed = time.monotonic()

    def flush(self) -> None:
        """Sends what has been submitted so far."""
        with self.lock:
            self._flush_open()

    def want(self, run_uuid: bytes, index: int, name: str = "", key: Any = None) -> Run:
        """Takes a reference to a task, with this key, of any run that the scheduler knows."""
        with self.lock:
            self.check()
            run = self.book.runs.get(run_uuid)
            if run is None:
                run = self.book.runs[run_uuid] = Run(run_uuid, name, False)
            known = index < len(run.refs) and run.refs[index]
            run.take(index)
            if key is not None:
                self.book.name(run, index, key)
            if not known:
                self._flush_open()
                self.book.pending(run, [index])
                self._say(_calls.tasks_frame(WANT, run_uuid, [index]))
        self.wake()
        return run

    def take(self, run: Run, index: int) -> None:
        """One more reference to a task that has one."""
        with self.lock:
            run.take(index)

    def drop(self, run: Run, index: int) -> None:
        """One reference less. Takes no lock: destructors may run anywhere."""
        self._dropped.append((run, index))
        self.wake()

    def on_tasks(self, tag: int, run: Run, tasks: Iterable[int], reason: str = "") -> None:
        """CancelCalls or RetryCalls."""
        tasks = list(tasks)
        if tag == RETRY:
            with self.lock:
                again = self.book.failed_like(run, tasks)
                for other, some in again:
                    self.book.pending(other, some)
        else:
            again = [(run, tasks)]
        for other, some in again:
            self.say(_calls.tasks_frame(tag, other.uuid, some, reason=reason))

    def give_up(self, reason: str) -> None:
        """Cancels and lets go of everything, whatever refers to it."""
        with self.lock:
            self.check()
            self._flush_open()
            calls: list = []
            for run in list(self.book.runs.values()):
                tasks = [i for i, refs in enumerate(run.refs) if refs]
                if run.mine:
                    self._say(_calls.tasks_frame(CANCEL, run.uuid, tasks, reason=reason))
                self._say(_calls.tasks_frame(RELEASE, run.uuid, tasks))
                run.reason = reason
                self._ended_tasks(run, self.book.given_up(run, tasks), calls)
            self.changed.notify_all()
        self.wake()
        for call, run, index in calls:
            call(run, index)

    def missing(self, run: Run, index: int, holder: int) -> None:
        """A holder did not have a result: waits for news of it."""
        with self.lock:
            if run.state[index] == _book.DONE and run.holder[index] == holder:
                self.book.pending(run, [index])
            if run.id is None:
                return
        self.say([_frames.pack_head(OUTPUT_MISSING, [run.task(index), holder])])

    # Waiting

    def wait(
        self, tasks: Sequence[tuple[Run, int]], timeout: float | None = None, stop_on_failure: bool = False
    ) -> bool:
        """Waits until all tasks have ended one way or the other, or one has failed if `stop_on_failure`.

        False if that took longer than `timeout` seconds.

        Raises what ended the session.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            self._waiters += 1
            try:
                at = 0
                while True:
                    while at < len(tasks) and (state := tasks[at][0].state[tasks[at][1]]):
                        if stop_on_failure and state > _book.DONE:
                            return True
                        at += 1
                    if at == len(tasks):
                        return True
                    self.check()
                    self._flush_open()
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    with _tasks.away():
                        self.changed.wait(left)
            finally:
                self._waiters -= 1

    def accepted(self, run: Run, timeout: float | None = None) -> int:
        """The scheduler's number for a run, once it has one. Raises TimeoutError, RefusedError."""
        until = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            self._waiters += 1
            try:
                while run.id is None:
                    self.check()
                    if run.reason:
                        raise RefusedError(f"the scheduler refuses the run {run.name}: {run.reason}")
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"the scheduler has not accepted the run {run.name} in time")
                    self.changed.wait(left)
                return run.id
            finally:
                self._waiters -= 1

    def when_ended(self, run: Run, index: int, call: Callable[[Run, int], None]) -> None:
        """Calls `call(run, index)` once the task has ended: at once if it has, else in the session's thread,
        so it must be quick and must not wait."""
        with self.lock:
            if not run.state[index] and self.ended is None:
                run.waiting.setdefault(index, []).append(call)
                return
        call(run, index)

    def in_background(self, function: Callable[..., Any], *args: Any) -> None:
        """Calls a user's function in a thread that is there for that."""
        self._background.call(function, *args)

    # Questions

    def ask(self, question: Any, timeout: float | None = 30.0) -> Any:
        """The answer to a question (see docs/protocol.md), as decoded JSON. Raises TimeoutError,
        RefusedError."""
        answer = Answer()
        with self.lock:
            self.check()
            self._flush_open()
            self._ask_number = number = (self._ask_number + 1) & 0xFFFFFFFF
            frame = [_frames.pack_head(ASK, [number, question])]
            self._asked[number] = (frame, answer)
            if self.connected:
                self._queue(frame)
        self.wake()
        try:
            result = answer.get(timeout)
        finally:
            with self.lock:
                self._asked.pop(number, None)
        if "Ok" in result:
            return json.loads(result["Ok"])
        kind, words = result["Err"]
        if self.ended is not None:
            raise self.ended
        raise TimeoutError(words) if kind == "timeout" else RefusedError(words)

    def handle(self, tag: int, handler: Callable[[list, memoryview], None]) -> None:
        """`handler(control, body)` hears messages with this tag, in the session's thread."""
        self._handlers[tag] = handler

    def on_resume(self, call: Callable[[], None]) -> None:
        """`call` is called, with the lock held, when the connection stands again; `queue` sends from
        there."""
        self._on_resume.append(call)

    def queue(self, frame: Sequence[Any]) -> None:
        """Sends a message once, without repetition after a cut (for callers with `on_resume`)."""
        with self.lock:
            self.check()
            self._flush_open()
            if self.connected:
                self._queue(frame)
        self.wake()

    # The end

    def close(self, timeout: float = 2.0) -> None:
        """Says good-bye if that is possible within `timeout` seconds; what nobody else wants is cancelled."""
        if self._forked or not self._thread.is_alive():
            self._closing = True
            return
        with self.lock:
            if not self._closing:
                if self.ended is None:
                    self._flush_open()
                    for run in list(self.book.runs.values()):
                        if run.later:
                            self._say(_calls.tasks_frame(RELEASE, run.uuid, sorted(run.later), True))
                    if self.connected:
                        self._queue([_frames.pack_head(LEAVE, [])])
                self._last_words_by = time.monotonic() + timeout
                self._end(CancelledError("the client was closed"))
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout + 1)
        self._background.end()


def _after_fork_in_child() -> None:
    for session in list(_sessions):
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
