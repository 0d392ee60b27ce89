"""Dask's graphs as runs of calls: `get`, `compute` and `persist`.

Owns what the client uses of Dask's private interface (`dask._task_spec`, `dask.base`, expressions), for
dask >= 2024.12; `_dask_nodes` is the executor's part. Does not own how values become bytes (`_encode`), nor
sending: whoever sends is a `Port`.

Graphs arrive optimised. They are culled, and aliases and literals are taken out: those never become tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef, convert_legacy_graph

from hpcdag._dask_port import (
    Port,
    TaskOptions,
    annotations_of,
    flatten,
    futures_within,
    name_of,
    nested,
    port_of,
    refuse_p2p,
    text_of,
)
from hpcdag._decode import DIRECT, Input
from hpcdag._graph import CHUNK_TASKS, Calls, Graph
from hpcdag._pickling import UNCHANGING, Places

# What collections call


def get(client: Any, dsk: Any, keys: Any, finalize: bool = True, sync: bool = True, **kwargs: Any) -> Any:
    """Computes keys of a graph: Dask's scheduler function.

    Args:
        client: a `Client` or a `Port`.
        dsk: a graph or expression, optimised.
        keys: a key, or (nested) lists of keys.
        finalize: whether what only puts parts of a collection together is done here, not on a worker.
        sync: whether to wait; otherwise there are futures in place of values.
        kwargs: options (priority, retries, resources, ...); unknown ones are ignored: libraries pass theirs.

    Returns: the value of a key; for lists lists, and tuples within."""
    port = port_of(client)
    wanted = list(flatten(keys))
    if not sync:
        made = dict(zip(wanted, futures(port, dsk, wanted, **kwargs), strict=True))
        return [nested(key, made) for key in keys] if isinstance(keys, list) else made[keys]
    work = _Work(port, dsk, wanted, kwargs, finalize)
    sent = work.send()
    values = dict(zip(sent, port.gather(list(sent.values())), strict=True))
    results = {key: work.value(key, values) for key in wanted}
    return [nested(key, results) for key in keys] if isinstance(keys, list) else results[keys]


def futures(port: Port, dsk: Any, keys: Sequence[Any], **kwargs: Any) -> list[Any]:
    """The same, but futures of the keys, which later graphs with the same keys use."""
    wanted = list(flatten(keys))
    work = _Work(port, dsk, wanted, kwargs, False, persist=True)
    sent = work.send()
    return [sent[where] if type(where) is int else where for where in map(work.where.__getitem__, wanted)]


def persist(client: Any, collections: Any, optimize_graph: bool = True, **kwargs: Any) -> Any:
    """A collection whose parts are futures of what has been submitted; of several, a list."""
    from dask import base

    if base.is_dask_collection(collections):
        return persist(client, [collections], optimize_graph, **kwargs)[0]
    # Dask itself knows for each of its versions how collections are made of results.
    plain = getattr(base.persist, "__wrapped__", base.persist)  # See `_patches`.
    more = {
        "traverse": False,
        "optimize_graph": optimize_graph,
        "scheduler": _futures_scheduler(port_of(client)),
    }
    return list(plain(*collections, **more, **kwargs))


def compute(
    client: Any,
    collections: Any,
    sync: bool = False,
    optimize_graph: bool = True,
    traverse: bool = True,
    **kwargs: Any,
) -> Any:
    """A future of the value of a collection, of several a list; values instead with `sync`.

    Args:
        client: a `Client` or a `Port`.
        collections: one or several; what is none stays as it is.
        sync: whether to wait.
        optimize_graph: whether graphs are optimised first.
        traverse: whether lists, tuples, sets and dictionaries among several are looked into.
        kwargs: options as in `get`.
    """
    import dask

    port = port_of(client)
    one = not isinstance(collections, (list, tuple, set, frozenset))
    items = [collections] if one else list(collections)
    if traverse:
        items = [dask.delayed(v) if isinstance(v, (list, tuple, set, dict)) else v for v in items]
    ours = [item for item in items if dask.is_dask_collection(item)]
    found = iter(_computed(port, ours, optimize_graph, kwargs) if ours else [])
    results = [next(found) if dask.is_dask_collection(item) else item for item in items]
    if sync:
        values = iter(port.gather([r for r in results if isinstance(r, port.future)]))
        results = [next(values) if isinstance(r, port.future) else r for r in results]
    return results[0] if one else results


def _computed(port: Port, collections: list[Any], optimize_graph: bool, kwargs: Any) -> list[Any]:
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


def _futures_scheduler(port: Port) -> Callable[..., list[Any]]:
    def schedule(dsk: Any, keys: Any, **more: Any) -> list[Any]:
        return futures(port, dsk, keys, **more)

    return schedule


# Graphs


_NODES = (GraphNode, TaskRef)
# More dependencies than these have their keys with them.
_INPUTS_MAX = 64


class _Literal:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Work:
    """A graph on its way: what becomes tasks, and where the value of each key is.

    ``where`` has for a key the place of its task, a `_Literal` or a future; ``order`` and ``tasks`` have keys
    and nodes by place.
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
        self.tasks: list[Any] = []
        self.persist = persist
        #: classes of arguments that are no nodes
        self.plain: set[type] = set()
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
        self.options = TaskOptions(annotations_of(dsk), kwargs)
        if self.order:
            refuse_p2p(self.tasks)

    def _keep_literal(self, key: Any) -> None:
        """A literal that is asked for as a future becomes a task after all."""
        at = key
        while type(node := self.nodes.get(at)) is Alias and node.target != at:
            at = node.target
        if type(node) is DataNode:
            self.nodes[key] = Task(key, _same, node.value)

    def _visit(self, roots: Sequence[Any]) -> None:
        """Puts what is needed in an order in which dependencies come first."""
        node_of, where, order, tasks = self.nodes.get, self.where, self.order, self.tasks
        living = self.port.keys()
        opened = set()
        stack = list(reversed(roots))
        while stack:
            key = stack.pop()
            if key in where:
                continue
            kind = type(node := node_of(key))
            if kind is DataNode:
                where[key] = _Literal(node.value)
                continue
            if (node is None or key in living) and (found := self._future_of(key, node)) is not None:
                where[key] = found
                continue
            # The set knows the hashes of its keys.
            missing = node.dependencies.difference(where)
            if missing:
                if key in opened:
                    raise RuntimeError(f"the graph has a cycle through {key!r}")
                opened.add(key)
                stack.append(key)
                stack.extend(missing)
            elif kind is Alias:
                where[key] = where[node.target]
            else:
                where[key] = len(order)
                order.append(key)
                tasks.append(node)

    def _future_of(self, key: Any, node: Any) -> Any:
        """The future that has a key, of this graph or an earlier one; KeyError if there is no task either."""
        found = self.futures.get(key) or self.port.known(key)
        if found is None and node is None:
            # Those of a map are not found by their keys: it may be an argument.
            self.futures.update(futures_within(self.nodes.values(), self.port.future, Task))
            found = self.futures.get(key)
            if found is None:
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
        return dict(zip(self.fetched, self.port.submit(graph, self.names, self.persist), strict=True))

    def _calls(self, graph: Graph) -> Iterator[Calls]:
        """The tasks in their order, some at a time."""
        order, option = self.order, self.options.of
        wanted = bytearray(len(order))
        for place in self.fetched:
            wanted[place] = 1
        for at in range(0, len(order), CHUNK_TASKS):
            keys = order[at : at + CHUNK_TASKS]
            entries, deps = self._entries(self.tasks[at : at + CHUNK_TASKS], graph)
            options = option(keys[0], graph) if self.options.uniform else [option(key, graph) for key in keys]
            yield Calls(entries, deps, list(map(text_of, keys)), options, wanted[at : at + CHUNK_TASKS])

    def _entries(self, nodes: list[Any], graph: Graph) -> tuple[list[tuple[Any, ...]], list[list[Any]]]:
        """The entries of tasks, and their dependencies.

        Most tasks refer to others only by their arguments, and need no keys then.
        """
        where, inputs, plain = self.where, graph.encoder.inputs, self.plain
        entries, all_deps = [], []
        for node in nodes:
            if type(node) is not Task:
                self._add_evaluated(node, graph, entries, all_deps)
                continue
            args: list[Any] = []
            deps = []
            for arg in node.args:
                kind = type(arg)
                if kind is TaskRef:
                    found = where[arg.key]
                elif kind is Alias:
                    found = where[arg.target]
                elif kind in plain or not issubclass(kind, _NODES):
                    plain.add(kind)
                    args.append(arg)
                    continue
                else:
                    break
                if type(found) is int:
                    if found in deps:
                        at = deps.index(found)
                    else:
                        at = len(deps)
                        if at >= _INPUTS_MAX:
                            break
                        deps.append(found)
                    args.append(inputs[at])
                elif type(found) is _Literal and type(found.value) in UNCHANGING:
                    args.append(found.value)
                else:
                    break
            else:
                kwargs = node.kwargs
                if not kwargs or not any(isinstance(value, _NODES) for value in kwargs.values()):
                    entries.append((DIRECT, node.func, tuple(args), kwargs or None))
                    all_deps.append(deps)
                    continue
            self._add_evaluated(node, graph, entries, all_deps)
        return entries, all_deps

    def _add_evaluated(
        self, node: Any, graph: Graph, entries: list[tuple[Any, ...]], all_deps: list[list[Any]]
    ) -> None:
        """Adds an entry for any other node, and its dependencies."""
        deps: list[Any] = []
        keys: list[Any] = []
        literals: dict[Any, Any] = {}
        later: list[tuple[Any, Any]] = []
        used = set()
        for dep in node.dependencies:
            found = self.where[dep]
            if type(found) is int and found not in used:
                used.add(found)
                deps.append(found)
                keys.append(dep)
            else:
                later.append((dep, found))
        if later:
            places = Places(graph._identity, deps)
            for dep, found in later:
                if type(found) is _Literal:
                    literals[dep] = _literal(found, graph.encoder, places)
                else:
                    literals[dep] = Input(places.place(found))
            deps = places.list
        call = (node.func, node.args, node.kwargs) if type(node) is Task else None
        entries.append(graph.encoder.node(node, call, keys, literals))
        all_deps.append(deps)

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
    graph = dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__()
    if type(graph) is not dict or finals:
        from dask.utils import ensure_dict

        graph = {**ensure_dict(graph), **finals}
    kinds = set(map(type, graph.values()))
    found = {}
    if any(issubclass(kind, future) for kind in kinds):
        for key, value in graph.items():
            if isinstance(value, future):
                found[key] = found[value.key] = value
    elif all(issubclass(kind, GraphNode) for kind in kinds):
        # What the conversion would do.
        if any(issubclass(kind, Alias) for kind in kinds):
            return {k: v for k, v in graph.items() if not isinstance(v, Alias) or v.target != k}, found
        return graph, found
    # What it makes of futures are references.
    return convert_legacy_graph(graph), futures_within(graph.values(), future, Task) | found


def _is_final(key: Any, node: Any) -> bool:
    """Whether a wanted key is a task that only puts the parts of a collection together."""
    return (
        isinstance(key, str)
        and key.startswith("finalize-")
        and type(node) is Task
        and bool(node.args)
        and type(node.args[0]) is List
        and not node.kwargs
    )
