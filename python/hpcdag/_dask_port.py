"""What Dask's graphs need of a client, and options and keys of their tasks.

Owns the port to the session, which options of Dask are known, and what keys are called. Uses only what Dask
documents.
"""

from __future__ import annotations

import operator
import threading
import uuid
import weakref
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hpcdag._graph import Graph, Options

if TYPE_CHECKING:
    from hpcdag.client import Client

_KNOWN_OPTIONS = (
    "priority",
    "retries",
    "resources",
    "workers",
    "allow_other_workers",
    "memory",
    "time_limit",
)


class Port(Protocol):
    """What graphs need of a client."""

    future: type
    """The class of futures: a subclass of Dask's `TaskRef`."""

    def new_graph(self, name: str) -> Graph:
        """A run that knows futures."""
        ...

    def submit(self, graph: Graph, keys: Sequence[Any], findable: bool) -> list[Any]:
        """Sends a run; the futures of its results, and whether they are `known` by their keys from now on."""
        ...

    def keys(self) -> Container[Any]:
        """The keys of living futures."""
        ...

    def known(self, key: Any) -> Any:
        """A future of the task that has this key, unless it failed; else None."""
        ...

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Their values; raises the exception of a failed one."""
        ...


class ClientPort:
    """The port of a `Client`."""

    def __init__(self, client: Client) -> None:
        from hpcdag.future import Future

        self.future = Future
        self._client = client
        self._session = client._session

    def known(self, key: Any) -> Any:
        """A future of the task that has this key, unless it failed; else None."""
        return self._client._submitter.known(key)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Their values; raises the exception of a failed one."""
        return self._client.gather(list(futures))

    def new_graph(self, name: str) -> Graph:
        """A run that knows futures."""
        from hpcdag._submit import locate_from

        return Graph(f"{name}-{uuid.uuid4().hex[:12]}", locate_from(self._session), self.future)

    def submit(self, graph: Graph, keys: Sequence[Any], findable: bool) -> list[Any]:
        """Sends a run; the futures of its results, and whether they are `known` by their keys from now on."""
        session = self._session
        run = session.submit_graph(graph, self._client._environment())
        if findable:
            with session.lock:
                for index, key in zip(graph.results, keys, strict=True):
                    session.book.name(run, index, key)
        return [self.future._of(session, run, i, key) for i, key in zip(graph.results, keys, strict=True)]

    def keys(self) -> Container[Any]:
        """The keys of living futures."""
        self._session.let_go()
        return self._session.book.keys


def port_of(client: Any) -> Port:
    """The port of a client; ports are their own."""
    if hasattr(client, "new_graph"):
        return client
    with _lock:
        if client not in _ports:
            _ports[client] = ClientPort(weakref.proxy(client))
        return _ports[client]


_ports: weakref.WeakKeyDictionary[Any, Port] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class TaskOptions:
    """Options of the tasks of one graph: ambient annotations, over them keywords, over them their own."""

    def __init__(self, annotations: Mapping[str, Mapping[Any, Any]], kwargs: Mapping[str, Any]) -> None:
        import dask

        ambient = {k: v for k, v in dask.get_annotations().items() if k in _KNOWN_OPTIONS and not callable(v)}
        self._callable = {
            k: v for k, v in dask.get_annotations().items() if k in _KNOWN_OPTIONS and callable(v)
        }
        self._common = {
            **ambient,
            **{k: v for k, v in kwargs.items() if k in _KNOWN_OPTIONS and v is not None},
        }
        self._own = {k: v for k, v in annotations.items() if k in _KNOWN_OPTIONS and v}
        self._default: int | None = None
        #: whether all tasks have the same
        self.uniform = not self._own and not self._callable

    def of(self, key: Any, graph: Graph) -> int:
        """The number of a task's options in the run."""
        if self.uniform:
            if self._default is None:
                self._default = graph.option(_options(self._common))
            return self._default
        own = {kind: values[key] for kind, values in self._own.items() if key in values}
        ambient = {kind: value(key) for kind, value in self._callable.items()}
        return graph.option(_options({**ambient, **self._common, **own}))


def _options(given: Mapping[str, Any]) -> Options:
    from hpcdag._options import options

    return options(**{k: v for k, v in given.items() if v is not None})


def refuse_p2p(nodes: Iterable[Any]) -> None:
    """Raises RuntimeError for a shuffle that only workers of dask.distributed can do."""
    functions = {}
    for node in nodes:
        function = getattr(node, "func", None)
        functions[id(function)] = function
        if type(node).__name__ == "P2PBarrierTask":
            raise RuntimeError(_P2P)
    for function in functions.values():
        if (getattr(function, "__module__", None) or "").startswith("distributed.shuffle"):
            raise RuntimeError(_P2P)


_P2P = (
    "this graph shuffles with the method 'p2p', which needs workers of dask.distributed. Use the "
    'method "tasks": shuffle_method="tasks" (or method="tasks" for rechunk), or '
    'dask.config.set({"dataframe.shuffle.method": "tasks", "array.rechunk.method": "tasks"})'
)


def annotations_of(dsk: Any) -> dict[str, dict[Any, Any]]:
    """Annotations of a graph: for each kind, values by key."""
    if not isinstance(dsk, Mapping):
        return dsk.__dask_annotations__() if hasattr(dsk, "__dask_annotations__") else {}
    found: dict[str, dict[Any, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        for kind, value in (getattr(layer, "annotations", None) or {}).items():
            for key in layer:
                found.setdefault(kind, {})[key] = value(key) if callable(value) else value
    return found


# Keys


def canonical(key: Any) -> Any:
    """A key with plain numbers: equal keys have the same text then."""
    kind = type(key)
    if kind is str or kind is int or kind is float:
        return key
    if kind is tuple:
        return tuple([canonical(part) for part in key])
    if hasattr(key, "__index__"):
        return operator.index(key)
    return float(key) if isinstance(key, float) else str(key) if isinstance(key, str) else key


def text_of(key: Any) -> str:
    """A key for people and messages."""
    if type(key) is str:
        return key
    text = str(key)
    return str(canonical(key)) if "np." in text else text


def name_of(key: Any) -> str:
    """What a graph is called: its last task's key without what makes that unique."""
    from dask.utils import key_split

    return str(key_split(key)) or "graph"


def flatten(keys: Any) -> Iterator[Any]:
    if isinstance(keys, list):
        for key in keys:
            yield from flatten(key)
    else:
        yield keys


def nested(key: Any, results: Mapping[Any, Any]) -> Any:
    return tuple([nested(k, results) for k in key]) if isinstance(key, list) else results[key]


def futures_within(nodes: Iterable[Any], future: type, task: type) -> dict[Any, Any]:
    """The futures among the arguments of tasks, by their keys. `task`: what has `args` and `kwargs`; of other
    objects nothing is known."""
    found = {}
    stack = list(nodes)
    while stack:
        value = stack.pop()
        if isinstance(value, future):
            found[value.key] = value  # type: ignore[attr-defined]
        elif isinstance(value, (list, tuple, set)):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, task):
            stack.extend(value.args)  # type: ignore[attr-defined]
            stack.extend(value.kwargs.values())  # type: ignore[attr-defined]
    return found
