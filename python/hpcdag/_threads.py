"""An executor process of several threads: each has a connection of its own and is to the worker an executor.

Owns the threads, and what is different in them: how one is stopped, whose a print is, what the running task
is. Their loop, and everything else, is `_executor`'s; the first of them is the main thread.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from . import _channel, _executor, _said, _tasks


class ThreadStop(_tasks.Stop):
    """Stops the task that runs in a thread other than the main thread, by an exception that Python raises
    there when its next instruction is due: what blocks in a library goes on until that returns."""

    def __init__(self) -> None:
        self._task: int | None = None
        self._why: dict[int, type[_tasks.Cancelled]] = {}
        self._thread = 0
        # Whoever changes which task may be interrupted, or interrupts it, has this.
        self._lock = threading.Lock()

    def ask(self, task: int, why: type[_tasks.Cancelled]) -> None:
        """From any thread: `task` is to end with `why`, at once if it runs and before it starts if not."""
        self._why[task] = why
        with self._lock:
            if self._task == task:
                _raise_in(self._thread, why)

    def run(self, task: int, call: Callable[[], Any]) -> Any:
        """Calls `call`, which `ask` may interrupt from now until it returns."""
        self._thread = threading.get_ident()
        try:
            with self._lock:
                self._task = task
            if task in self._why:
                raise self._why[task]
            return call()
        finally:
            # It may come in here: then the task has ended before.
            while True:
                try:
                    self._settle()
                    break
                except _tasks.Cancelled:
                    pass

    def _settle(self) -> None:
        with self._lock:
            self._task = None
            # What was not raised yet is not to hit the next one.
            _raise_in(self._thread, None)


def _raise_in(thread: int, what: type[BaseException] | None) -> None:
    error = None if what is None else ctypes.py_object(what)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


class SharedThreads(_tasks.Threads):
    """Pools of libraries are the whole process's: they are as large as the largest task needs."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._wanted: dict[int, int] = {}

    def set(self, n: int) -> None:
        """Notes what the task of this thread may use."""
        thread = threading.get_ident()
        if self._wanted.get(thread, 1) == n == self.now:
            return
        with self._lock:
            self._wanted[thread] = n
            super().set(max(self._wanted.values()))


class Stream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr`: what a task prints goes where its thread's belongs. Threads that tasks
    have started write to the process's own."""

    def __init__(self, fd: int, old: Any) -> None:
        self._fd = fd
        self._kind = (old.encoding, old.errors)
        self._local = threading.local()
        self._others = self._open(fd, _said.Counter())

    def _open(self, fd: int, counter: _said.Counter) -> io.TextIOWrapper:
        return _said.stream(fd, counter, *self._kind)

    def own(self, fd: int, counter: _said.Counter) -> None:
        """What the calling thread prints goes to `fd` from now on."""
        self._local.stream = self._open(fd, counter)

    @property
    def _stream(self) -> io.TextIOWrapper:
        found: io.TextIOWrapper = getattr(self._local, "stream", self._others)
        return found

    def write(self, text: str, /) -> int:
        """Prints `text`."""
        return self._stream.write(text)

    def flush(self) -> None:
        """Hands over what was printed so far."""
        self._stream.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Never."""
        return False

    def fileno(self) -> int:
        """The process's descriptor: what a program that is started prints is not told apart by threads."""
        return self._fd

    def reconfigure(self, **options: Any) -> None:
        """As `io.TextIOWrapper` has it, for the calling thread."""
        self._stream.reconfigure(**options)

    @property
    def buffer(self) -> Any:
        """For bytes."""
        return self._stream.buffer

    @property
    def line_buffering(self) -> bool:
        """Whether lines are handed over at their end."""
        return self._stream.line_buffering

    @property
    def name(self) -> str:
        """As the interpreter's own stream is called."""
        return "<stdout>" if self._fd == 1 else "<stderr>"

    mode = "w"
    encoding = property(lambda self: self._kind[0])  # type: ignore[assignment]
    errors = property(lambda self: self._kind[1])  # type: ignore[assignment]


class Thread(_executor.Executor):
    """An executor that is one thread of several."""

    # What a task has used is what its thread has.
    clock = staticmethod(time.thread_time_ns)

    def __init__(self, channel: _channel.Channel, place: int, output: int, threads: SharedThreads) -> None:
        super().__init__(channel)
        self.name = f"-{place}"
        self.output = output
        self.threads = threads
        self.printed = _said.Counter()
        if place:
            self.stop = ThreadStop()

    def begin(self, streams: Sequence[Stream]) -> None:
        """In its thread: what it needs before it hears of tasks."""
        _tasks.own_thread()
        for stream in streams:
            stream.own(self.output, self.printed)

    def serve(self, streams: Sequence[Stream]) -> None:
        """Until its connection ends."""
        try:
            self.begin(streams)
            self.main()
        except (BrokenPipeError, EOFError):
            pass  # The worker has gone while it was told or asked something.
        except BaseException:
            # What it had begun is not known any more: the worker starts another executor.
            traceback.print_exc(file=sys.__stderr__)
            sys.stderr.flush()
            os._exit(70)


def main(connections: Sequence[int], outputs: Sequence[int]) -> int:
    """Runs as many threads as there are sockets in `connections`, each with its descriptor for what tasks
    print; the process's exit status."""
    _tasks.prepare_process()
    # Of many stacks only the last would be kept, which may be another one's.
    faulthandler.enable(file=2, all_threads=False)
    streams = [Stream(1, sys.stdout), Stream(2, sys.stderr)]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc, assignment]
    channels = [_channel.of_descriptor(connection) for connection in connections]
    threads = SharedThreads()
    # The main thread's last: signals are for that.
    made = [
        Thread(channels[place], place, outputs[place], threads) for place in reversed(range(len(channels)))
    ]
    others = [
        threading.Thread(target=one.serve, args=(streams,), name=f"hpcdag{one.name}", daemon=True)
        for one in made[:-1]
    ]
    for other in others:
        other.start()
    made[-1].serve(streams)
    for other in others:
        other.join()
    return 0
