"""Futures: names of tasks whose results a client wants.

Owns `Future`. States are kept in `_book`, values come by `_peers`.
"""

from __future__ import annotations

import asyncio
import html
import types
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from . import _book, _failures
from .errors import CancelledError, LostRun, TaskError

if TYPE_CHECKING:
    from ._book import Run
    from ._session import Session
    from .client import Client

try:
    from dask._task_spec import TaskRef as _Base
except ImportError:
    # Without dask nobody looks for its references.
    class _Base:  # type: ignore[no-redef]
        __slots__ = ("key",)


class Future(_Base):
    """A task of the cluster and a reference to its result, which is kept until the last future of it is gone.

    Futures may be arguments of further tasks, also within lists, dictionaries and objects, and parts of Dask
    collections. They may be pickled: whoever unpickles one (in a task, or another client of the same
    cluster) has a reference of its own.
    """

    __slots__ = ("__weakref__", "_index", "_key", "_run", "_session")

    def __init__(self, key: Any, client: Client | None = None) -> None:
        """The future of a task that is known by its key: of this client, or published by another."""
        if client is None:
            from .client import get_client

            client = get_client()
        run, index = client._locate_key(key)
        self._set(client._session, run, index, key)
        client._session.take(run, index)

    def _set(self, session: Session, run: Run, index: int, key: Any) -> None:
        self._session = session
        self._run = run
        self._index = index
        self._key = key

    @classmethod
    def _of(cls, session: Session, run: Run, index: int, key: Any = None) -> Future:
        """A future for a reference that has been taken."""
        future = cls.__new__(cls)
        future._session = session
        future._run = run
        future._index = index
        future._key = key
        return future

    @property
    def key(self) -> Any:
        """The task's key: what was given for it, or made of its function's name."""
        return f"{self._run.name}-{self._index}" if self._key is None else self._key

    @property
    def client(self) -> Any:
        """The client that it belongs to; None after that has gone."""
        return self._session and self._session.client()

    @property
    def status(self) -> str:
        """`pending`, `finished`, `error`, `cancelled` or `lost`."""
        if self._session is None or self._session.ended is not None:
            return "cancelled"
        return _book.STATUS[self._run.state[self._index]]

    def done(self) -> bool:
        """Whether there is a result, or will never be one."""
        return self.status != "pending"

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.status == "cancelled"

    def result(self, timeout: Any = None) -> Any:
        """The result; waits for it, for `timeout` seconds at most.

        Raises the task's own exception, with the traceback of where it was raised as a note;
        TimeoutError (the future stays usable); CancelledError; KilledWorker and other kinds of TaskError.
        """
        from ._options import parse_seconds

        session = self._held()
        task = (self._run, self._index)
        values = session.peers.fetch([task], parse_seconds(timeout))
        if task in values:
            return values[task]
        raise self._exception()

    def exception(self, timeout: Any = None) -> BaseException | None:
        """The exception that `result` would raise, or None; waits for the end as that does."""
        from ._options import parse_seconds

        try:
            self._wait(parse_seconds(timeout))
        except CancelledError as error:
            return error
        return None if self._run.state[self._index] == _book.DONE else self._exception()

    def traceback(self, timeout: Any = None) -> types.TracebackType | str | None:
        """Where the task raised its exception: an object if `tblib` is installed, else text; None if it did
        not."""
        from ._options import parse_seconds

        self._wait(parse_seconds(timeout))
        failure = self._run.failures.get(self._index)
        return _failures.traceback_of(failure) if failure else None

    def _held(self) -> Session:
        if self._session is None:
            raise CancelledError(f"the future {self.key!r} was released")
        return self._session

    def _wait(self, timeout: float | None = None) -> None:
        if not self._held().wait([(self._run, self._index)], timeout):
            raise TimeoutError(f"{self.key!r} has not ended within {timeout:g} s")

    def _exception(self) -> BaseException:
        """Why there is no result; the task has ended."""
        failure = self._run.failures.get(self._index)
        if failure is not None:
            return _failures.exception_of(failure, self.key)
        if self._run.state[self._index] == _book.LOST:
            if self._run.mine and self._run.id is None:
                return TaskError(f"the scheduler refuses {self.key!r}: {self._run.reason}", "Rejected")
            return LostRun(f"the scheduler does not know {self.key!r} (any more): {self._run.reason}", "Lost")
        return CancelledError(f"{self.key!r} was cancelled")

    def cancel(self, reason: str | None = None, force: bool = False, **_: Any) -> None:
        """Ends the task and what depends on it. Other futures of it are cancelled as well."""
        from ._session import CANCEL

        session = self._held()
        session.on_tasks(CANCEL, self._run, [self._index], reason or "")

    def retry(self, **_: Any) -> None:
        """Tries a failed task again, with those that failed because of it."""
        from ._session import RETRY

        self._held().on_tasks(RETRY, self._run, [self._index])

    def release(self, **_: Any) -> None:
        """Gives the reference up; the result is dropped when it was the last. The future is of no use any
        more."""
        session, self._session = self._session, None
        if session is not None:
            session.drop(self._run, self._index)

    def add_done_callback(self, function: Callable[[Future], Any]) -> None:
        """Calls `function(future)` when the task has ended, in a thread that is there for that."""
        session = self._held()
        session.when_ended(self._run, self._index, lambda _run, _index: session.in_background(function, self))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result_async().__await__()

    async def _result_async(self) -> Any:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def tell(_run: Run, _index: int) -> None:
            try:
                loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(None))
            except RuntimeError:
                pass  # The loop is closed.

        self._held().when_ended(self._run, self._index, tell)
        await ended
        return await loop.run_in_executor(None, self.result)

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            session.drop(self._run, self._index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Future):
            return self._run is other._run and self._index == other._index
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._run.uuid, self._index))

    def __reduce__(self) -> tuple:
        session = self._held()
        session.flush()
        return _restore, (session.file.id, self._run.uuid, self._index, self._run.name, self._key)

    def __dask_tokenize__(self) -> tuple:
        return "hpcdag.Future", self._run.uuid, self._index

    def __copy__(self) -> Future:
        return self._again()

    def __deepcopy__(self, _memo: Any) -> Future:
        return self._again()

    def _again(self) -> Future:
        session = self._held()
        session.take(self._run, self._index)
        return Future._of(session, self._run, self._index, self._key)

    def substitute(self, subs: dict, key: Any = None) -> Any:
        """For Dask's graphs: what stands for this reference in `subs`."""
        return super().substitute(subs, key) if self.key in subs else self

    def __repr__(self) -> str:
        return f"<Future: {self.status}, key: {self.key}>"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return f"<b>Future</b>: {html.escape(str(self.key))} <font color='gray'>status: {self.status}</font>"


def _restore(cluster: str, run_uuid: bytes, index: int, name: str, key: Any) -> Future:
    """A future that was pickled: a reference of its own, by the client that is there for the cluster."""
    from .client import client_of_cluster

    session = client_of_cluster(cluster)._session
    return Future._of(session, session.want(run_uuid, index, name, key), index, key)
