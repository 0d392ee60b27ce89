"""A client's session: one thread that owns the connection to the scheduler, and what has to be told again when
the connection was cut.

Owns the thread, the lock and the order of messages. What tasks mean is `_book`'s, results travel by `_peers`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import random
import selectors
import socket
import ssl
import threading
import time
import uuid
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _book, _calls, _columns, _frames, _wire
from ._book import Book, Run
from .errors import CancelledError, HpcdagError, NoSchedulerError, RefusedError

log = logging.getLogger("hpcdag")

(OUTPUT_MISSING, ASK, PING, RELEASE, WANT, CANCEL, RETRY, LEAVE, WATCH) = (7, 8, 9, 11, 12, 13, 14, 15, 3)

#: How often to show that the client is there, and how soon to have the scheduler confirm what it was told, seconds.
PING_INTERVAL = 15.0
CONFIRM_INTERVAL = 2.0

#: A connection on which a ping is not answered for so long is given up, seconds.
SILENCE = 60.0

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """One client's life with a scheduler. All methods may be called by any thread.

    `timeout` is how long to try to reach the scheduler at first, seconds. Raises NoSchedulerError, RefusedError.
    """

    def __init__(self, path: str, address: str | None = None, timeout: float = 10.0, name: str | None = None) -> None:
        self.path = path
        self.address = address
        self.name = name
        self.id = uuid.uuid4().bytes
        self.lock = threading.RLock()
        #: notified when tasks have changed, and when the session ends
        self.changed = threading.Condition(self.lock)
        self.book = Book()
        self.file, self.context, self._sock, self.epoch = None, None, None, 0
        self.connected = False
        #: why nothing can be had any more
        self.ended: Exception | None = None
        self._closing = False
        self._forked = False
        self._last_words_by = 0.0
        self._out: deque[memoryview] = deque()
        self._unconfirmed: deque[list] = deque()
        self._pinged: deque[int] = deque()
        self._unpinged = 0
        self._asked: dict[int, tuple[list, _Answer]] = {}
        self._ask_number = 0
        self._dropped: deque[tuple[Run, int]] = deque()
        self._open: tuple[Run, _calls.RunWriter] | None = None
        self._handlers: dict[int, Callable[[list, memoryview], None]] = {}
        self._on_resume: list[Callable[[], None]] = []
        self._callbacks: queue.SimpleQueue | None = None
        #: (run, tasks and values): data that the client brings, for `_peers`; set by whoever makes them
        self.bring: Callable[[Run, list[tuple[int, Any]]], None] | None = None
        #: the client, for futures
        self.client: Callable[[], Any] = lambda: None
        self._waiters = 0
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._woken = False
        self._connect_first(timeout)
        self._thread = threading.Thread(target=self._main, name="hpcdag-session", daemon=True)
        self._thread.start()
        _sessions.add(self)

    # Connecting

    def _connect_first(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        pause = 0.05
        while True:
            try:
                return self._connect(min(_wire.CONNECT_TIMEOUT, max(0.5, until - time.monotonic())))
            except NoSchedulerError as error:
                if time.monotonic() + pause > until:
                    waited = f" (tried for {timeout:g} s)" if timeout else ""
                    raise NoSchedulerError(error.errno, f"{error.strerror}{waited}") from None
            time.sleep(pause)
            pause = min(1.0, pause * 1.6)

    def _connect(self, timeout: float = _wire.CONNECT_TIMEOUT) -> None:
        file = _wire.SchedulerFile.read(self.path, self.address)
        context = file.context()
        sock, welcome = _wire.greet_scheduler(file, context, self.id, timeout)
        sock.setblocking(False)
        self.file, self.context, self._sock = file, context, sock
        self.epoch = welcome[3]
        self.connected = True

    # The thread

    def _main(self) -> None:
        while not self._closing:
            try:
                self._serve()
            except (OSError, _frames.FrameError, ssl.SSLError) as error:
                if not self._closing:
                    log.info("the connection to the scheduler was cut: %s", error)
            except RefusedError as error:
                self._end(error)
            except Exception as error:  # A mistake of ours; nobody may wait for ever because of it.
                log.exception("the session with the scheduler ends because of a fault")
                self._end(HpcdagError(f"the client's session failed: {error!r}"))
            self._cut()
            if not self._closing:
                self._reconnect()

    def _cut(self) -> None:
        self.connected = False
        with self.lock:
            self._out.clear()
            self._pinged.clear()
            self._unpinged = len(self._unconfirmed)
        if self._sock is not None:
            try:
                self._sock.close()
            except OSError:
                pass

    def _reconnect(self) -> None:
        pause = 0.1
        while not self._closing:
            try:
                self._connect()
            except RefusedError as error:
                return self._end(error)
            except OSError as error:
                log.debug("the scheduler is not reached: %s", error)
                # Many clients of one scheduler do not come back at the same moment.
                self._sleep(pause * random.uniform(0.7, 1.3))
                pause = min(5.0, pause * 2)
                continue
            with self.lock:
                self._resume()
            return None
        return None

    def _sleep(self, seconds: float) -> None:
        """Sleeps unless the session is closed meanwhile."""
        until = time.monotonic() + seconds
        with self.changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)

    def _resume(self) -> None:
        """Says again what the scheduler may not have heard, in the order in which it was said."""
        log.info("connected to the scheduler again")
        for run in self.book.runs.values():
            if run.id is not None:
                if run.mine and run.live:
                    self._queue([_frames.pack_head(WATCH, [run.uuid, ""])])
                elif run.live:
                    tasks = [task for task, refs in enumerate(run.refs) if refs]
                    self._queue(_tasks_frame(WANT, run.uuid, tasks))
            elif not run.mine:
                tasks = [task for task, refs in enumerate(run.refs) if refs]
                self._queue(_tasks_frame(WANT, run.uuid, tasks))
            else:
                for frame in run.frames:
                    self._queue(frame)
        for frame in self._unconfirmed:
            self._queue(frame)
        for frame, _ in self._asked.values():
            self._queue(frame)
        for resume in self._on_resume:
            resume()

    def _serve(self) -> None:
        sock = self._sock
        inbox = bytearray()
        chunk = memoryview(bytearray(1 << 18))
        heard = last_ping = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(sock, selectors.EVENT_READ)
            writing = False
            while True:
                self._tidy()
                full = self._write(sock)
                if full != writing:
                    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if full else 0)
                    selector.modify(sock, events)
                    writing = full
                if self._closing and (not self._out or time.monotonic() > self._last_words_by):
                    return _say_good_bye(sock)
                now = time.monotonic()
                interval = CONFIRM_INTERVAL if self._unpinged else PING_INTERVAL
                if now - last_ping >= interval:
                    last_ping = now
                    self._ping()
                    continue
                if self._pinged and now - heard > SILENCE:
                    raise TimeoutError(errno.ETIMEDOUT, "the scheduler does not answer")
                wait = 0 if sock.pending() else max(0.0, last_ping + interval - now)
                ready = selector.select(0.1 if self._closing else wait)
                for key, _ in ready:
                    if key.fileobj is self._wake_read:
                        self._woken = False
                        _drain(self._wake_read)
                got, ended = _read(sock, chunk, inbox)
                if got:
                    heard = time.monotonic()
                    self._take(inbox)
                if ended:
                    raise ConnectionResetError(errno.ECONNRESET, "the scheduler ended the connection")

    def _write(self, sock: ssl.SSLSocket) -> bool:
        """Sends what can be sent. Whether something is left."""
        out = self._out
        try:
            while out:
                n = sock.send(out[0])
                if n == len(out[0]):
                    out.popleft()
                else:
                    out[0] = out[0][n:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return True
        return False

    def _take(self, inbox: bytearray) -> None:
        """Handles the whole frames in `inbox` and removes them."""
        at = 0
        view = memoryview(inbox)
        try:
            while len(view) - at >= _frames.HEADER_BYTES:
                header = _frames.unpack_header(view[at:])
                begin = at + _frames.HEADER_BYTES
                end = begin + header.total
                if end > len(view):
                    break
                control = _frames.unpack_control(view[begin : begin + header.control])
                self._hear(header.tag, control, view[begin + header.control : end])
                at = end
        finally:
            view.release()
        del inbox[:at]

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

    def _tidy(self) -> None:
        """Sends the open run, and releases what no future refers to any more."""
        if self._open is None and not self._dropped:
            return
        with self.lock:
            self._flush_open()
            dropped = self._dropped
            taken = [dropped.popleft() for _ in range(len(dropped))]
            for (run, later), tasks in self.book.drop(taken).items():
                self._say(_tasks_frame(RELEASE, run, tasks, later))

    def _ping(self) -> None:
        with self.lock:
            self._pinged.append(self._unpinged)
            self._unpinged = 0
            self._queue([_frames.pack_head(PING, [])])

    # Saying something; the lock is held for those with an underscore

    def _queue(self, frame: Sequence[Any]) -> None:
        small: list = []
        for piece in frame:
            if len(piece) < 1 << 14:
                small.append(piece)
                continue
            if small:
                self._out.append(memoryview(b"".join(small)))
                small = []
            self._out.append(memoryview(piece))
        if small:
            self._out.append(memoryview(b"".join(small)))

    def _say(self, frame: list) -> None:
        """Sends a message that may be sent twice, again after a cut unless the scheduler has confirmed it."""
        self._unconfirmed.append(frame)
        self._unpinged += 1
        if self.connected:
            self._queue(frame)

    def say(self, frame: list) -> None:
        """Sends a message (header and control part, then pieces of the body) that may arrive twice."""
        with self.lock:
            self.check()
            self._flush_open()
            self._say(frame)
        self.wake()

    def wake(self) -> None:
        """Makes the thread look. May be called by destructors."""
        if not self._woken:
            self._woken = True
            try:
                self._wake_write.send(b"\0")
            except OSError:
                pass

    def check(self) -> None:
        """Raises if the session has ended."""
        if self._forked:
            raise HpcdagError("a forked process cannot use its parent's hpcdag client: make a new one there")
        if self.ended is not None:
            raise self.ended

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
        """Sends a run (`_graph.Graph`) while it is being encoded, and takes a reference to each of its results.

        Raises what encoding raises; nothing of the run is done then.
        """
        with self.lock:
            self.check()
            self._flush_open()
            run = self.book.runs[graph.run] = Run(graph.run, graph.name, True)
        try:
            for piece in graph.pieces():
                self.send_piece(run, _piece_frame(graph, piece, environment), piece.last, graph)
        except BaseException:
            with self.lock:
                if run.frames:
                    self._say(_tasks_frame(CANCEL, run.uuid, [], reason="it could not be encoded"))
                run.reason = "it could not be encoded"
                self.book.runs.pop(run.uuid, None)
            raise
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

    def shared_run(self, environment: bytes) -> tuple[Run, _calls.RunWriter]:
        """The run that collects single calls until the thread sends it. The lock must be held meanwhile."""
        if self._open is None:
            self.check()
            self._open = self._new_run("calls", environment)
            self.wake()
        return self._open

    def _flush_open(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened[1].flush(True)

    def flush(self) -> None:
        """Sends what has been submitted so far."""
        with self.lock:
            self._flush_open()

    def want(self, run_uuid: bytes, index: int, name: str = "") -> Run:
        """Takes a reference to a task of any run that the scheduler knows."""
        with self.lock:
            self.check()
            run = self.book.runs.get(run_uuid)
            if run is None:
                run = self.book.runs[run_uuid] = Run(run_uuid, name, False)
            known = index < len(run.refs) and run.refs[index]
            run.take(index)
            if not known:
                self._flush_open()
                self.book.pending(run, [index])
                self._say(_tasks_frame(WANT, run_uuid, [index]))
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
                self.book.pending(run, tasks)
        self.say(_tasks_frame(tag, run.uuid, tasks, reason=reason))

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
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        return False
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
        """Calls `call(run, index)` once the task has ended: at once if it has, else in the session's thread, so it
        must be quick and must not wait."""
        with self.lock:
            if not run.state[index] and self.ended is None:
                run.waiting.setdefault(index, []).append(call)
                return
        call(run, index)

    def in_background(self, function: Callable[..., Any], *args: Any) -> None:
        """Calls a user's function in a thread that is there for that."""
        with self.lock:
            if self._callbacks is None:
                self._callbacks = queue.SimpleQueue()
                threading.Thread(
                    target=_call_all, args=(self._callbacks,), name="hpcdag-callbacks", daemon=True
                ).start()
        self._callbacks.put((function, args))

    # Questions

    def ask(self, question: Any, timeout: float | None = 30.0) -> Any:
        """The answer to a question (see docs/protocol.md), as decoded JSON. Raises TimeoutError, RefusedError."""
        answer = _Answer()
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
        """`call` is called, with the lock held, when the connection stands again; `queue` sends from there."""
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
                            self._say(_tasks_frame(RELEASE, run.uuid, sorted(run.later), True))
                    if self.connected:
                        self._queue([_frames.pack_head(LEAVE, [])])
                self._last_words_by = time.monotonic() + timeout
                self._end(CancelledError("the client was closed"))
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout + 1)
        if self._callbacks is not None:
            self._callbacks.put(None)

    def _after_fork(self) -> None:
        # The child must not touch the parent's connection, not even to close it in the way of TLS.
        self._forked = self._closing = True
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._woken = True
        for sock in (self._sock, self._wake_read, self._wake_write):
            try:
                os.close(sock.detach())
            except (OSError, AttributeError):
                pass


class _Answer:
    def __init__(self) -> None:
        self._event = threading.Event()
        self._value: dict | None = None

    def set(self, value: dict) -> None:
        self._value = value
        self._event.set()

    def get(self, timeout: float | None) -> dict:
        if not self._event.wait(timeout):
            raise TimeoutError("the scheduler has not answered in time")
        return self._value


_HEARD = {
    2: Session._hear_refused,
    3: Session._hear_accepted,
    4: Session._hear_rejected,
    8: Session._hear_answer,
    9: Session._hear_stopping,
    10: Session._hear_pong,
    11: Session._hear_done,
    12: Session._hear_failed,
    13: Session._hear_lost,
}


def _piece_frame(graph: Any, piece: Any, environment: bytes) -> list:
    """The message `Calls` of a piece (`_graph.Piece`)."""
    body: list = []
    for _, values in piece.columns():
        body += _columns.column(values)
    first = piece.number == 0
    control = [graph.run, piece.number, piece.last, graph.name if first else "", bool(graph.map)]
    control += [environment if first else b"", piece.functions, piece.options, piece.externals]
    return [_frames.pack_head(_calls.CALLS, control, sum(map(len, body))), *body]


def _tasks_frame(tag: int, run: bytes, tasks: Sequence[int], later: bool = False, reason: str = "") -> list:
    body = _columns.column(array("I", tasks))
    return [_frames.pack_head(tag, [run, later, reason], sum(map(len, body))), *body]


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        pass


def _read(sock: ssl.SSLSocket, chunk: memoryview, inbox: bytearray) -> tuple[bool, bool]:
    """Appends what there is to `inbox`. Whether there was something, and whether the connection has ended."""
    got = False
    try:
        while len(inbox) < _frames.FRAME_BYTES_MAX * 2:
            n = sock.recv_into(chunk)
            if n == 0:
                return got, True
            inbox += chunk[:n]
            got = True
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except OSError:
        if not got:
            raise
        return True, True
    return got, False


def _say_good_bye(sock: ssl.SSLSocket) -> None:
    """Ends the connection so that the last words arrive: closing with unread bytes would throw them away."""
    try:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(0.5)
        while sock.recv(1 << 16):
            pass
    except OSError:
        pass


def _call_all(calls: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        try:
            call[0](*call[1])
        except Exception:
            log.exception("a callback of a future failed")


def _after_fork_in_child() -> None:
    for session in list(_sessions):
        session._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
