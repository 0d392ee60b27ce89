"""Connections to workers: fetching results and bringing data.

Owns the connections, which are kept for a while; which worker has what is `_book`'s.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import pickle
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from . import _book, _result, _wire
from ._book import Run
from ._session import CANCEL, Session
from .errors import HpcdagError, NoSchedulerError, RefusedError

log = logging.getLogger("hpcdag")

_HELLO, _GET, _PUT, _PIECE_OUT = 1, 2, 3, 4
_WELCOME, _BEGIN, _PIECE, _STORED = 1, 3, 4, 5

_PIECE_BYTES = 1 << 20
#: Results of one part up to this are loaded from where they were received.
_SMALL_BYTES = 16 << 10
#: Results asked for in one message.
_GET_TASKS = 1024
#: Connections kept open while nobody uses them.
_IDLE_MAX = 32
#: Workers that are read from at the same time.
_PARALLEL = 8
#: A worker that says nothing for so long is given up, seconds.
_STALL = 60.0
#: How often a result may turn out not to be where it should be.
_MISSES_MAX = 20

_numbers = itertools.count(1)


class Peers:
    """The workers of a session's cluster. May be used by several threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[str, int], _wire.Buffered] = OrderedDict()
        self._turn = 0
        session.bring = self.bring_all

    # Connections

    @contextlib.contextmanager
    def _connection(self, address: str, fresh: bool = False) -> Iterator[_wire.Buffered]:
        """A connection of one's own; kept afterwards unless something went wrong."""
        wire = None
        with self._lock:
            for key in reversed(self._idle):
                if key[0] == address:
                    wire = self._idle.pop(key)
                    break
        if wire is not None and fresh:
            wire.close()
            wire = None
        if wire is None:
            wire = self._connect(address)
        try:
            yield wire
        except BaseException:  # Also on Ctrl-C: it may be in the middle of a frame.
            wire.close()
            raise
        with self._lock:
            self._idle[address, next(_numbers)] = wire
            old = self._idle.popitem(last=False)[1] if len(self._idle) > _IDLE_MAX else None
        if old is not None:
            old.close()

    def _connect(self, address: str) -> _wire.Buffered:
        session = self.session
        wire = _wire.Buffered(_wire.connect(address, "worker", session.file.id, session.context))
        try:
            wire.sock.settimeout(_STALL)
            wire.send(_HELLO, [_wire.PROTOCOL, session.epoch])
            tag, control, _ = wire.receive()
            if tag != _WELCOME:
                raise RefusedError(f"worker at {address} refuses: {control[0]}")
        except BaseException:
            wire.close()
            raise
        return wire

    def _with_connection(self, address: str, use: Callable[[_wire.Buffered], Any]) -> Any:
        """Uses a connection, and another one if a kept one turns out to be dead."""
        try:
            with self._connection(address) as wire:
                return use(wire)
        except (OSError, ValueError):
            with self._connection(address, fresh=True) as wire:
                return use(wire)

    def close(self) -> None:
        """Closes all connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for wire in idle.values():
            wire.close()

    def forget(self) -> None:
        """In a forked process: leaves the parent's connections alone."""
        self._lock = threading.Lock()
        for wire in self._idle.values():
            with contextlib.suppress(OSError):
                os.close(wire.sock.detach())
        self._idle = OrderedDict()

    # Fetching

    def fetch(
        self, tasks: Sequence[tuple[Run, int]], timeout: float | None = None, raising: bool = True
    ) -> dict[tuple[Run, int], Any]:
        """The values of tasks, as they come from the workers, waiting for those that are not there yet.

        Tasks that have failed are left out; with `raising` it returns as soon as one is seen.
        Raises TimeoutError after `timeout` seconds, and what loading a value raises.
        """
        until = None if timeout is None else time.monotonic() + timeout
        values: dict[tuple[Run, int], Any] = {}
        todo = list(dict.fromkeys(tasks))
        wanted, done = len(todo), _book.DONE
        misses = 0
        while todo:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self.session.wait(todo, left, raising):
                raise TimeoutError(f"{len(todo)} of {len(tasks)} results are not there after {timeout:g} s")
            groups: defaultdict[int, list[tuple[Run, int]]] = defaultdict(list)
            for task in todo:
                run, index = task
                state = run.state[index]
                if state == done:
                    groups[run.holder[index]].append(task)
                elif state != _book.PENDING and raising:
                    return values
            if not groups:
                return values
            missing = self._fetch_groups(groups, values)
            if missing:
                misses += 1
                if misses > _MISSES_MAX:
                    raise HpcdagError(
                        f"{len(missing)} results could not be had from the workers that should have them"
                    )
                for task, holder in missing:
                    self.session.missing(*task, holder)
                time.sleep(min(1.0, 0.01 * 2**misses))
            if len(values) == wanted:
                break
            todo = [t for t in todo if t not in values and t[0].state[t[1]] in (done, _book.PENDING)]
        return values

    def _fetch_groups(
        self, groups: dict[int, list[tuple[Run, int]]], values: dict[tuple[Run, int], Any]
    ) -> list[tuple[tuple[Run, int], int]]:
        """Fetches from each holder what it should have. Gives what was not there, and where."""
        if len(groups) == 1:
            ((holder, tasks),) = groups.items()
            return self._fetch_from(holder, tasks, values)
        todo = list(groups.items())
        missing: list[tuple[tuple[Run, int], int]] = []
        faults: list[BaseException] = []

        def work() -> None:
            while not faults:
                try:
                    holder, tasks = todo.pop()
                except IndexError:
                    return
                try:
                    missing.extend(self._fetch_from(holder, tasks, values))
                except BaseException as error:
                    faults.append(error)

        # Not a pool: that would hold up Ctrl-C and the end of the interpreter until all has come.
        threads = [
            threading.Thread(target=work, name="hpcdag-fetch", daemon=True)
            for _ in range(min(_PARALLEL, len(groups)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:
            faults.append(error)
            raise
        if faults:
            raise faults[0]
        return missing

    def _fetch_from(
        self, holder: int, tasks: list[tuple[Run, int]], values: dict[tuple[Run, int], Any]
    ) -> list[tuple[tuple[Run, int], int]]:
        address = self.session.book.peers.get(holder)
        if address is None:
            return [(task, holder) for task in tasks]
        missing: list[tuple[tuple[Run, int], int]] = []
        at, loads = 0, pickle.loads

        def get(wire: _wire.Buffered) -> None:
            nonlocal at
            while at < len(tasks):
                some = tasks[at : at + _GET_TASKS]
                number = next(_numbers) & 0xFFFFFFFF
                wire.send(_GET, [number, [[run.id, run.first + index] for run, index in some]])
                for task in some:
                    parts = _receive_result(wire, number)
                    at += 1
                    if parts is None:
                        missing.append((task, holder))
                    elif type(parts) is memoryview:
                        values[task] = loads(parts)
                    else:
                        values[task] = _result.loads(parts)

        try:
            self._with_connection(address, get)
        except (OSError, _wire._frames.FrameError, RefusedError) as error:
            log.info("cannot fetch from the worker at %s: %s", address, error)
            missing += [(task, holder) for task in tasks[at:] if task not in values]
        return missing

    # Bringing

    def addresses(self, timeout: float = 60.0) -> list[str]:
        """Addresses of the workers that run; waits for one. Raises TimeoutError if there is none."""
        until = time.monotonic() + timeout
        while True:
            workers = self.session.ask("Status")["workers"]
            found = [worker["address"] for worker in workers if worker["state"] == "running"]
            found = found or [worker["address"] for worker in workers]
            if found:
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"there is no worker to bring data to (waited {timeout:g} s)")
            with contextlib.suppress(TimeoutError):
                self.session.ask({"WaitWorkers": [1, max(1, int(left * 1000))]}, left + 5)

    def bring(self, run: Run, brought: Iterable[tuple[int, Any]], timeout: float = 60.0) -> None:
        """Brings data to workers, one after the other in turn. The run has been accepted.

        Raises TimeoutError if there is no worker, NoSchedulerError if none could be reached, TypeError for
        values that cannot be pickled, RefusedError if a worker could not keep one.
        """
        addresses = self.addresses(timeout)
        for index, value in brought:
            parts = [(name, memoryview(data).cast("B")) for name, data in _result.dumps(value)]
            faults = []
            for _ in range(max(3, len(addresses))):
                self._turn += 1
                address = addresses[self._turn % len(addresses)]
                try:
                    error = self._with_connection(
                        address, lambda wire, i=index, p=parts: _put(wire, run.task(i), p)
                    )
                except (OSError, _wire._frames.FrameError, RefusedError) as fault:
                    faults.append(f"{address}: {fault}")
                    addresses = self.addresses(timeout)
                    continue
                if error is None:
                    break
                faults.append(f"{address}: {error}")
            else:
                raise NoSchedulerError(
                    errno.EIO, "data could not be brought to a worker: " + "; ".join(faults)
                )

    def bring_all(self, run: Run, brought: list[tuple[int, Any]]) -> None:
        """`bring` in the background: what cannot be brought is cancelled, so that nobody waits for it."""
        waited = 600.0
        try:
            self.bring(run, brought, waited)
        except Exception as error:
            if self.session.ended is None:
                log.warning("arguments of %s could not be brought to workers: %s", run.name, error)
                with contextlib.suppress(Exception):
                    self.session.on_tasks(
                        CANCEL, run, [i for i, _ in brought], f"its data could not be brought: {error}"
                    )


def _receive_result(wire: _wire.Buffered, number: int) -> list[tuple[str, memoryview]] | memoryview | None:
    """The next result: its parts, received where they stay; None if it is not there. Of a small one that has
    one part that part's bytes, valid until more is received."""
    tag, control, left = wire.receive_head()
    if tag != _BEGIN or control[0] != number or left:
        raise _wire._frames.FrameError(f"message {tag} instead of the beginning of a result")
    headers = control[2]
    if headers is None:
        return None
    if len(headers) == 1 and 0 < headers[0][1] <= _SMALL_BYTES:
        size = headers[0][1]
        tag, _, left = wire.receive_head()
        if tag != _PIECE or left != size:
            raise _wire._frames.FrameError(f"message {tag} instead of a piece of a result")
        return wire.receive_small(size)
    parts = [(name, _result.room(size)) for name, size, _in_place in headers]
    at = 0  # the part that is being filled
    filled = 0
    while True:
        while at < len(parts) and filled == len(parts[at][1]):
            at, filled = at + 1, 0
        if at == len(parts):
            return parts
        tag, _, left = wire.receive_head()
        if tag != _PIECE:
            raise _wire._frames.FrameError(f"message {tag} instead of a piece of a result")
        while left:
            if at == len(parts):
                raise _wire._frames.FrameError("a result is longer than announced")
            room = parts[at][1]
            n = min(left, len(room) - filled)
            wire.receive_into(room[filled : filled + n])
            filled += n
            left -= n
            while at < len(parts) and filled == len(parts[at][1]):
                at, filled = at + 1, 0


def _put(wire: _wire.Buffered, task: list[int], parts: list[tuple[str, memoryview]]) -> str | None:
    """Sends a value. Why the worker could not keep it, if so."""
    number = next(_numbers) & 0xFFFFFFFF
    wire.send(_PUT, [number, task, [[name, len(data), None] for name, data in parts]])
    for _, data in parts:
        for at in range(0, len(data), _PIECE_BYTES):
            wire.send(_PIECE_OUT, [], data[at : at + _PIECE_BYTES])
    tag, control, _ = wire.receive()
    if tag != _STORED or control[0] != number:
        raise _wire._frames.FrameError(f"message {tag} instead of an answer to data that was brought")
    return control[1]
