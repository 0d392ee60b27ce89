"""A TCP proxy for tests that can cut what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on a port of this machine and passes everything on to `target` (host, port)."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.connections = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tls://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                inner.close()
                continue
            try:
                outer = socket.create_connection(self.target)
            except OSError:
                inner.close()
                continue
            with self._lock:
                self.connections += 1
                self._pairs.append((inner, outer))
            for a, b in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass_on(a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(1 << 16):
                b.sendall(data)
        for sock in (a, b):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def shut(self) -> None:
        """Ends all connections and accepts no more until `open`."""
        self._open.clear()
        self.cut()

    def open(self) -> None:
        """Accepts connections again."""
        self._open.set()

    def close(self) -> None:
        """Ends everything."""
        self.shut()
        self._listener.close()
