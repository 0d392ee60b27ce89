"""Waiting for several futures: `wait` and `as_completed`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple

from . import _book, _tasks
from ._options import parse_seconds
from .future import Future

#: Results that are fetched together.
_FETCH = 256


class DoneAndNotDone(NamedTuple):
    """What `wait` gives."""

    done: set[Future]
    not_done: set[Future]


def futures_in(value: Any, found: list[Future] | None = None) -> list[Future]:
    """All futures in nested lists, tuples, sets and dictionaries, in order."""
    if found is None:
        found = []
    if isinstance(value, Future):
        found.append(value)
    elif isinstance(value, dict):
        for one in value.values():
            futures_in(one, found)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            futures_in(one, found)
    return found


def _is_done(future: Future) -> bool:
    session = future._session
    return session is None or session.ended is not None or bool(future._run.state[future._index])


def wait(fs: Any, timeout: Any = None, return_when: str = "ALL_COMPLETED") -> DoneAndNotDone:
    """Waits until all futures (in nested lists and the like) have ended, or with `FIRST_COMPLETED` one of
    them.

    Raises TimeoutError after `timeout` seconds.
    """
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED"):
        raise ValueError("return_when is ALL_COMPLETED or FIRST_COMPLETED")
    futures = [fs] if isinstance(fs, Future) else futures_in(list(fs) if not isinstance(fs, dict) else fs)
    limit = parse_seconds(timeout)
    until = None if limit is None else time.monotonic() + limit
    if return_when == "FIRST_COMPLETED":
        if futures and not any(map(_is_done, futures)):
            one = as_completed(futures, timeout=limit)
            next(one)
            one.clear()
    else:
        by_session: dict[Any, list] = {}
        for future in futures:
            if not _is_done(future):
                by_session.setdefault(future._held(), []).append((future._run, future._index))
        for session, tasks in by_session.items():
            if not session.wait(tasks, None if until is None else max(0.0, until - time.monotonic())):
                left = sum(not run.state[index] for run, index in tasks)
                raise TimeoutError(f"{left} of {len(futures)} tasks have not ended within {limit:g} s")
    done = {future for future in futures if _is_done(future)}
    return DoneAndNotDone(done, set(futures) - done)


class as_completed:
    """Iterates over futures in the order in which they end; more may be added meanwhile.

    Args:
        futures: the futures.
        with_results: whether to give pairs of futures and results.
        raise_errors: whether failed tasks raise their exception then, or give it as the result.
        timeout: seconds from now after which TimeoutError is raised.
    """

    def __init__(
        self,
        futures: Iterable[Future] | None = None,
        loop: Any = None,
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: Any = None,
    ) -> None:
        self.with_results = with_results
        self.raise_errors = raise_errors
        limit = parse_seconds(timeout)
        self._until = None if limit is None else time.monotonic() + limit
        self._ready: deque[Future] = deque()
        self._results: deque[tuple[Future, Any]] = deque()
        self._pending = 0
        self._changed = threading.Condition()
        self.update(futures or ())

    def add(self, future: Future) -> None:
        """One more future."""
        self.update((future,))

    def update(self, futures: Iterable[Future]) -> None:
        """More futures."""
        for future in futures:
            if not isinstance(future, Future):
                raise TypeError(f"a future is expected, not {type(future).__name__}")
            with self._changed:
                self._pending += 1
            if future._session is None:
                self._push(future)
                continue
            future._session.when_ended(future._run, future._index, lambda _r, _i, f=future: self._push(f))

    def _push(self, future: Future) -> None:
        with self._changed:
            self._ready.append(future)
            self._changed.notify_all()

    def _left(self) -> float | None:
        if self._until is None:
            return None
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self._pending} tasks have not ended in time")
        return left

    def _next_future(self, block: bool = True) -> Future:
        with self._changed:
            while True:
                while not self._ready:
                    if not self._pending or not block:
                        raise StopIteration
                    with _tasks.away():
                        self._changed.wait(self._left())
                future = self._ready.popleft()
                if future._session is not None and not _is_done(future):
                    # Its result was lost meanwhile and is made again.
                    future._session.when_ended(
                        future._run, future._index, lambda _r, _i, f=future: self._push(f)
                    )
                    continue
                self._pending -= 1
                return future

    def __next__(self) -> Any:
        if not self.with_results:
            return self._next_future()
        if not self._results:
            self._fetch()
        future, result = self._results.popleft()
        if self.raise_errors and isinstance(result, _Failed):
            raise result.error
        return future, result.error if isinstance(result, _Failed) else result

    def _fetch(self) -> None:
        some = [self._next_future()]
        while len(some) < _FETCH:
            try:
                some.append(self._next_future(block=False))
            except StopIteration:
                break
        for session in {future._session for future in some if future._session is not None}:
            mine = [future for future in some if future._session is session]
            done = [(f._run, f._index) for f in mine if f._run.state[f._index] in (_book.DONE, _book.PENDING)]
            values = session.peers.fetch(done, self._left(), raising=False) if session.ended is None else {}
            for future in mine:
                task = (future._run, future._index)
                self._results.append(
                    (future, values[task] if task in values else _Failed(future._exception()))
                )
        self._results.extend((f, _Failed(f.exception())) for f in some if f._session is None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        def step() -> tuple[bool, Any]:
            try:
                return True, next(self)
            except StopIteration:
                return False, None

        found, value = await asyncio.get_running_loop().run_in_executor(None, step)
        if not found:
            raise StopAsyncIteration
        return value

    def count(self) -> int:
        """Futures that have not been given yet."""
        return self._pending + len(self._results)

    def is_empty(self) -> bool:
        """Whether all have been given."""
        return self.count() == 0

    def has_ready(self) -> bool:
        """Whether the next one is there."""
        return bool(self._ready or self._results)

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that are there; with `block` at least one, unless all have been given."""
        batch = [next(self)] if block else []
        while self.has_ready():
            try:
                batch.append(next(self))
            except StopIteration:
                break
        return batch

    def batches(self) -> Iterator[list[Any]]:
        """Iterates over lists of those that have ended meanwhile."""
        while not self.is_empty():
            yield self.next_batch()

    def clear(self) -> None:
        """Forgets all futures."""
        with self._changed:
            self._ready.clear()
            self._results.clear()
            self._pending = 0


class _Failed:
    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
