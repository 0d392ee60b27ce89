"""A worker's side of zygotes and executors, for tests: real processes and sockets, frame by frame."""

from __future__ import annotations

import itertools
import os
import pickle
import select
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import cloudpickle

from hpcdag import _channel, _decode, _environment, _executor, _msgpack, _result, _zygote

PACKAGE = str(Path(_zygote.__file__).parents[1])
RUN = uuid.UUID(int=7).bytes

# Long enough for a machine that does other things; reached only by what is broken.
PATIENCE_SECONDS = 60


def receive(channel: _channel.Channel, tag: int) -> _channel.Frame:
    """The next frame, which has to have this tag."""
    if not channel.has_frame():
        ready, _, _ = select.select([channel], [], [], PATIENCE_SECONDS)
        assert ready, "nothing was said"
    frame = channel.receive()
    assert frame is not None, "the connection ended"
    assert frame.tag == tag, frame
    return frame


class Executor:
    """An executor of a zygote."""

    def __init__(self, zygote: Zygote, version: int = 1, at_once: bool = False, sent: Any = None) -> None:
        self.zygote = zygote
        self.gone = False  # Its end has been heard.
        mine, its = socket.socketpair()
        self.output, output = os.pipe()
        zygote.channel.send(_zygote.FORK, [5, at_once], [], [its.fileno(), output])
        if sent is not None:
            sent()
        its.close()
        os.close(output)
        number, self.pid, self.cold = receive(zygote.channel, _zygote.FORKED).control
        assert number == 5
        self.channel = _channel.Channel(mine)
        oldest, newest, kind, pid = receive(self.channel, _executor.HELLO).control
        assert (oldest, newest, kind, pid) == (*_executor.VERSIONS, "python", self.pid)
        self.channel.send(_executor.WELCOME, [version])
        self.numbers = itertools.count(1)

    def load(self, function, args=(), kwargs=None) -> bytes:
        """Sends a batch of one call, with `_decode.Input` in it; its id."""
        ident = RUN + next(self.numbers).to_bytes(4, "little")
        batch = cloudpickle.dumps((_decode.LIST, [(_decode.SWAP, function, args, kwargs)]))
        self.channel.send(_executor.LOAD, ["batch", ident], [batch])
        return ident

    def start(self, function, *args, inputs=(), nthreads=10_000, max_output=None, limit=None) -> int:
        """Calls a function; `inputs` are parts of results. The number of the call."""
        ident = self.load(function, (*args, *(_decode.Input(i) for i in range(len(inputs)))))
        for parts in inputs:
            self.send_input(parts)
        return self.call(ident, nthreads, max_output, limit)

    def call(self, ident: bytes, nthreads=10_000, max_output=None, limit=None) -> int:
        """A CALL of a batch that was sent."""
        task = next(self.numbers)
        self.channel.send(
            _executor.CALL, [task, f"key-{task}", RUN, ident, 0, [3, 2], nthreads, max_output, limit]
        )
        return task

    def send_input(self, parts) -> None:
        """Sends an input, large parts as memory files."""
        places, pieces, fds = [], [], []
        for name, data in parts:
            n = memoryview(data).nbytes
            if n > _result.INLINE_BYTES_MAX:
                fds.append(_channel.memory_file(data))
                places.append([name, {"Descriptor": n}])
            else:
                pieces.append(data)
                places.append([name, {"Inline": n}])
        self.channel.send(_executor.INPUTS, [[["", "an input", False, places]]], pieces, fds)
        for fd in fds:
            os.close(fd)

    def done(self, task: int):
        """How a call ended: (end, parts, places)."""
        frame = receive(self.channel, _executor.DONE)
        number, end, places, cpu_ns = frame.control
        assert number == task and cpu_ns >= 0
        fds, at, parts = iter(frame.descriptors), 0, []
        for name, place in places:
            ((kind, n),) = place.items()
            if kind == "Inline":
                parts.append((name, frame.body[at : at + n]))
                at += n
            else:
                fd = next(fds)
                assert os.fstat(fd).st_size == n
                parts.append((name, _channel.map_private(fd, n)))
                os.close(fd)
        return end, parts, places

    def run(self, function, *args, **kwargs):
        """The value of a call that succeeds."""
        end, parts, _ = self.done(self.start(function, *args, **kwargs))
        assert end == "Succeeded", end
        return _result.loads(parts)

    def fail(self, function, *args, **kwargs):
        """Summary, text and exception of a call that raises."""
        end, _, _ = self.done(self.start(function, *args, **kwargs))
        summary, text, payload = end["Raised"]
        return summary, text, pickle.loads(payload)

    def exited(self) -> tuple[int, str]:
        """Waits for the end of the process: its wait status, and what it wrote."""
        pid, status = receive(self.zygote.channel, _zygote.EXITED).control
        assert pid == self.pid
        self.gone = True
        return status, self.written()

    def written(self) -> str:
        """What the process wrote until it ended."""
        with open(self.output, "rb") as out:
            return out.read().decode()


class Zygote:
    """A zygote of its own process."""

    def __init__(self, preload=(), **environment) -> None:
        mine, its = socket.socketpair()
        env = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")}
        env |= {"PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpcdag._zygote"], stdin=its, env=env, stderr=subprocess.PIPE
        )
        its.close()
        self.channel = _channel.Channel(mine)
        hello = receive(self.channel, _zygote.HELLO).control
        assert hello == [1, 3, f"python-zygote {sys.version_info[0]}.{sys.version_info[1]}", self.process.pid]
        self.channel.send(_zygote.WELCOME, [3])
        described = _environment.describe(preload=preload) | environment
        self.channel.send(_zygote.LOAD, ["environment", b""], [_msgpack.pack(described)])

    def want(self, *modules: str) -> None:
        """Says that the client has imported these, too."""
        self.channel.send(_zygote.LOAD, ["modules", b""], [_msgpack.pack(list(modules))])

    def executor(self, version: int = 1, at_once: bool = False, sent: Any = None) -> Executor:
        """Another executor, spoken to in this version of the protocol; `at_once`: it may lack modules.
        `sent()` is called when it has been asked for."""
        return Executor(self, version, at_once, sent)

    def close(self) -> str:
        """Ends the connection, and with it the zygote; what it wrote."""
        self.channel.socket.close()
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return errors.decode()
