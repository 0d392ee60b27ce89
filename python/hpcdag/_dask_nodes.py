"""Evaluates tasks of Dask in executors.

Owns what executors use of Dask's private interface (`dask._task_spec`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dask._task_spec import GraphNode, Task, TaskRef, _execute_subgraph


class TaskOf:
    """What tasks within tasks are pickled as."""

    def __new__(cls, key: Any, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        """The task."""
        return Task(key, function, *args, **kwargs) if kwargs else Task(key, function, *args)


def evaluate(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, values: Mapping[Any, Any]
) -> Any:
    """What a task of Dask returns (in an executor).

    Args:
        function: its function.
        args: its arguments, which may be nodes and references.
        kwargs: its keywords likewise, or None.
        values: what references stand for.
    """

    def made(value: Any) -> Any:
        if isinstance(value, TaskRef):
            return values[value.key]
        if isinstance(value, GraphNode):
            return value({key: values[key] for key in value.dependencies})
        return _own(value)

    new = [made(arg) for arg in args]
    if function is _execute_subgraph:
        return _subgraph(*new)
    if kwargs:
        return function(*new, **{name: made(value) for name, value in kwargs.items()})
    return function(*new)


def call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The same for a task whose arguments are all values."""
    if function is _execute_subgraph:
        return _subgraph(*args)
    new = map(_own, args)
    return (
        function(*new, **{name: _own(value) for name, value in kwargs.items()}) if kwargs else function(*new)
    )


def _own(value: Any) -> Any:
    """A value of the graph for one run. The batch is kept: the next attempt must find it as it was."""
    if type(value).__name__ in _CHANGEABLE and hasattr(value, "copy"):
        return value.copy()
    return value


_CHANGEABLE = frozenset(("ndarray", "DataFrame", "Series", "MaskedArray"))


def _subgraph(inner: Mapping[Any, Any], out: Any, names: Any, *values: Any) -> Any:
    """A fused task. Dask's own way orders the inner tasks again each time, which costs more than they do."""
    if isinstance(names, Mapping):  # Until 2024.12: two dictionaries.
        cache = {**names, **values[0]}
    else:
        cache = dict(zip(names, values, strict=True))
    order: list[Any] = []
    uses: dict[Any, int] = {}
    stack, seen = [out], set(cache)
    while stack:
        key = stack[-1]
        missing = [dep for dep in inner[key].dependencies if dep not in seen] if key not in seen else ()
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if key not in seen:
            seen.add(key)
            order.append(key)
            for dep in inner[key].dependencies:
                uses[dep] = uses.get(dep, 0) + 1
    for key in order:
        node = inner[key]
        value = evaluate(node.func, node.args, node.kwargs, cache) if type(node) is Task else node(cache)
        cache[key] = value
        for dep in node.dependencies:
            uses[dep] -= 1
            if not uses[dep]:
                del cache[dep]
    return cache[out]
