"""What a worker's Python executors are forked from: `python -m hpcdag._zygote`, whose stdin is a unix socket.

Imports once what executors need, forks one for each FORK, tells of their ends, and kills those that are left
when its connection ends. Owns no task. One thread, so that forking is safe.

What the client has imported is imported between messages, from the beginning; an executor is forked when it
is there, unless the worker says that a call does not need it. What else is usual takes longer to import than
most clients want to wait for a first result: it is imported after the first executors are forked. Those that
are forked early import what they lack themselves; all others wait, since the imports of many processes are a
burden for a shared file system.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import types
import warnings
from typing import Any

from . import _channel, _environment, _msgpack

VERSIONS = (1, 3)

HELLO, WELCOME = 1, 2
FORK, FORKED, EXITED, LOAD = 20, 21, 22, 24

# From this version on the worker hears whether an executor lacks something.
_COLD_VERSION = 3

# So many executors at most are forked before all is imported.
_EARLY_MAX = 2

_PR_SET_PDEATHSIG = 1


def _note(text: str) -> None:
    print(f"hpcdag zygote: {text}", file=sys.stderr, flush=True)


def _take_stdin() -> socket.socket:
    """The connection; file descriptor 0 becomes /dev/null, so that tasks find an empty stdin."""
    own = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return socket.socket(fileno=own)


def _die_with_parent() -> None:
    """Has the kernel kill this process when its parent dies, for when the parent is killed itself."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except Exception:
        pass


class Zygote:
    """The loop: messages of the worker, ends of children."""

    def __init__(self, channel: _channel.Channel) -> None:
        self.channel = channel
        self.children: set[int] = set()
        self.environment: dict[str, Any] | None = None
        self.version = VERSIONS[0]
        # Modules that are still to be imported: what calls will need, and the rest.
        self.wanted: list[str] = []
        self.later: list[str] = []
        self.forks = 0
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the connection ends."""
        kind = f"python-zygote {sys.version_info[0]}.{sys.version_info[1]}"
        self.channel.send(HELLO, [*VERSIONS, kind, os.getpid()])
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while True:
            # Before the first fork somebody waits for that, and need not wait for what is not needed.
            wait = 0 if self.wanted or (self.later and self.forks) else None
            ready = [] if self.channel.has_frame() else [fd for fd, _ in poll.poll(wait)]
            if wait == 0 and not ready and not self.channel.has_frame():
                self.import_next()
            if self.wake_read in ready:
                self.reap()
            if self.channel.fileno() in ready or self.channel.has_frame():
                frame = self.channel.receive()
                if frame is None:
                    return
                self.take(frame)

    def take(self, frame: _channel.Frame) -> None:
        """Does what a message says."""
        if frame.tag == WELCOME:
            (version,) = frame.control
            if not VERSIONS[0] <= version <= VERSIONS[1]:
                raise RuntimeError(f"the worker speaks version {version}, this zygote {VERSIONS}")
            self.version = version
        elif frame.tag == LOAD:
            kind, _ = frame.control
            if kind == "environment":
                self.prepare(_msgpack.unpack(frame.body))
            elif kind == "modules":
                self.want(_msgpack.unpack(frame.body))
            else:
                raise RuntimeError(f"a zygote was sent a {kind}")
        elif frame.tag == FORK:
            number, at_once = (*frame.control, False)[:2]
            self.fork(number, frame.descriptors, at_once)
        else:
            raise RuntimeError(f"message {frame.tag} is not for zygotes")

    def prepare(self, environment: dict[str, Any]) -> None:
        """Becomes like the client, and imports what it asks for by name."""
        self.environment = environment
        notes: list[str] = []
        _environment.apply(environment, notes)
        self.wanted, self.later = _environment.preload(environment, notes)
        importlib.import_module("hpcdag._executor")
        self.imported(notes)

    def want(self, names: list[str]) -> None:
        """The client has imported these, too."""
        for name in names:
            if name in self.later:
                self.later.remove(name)
                self.wanted.append(name)

    def import_next(self) -> None:
        """Imports one of the modules that are left."""
        notes: list[str] = []
        _environment.preload_one((self.wanted or self.later).pop(0), notes)
        self.imported(notes)

    def imported(self, notes: list[str]) -> None:
        """Says what there is to say of imports; when all are done, makes memory ready for being shared."""
        if not self.wanted and not self.later:
            threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
            if threads:
                names = ", ".join(threads)
                notes.append(f"preloading started threads, which executors will not have: {names}")
        for note in notes:
            _note(note)
        gc.collect()
        gc.freeze()

    def fork(self, number: int, fds: list[int], at_once: bool = False) -> None:
        """Starts an executor; its number 0 as a process says that it could not be.

        With `at_once` it need not have what the client has imported.

        `fds`: its connection and where its output goes; of one with several threads where the process's
        output goes, then both for each thread.
        """
        is_early = self.forks < _EARLY_MAX
        while (self.wanted and not (is_early and at_once)) or (self.later and not is_early):
            self.import_next()
        self.forks += 1
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            with warnings.catch_warnings():
                # Python >= 3.12 warns of other threads; those of libraries are known to bear it.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError as error:
            _note(f"an executor could not be forked: {error}")
            pid = -1
        if pid == 0:
            self.become_executor(fds)
        if pid > 0:
            self.children.add(pid)
            try:
                os.setpgid(pid, pid)
            except OSError:
                pass  # The child has done it, or is gone.
        for fd in fds:
            os.close(fd)
        cold = [bool(self.wanted)] if self.version >= _COLD_VERSION else []
        self.channel.send(FORKED, [number, max(pid, 0), *cold])

    def become_executor(self, fds: list[int]) -> None:
        """The child's way; does not return."""
        status = 70
        connection, output = (-1, fds[0]) if len(fds) % 2 else fds
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _die_with_parent()
            self.channel.socket.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            from . import _executor

            if connection >= 0:
                status = _executor.main(connection)
            else:
                from . import _threads

                status = _threads.main(fds[1::2], fds[2::2])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def reap(self) -> None:
        """Tells of children that have ended, and ends what they have left running."""
        try:
            while os.read(self.wake_read, 4096):
                pass
        except BlockingIOError:
            pass
        while self.children:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            # While it is not reaped, its number is nobody else's.
            if ended.si_pid in self.children:
                _kill_group(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            if pid in self.children:
                self.children.discard(pid)
                self.channel.send(EXITED, [pid, status])

    def end(self) -> None:
        """Kills what is left."""
        for pid in self.children:
            _kill_group(pid)
        for pid in self.children:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
        _environment.remove_files()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _own_path() -> None:
    """`-m` has put the current directory in front, which is the worker's and none of the tasks'."""
    listed = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if sys.path and not getattr(sys.flags, "safe_path", False) and sys.path[0] == os.getcwd() not in listed:
        del sys.path[0]


def main() -> int:
    """Runs a zygote on stdin."""
    faulthandler.enable()
    # The worker decides about interrupts from a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = _channel.Channel(_take_stdin())
    _own_path()
    # Tasks see an empty __main__: a client's comes by value, and multiprocessing must not run ours again.
    sys.modules["__main__"] = types.ModuleType("__main__")
    zygote = Zygote(channel)

    def stop(*_: Any) -> None:
        zygote.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        zygote.run()
    except BrokenPipeError:
        pass
    finally:
        zygote.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
