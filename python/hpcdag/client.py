"""The client: what programs use to run functions and graphs on a cluster.

Owns `Client`. The connection is `_session`'s, which client is meant where none is named `_registry`'s.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from . import _book, _discovery, _environment, _registry
from ._client_data import ClientData, fire_and_forget, futures_of
from ._client_info import ClientInfo
from ._client_workers import ClientWorkers
from ._foresight import Foresight
from ._graph import Graph
from ._options import options as make_options
from ._options import parse_seconds
from ._peers import Peers
from ._registry import client_of_cluster, default_client, get_client, get_worker
from ._session import Session
from ._submit import Submitter, function_name, locate_from
from ._waiting import as_completed, wait
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

# Keywords of Dask's Client that have no meaning here: taken, so that existing calls work.
_WITHOUT_EFFECT = frozenset(
    ("loop", "security", "heartbeat_interval", "serializers", "deserializers", "extensions",
    "direct_to_workers",
     "connection_limit", "silence_logs", "dashboard_address", "protocol")
)  # fmt: skip
_LOCAL = frozenset(("n_workers", "nworkers", "threads_per_worker", "nthreads", "memory_limit", "processes"))


class Client(ClientInfo, ClientData, ClientWorkers):
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
        _registry.add(self, set_as_default)
        if set_as_default:
            self._become_default()
        self._foresight = Foresight(self)

    def _become_default(self) -> None:
        from . import _patches

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

    # Collections of Dask

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Computes keys of a Dask graph: what Dask calls a scheduler. `kwargs` are options as for `submit`;
        unknown ones are ignored, because libraries pass theirs."""
        from . import _dask

        return _dask.get(self, dsk, keys, **kwargs)

    def compute(self, collections: Any, sync: bool = False, **kwargs: Any) -> Any:
        """A future of the value of a Dask collection, of several a list; with `sync` the values. What is no
        collection stays as it is."""
        from . import _dask

        return _dask.compute(self, collections, sync=sync, **kwargs)

    def persist(self, collections: Any, **kwargs: Any) -> Any:
        """The same collections (of a list a list), whose parts are computed on the cluster and stay there."""
        from . import _dask

        return _dask.persist(self, collections, **kwargs)

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

    def as_current(self) -> contextlib.AbstractContextManager[Client]:
        """While this is entered, `get_client()` in this thread (or asyncio task) gives this client."""
        return _registry.current(self)

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
                patched()
        self._foresight.end()
        self._session.close(parse_seconds(timeout) or 0.0)
        self._session.peers.close()
        _registry.remove(self)
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
