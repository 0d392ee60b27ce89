"""A unix socket between a worker and its Python processes: frames with descriptors beside them, memory files.

Owns bytes, buffering and descriptors; nothing about what messages mean. Blocking. One thread at a time may
receive, one at a time may send.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _frames

# Descriptors of one frame at most.
DESCRIPTORS_MAX = 128

_BUFFER_BYTES = 64 << 10
# Pieces of so many bytes are copied together, which costs less than handing them over one by one.
_JOINED_BYTES_MAX = 16 << 10
_INT_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT_BYTES)

_F_ADD_SEALS = 1033
_SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 2, 4, 8


class Frame(NamedTuple):
    """A frame that has come."""

    tag: int
    control: Any
    body: memoryview  #: writable, of this frame alone
    descriptors: list[int]  #: owned by whoever has the frame


class Channel:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self.socket = sock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._start = self._end = 0
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.socket.fileno()

    def has_frame(self) -> bool:
        """Whether a whole frame is here already, so that `receive` does not wait."""
        if self._end - self._start < _frames.HEADER_BYTES:
            return False
        header = _frames.unpack_header(memoryview(self._buffer)[self._start : self._end])
        return self._end - self._start >= _frames.HEADER_BYTES + header.total

    def receive(self) -> Frame | None:
        """Waits for a frame; None at the end of the connection. Raises `FrameError` for what is no frame."""
        size = _frames.HEADER_BYTES
        while self._end - self._start < size:
            if not self._fill():
                if self._end > self._start:
                    raise _frames.FrameError("the connection ended within a frame")
                return None
        view = memoryview(self._buffer)
        header = _frames.unpack_header(view[self._start : self._end])
        self._start += size
        rest = memoryview(bytearray(header.total))
        here = min(self._end - self._start, header.total)
        rest[:here] = view[self._start : self._start + here]
        self._start += here
        while here < header.total:
            n = self._receive_into(rest[here:])
            if n == 0:
                raise _frames.FrameError("the connection ended within a frame")
            here += n
        if header.flags > len(self._descriptors):
            raise _frames.FrameError(f"message {header.tag} lacks descriptors: too many open files?")
        descriptors = [self._descriptors.popleft() for _ in range(header.flags)]
        control = _frames.unpack_control(rest[: header.control])
        return Frame(header.tag, control, rest[header.control :], descriptors)

    def _fill(self) -> int:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            n = self._end - self._start
            self._buffer[:n] = self._buffer[self._start : self._end]
            self._start, self._end = 0, n
        n = self._receive_into(memoryview(self._buffer)[self._end :])
        self._end += n
        return n

    def _receive_into(self, into: memoryview) -> int:
        """Some bytes. Descriptors queue up: the kernel hands them out with the first byte of their frame."""
        try:
            n, beside, _, _ = self.socket.recvmsg_into([into], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # The other side has died with bytes of ours unread: that is an end, too.
            return 0
        for level, kind, data in beside:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
                self._descriptors.extend(fds)
        return n

    def send(
        self, tag: int, control: Any, pieces: Sequence[Any] = (), descriptors: Sequence[int] = ()
    ) -> None:
        """Sends a frame with `pieces` (bytes-like) as its body. The caller keeps its descriptors."""
        if len(descriptors) > DESCRIPTORS_MAX:
            raise _frames.FrameError(f"message {tag} has too many descriptors: {len(descriptors)}")
        views = [view for view in (memoryview(piece).cast("B") for piece in pieces) if view.nbytes]
        total = sum(view.nbytes for view in views)
        head = _frames.pack_head(tag, control, total, len(descriptors))
        if total <= _JOINED_BYTES_MAX:
            head = b"".join((head, *views))
            if not descriptors:
                self.socket.sendall(head)
                return
            views = []
        left = [memoryview(head), *views]
        beside = []
        if descriptors:
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while left:
            # The kernel takes so many pieces at once.
            n = self.socket.sendmsg(left[:512], beside, socket.MSG_NOSIGNAL)
            beside = []
            while left and n >= left[0].nbytes:
                n -= left[0].nbytes
                del left[0]
            if n:
                left[0] = left[0][n:]


def of_descriptor(connection: int) -> Channel:
    """One end, which is this process's alone: those that it forks do not keep the connection open."""
    sock = socket.socket(fileno=connection)
    sock.set_inheritable(False)
    os.register_at_fork(after_in_child=lambda: sock.fileno() >= 0 and os.close(sock.detach()))
    return Channel(sock)


def memory_file(data: Any, lent: int | None = None) -> int:
    """A sealed memory file with the bytes of `data` (bytes-like), or the file `lent` with them, which is not
    sealed; the caller owns its descriptor."""
    view = memoryview(data).cast("B")
    # By this name the worker knows results from other memory.
    fd = os.memfd_create("hpcdag:result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if lent is None else lent
    try:
        while view.nbytes:
            view = view[os.write(fd, view) :]
        if lent is None:
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW | _SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_private(fd: int, nbytes: int) -> mmap.mmap | bytearray:
    """The first `nbytes` of a file as memory that can be written without changing the file."""
    if nbytes == 0:
        return bytearray()
    return mmap.mmap(fd, nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
