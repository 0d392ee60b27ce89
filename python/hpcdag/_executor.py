"""The process that runs tasks, one at a time: forked by `_zygote`, spoken to over a socket of its own.

Owns the loop and the order of things on the connection. The main thread runs tasks and reads the socket
between them. While one takes long, a second thread reads, to cancel it and to notice the connection's end.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any

from . import _channel, _errors, _outputs, _pinned, _profile, _result, _said, _tasks
from ._loaded import Call, Loaded, Parts, open_unchanged
from ._tasks import Current, current

__all__ = ["Current", "current", "main"]

VERSIONS = (1, 3)

HELLO, WELCOME, INPUTS, CANCEL, DONE, TRIM, TRIMMED = 1, 2, 3, 5, 7, 8, 9
CALL, LOAD, DROP, AWAY = 23, 24, 25, 26
CALLS, DONES, RECALL, RETURNED, SAID, LET_GO, ROOM, LENT = 27, 28, 29, 30, 31, 32, 34, 35

# A task that still runs after one to two of these is watched.
_TICK_SECONDS = 0.02
# After so many ticks without a task the watching thread rests until there is one.
_TICKS_IDLE = 50
# Memory of inputs that tasks have left in reference cycles; beyond it they are collected.
_LEFT_BYTES_MAX = 256 << 20

# Ends of calls that came together wait for those that follow, up to so many, so many bytes, so long.
_DONES_MAX = 64
_DONES_BYTES_MAX = 16 << 10
_DONES_NS_MAX = 1_000_000


class Executor:
    """One connection to a worker."""

    # By which the CPU time of tasks is taken, ns.
    clock = staticmethod(time.process_time_ns)
    name = ""

    def __init__(self, channel: _channel.Channel) -> None:
        self.channel = channel
        self.loaded = Loaded()
        self.stop = _tasks.Stop()
        self.threads = _tasks.Threads()
        self.waiting: deque[Call] = deque()
        self.inputs: list[Parts] = []
        self.trims = 0
        # Whoever reads the socket has this.
        self.reading = threading.Lock()
        self.running: Call | None = None
        self.slots = 0  # That thread pools of libraries are made fit for.
        self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = threading.Event()
        self.mapped: weakref.WeakSet[Any] = weakref.WeakSet()
        # Whoever sends has this.
        self.sending = threading.Lock()
        # Ends that wait to be sent, and their small results.
        self.dones: list[list[Any]] = []
        self.pieces: list[Any] = []
        self.pieces_bytes = 0
        self.oldest = 0
        # What was printed so far, and when the last task had ended.
        self.printed = _said.counter
        self.said = 0
        # Of the protocol.
        self.version = 1
        # Memory files that the worker has lent; None where it has none.
        self.lent: deque[int | None] = deque()

    def main(self) -> None:
        """Until the connection ends."""
        self.channel.send(HELLO, [*VERSIONS, "python", os.getpid()])
        self.own = _tasks.running()  # Of this thread.
        threading.Thread(target=self._watch, name="hpcdag-watch", daemon=True).start()
        _profile.start(self, Executor._attempt.__code__, os.environ.get("HPCDAG_WORKER_DIR"), self.name)
        while True:
            try:
                call = self.waiting.popleft()
            except IndexError:
                pass
            else:
                self._run(call)
                continue
            if self.dones:
                self._send_dones()
            if self.trims:
                self._trim()
                continue
            if not self._hear(self.waiting):
                return

    def _hear(self, wanted: deque[Any]) -> bool:
        """Takes a message unless `wanted` has something; by the main thread. False at the end."""
        if not self.reading.acquire(blocking=False):
            os.eventfd_write(self.ended, 1)
            self.reading.acquire()
        try:
            if wanted:
                return True
            frame = self.channel.receive()
            if frame is None:
                return False
            self._take(frame)
            return True
        finally:
            frame = None  # With its memory.
            self.reading.release()

    def _take(self, frame: _channel.Frame) -> None:
        """Notes what a message says; by whoever has `reading`."""
        tag, control = frame.tag, frame.control
        if tag == CALL:
            self.waiting.append(Call(*control, inputs=self.inputs))
            self.inputs = []
        elif tag == CALLS:
            self._take_calls(*control)
        elif tag == INPUTS:
            self._take_inputs(frame)
        elif tag == LOAD:
            kind, ident = control
            self.loaded.load(kind, ident, frame.body)
        elif tag == DROP:
            self.loaded.drop(control[0])
        elif tag == LET_GO:
            _pinned.let_go(control[0])
        elif tag == CANCEL:
            self._cancel(control[0])
        elif tag == TRIM:
            self.trims += 1
        elif tag == RECALL:
            self._give_back()
        elif tag == LENT:
            self.lent.append(frame.descriptors[0] if frame.descriptors else None)
        elif tag == WELCOME:
            self.version = control[0]
            if not VERSIONS[0] <= control[0] <= VERSIONS[1]:
                raise RuntimeError(f"the worker speaks version {control[0]}, this executor {VERSIONS}")
        else:
            raise RuntimeError(f"message {tag} is not for Python executors")

    def _take_calls(self, run: bytes, slots: int, batches: list[bytes], calls: list[Any]) -> None:
        inputs, self.inputs = self.inputs, []
        at = 0
        for task, key, batch, index, epoch, n, count in calls:
            own = inputs[at : at + count]
            at += count
            call = Call(task, key, run, batches[batch], index, [epoch, n], slots, None, None, own, True)
            self.waiting.append(call)

    def _give_back(self) -> None:
        """What has not begun may run elsewhere; by whoever has `reading`."""
        tasks = []
        try:
            while True:
                tasks.append(self.waiting.pop().task)
        except IndexError:
            pass
        with self.sending:
            self.channel.send(RETURNED, [tasks])

    def _cancel(self, task: int) -> None:
        running = self.running
        if (running and running.task == task) or any(call.task == task for call in self.waiting):
            self.stop.ask(task, _tasks.Cancelled)

    def _take_inputs(self, frame: _channel.Frame) -> None:
        at = 0
        fds = iter(frame.descriptors)
        for _producer, _key, continued, parts in frame.control[0]:
            if not continued:
                self.inputs.append([])
            for name, place in parts:
                ((kind, size),) = place.items()
                if kind == "Inline":
                    data: Any = frame.body[at : at + size]
                    if name and at % 16:
                        data = bytearray(data)  # Arrays want their memory aligned.
                    at += size
                elif kind == "Descriptor":
                    data = self._map(next(fds), size)
                else:
                    path, size, mtime = size
                    try:
                        data = self._map(open_unchanged(os.fsdecode(path), size, mtime), size)
                    except OSError as error:
                        data = error  # For the task.
                self.inputs[-1].append((name, data))

    def _map(self, fd: int, size: int) -> Any:
        try:
            data = _channel.map_private(fd, size)
        finally:
            os.close(fd)
        if size:
            self.mapped.add(data)
        return data

    def _watch(self) -> None:
        """The second thread: reads the socket while a task takes long."""
        try:
            idle = 0
            seen: Call | None = None
            while True:
                if idle > _TICKS_IDLE:
                    self.busy.clear()
                    if self.running is None:
                        self.busy.wait()
                    idle = 0
                time.sleep(_TICK_SECONDS)
                now = self.running
                if now is None:
                    idle += 1
                elif now is seen:
                    if self.dones:
                        self._send_dones()
                    with self.reading:
                        self._watch_one(now)
                seen = now
        except BaseException as error:
            # Without this thread nothing could be cancelled; the worker starts another executor.
            print(f"hpcdag executor: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(71)

    def _watch_one(self, call: Call) -> None:
        limit = None
        if call.time_limit_ms is not None:
            # It has run for about two ticks.
            limit = time.monotonic() + call.time_limit_ms / 1000 - 2 * _TICK_SECONDS
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(self.ended, select.POLLIN)
        while self.running is call:
            if not self.channel.has_frame():
                wait = None if limit is None else max(0, (limit - time.monotonic()) * 1000)
                ready = [fd for fd, _ in poll.poll(wait)]
                if limit is not None and time.monotonic() >= limit:
                    self.stop.ask(call.task, _tasks.TimeLimit)
                    limit = None
                if self.ended in ready:
                    os.eventfd_read(self.ended)
                    continue
                if self.channel.fileno() not in ready:
                    continue
            frame = self.channel.receive()
            if frame is None:
                sys.stderr.flush()
                os._exit(0)  # Whatever the task is doing.
            self._take(frame)
            frame = None  # With its memory.

    def _run(self, call: Call) -> None:
        """Runs a task and says how it ended."""
        if call.nthreads != self.slots:
            self.slots = call.nthreads
            self.threads.set(_tasks.slots(call.nthreads))
        self.own.begin(call, self._say_away)
        self.running = call
        if not self.busy.is_set():
            self.busy.set()
        before = self.clock()
        end, parts = self._attempt(call)
        spent = self.clock() - before
        self.running = None
        self.own.end()
        self.stop.forget(call.task)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # The task has closed or replaced it.
        if self.printed.n != self.said:
            n, self.said = self.printed.n - self.said, self.printed.n
            if call.together:
                with self.sending:
                    self.channel.send(SAID, [call.task, n])
        self._send_done(call, end, parts, spent)
        call.inputs.clear()
        del parts
        if self.mapped and sum(map(len, list(self.mapped))) > _LEFT_BYTES_MAX:
            gc.collect()

    def _say_away(self, task: int, away: bool) -> None:
        if self.dones:
            self._send_dones()
        with self.sending:
            self.channel.send(AWAY, [task, away])

    def _attempt(self, call: Call) -> tuple[Any, Parts]:
        def work() -> tuple[str, Parts]:
            batch = self.loaded.batch(call.batch)
            for parts in call.inputs:
                for _, data in parts:
                    if isinstance(data, OSError):
                        raise data
            inputs = [_result.loads(parts) for parts in call.inputs]
            call.inputs.clear()  # So that nothing but the task holds them.
            value = _result.settle(batch.run(call.index, inputs))
            try:
                return "Succeeded", _result.dumps(value)
            except _result.Unpicklable as error:
                return "Pinned", _pinned.keep(call.task, value, str(error))

        try:
            end, parts = self.stop.run(call.task, work)
        except BaseException as error:
            why = self.stop.reason(call.task)
            if why is not None:
                return "TimeLimit" if why is _tasks.TimeLimit else "Cancelled", []
            raised = list(_errors.describe(error))
            # Whoever keeps the exception is not to keep what the task had.
            error.__traceback__ = None
            return {"Raised": raised}, []
        size = _result.size(parts)
        if call.max_output is not None and size > call.max_output:
            return {"Unkept": f"the result has {size} bytes, more than the {call.max_output} allowed"}, []
        return end, parts

    def _send_dones(self) -> None:
        """Sends the ends that wait; by any thread."""
        with self.sending:
            dones, self.dones = self.dones, []
            pieces, self.pieces = self.pieces, []
            self.pieces_bytes = 0
            if dones:
                self.channel.send(DONES, [dones], pieces)

    def _keep_done(self, call: Call, end: Any, parts: Parts, cpu_ns: int) -> bool:
        """Lays an end by that can wait for the next ones; whether it could."""
        if end != "Succeeded" or len(parts) != 1:
            return False
        data = parts[0][1]
        if len(data) > _DONES_BYTES_MAX:
            return False
        with self.sending:
            if not self.dones:
                self.oldest = time.monotonic_ns()
            self.dones.append([call.task, end, [["", {"Inline": len(data)}]], cpu_ns])
            self.pieces.append(data)
            self.pieces_bytes += len(data)
            is_full = len(self.dones) >= _DONES_MAX or self.pieces_bytes > _DONES_BYTES_MAX
        if is_full or time.monotonic_ns() - self.oldest > _DONES_NS_MAX:
            self._send_dones()
        return True

    def _send_done(self, call: Call, end: Any, parts: Parts, cpu_ns: int) -> None:
        if call.together and self._keep_done(call, end, parts, cpu_ns):
            return
        if self.dones:
            self._send_dones()
        places, pieces, fds = [], [], []
        try:
            places, pieces, fds = _outputs.load(parts, self._room)
        except OSError as error:
            end = {"Unkept": f"no room for the result: {error}"}
        try:
            with self.sending:
                self.channel.send(DONE, [call.task, end, places, cpu_ns], pieces, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _room(self, nbytes: int) -> int | None:
        """A memory file for so many bytes, if the worker has one; the caller owns it."""
        if nbytes < _outputs.LENT_BYTES_MIN or self.version < _outputs.LENT_VERSION:
            return None
        with self.sending:
            self.channel.send(ROOM, [nbytes])
        while not self.lent:
            if not self._hear(self.lent):
                raise EOFError("the worker has gone")
        return self.lent.popleft()

    def _trim(self) -> None:
        self.trims -= 1
        _outputs.trim()
        with self.sending:
            self.channel.send(TRIMMED, None)


def main(connection: int) -> int:
    """Runs an executor on the socket `connection`; its exit status."""
    _tasks.prepare_process()
    try:
        Executor(_channel.of_descriptor(connection)).main()
    except (BrokenPipeError, EOFError):
        pass  # The worker has gone while it was told or asked something.
    return 0
