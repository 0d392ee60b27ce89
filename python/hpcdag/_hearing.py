"""What a session hears from the scheduler, and what follows for its tasks.

Owns the messages' meaning; the book is `_book`'s, the connection `_link`'s.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import _columns
from ._book import Book, Run
from ._link import Link
from .errors import NoSchedulerError, RefusedError


class Hearing(Link):
    """The part of `Session` that listens."""

    def __init__(self, path: str, address: str | None, timeout: float) -> None:
        self.book = Book()
        #: (run, tasks and values): brings data to workers, set by `_peers`
        self.bring: Callable[[Run, list[tuple[int, Any]]], None] | None = None
        self._asked: dict[int, tuple[list, Answer]] = {}
        self._handlers: dict[int, Callable[[list, memoryview], None]] = {}
        self._waiters = 0
        super().__init__(path, address, timeout)

    def _hear(self, tag: int, control: list, body: memoryview) -> None:
        if handler := self._handlers.get(tag):
            return handler(control, body)
        if tag not in _HEARD:
            return None  # Of graphs that this client has not submitted.
        calls: list[tuple[Callable, Run, int]] = []
        with self.lock:
            _HEARD[tag](self, control, body, calls)
            if self._waiters:
                self.changed.notify_all()
        for call, run, index in calls:
            call(run, index)
        return None

    def _hear_accepted(self, control: list, _body: memoryview, _calls: list) -> None:
        run = self.book.runs.get(control[0])
        if run is not None:
            run.id, run.first = control[1], control[3] if len(control) > 3 else 0
            run.frames.clear()
            run.keep.clear()
            if run.brought:
                brought, run.brought = run.brought, []
                self._bring(run, brought)
            self.book.forget_if_idle(run)

    def _hear_rejected(self, control: list, _body: memoryview, calls: list) -> None:
        run = self.book.runs.get(control[0])
        if run is not None:
            self._ended_tasks(run, self.book.lost(run, control[1]), calls)
            self.book.forget_if_idle(run)

    def _bring(self, run: Run, brought: list[tuple[int, Any]]) -> None:
        if self.bring is not None:
            threading.Thread(target=self.bring, args=(run, brought), name="hpcdag-bring", daemon=True).start()

    def _hear_answer(self, control: list, _body: memoryview, _calls: list) -> None:
        number, result = control
        found = self._asked.pop(number, None)
        if found is not None:
            found[1].set(result)

    def _hear_stopping(self, control: list, _body: memoryview, _calls: list) -> None:
        self._end(NoSchedulerError(errno.ESHUTDOWN, f"the cluster has been stopped: {control[0]}"))

    def _hear_refused(self, control: list, _body: memoryview, _calls: list) -> None:
        raise RefusedError(f"the scheduler refuses: {control[0]}")

    def _hear_pong(self, _control: list, _body: memoryview, _calls: list) -> None:
        if self._pinged:
            for _ in range(self._pinged.popleft()):
                self._unconfirmed.popleft()

    def _hear_done(self, control: list, body: memoryview, calls: list) -> None:
        run = self.book.runs.get(control[0])
        self.book.peers.update((worker, address) for worker, address in control[1])
        if run is None:
            return
        reader = _columns.Reader(body)
        tasks = reader.column(_columns.U32)
        nbytes = reader.column(_columns.U64, len(tasks))
        holders = reader.column(_columns.U32, len(tasks))
        self._ended_tasks(run, self.book.done(run, tasks, nbytes, holders), calls)

    def _hear_failed(self, control: list, _body: memoryview, calls: list) -> None:
        run = self.book.runs.get(control[0])
        if run is not None:
            self._ended_tasks(run, self.book.failed(run, control[1]), calls)

    def _hear_lost(self, control: list, body: memoryview, _calls: list) -> None:
        run = self.book.runs.get(control[0])
        if run is not None:
            self.book.pending(run, _columns.Reader(body).column(_columns.U32))

    @staticmethod
    def _ended_tasks(run: Run, tasks: Iterable[int], calls: list) -> None:
        for task in tasks:
            calls += [(call, run, task) for call in run.waiting.pop(task, ())]

    def _end(self, error: Exception) -> None:
        """Nothing can be had any more."""
        calls: list[tuple[Callable, Run, int]] = []
        with self.lock:
            if self.ended is None:
                self.ended = error
            self._closing = True
            for run in self.book.runs.values():
                for task in list(run.waiting):
                    self._ended_tasks(run, [task], calls)
            for _, answer in self._asked.values():
                answer.set({"Err": ["internal", str(error)]})
            self._asked.clear()
            self.changed.notify_all()
        for call, run, index in calls:
            call(run, index)


class Answer:
    """The place for the answer to a question."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._value: dict | None = None

    def set(self, value: dict) -> None:
        """It has come: `{"Ok": text}` or `{"Err": [kind, words]}`."""
        self._value = value
        self._event.set()

    def get(self, timeout: float | None) -> dict:
        """Waits for it. Raises TimeoutError."""
        if not self._event.wait(timeout):
            raise TimeoutError("the scheduler has not answered in time")
        return self._value


_HEARD = {
    2: Hearing._hear_refused,
    3: Hearing._hear_accepted,
    4: Hearing._hear_rejected,
    8: Hearing._hear_answer,
    9: Hearing._hear_stopping,
    10: Hearing._hear_pong,
    11: Hearing._hear_done,
    12: Hearing._hear_failed,
    13: Hearing._hear_lost,
}
