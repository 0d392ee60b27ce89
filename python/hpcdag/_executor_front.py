"""`concurrent.futures.Executor` on a client: for programs and libraries that know only that."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import _book
from .future import Future

if TYPE_CHECKING:
    from .client import Client


class ClientExecutor(concurrent.futures.Executor):
    """Runs calls on the cluster of a client. `options` are keywords of `Client.submit`, the same for all
    calls."""

    def __init__(self, client: Client, **options: Any) -> None:
        options.setdefault("pure", False)
        self._client = client
        self._options = options
        self._lock = threading.Lock()
        self._shut = False
        self._futures: weakref.WeakSet[concurrent.futures.Future] = weakref.WeakSet()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future:
        """A `concurrent.futures.Future` of `fn(*args, **kwargs)`. Raises RuntimeError after `shutdown`."""
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        return self._follow(self._client._submit_with(fn, args, kwargs, self._options))

    def _follow(self, remote: Future) -> concurrent.futures.Future:
        """A standard future that ends as `remote` does."""
        future = _StandardFuture(remote)
        with self._lock:
            self._futures.add(future)
        session = remote._held()
        session.when_ended(
            remote._run, remote._index, lambda _r, _i: session.in_background(_settle, future, remote)
        )
        return future

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, **_: Any
    ) -> Iterator[Any]:
        """The results of `fn` for each element, in order. Raises TimeoutError `timeout` seconds from now."""
        until = None if timeout is None else time.monotonic() + timeout
        options = {name: value for name, value in self._options.items() if name != "pure"}
        futures = self._client.map(fn, *iterables, **options)

        def results() -> Iterator[Any]:
            try:
                for at in range(len(futures)):
                    left = None if until is None else max(0.0, until - time.monotonic())
                    yield futures[at].result(left)
                    futures[at] = None
            finally:
                futures.clear()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No further calls; waits for those that are there, or cancels them."""
        with self._lock:
            self._shut = True
            futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            concurrent.futures.wait(futures)


class _StandardFuture(concurrent.futures.Future):
    def __init__(self, remote: Future) -> None:
        super().__init__()
        self._remote: Future | None = remote

    def cancel(self) -> bool:
        cancelled = super().cancel()
        remote, self._remote = self._remote, None if cancelled else self._remote
        if cancelled and remote is not None:
            remote.cancel()
        return cancelled


def _settle(future: _StandardFuture, remote: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    state = remote._run.state[remote._index]
    try:
        if state == _book.CANCELLED:
            raise remote._exception()
        value = remote.result()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
    future._remote = None
