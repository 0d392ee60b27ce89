"""Dask's graphs as runs of calls: `get`, `compute` and `persist`.

Owns what the client uses of Dask's private interface (`dask._task_spec`, `dask.base`, expressions), for
dask >= 2024.12; `_dask_nodes` is the executor's part. Does not own how values become bytes (`_encode`), nor
sending: whoever sends is a `Port`.

Graphs arrive optimised. They are culled, and aliases and literals are taken out: those never become tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcdag._dask_port import Port, TaskOptions, flatten, name_of, nested, text_of
from hpcdag._decode import Input
from hpcdag._graph import Call, Graph
from hpcdag._pickling import UNCHANGING, Places

if TYPE_CHECKING:
    from dask._task_spec import GraphNode

# What collections call


def get(port: Port, dsk: Any, keys: Any, finalize: bool = True, **kwargs: Any) -> Any:
    """Computes keys of a graph: Dask's scheduler function.

    Args:
        port: who sends.
        dsk: a graph or expression, optimised.
        keys: a key, or (nested) lists of keys.
        finalize: whether what only puts the parts of a collection together is done here, not on a worker.
        kwargs: options (priority, retries, resources, workers, ...); unknown ones are ignored, as Dask's own
            schedulers do, because libraries pass theirs.

    Returns:
        the value of a key; for lists lists, and tuples within.
    """
    wanted = list(flatten(keys))
    work = _Work(port, dsk, wanted, kwargs, finalize)
    sent = work.send()
    values: dict[Any, Any] = dict(zip(sent, port.gather(list(sent.values())), strict=True))
    results = {key: work.value(key, values) for key in wanted}
    return [nested(key, results) for key in keys] if isinstance(keys, list) else results[keys]


def futures(port: Port, dsk: Any, keys: Sequence[Any], **kwargs: Any) -> list[Any]:
    """The same, but futures of the keys, which later graphs with the same keys use."""
    wanted = list(flatten(keys))
    work = _Work(port, dsk, wanted, kwargs, False, persist=True)
    sent = work.send()
    return [sent[where] if type(where) is int else where for where in map(work.where.__getitem__, wanted)]


def persist(port: Port, collections: Sequence[Any], optimize_graph: bool = True, **kwargs: Any) -> list[Any]:
    """Collections whose parts are futures of what has been submitted."""
    from dask import base

    # Dask itself knows for each of its versions how collections are made of results.
    plain = _original_persist or base.persist
    more = {"traverse": False, "optimize_graph": optimize_graph, "scheduler": _futures_scheduler(port)}
    return list(plain(*collections, **more, **kwargs))


def _futures_scheduler(port: Port) -> Callable[..., list[Any]]:
    def schedule(dsk: Any, keys: Any, **more: Any) -> list[Any]:
        return futures(port, dsk, keys, **more)

    return schedule


def compute(port: Port, collections: Sequence[Any], optimize_graph: bool = True, **kwargs: Any) -> list[Any]:
    """Futures of the values of collections."""
    from dask import base

    if hasattr(base, "collections_to_expr"):
        more = {"traverse": False, "optimize_graph": optimize_graph, "scheduler": _futures_scheduler(port)}
        return list(base.compute(*collections, **more, **kwargs))
    dsk = base.collections_to_dsk(collections, optimize_graph)
    finals, keys = {}, []
    for collection in collections:
        function, extra = collection.__dask_postcompute__()
        keys.append(f"finalize-{base.tokenize(collection)}")
        finals[keys[-1]] = (function, collection.__dask_keys__(), *extra)
    return futures(port, dsk, keys, _finals=finals, **kwargs)


_original_persist: Callable[..., Any] | None = None


def patch_persist(is_ours: Callable[[Any], Any]) -> Callable[[], None]:
    """Makes `dask.persist` leave results on workers where Dask does not by itself (before 2026.1).

    Args:
        is_ours: the port behind a scheduler function, or None.

    Returns:
        what undoes it.
    """
    import dask
    from dask import base

    global _original_persist
    if _persist_hook() or _original_persist is not None:
        return lambda: None
    original = _original_persist = base.persist

    def patched(
        *args: Any, traverse: bool = True, optimize_graph: bool = True, scheduler: Any = None, **kw: Any
    ):
        collections, repack = base.unpack_collections(*args, traverse=traverse)
        port = (
            is_ours(base.get_scheduler(scheduler=scheduler, collections=collections)) if collections else None
        )
        if port is None:
            more = {"traverse": traverse, "optimize_graph": optimize_graph, "scheduler": scheduler}
            return original(*args, **more, **kw)
        return repack(persist(port, collections, optimize_graph=optimize_graph, **kw))

    patched.__doc__ = original.__doc__
    base.persist = dask.persist = patched

    def undo() -> None:
        global _original_persist
        if base.persist is patched:
            base.persist = dask.persist = original
            _original_persist = None

    return undo


def _persist_hook() -> bool:
    """Whether `dask.persist` asks a scheduler for its own `persist`."""
    import dask

    year, month = (int(part) for part in dask.__version__.split(".")[:2])
    return (year, month) >= (2026, 1)


# Graphs


class _Literal:
    __slots__ = ("uses", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.uses = 0


class _Work:
    """A graph on its way: what becomes tasks, and where the value of each key is.

    ``where`` has for a key the place of its task, a `_Literal` or a future.
    """

    def __init__(
        self, port: Port, dsk: Any, wanted: list[Any], kwargs: Any, finalize: bool, persist: bool = False
    ) -> None:
        self.port = port
        finals = kwargs.pop("_finals", {})
        self.nodes, self.futures = _nodes(dsk, finals, port.future)
        self.finals = (
            {k: self.nodes[k] for k in wanted if _is_final(k, self.nodes.get(k))} if finalize else {}
        )
        self.where: dict[Any, Any] = {}
        self.order: list[Any] = []
        self.persist = persist
        roots = [key for key in wanted if key not in self.finals]
        for node in self.finals.values():
            roots.extend(node.dependencies)
        if persist:
            for key in wanted:
                self._keep_literal(key)
        self._visit(roots)
        tasks = {self.where[key]: key for key in roots if type(self.where[key]) is int}
        self.fetched = sorted(tasks)
        self.names = [tasks[place] for place in self.fetched]
        self.options = TaskOptions(_annotations(dsk), kwargs)
        if self.order:
            _refuse_p2p(self.nodes, self.order)

    def _keep_literal(self, key: Any) -> None:
        """A literal that is asked for as a future becomes a task after all."""
        from dask._task_spec import Alias, DataNode, Task

        at = key
        while type(node := self.nodes.get(at)) is Alias and node.target != at:
            at = node.target
        if type(node) is DataNode:
            self.nodes[key] = Task(key, _same, node.value)

    def _visit(self, roots: Sequence[Any]) -> None:
        """Puts what is needed in an order in which dependencies come first."""
        from dask._task_spec import Alias, DataNode

        nodes, where, order = self.nodes, self.where, self.order
        living = self.port.keys()
        opened = set()
        stack = list(reversed(roots))
        while stack:
            key = stack[-1]
            if key in where:
                stack.pop()
                continue
            node = nodes.get(key)
            kind = type(node)
            if kind is DataNode:
                where[key] = _Literal(node.value)
            elif node is None or key in living:
                found = self._future_of(key, node)
                if found is not None:
                    where[key] = found
            if key in where:
                stack.pop()
                continue
            needed = (node.target,) if kind is Alias else node.dependencies
            missing = [dep for dep in needed if dep not in where]
            if not missing:
                stack.pop()
                if kind is Alias:
                    where[key] = where[node.target]
                    continue
                where[key] = len(order)
                order.append(key)
                for dep in needed:
                    found = where[dep]
                    if type(found) is _Literal:
                        found.uses += 1
            elif key in opened:
                raise RuntimeError(f"the graph has a cycle through {key!r}")
            else:
                opened.add(key)
                stack.extend(missing)

    def _future_of(self, key: Any, node: Any) -> Any:
        """The future that has a key: one in the graph, or a living one of an earlier graph.

        Raises:
            KeyError: there is none, and no task either.
        """
        found = self.futures.get(key)
        if found is None:
            found = self.port.known(key)
        if found is None and node is None:
            raise KeyError(f"{key!r} is not in the graph, and no future that lives has this key")
        return found

    def send(self) -> dict[int, Any]:
        """Submits the tasks; futures of what is fetched, by place."""
        if not self.order:
            return {}
        graph = self.port.new_graph(name_of(self.order[-1]))
        graph.set_calls(self._calls(graph))
        if self.futures:
            graph.keep.extend(self.futures.values())
        names = self.names if self.persist else None
        return dict(zip(self.fetched, self.port.submit(graph, names), strict=True))

    def _calls(self, graph: Graph) -> Iterator[Call]:
        from dask._task_spec import Task

        encoder, nodes, where, wanted = graph.encoder, self.nodes, self.where, set(self.fetched)
        for place, key in enumerate(self.order):
            node = nodes[key]
            deps: list[Any] = []
            keys: list[Any] = []
            literals: dict[Any, Any] = {}
            later: list[tuple[Any, Any]] = []
            for dep in node.dependencies:
                found = where[dep]
                if type(found) is int and found not in deps:
                    deps.append(found)
                    keys.append(dep)
                else:
                    later.append((dep, found))
            if later:
                places = Places(graph._identity, deps)
                for dep, found in later:
                    if type(found) is _Literal:
                        literals[dep] = _literal(found, encoder, places)
                    else:
                        literals[dep] = Input(places.place(found))
                deps = places.list
            if type(node) is Task:
                entry = encoder.node(None, (node.func, node.args, node.kwargs), keys, literals)
            else:
                entry = encoder.node(node, None, keys, literals)
            yield Call(entry, deps, text_of(key), self.options.of(key, graph), place in wanted)

    def value(self, key: Any, values: dict[Any, Any]) -> Any:
        """The value of a wanted key, given those that were fetched."""
        final = self.finals.get(key)
        if final is not None:
            return final({dep: self.value(dep, values) for dep in final.dependencies})
        found = self.where[key]
        if type(found) is _Literal:
            return found.value
        if type(found) is int:
            return values[found]
        if found not in values:
            values[found] = self.port.gather([found])[0]
        return values[found]


def _literal(found: _Literal, encoder: Any, places: Places) -> Any:
    """What stands for a literal in a task that uses it."""
    value = found.value
    if type(value) in UNCHANGING:
        return value
    return encoder.own(value, places)


def _same(value: Any) -> Any:
    return value


def _nodes(dsk: Any, finals: Mapping[Any, Any], future: type) -> tuple[dict[Any, GraphNode], dict[Any, Any]]:
    """The nodes of a graph by key, and the futures in it by the keys that they stand for."""
    from dask._task_spec import convert_legacy_graph

    graph = dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__()
    if type(graph) is not dict or finals:
        from dask.utils import ensure_dict

        graph = {**ensure_dict(graph), **finals}
    found = {}
    for key, value in graph.items():
        if isinstance(value, future):
            found[key] = found[value.key] = value
    return convert_legacy_graph(graph), found


def _is_final(key: Any, node: Any) -> bool:
    """Whether a wanted key is a task that only puts the parts of a collection together."""
    from dask._task_spec import List, Task

    return (
        isinstance(key, str)
        and key.startswith("finalize-")
        and type(node) is Task
        and bool(node.args)
        and type(node.args[0]) is List
        and not node.kwargs
    )


def _refuse_p2p(nodes: Mapping[Any, Any], order: Sequence[Any]) -> None:
    """Raises RuntimeError for a shuffle that only workers of dask.distributed can do."""
    seen = set()
    for key in order:
        node = nodes[key]
        function = getattr(node, "func", None)
        if (type(node), id(function)) in seen:
            continue
        seen.add((type(node), id(function)))
        module = getattr(function, "__module__", None) or ""
        if type(node).__name__ == "P2PBarrierTask" or module.startswith("distributed.shuffle"):
            raise RuntimeError(
                "this graph shuffles with the method 'p2p', which needs workers of dask.distributed. Use the "
                'method "tasks": shuffle_method="tasks" (or method="tasks" for rechunk), or '
                'dask.config.set({"dataframe.shuffle.method": "tasks", "array.rechunk.method": "tasks"})'
            )


def _annotations(dsk: Any) -> dict[str, dict[Any, Any]]:
    """Annotations of a graph: for each kind, values by key."""
    if not isinstance(dsk, Mapping):
        return dsk.__dask_annotations__() if hasattr(dsk, "__dask_annotations__") else {}
    found: dict[str, dict[Any, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        for kind, value in (getattr(layer, "annotations", None) or {}).items():
            for key in layer:
                found.setdefault(kind, {})[key] = value(key) if callable(value) else value
    return found
