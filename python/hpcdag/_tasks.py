"""What an executor process knows of tasks: the one that runs, how it is stopped, its threads.

Owns `current()`, which tasks may call, the exceptions that stop tasks, and the settings that follow a task.
"""

from __future__ import annotations

import _signal
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from . import _environment, _said
from ._loaded import Call

# That of `signal` makes an enumeration's member each time, which takes longer than a small task.
_getsignal = getattr(_signal, "getsignal", signal.getsignal)

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

# Slots of a call are in these.
_SLOTS = 10_000


class Cancelled(KeyboardInterrupt):
    """Raised in a task that is to stop, wherever it is; is a KeyboardInterrupt so that cleaning up works."""


class TimeLimit(Cancelled):
    """Raised in a task that has run for as long as it may."""


class Current(NamedTuple):
    """The task that runs in this process."""

    key: str
    attempt: tuple[int, int]  #: epoch of the scheduler, number of the attempt
    nthreads: int  #: CPU slots that it may keep busy, at least 1
    worker_directory: str
    run: bytes  #: uuid of its run


class Running:
    """The task that runs, and who hears that it waits for other tasks (its number, True), or goes on."""

    __slots__ = ("away", "call", "described", "seceded", "tell")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.described: Current | None = None
        self.tell: Callable[[int, bool], None] | None = None
        self.away = 0
        self.seceded: Any = None

    def begin(self, call: Call, tell: Callable[[int, bool], None]) -> None:
        """From now on it is this one; nothing of the one before counts."""
        with _away_lock:
            self.call, self.described, self.tell, self.away = call, None, tell, 0

    def end(self) -> None:
        """There is none any more."""
        with _away_lock:
            self.call = self.described = self.tell = None

    def task(self) -> Current | None:
        """The task, the same object until it ends."""
        call, described = self.call, self.described
        if described is None and call is not None:
            # Few tasks ask.
            attempt = (call.attempt[0], call.attempt[1])
            described = Current(call.key, attempt, slots(call.nthreads), _worker_directory(), call.run)
            self.described = described
        return described


_process = Running()
_away_lock = threading.Lock()


class _OfThread(threading.local):
    running = _process


# Where each thread runs tasks of its own.
_threads: _OfThread | None = None


def own_thread() -> None:
    """From now on what is said here of the running task is about the calling thread's: for processes that
    run tasks in several. Threads that tasks start have none."""
    global _threads
    with _away_lock:
        if _threads is None:
            _threads = _OfThread()
    _threads.running = Running()


def running() -> Running:
    """What is known of the running task."""
    return _process if _threads is None else _threads.running


@contextlib.contextmanager
def away() -> Iterator[None]:
    """While a task waits for other tasks: its slots are free for them meanwhile, so they can run even if
    all slots are taken by tasks that wait. Outside of tasks it does nothing."""
    own = running()
    with _away_lock:
        call, tell = own.call, own.tell
        own.away += 1
        if call is not None and tell is not None and own.away == 1:
            tell(call.task, True)
    try:
        yield
    finally:
        with _away_lock:
            # Of a task that has ended meanwhile nothing is said any more.
            if call is not None and tell is not None and own.call is call:
                own.away -= 1
                if own.away == 0:
                    tell(call.task, False)


def current() -> Current | None:
    """The task that calls this; None outside of tasks."""
    return running().task()


def slots(nthreads: int) -> int:
    """Whole threads for so many 1/10,000 of a CPU slot."""
    return max(1, nthreads // _SLOTS)


class Threads:
    """Keeps thread pools of libraries at what the task may use, unless the user has said otherwise."""

    def __init__(self) -> None:
        # The worker has set 1 where the user had set nothing.
        self._names = [name for name in _THREAD_VARIABLES if os.environ.get(name, "1") == "1"]
        self._set_by_user = "OMP_NUM_THREADS" not in self._names
        self.now = 1

    def set(self, n: int) -> None:
        """Sets the pools there are, and the variables for those to come."""
        if n == self.now:
            return
        self.now = n
        for name in self._names:
            os.environ[name] = str(n)
        if self._set_by_user:
            return
        try:
            import threadpoolctl

            threadpoolctl.threadpool_limits(limits=n)
        except Exception:
            pass  # Not installed, or a library it does not understand: the variables have to do.


class Stop:
    """Stops the task that runs in the main thread, by a signal to it."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._task: int | None = None  # What may be interrupted at this moment.
        self._why: dict[int, type[Cancelled]] = {}
        signal.signal(signal.SIGINT, self._interrupted)

    def ask(self, task: int, why: type[Cancelled]) -> None:
        """From any thread: `task` is to end with `why`, at once if it runs and before it starts if not."""
        self._why[task] = why
        if self._task == task and self._main is not None:
            signal.pthread_kill(self._main, signal.SIGINT)

    def reason(self, task: int) -> type[Cancelled] | None:
        """Why `task` was asked to stop."""
        return self._why.get(task)

    def forget(self, task: int) -> None:
        """`task` is over."""
        self._why.pop(task, None)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        # Any other interrupt is meant for somebody else: a terminal's for the worker, a late one for a task
        # that has ended.
        why = self._why.get(self._task) if self._task is not None else None
        if why is not None:
            raise why

    def run(self, task: int, call: Callable[[], Any]) -> Any:
        """Calls `call`, which `ask` may interrupt from now until it returns."""
        try:
            self._task = task
            if task in self._why:
                raise self._why[task]
            return call()
        finally:
            self._task = None
            if _getsignal(signal.SIGINT) != self._interrupted:
                # The task has installed its own, which is not for those that follow.
                signal.signal(signal.SIGINT, self._interrupted)


def prepare_process() -> None:
    """What a new executor needs before its first task, beyond what it has from the zygote."""
    import faulthandler

    faulthandler.enable(file=2, all_threads=True)
    _said.install()
    # `random` seeds itself after a fork, numpy's old generator does not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    # A task that computes something with Dask is to do it in its own process.
    os.environ["HPCDAG_EXECUTOR"] = "1"
    if "dask.config" in sys.modules:
        sys.modules["dask.config"].set(scheduler="synchronous")
    else:
        os.environ.setdefault("DASK_SCHEDULER", "synchronous")


_worker_directory = functools.cache(_environment.worker_directory)
