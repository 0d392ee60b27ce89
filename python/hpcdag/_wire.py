"""Connections to schedulers and workers: the scheduler file, TLS, frames.

Owns how one connects and what travels; which file is meant is `_discovery`'s question, what is said when is
`_session`'s and `_peers`'.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import ssl
import stat
import tempfile
from dataclasses import dataclass
from typing import Any

from . import _frames
from .errors import NoSchedulerError, RefusedError

#: The version of the protocol that this package speaks.
PROTOCOL = 2

#: Within which a connection must stand, seconds.
CONNECT_TIMEOUT = 10.0

_FILE_BYTES_MAX = 1 << 20

#: What is read ahead, bytes; records of TLS are a quarter of it at most.
_BUFFER_BYTES = 1 << 16


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `tls://HOST:PORT`; `tls://` may be missing, IPv6 is in brackets. Raises ValueError."""
    scheme, found, rest = text.partition("://")
    if not found:
        rest = text
    elif scheme != "tls":
        raise ValueError(f"{text!r} is not an address: connections are tls, not {scheme}")
    host, colon, port = rest.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not an address: write tls://HOST:PORT")
    return host.strip("[]"), int(port)


def read_private(path: str) -> bytes:
    """The content of a file that must belong to this user and to nobody else.

    Raises NoSchedulerError if there is none, RefusedError if others could have touched it.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NoSchedulerError(errno.ENOENT, f"scheduler file: there is no file {path}") from None
    except OSError as error:
        raise RefusedError(f"scheduler file: cannot read {path}: {error.strerror}") from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise RefusedError(f"scheduler file: {path} is not a file")
        if about.st_uid != os.geteuid():
            raise RefusedError(
                f"scheduler file: {path} belongs to user {about.st_uid}, not to you (user {os.geteuid()})"
            )
        if about.st_mode & 0o077:
            raise RefusedError(
                f"scheduler file: {path} can be used by others than you (mode {about.st_mode & 0o777:03o}); "
                f"whoever read it can use the cluster: start a new one; if nobody can have, chmod 600 {path}"
            )
        data = b""
        while len(data) <= _FILE_BYTES_MAX and (more := os.read(fd, _FILE_BYTES_MAX + 1)):
            data += more
    finally:
        os.close(fd)
    if len(data) > _FILE_BYTES_MAX:
        raise RefusedError(f"scheduler file: {path} is far too large")
    return data


@dataclass(frozen=True)
class SchedulerFile:
    """What a scheduler file says. The keys are not shown."""

    path: str
    id: str
    address: str
    epoch: int
    dashboard_port: int | None
    _credentials: dict[str, Any]

    def __repr__(self) -> str:
        return f"<SchedulerFile {self.path}: cluster {self.id} at {self.address}>"

    @classmethod
    def read(cls, path: str | os.PathLike[str], address: str | None = None) -> SchedulerFile:
        """Reads and checks a file; `address` is used instead of the file's.

        Raises NoSchedulerError (missing, half written), RefusedError (exposed, not one, another protocol).
        """
        path = os.path.abspath(os.path.expanduser(path))
        data = read_private(path)
        try:
            found = json.loads(data)
        except ValueError:
            if not data.strip(b"\0 \t\r\n") or not data.rstrip().endswith(b"}"):
                raise NoSchedulerError(errno.EAGAIN, f"scheduler file {path} is only half written") from None
            raise RefusedError(f"{path} is not a scheduler file") from None
        if not isinstance(found, dict) or found.get("type") != "Scheduler" or "protocol" not in found:
            raise RefusedError(f"{path} is not a scheduler file of hpcdag; is it Dask's?")
        if found["protocol"] != PROTOCOL:
            raise RefusedError(
                f"scheduler file {path} is of hpcdag {found.get('version')} "
                f"(protocol {found['protocol']}), this is protocol {PROTOCOL}: "
                "use the same version of hpcdag on both sides"
            )
        try:
            credentials = found["credentials"]
            pair = credentials["client"]
            kept = {"ca": credentials["ca"], "cert": pair["cert"], "key": pair["key"]}
            where = address or found["address"]
            parse_address(where)
            dashboard = (found.get("services") or {}).get("dashboard")
            return cls(path, found["id"], where, int(found.get("epoch", 0)), dashboard, kept)
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedError(f"{path} is not a scheduler file: {error!r}") from None

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with the client's certificate, for peers of this cluster only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(cadata=self._credentials["ca"])
            with _secret_file(self._credentials["cert"] + "\n" + self._credentials["key"]) as name:
                context.load_cert_chain(name)
        except (ssl.SSLError, ValueError) as error:
            raise RefusedError(f"the credentials in {self.path} cannot be used: {error}") from None
        return context


@contextlib.contextmanager
def _secret_file(text: str) -> Any:
    """The name of a file with `text`, which Python's ssl can only read from one; it is never on a disk if
    that can be had."""
    try:
        fd = os.memfd_create("hpcdag", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        fd = -1
    if fd >= 0:
        try:
            os.write(fd, text.encode())
            name = f"/proc/self/fd/{fd}"
            if os.path.exists(name):
                yield name
                return
        finally:
            os.close(fd)
    fd, name = tempfile.mkstemp(prefix=".hpcdag-")  # mode 0600
    try:
        os.write(fd, text.encode())
        yield name
    finally:
        os.close(fd)
        os.unlink(name)


def connect(
    address: str, role: str, cluster: str, context: ssl.SSLContext, timeout: float = CONNECT_TIMEOUT
) -> ssl.SSLSocket:
    """A connection to whoever has `role` (`scheduler`, `worker`) in the cluster, blocking with `timeout`
    seconds.

    Raises NoSchedulerError if nobody answers, RefusedError if somebody else does.
    """
    try:
        plain = socket.create_connection(parse_address(address), timeout)
    except OSError as error:
        raise NoSchedulerError(
            error.errno or errno.EHOSTUNREACH, f"nobody answers at {address}: {error}"
        ) from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, option):
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return context.wrap_socket(plain, server_hostname=f"{role}.{cluster}.hpcdag")
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise RefusedError(
            f"{address} is not the {role} of cluster {cluster}: {error.verify_message}"
        ) from None
    except OSError as error:
        plain.close()
        raise NoSchedulerError(
            error.errno or errno.ECONNRESET, f"no connection to {address}: {error or type(error).__name__}"
        ) from None


class Blocking:
    """Frames over a connection that waits. For the greeting, and for workers; used by one thread at a
    time."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock

    def receive_into(self, view: memoryview) -> None:
        """Fills `view`. Raises OSError when the connection ends."""
        receive = self.sock.recv_into
        at, end = 0, len(view)
        while at < end:
            n = receive(view[at:])
            if n == 0:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was ended")
            at += n

    def receive_exactly(self, n: int) -> bytearray:
        """The next `n` bytes."""
        data = bytearray(n)
        if n:
            self.receive_into(memoryview(data))
        return data

    def receive_head(self) -> tuple[int, Any, int]:
        """Tag, control part and bytes of the body of the next frame; the body is for the caller to
        receive."""
        header = _frames.unpack_header(self.receive_exactly(_frames.HEADER_BYTES))
        control = _frames.unpack_control(self.receive_exactly(header.control))
        return header.tag, control, header.total - header.control

    def receive(self) -> tuple[int, Any, bytearray]:
        """The next frame: tag, control part, body."""
        tag, control, left = self.receive_head()
        return tag, control, self.receive_exactly(left)

    def send(self, tag: int, control: Any, body: Any = b"") -> None:
        """Sends a frame."""
        self.sock.sendall(_frames.pack_head(tag, control, len(body)))
        if len(body):
            self.sock.sendall(body)

    def close(self) -> None:
        """Closes; never raises."""
        with contextlib.suppress(OSError):
            self.sock.close()


class Buffered(Blocking):
    """The same for whoever receives many small frames: bytes that have come together are read together.

    Bytes that were read too early stay here, so nobody else may receive from the connection.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def _fill(self, wanted: int) -> None:
        """Receives until `wanted` bytes (of a buffer's at most) are there."""
        if self._start + wanted > _BUFFER_BYTES:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        receive, view = self.sock.recv_into, self._view
        while self._end - self._start < wanted:
            n = receive(view[self._end :])
            if n == 0:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was ended")
            self._end += n

    def receive_into(self, view: memoryview) -> None:
        """Fills `view`. Raises OSError when the connection ends."""
        here = min(len(view), self._end - self._start)
        if here:
            view[:here] = self._view[self._start : self._start + here]
            self._start += here
        rest = view[here:]
        if len(rest) > _BUFFER_BYTES // 2:
            super().receive_into(rest)
        elif len(rest):
            self._start = self._end = 0
            self._fill(len(rest))
            rest[:] = self._view[: len(rest)]
            self._start = len(rest)

    def receive_small(self, n: int) -> memoryview:
        """The next `n` bytes (16 KiB at most), valid until more is received."""
        if self._end - self._start < n:
            self._fill(n)
        self._start += n
        return self._view[self._start - n : self._start]

    def receive_head(self) -> tuple[int, Any, int]:
        """Tag, control part and bytes of the body of the next frame; the body is for the caller to
        receive."""
        if self._end - self._start < _frames.HEADER_BYTES:
            self._fill(_frames.HEADER_BYTES)
        total, tag, _, control = _frames.HEADER.unpack_from(self._buffer, self._start)
        if total > _frames.FRAME_BYTES_MAX or control > total:
            _frames.unpack_header(self._view[self._start :])  # It says what is wrong.
        self._start += _frames.HEADER_BYTES
        if control > _BUFFER_BYTES:
            return tag, _frames.unpack_control(self.receive_exactly(control)), total - control
        if self._end - self._start < control:
            self._fill(control)
        end = self._start + control
        # Pieces of data have an empty list as their control part.
        empty = control == 1 and self._buffer[self._start] == 0x90
        fields = [] if empty else _frames.unpack_control(self._view[self._start : end])
        self._start = end
        return tag, fields, total - control


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("hpcdag")
    except metadata.PackageNotFoundError:
        return "unknown"


def greet_scheduler(
    file: SchedulerFile, context: ssl.SSLContext, session: bytes, timeout: float = CONNECT_TIMEOUT
) -> tuple[ssl.SSLSocket, list]:
    """A connection to the scheduler that has been let in, and its `Welcome`.

    Raises NoSchedulerError, or RefusedError if it will never let us in.
    """
    sock = connect(file.address, "scheduler", file.id, context, timeout)
    wire = Blocking(sock)
    try:
        wire.send(1, [PROTOCOL, PROTOCOL, _version(), session, socket.gethostname(), os.getpid()])
        tag, control, _ = wire.receive()
    except OSError as error:
        wire.close()
        raise NoSchedulerError(errno.ECONNRESET, f"no greeting from {file.address}: {error}") from None
    if tag == 1:
        return sock, control
    wire.close()
    raise RefusedError(f"the scheduler at {file.address} refuses: {control[0] if control else tag}")
