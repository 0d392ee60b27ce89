"""The connection of a client's session and the one thread that owns it: frames out and in, pings, coming back
after a cut.

Owns the socket, the queue of frames, and what has to be said again. What is said and heard is `_session`'s.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import selectors
import socket
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

from . import _frames, _wire
from .errors import HpcdagError, NoSchedulerError, RefusedError

log = logging.getLogger("hpcdag")

_PING = 9

#: How often to show that the client is there, and how soon to have the scheduler confirm what it was told,
#: seconds.
PING_INTERVAL = 15.0
CONFIRM_INTERVAL = 2.0

#: A connection on which a ping is not answered for so long is given up, seconds.
SILENCE = 60.0

#: After a cut, a client complains when the scheduler was not reached for so long, and gives up, seconds.
GIVE_UP = 900.0
COMPLAIN = 10.0

#: A wait without end, seconds.
FOREVER = 3600.0

#: Pieces of frames below this are joined before they are sent, bytes.
_SMALL = 1 << 14


class Link:
    """A connection that comes back. All methods without an underscore may be called by any thread.

    Raises NoSchedulerError after `timeout` seconds, RefusedError at once.
    """

    def __init__(self, path: str, address: str | None, timeout: float) -> None:
        self.path = path
        self.address = address
        self.id = uuid.uuid4().bytes
        self.lock = threading.RLock()
        #: notified when tasks have changed, and when the session ends
        self.changed = threading.Condition(self.lock)
        self.file: Any = None
        self.context: Any = None
        self.epoch = 0
        self.connected = False
        #: why nothing can be had any more
        self.ended: Exception | None = None
        self._sock: Any = None
        self._closing = False
        self._forked = False
        self._last_words_by = 0.0
        self._out: deque[memoryview] = deque()
        self._unconfirmed: deque[list] = deque()
        self._pinged: deque[int] = deque()
        self._unpinged = 0
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._woken = False
        try:
            self._connect_first(timeout)
            self.connected = True
        except BaseException:
            self._wake_read.close()
            self._wake_write.close()
            raise
        self._thread = threading.Thread(target=self._main, name="hpcdag-session", daemon=True)

    # For those who inherit

    def _hear(self, tag: int, control: list, body: memoryview) -> None:
        """A message has come; `body` is valid during the call."""
        raise NotImplementedError

    def _say_all_again(self) -> None:
        """The connection stands again: queues what the scheduler may not know. The lock is held."""
        raise NotImplementedError

    def _tidy(self) -> None:
        """Queues what has been collected."""
        raise NotImplementedError

    def _collect(self) -> float:
        """Before the thread sends: `_tidy`, or not yet. Gives the seconds after which to look again."""
        self._tidy()
        return FOREVER

    def _end(self, error: Exception) -> None:
        """Nothing can be had any more."""
        raise NotImplementedError

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
        with self.lock:
            self.connected = False
            self._out.clear()
            self._pinged.clear()
            self._unpinged = len(self._unconfirmed)
        if self._sock is not None:
            try:
                self._sock.close()
            except OSError:
                pass

    def _reconnect(self) -> None:
        pause, begin, complained = 0.1, time.monotonic(), False
        while not self._closing:
            try:
                self._connect()
            except RefusedError as error:
                return self._end(error)
            except OSError as error:
                away = time.monotonic() - begin
                if away > GIVE_UP:
                    words = f"the scheduler was not reached for {away:.0f} s: {error}"
                    return self._end(NoSchedulerError(error.errno, words))
                if away > COMPLAIN and not complained:
                    complained = True
                    log.warning("the scheduler has not been reached for %.0f s: %s", away, error)
                # Many clients of one scheduler do not come back at the same moment.
                self._sleep(pause * random.uniform(0.7, 1.3))
                pause = min(5.0, pause * 2)
                continue
            with self.lock:
                # Only from here on others may queue frames: behind those that are said again.
                self.connected = True
                log.info("connected to the scheduler again")
                self._say_all_again()
                for frame in self._unconfirmed:
                    self._queue(frame)
            return None
        return None

    def _sleep(self, seconds: float) -> None:
        """Sleeps unless the session is closed meanwhile."""
        until = time.monotonic() + seconds
        with self.changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)

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
                pause = self._collect()
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
                wait = 0 if sock.pending() else min(pause, max(0.0, last_ping + interval - now))
                ready = selector.select(0.1 if self._closing else wait)
                for key, _ in ready:
                    if key.fileobj is self._wake_read:
                        # In this order: whoever comes in between has queued what the next round finds.
                        _drain(self._wake_read)
                        self._woken = False
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

    def _ping(self) -> None:
        with self.lock:
            self._pinged.append(self._unpinged)
            self._unpinged = 0
            self._queue([_frames.pack_head(_PING, [])])

    # Saying something; the lock is held for those with an underscore

    def _queue(self, frame: Sequence[Any]) -> None:
        small: list = []
        for piece in frame:
            if len(piece) < _SMALL:
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
            self._tidy()
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
