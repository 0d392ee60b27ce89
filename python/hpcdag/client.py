"""The client: what programs use to run functions and graphs on a cluster.

Owns `Client` and which client is meant where none is named. The connection is `_session`'s.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from . import _book, _calls, _discovery, _environment
from ._client_info import ClientInfo
from ._graph import Graph
from ._options import options as make_options
from ._options import parse_seconds
from ._peers import Peers
from ._session import CANCEL, RETRY, Session, _sessions
from ._submit import Submitter, function_name, locate_from
from ._waiting import as_completed, futures_in, wait
from .errors import HpcdagError, RefusedError
from .future import Future

__all__ = [
    "Client",
    "Future",
    "as_completed",
    "client_of_cluster",
    "default_client",
    "fire_and_forget",
    "futures_of",
    "get_client",
    "get_worker",
    "wait",
]

_current: ContextVar[Client | None] = ContextVar("hpcdag_client", default=None)
_defaults: list[weakref.ref[Client]] = []
_open: weakref.WeakSet[Client] = weakref.WeakSet()
_of_cluster: dict[str, Client] = {}
_lock = threading.RLock()

# Keywords of Dask's Client that have no meaning here: taken, so that existing calls work.
_WITHOUT_EFFECT = frozenset(
    ("loop", "security", "heartbeat_interval", "serializers", "deserializers", "extensions",
    "direct_to_workers",
     "connection_limit", "silence_logs", "dashboard_address", "protocol")
)  # fmt: skip
_LOCAL = frozenset(("n_workers", "nworkers", "threads_per_worker", "nthreads", "memory_limit", "processes"))


class Client(ClientInfo):
    """A connection to a cluster. While it lives it is Dask's default scheduler, unless `set_as_default` is
    false.

    Args:
        cluster: a cluster object (anything with `scheduler_file`), the path of a scheduler file, or an
        address (`tls://HOST:PORT`). With keywords of `LocalCluster` (`n_workers`, `threads_per_worker`,
            `memory_limit`) and none of these, one is started and ends with the client.
        scheduler_file: the scheduler file. Without any of these it is found as the command line finds it:
            `$HPCDAG_SCHEDULER_FILE`, the configuration, the one cluster of yours that is alive.
        address: where the scheduler is reached (a tunnel), instead of what its file says.
        timeout: seconds for which to try to reach it.
        name: how the client is called.
        set_as_default: whether it is what `get_client()` and Dask use from now on.

    Raises:
        NoSchedulerError: there is none, or it does not answer.
        RefusedError: the scheduler file is exposed to others, or its scheduler is of another version.
    """

    #: Dask asks for this.
    asynchronous = False

    def __init__(
        self,
        cluster: Any = None,
        *,
        scheduler_file: str | os.PathLike[str] | None = None,
        address: str | None = None,
        timeout: Any = 30.0,
        name: str | None = None,
        set_as_default: bool = True,
        asynchronous: bool = False,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **others: Any,
    ) -> None:
        if asynchronous:
            raise NotImplementedError("there are no asynchronous clients; futures can be awaited anyway")
        local = {name: others.pop(name) for name in list(others) if name in _LOCAL}
        unknown = sorted(set(others) - _WITHOUT_EFFECT)
        if unknown:
            raise TypeError(f"Client takes no argument {unknown[0]!r}")
        self.cluster: Any = None
        self._owns_cluster = False
        if local and cluster is None and scheduler_file is None and address is None:
            from .local import LocalCluster

            cluster, self._owns_cluster = LocalCluster(**local), True
        if isinstance(cluster, str) and "://" in cluster:
            cluster, address = None, address or cluster
        if isinstance(cluster, (str, os.PathLike)):
            cluster, scheduler_file = None, scheduler_file or cluster
        if cluster is not None:
            if getattr(cluster, "scheduler_file", None) is None:
                raise TypeError(f"a cluster, a scheduler file or an address is expected, not {cluster!r}")
            self.cluster, scheduler_file = cluster, scheduler_file or cluster.scheduler_file
        if address is not None and address.startswith("tcp://"):
            raise RefusedError(f"{address} is an address of Dask; hpcdag's are tls://HOST:PORT")
        self.name = name
        self.id = f"Client-{name}-{uuid.uuid4()}" if name else f"Client-{uuid.uuid4()}"
        self._files: dict[str, bytes] = {}
        self._preload, self._env = tuple(preload), dict(env or {})
        self._packed: tuple[Any, bytes] = (None, b"")
        try:
            path = _discovery.find(scheduler_file, address)
            self._session = Session(path, address, parse_seconds(timeout) or 0.0, name)
        except BaseException:
            self._close_cluster()
            raise
        self._session.client = weakref.ref(self)
        self._session.peers = Peers(self._session)
        self._submitter = Submitter(self._session, self._environment)
        self._set_as_default = set_as_default
        self._patched: Any = None
        with _lock:
            _open.add(self)
            if set_as_default:
                _defaults.append(weakref.ref(self))
        if set_as_default:
            self._become_default()

    def _become_default(self) -> None:
        try:
            from . import _patches
        except ImportError:
            return
        self._patched = _patches.install(self)

    def _environment(self) -> bytes:
        """What executors have to know, as bytes; the same as long as nothing changes."""
        import sys

        state = (tuple(sys.path), os.getcwd(), tuple(sorted(self._files)), tuple(sorted(self._env.items())))
        if self._packed[0] != state:
            packed = _environment.packed(
                preload=self._preload,
                env=self._env,
                files=self._files,
                compat=bool(os.environ.get("HPCDAG_COMPAT")),
            )
            self._packed = (state, packed)
        return self._packed[1]

    # Calls

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        key: Any = None,
        workers: str | Collection[str] | None = None,
        resources: Mapping[str, float] | None = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        pure: bool | None = None,
        memory: str | int | None = None,
        nthreads: float = 1,
        time_limit: Any = None,
        **kwargs: Any,
    ) -> Future:
        """Runs `function(*args, **kwargs)` on the cluster. Futures among the arguments, however deep, are
        waited for and replaced by their results.

        Args:
            key: a name for the task; while a future of that name lives, it is given again.
            workers: names, addresses or hosts of workers that may run it; others only with
            `allow_other_workers`. resources: amounts by name that it needs.
            retries: attempts beyond the first.
            priority: the larger, the sooner.
            pure: whether the same call (by content) is the same task while a future of it lives; as in Dask
            it is unless this says False.
            memory: private memory that it needs: bytes or a text such as "4GiB".
            nthreads: CPU slots that it takes.
            time_limit: the longest time of an attempt: seconds or a text such as "5m".
            fifo_timeout: taken and ignored.

        Raises:
            TypeError: an argument cannot be sent; the message names it.
        """
        if not callable(function):
            raise TypeError(f"the first argument of submit is a function, not {type(function).__name__}")
        if actor or actors:
            raise NotImplementedError("hpcdag has no actors")
        options = make_options(
            priority=priority,
            retries=retries or 0,
            resources=resources,
            workers=workers,
            allow_other_workers=allow_other_workers,
            memory=memory,
            nthreads=nthreads,
            time_limit=time_limit,
        )
        return self._submitter.submit(function, args, kwargs, options, key, pure is not False)

    def _submit_with(self, function: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Future:
        """`submit` with keywords of its own, that cannot be taken for the function's."""
        options = dict(options)
        key, pure = options.pop("key", None), options.pop("pure", True)
        options["retries"] = options.get("retries") or 0
        return self._submitter.submit(function, args, kwargs, make_options(**options), key, pure)

    def map(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        key: str | Sequence[str] | None = None,
        workers: str | Collection[str] | None = None,
        retries: int | None = None,
        resources: Mapping[str, float] | None = None,
        priority: int = 0,
        allow_other_workers: bool = False,
        fifo_timeout: Any = None,
        actor: bool = False,
        actors: bool = False,
        pure: bool | None = None,
        batch_size: int | None = None,
        memory: str | int | None = None,
        nthreads: float = 1,
        time_limit: Any = None,
        **kwargs: Any,
    ) -> list[Future]:
        """Runs `function` for each element of the iterables (up to the shortest), and `kwargs` with each.

        `key` is the beginning of the keys, or a list of keys. The other keywords are those of `submit`;
        `pure` and
        `batch_size` are ignored: each map is a run of its own, and is sent while it is being encoded.
        """
        if not callable(function):
            raise TypeError(f"the first argument of map is a function, not {type(function).__name__}")
        if actor or actors:
            raise NotImplementedError("hpcdag has no actors")
        if not iterables:
            raise ValueError("map needs something to iterate over")
        columns: list[Sequence[Any]] = [
            c if isinstance(c, (list, tuple, range)) else list(c) for c in iterables
        ]
        count = min(map(len, columns))
        columns = [column if len(column) == count else column[:count] for column in columns]
        if not count:
            return []
        options = make_options(
            priority=priority,
            retries=retries or 0,
            resources=resources,
            workers=workers,
            allow_other_workers=allow_other_workers,
            memory=memory,
            nthreads=nthreads,
            time_limit=time_limit,
        )
        keys = None if key is None or isinstance(key, str) else [str(one) for one in key]
        if keys is not None and len(keys) != count:
            raise ValueError(f"{len(keys)} keys for {count} tasks")
        name = f"{key if isinstance(key, str) else function_name(function)}-{uuid.uuid4().hex[:12]}"
        session = self._session
        graph = Graph(name, locate_from(session), Future)
        graph.set_map(function, columns, kwargs, options, keys)
        run = session.submit_graph(graph, self._environment())
        if keys is not None:
            with session.lock:
                for index, one in zip(graph.results, keys, strict=True):
                    session.book.name(run, index, one)
        new, of = Future.__new__, []
        for index in graph.results:
            future = new(Future)
            future._session = session
            future._run = run
            future._index = index
            future._key = None
            of.append(future)
        if keys is not None:
            for future, one in zip(of, keys, strict=True):
                future._key = one
        elif not graph.map:
            # The scheduler numbers large literals, too; users number what they have given.
            for at, future in enumerate(of):
                future._key = f"{name}-{at}"
        return of

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
        found = futures_in(futures)
        values: dict[Any, Any] = {}
        by_session: dict[Session, list[Future]] = {}
        for future in found:
            by_session.setdefault(future._held(), []).append(future)
        for session, some in by_session.items():
            values.update(session.peers.fetch([(f._run, f._index) for f in some], raising=errors == "raise"))
        if errors == "raise":
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

    @staticmethod
    def _on_each(tag: int, futures: Any, reason: str = "") -> None:
        by_run: dict[Any, list[int]] = {}
        for future in futures_of(futures):
            by_run.setdefault((future._held(), future._run), []).append(future._index)
        for (session, run), tasks in by_run.items():
            session.on_tasks(tag, run, tasks, reason)

    # Collections of Dask

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Computes keys of a Dask graph: what Dask calls a scheduler."""
        from . import _dask

        return _dask.get(self, dsk, keys, **kwargs)

    def compute(self, collections: Any, sync: bool = False, **kwargs: Any) -> Any:
        """Futures of the values of Dask collections (of one: one); with `sync` the values."""
        from . import _dask

        return _dask.compute(self, collections, sync=sync, **kwargs)

    def persist(self, collections: Any, **kwargs: Any) -> Any:
        """The same collections, whose parts are computed on the cluster and stay there."""
        from . import _dask

        return _dask.persist(self, collections, **kwargs)

    # Every worker

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        workers: str | Collection[str] | None = None,
        wait: bool = True,
        nanny: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Runs `function(*args, **kwargs)` once on every worker (or those of `workers`: names or addresses),
        in an executor as any task. Results by the workers' addresses; with `on_error="return"` exceptions are
        among them.
        """
        wanted = {workers} if isinstance(workers, str) else set(workers or ())
        all_workers = self._status()["workers"]
        chosen = [w for w in all_workers if not wanted or w["name"] in wanted or w["address"] in wanted]
        options = {w["address"]: make_options(workers=[w["name"]], priority=2**31 - 1) for w in chosen}
        submit = self._submitter.submit
        futures = {at: submit(function, args, kwargs, one, None, False) for at, one in options.items()}
        if not wait:
            for future in futures.values():
                fire_and_forget(future)
            return {}
        if on_error == "return":
            return {at: future.exception() or future.result() for at, future in futures.items()}
        return self.gather(futures, errors="skip" if on_error == "ignore" else "raise")

    def upload_file(self, filename: str | os.PathLike[str], load: bool = True) -> None:
        """Brings a module, egg or archive (.py, .zip, .egg, .whl) to every worker, the later ones too. Tasks
        that are submitted from now on can import it."""
        with open(filename, "rb") as file:
            self._files = {**self._files, os.path.basename(filename): file.read()}
        self._packed = (None, b"")

    def restart(self, timeout: Any = None, wait_for_workers: bool = True, **_: Any) -> Client:
        """Cancels everything of this client and starts its executors anew, with fresh modules. Results are
        lost.""" session =
        self._session with session.lock:
            runs = [
                (run, [i for i, refs in enumerate(run.refs) if refs]) for run in session.book.runs.values()
            ]
        for run, tasks in runs:
            if run.mine and tasks:
                session.on_tasks(CANCEL, run, tasks, "the client was restarted")
        self._env["HPCDAG_CLIENT_RESTARTS"] = str(int(self._env.get("HPCDAG_CLIENT_RESTARTS", "0")) + 1)
        return self

    # The end

    def get_executor(self, **kwargs: Any) -> Any:
        """A `concurrent.futures.Executor` whose calls run on the cluster; `kwargs` are those of `submit`."""
        from ._executor_front import ClientExecutor

        return ClientExecutor(self, **kwargs)

    def _locate_key(self, key: Any) -> tuple[_book.Run, int]:
        """The task of this client that has a key. Raises KeyError."""
        book = self._session.book
        with self._session.lock:
            if key in book.keys:
                return book.keys[key]
            name, _, number = str(key).rpartition("-")
            for run in book.runs.values():
                if (
                    run.name == name
                    and number.isdecimal()
                    and int(number) < len(run.refs)
                    and run.refs[int(number)]
                ):
                    return run, int(number)
        raise KeyError(key)

    @contextlib.contextmanager
    def as_current(self) -> Iterator[Client]:
        """While this is entered, `get_client()` in this thread (or asyncio task) gives this client."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used."""
        return self._session.ended is not None or self._session._forked

    @property
    def status(self) -> str:
        """`running`, `connecting` (after a cut) or `closed`."""
        return "closed" if self.closed else "running" if self._session.connected else "connecting"

    def close(self, timeout: Any = 2.0) -> None:
        """Leaves the cluster. Its futures are of no use any more; tasks that nobody else wants are
        cancelled, but for those of `fire_and_forget` and published ones."""
        if self._patched is not None and not self._session._forked:
            patched, self._patched = self._patched, None
            with contextlib.suppress(Exception):
                patched.undo() if hasattr(patched, "undo") else patched()
        self._session.close(parse_seconds(timeout) or 0.0)
        self._session.peers.close()
        with _lock:
            _defaults[:] = [ref for ref in _defaults if ref() not in (None, self)]
            _open.discard(self)
            for cluster in [c for c, client in _of_cluster.items() if client is self]:
                del _of_cluster[cluster]
        self._close_cluster()

    def _close_cluster(self) -> None:
        if self._owns_cluster and self.cluster is not None:
            self._owns_cluster = False
            self.cluster.close()

    def shutdown(self) -> None:
        """Ends the cluster (workers and scheduler, whoever else uses it), and this client."""
        with contextlib.suppress(HpcdagError, TimeoutError):
            self._session.ask("Stop", 10.0)
        self.close()
        if self.cluster is not None:
            self.cluster.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return client_of_cluster, (self._session.file.id,)


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


def default_client(client: Client | None = None) -> Client:
    """`client`, or the one that is the default. Raises ValueError if there is none."""
    if client is not None:
        return client
    current = _current.get()
    if current is not None and not current.closed:
        return current
    with _lock:
        while _defaults:
            found = _defaults[-1]()
            if found is not None and not found.closed:
                return found
            _defaults.pop()
    raise ValueError("there is no hpcdag client: make one with hpcdag.Client(...)")


def get_client(address: str | None = None, timeout: Any = None, resolve_address: bool = True) -> Client:
    """The client that is the default; in a task, one of the task's cluster. Raises ValueError if there is
    none."""
    try: return default_client()
    except ValueError:
        if not in_task():
            raise
    with _lock:
        found = _of_cluster.get("")
        if found is None or found.closed:
            found = _of_cluster[""] = Client(set_as_default=False, name="task")
        return found


def client_of_cluster(cluster: str) -> Client:
    """A client of the cluster with this id: one that is open, or a new one."""
    with contextlib.suppress(ValueError):
        found = default_client()
        if found._session.file.id == cluster:
            return found
    with _lock:
        for client in list(_open):
            if not client.closed and client._session.file.id == cluster:
                return client
        made = Client(set_as_default=False, name="task" if in_task() else None)
        if made._session.file.id != cluster:
            made.close()
            raise RefusedError(
                f"the future belongs to the cluster {cluster}, which this process does not use"
            )
        _of_cluster[cluster] = made
        return made


def in_task() -> bool:
    """Whether this process runs tasks."""
    return bool(os.environ.get("HPCDAG_EXECUTOR"))


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


class Worker:
    """What a task can know of the worker that runs it: `name`, `address`, `local_directory`."""

    def __init__(self) -> None:
        self.name = os.environ.get("HPCDAG_WORKER", "")
        self.address = os.environ.get("HPCDAG_WORKER_ADDRESS", self.name)
        self.local_directory = os.environ.get("HPCDAG_LOCAL_DIRECTORY") or os.getcwd()

    @property
    def client(self) -> Client:
        """A client of the worker's cluster."""
        return get_client()


def get_worker() -> Worker:
    """The worker that runs this task. Raises ValueError outside of tasks."""
    if not in_task():
        raise ValueError("get_worker() is for tasks: this process does not run any")
    return Worker()


def _close_all() -> None:
    """At the end of the interpreter: says good-bye, and does not wait for anything else."""
    for client in list(_open):
        if not client._session._forked:
            with contextlib.suppress(Exception):
                client.close(1.0)
    for session in list(_sessions):
        session.close(0.5)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for client in list(_open):
        client._session.peers.forget()
        client._owns_cluster = False
    _defaults.clear()
    _of_cluster.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
