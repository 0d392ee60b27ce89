"""What a client does with data and futures: gather, scatter, cancel, retry.

Owns the structures that are taken and given.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import _book, _calls
from ._options import options as make_options
from ._options import parse_seconds
from ._session import CANCEL, RETRY, Session
from ._waiting import futures_in
from .errors import HpcdagError
from .future import Future

if TYPE_CHECKING:
    from .client import Client


class ClientData:
    """The part of `Client` that moves data."""

    _session: Session

    if TYPE_CHECKING:

        def _environment(self) -> bytes: ...

    def gather(
        self, futures: Any, errors: str = "raise", direct: Any = None, asynchronous: Any = None
    ) -> Any:
        """The results of futures in (nested) lists, tuples, sets, dictionaries or iterators, in the same
        structure.

        `errors`: "raise" the first task's exception, or "skip" such futures. The others are ignored.
        """
        if errors not in ("raise", "skip"):
            raise ValueError("errors is 'raise' or 'skip'")
        if isinstance(futures, Iterator):
            futures = list(futures)
        flat = type(futures) is list and set(map(type, futures)) == _ONLY_FUTURES
        found = futures if flat else futures_in(futures)
        values: dict[Any, Any] = {}
        by_session: dict[Session, list[Future]] = {}
        if found and all(future._session is found[0]._session for future in found):
            by_session[found[0]._held()] = found
        else:
            for future in found:
                by_session.setdefault(future._held(), []).append(future)
        for session, some in by_session.items():
            fetched = session.peers.fetch([(f._run, f._index) for f in some], raising=errors == "raise")
            values = {**values, **fetched} if values else fetched
        if errors == "raise":
            if flat and len(values) == len(found):
                return [values[f._run, f._index] for f in found]
            failed = [f for f in found if (f._run, f._index) not in values]
            # That of a task which has failed, not of one that was not waited for because of it.
            for future in failed:
                if future._run.state[future._index] > _book.DONE:
                    raise future._exception()
            if failed:
                raise HpcdagError(f"{len(failed)} results are missing")
        return _replaced(futures, values)

    def scatter(
        self,
        data: Any,
        workers: Any = None,
        broadcast: bool = False,
        direct: Any = None,
        hash: bool = True,
        timeout: Any = 60.0,
        asynchronous: Any = None,
    ) -> Any:
        """Brings data to the workers, one value to one worker in turn. Gives a future of each value of a
        list, tuple, set or dictionary, in the same structure; one future for anything else.

        `broadcast` has no effect: whoever needs a value fetches it once and keeps a copy. `workers`,
        `direct` and `hash` are ignored. Raises TimeoutError if there is no worker within `timeout` seconds.
        """
        limit = parse_seconds(timeout)
        if isinstance(data, dict):
            names = [str(key) for key in data]
            values = list(data.values())
        elif isinstance(data, (list, tuple, set, frozenset, range, Iterator)):
            values = list(data)
            names = [f"{type(value).__name__}-{uuid.uuid4().hex}" for value in values]
        else:
            values = [data]
            names = [f"{type(data).__name__}-{uuid.uuid4().hex}"]
        futures = self._scatter(values, names, 600.0 if limit is None else limit)
        if isinstance(data, dict):
            return dict(zip(data, futures, strict=True))
        if isinstance(data, (tuple, set, frozenset)):
            return type(data)(futures)
        return futures if isinstance(data, (list, range, Iterator)) else futures[0]

    def _scatter(self, values: list[Any], names: list[str], timeout: float) -> list[Future]:
        if not values:
            return []
        session = self._session
        run, writer = session.open_run(f"scatter-{uuid.uuid4().hex[:12]}", self._environment())
        writer.option(make_options())
        for at in range(0, len(values), _calls.PIECE_TASKS):
            some = names[at : at + _calls.PIECE_TASKS]
            writer.batch(b"", len(some), flags=_calls.BROUGHT | _calls.WANTED, keys=some)
        with session.lock:
            run.take_new(0, len(values))
            for index, name in enumerate(names):
                session.book.name(run, index, name)
        futures = [Future._of(session, run, index, name) for index, name in enumerate(names)]
        writer.flush(True)
        session.accepted(run, timeout)
        session.peers.bring(run, enumerate(values), timeout)
        if not session.wait([(run, index) for index in range(len(values))], timeout):
            raise TimeoutError(f"data has not arrived within {timeout:g} s")
        for future in futures:
            if future._run.state[future._index] != _book.DONE:
                raise future._exception()
        return futures

    def cancel(self, futures: Any, reason: str | None = None, force: bool = False, **_: Any) -> None:
        """Ends the tasks of futures, and what depends on them."""
        self._on_each(CANCEL, futures, reason or "")

    def retry(self, futures: Any, **_: Any) -> None:
        """Tries failed tasks again, with those that failed because of them."""
        self._on_each(RETRY, futures)

    # What outlives the client

    def publish_dataset(
        self, *args: Any, name: str | None = None, override: bool = False, **named: Any
    ) -> None:
        """Publishes values (futures, persisted collections, anything that can be pickled) by name:
        `publish_dataset(x=value)` or `publish_dataset(value, name="x")`.

        Their results are kept until they are unpublished, whether this client lives or not. Raises
        RefusedError if there is one of that name, unless `override` is given.
        """
        from . import locks

        locks.publish_dataset(self, *args, name=name, override=override, **named)

    def get_dataset(self, name: str, *default: Any) -> Any:
        """What was published under a name. Raises KeyError if there is nothing, unless a default is given."""
        from . import locks

        return locks.get_dataset(self, name, *default)

    def list_datasets(self, **_: Any) -> tuple[str, ...]:
        """The names of all that is published."""
        from . import locks

        return locks.list_datasets(self)

    def unpublish_dataset(self, name: str, **_: Any) -> None:
        """What was published under a name need not be kept any more. Raises KeyError if there is nothing."""
        from . import locks

        locks.unpublish_dataset(self, name)

    @staticmethod
    def _on_each(tag: int, futures: Any, reason: str = "") -> None:
        by_run: dict[Any, list[int]] = {}
        for future in futures_of(futures):
            by_run.setdefault((future._held(), future._run), []).append(future._index)
        for (session, run), tasks in by_run.items():
            session.on_tasks(tag, run, tasks, reason)


_ONLY_FUTURES = {Future}


def _replaced(value: Any, values: dict[Any, Any]) -> Any:
    """`value` with results in place of futures; futures without results are left out."""
    if isinstance(value, Future):
        return values[value._run, value._index]
    if isinstance(value, dict):
        return {k: _replaced(v, values) for k, v in value.items() if not _skipped(v, values)}
    if isinstance(value, (list, tuple, set, frozenset)):
        found = [_replaced(one, values) for one in value if not _skipped(one, values)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*found)
        return found if type(value) is list else type(value)(found)
    return value


def _skipped(value: Any, values: dict[Any, Any]) -> bool:
    return isinstance(value, Future) and (value._run, value._index) not in values


def fire_and_forget(obj: Any) -> None:
    """Tasks of these futures are run to their end though all futures of them may go, the client too."""
    for future in futures_of(obj):
        session = future._held()
        with session.lock:
            future._run.later.add(future._index)


def futures_of(obj: Any, client: Client | None = None) -> list[Future]:
    """All futures in nested lists and the like, and in the graphs of Dask collections."""
    found: dict[Future, None] = {}
    todo = [obj]
    while todo:
        one = todo.pop()
        if isinstance(one, Future):
            found[one] = None
        elif isinstance(one, dict):
            todo += reversed(list(one.values()))
        elif isinstance(one, (list, tuple, set, frozenset)):
            todo += reversed(list(one))
        elif hasattr(one, "__dask_graph__") and not isinstance(one, type):
            graph = one.__dask_graph__()
            todo += reversed(list(graph.values() if isinstance(graph, Mapping) else []))
    return list(found)
