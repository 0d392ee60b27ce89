"""Client side of calls: calls and graph nodes become batches of bytes and a table of functions.

Owns how functions, arguments, dependencies and large literals are found and written; `_decode` owns the
layout. A batch is written by the C pickler, whose only Python callback replaces functions by references, so
that what tasks share is written once a batch. Batches that it cannot write, and those that mention
``__main__``, are written again by cloudpickle with the same callback.

A *dependency* here is whatever the caller uses for one: a future, or what `bring` gave for a large literal.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from hpcdag._decode import CALL, LATE, LIST, MAP, NODE, SWAP, WHOLE, Input, Own
from hpcdag._pickling import (
    LARGE_BYTES,
    TEXT,
    UNCHANGING,
    DependencyFoundError,
    Functions,
    Places,
    blame,
    nbytes,
    picklers,
    unchanging,
)

BATCH_TASKS = 256
BATCH_BYTES = 1 << 20
_SPLIT_BYTES = 2 * BATCH_BYTES


class Encoder:
    """Writes the batches of one run.

    Args:
        future: the class (or classes) whose instances are dependencies wherever they turn up.
        bring: called once for each large literal; gives the dependency that stands for it.
        identity: equal for dependencies that are the same.
    """

    def __init__(
        self,
        future: type | tuple[type, ...] = (),
        bring: Callable[[Any], Any] | None = None,
        identity: Callable[[Any], Any] = id,
    ) -> None:
        self.functions = Functions()
        self.inputs = _INPUTS
        self._future = future
        self._bring = bring
        self._identity = identity
        self._brought: dict[int, tuple[Any, Any]] = {}
        self._guess = BATCH_TASKS
        self._quick, self._cloud, self._late = picklers(self.functions, future, self.bring)

    def bring(self, value: Any) -> Any:
        """The dependency that stands for a large literal; None if literals stay where they are."""
        if self._bring is None:
            return None
        found = self._brought.get(id(value))
        if found is None:
            found = self._brought[id(value)] = (value, self._bring(value))
        return found[1]

    def forget(self) -> None:
        """Lets go of functions and literals: the classes of the picklers refer to themselves, so that what is
        not let go lives until garbage is collected."""
        self.functions.forget()
        self._brought.clear()

    # Single calls

    def call(
        self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], list[Any]]:
        """An entry for ``function(*args, **kwargs)``, and its dependencies."""
        deps = Places(self._identity)
        function = self.replace(function, deps)
        new_args = tuple([self.replace(arg, deps) for arg in args])
        new_kwargs = {k: self.replace(v, deps) for k, v in kwargs.items()} if kwargs else None
        return (SWAP if deps.swap else CALL, function, new_args, new_kwargs), deps.list

    def node(
        self,
        node: Any,
        call: tuple[Any, tuple[Any, ...], dict[str, Any] | None] | None,
        keys: Sequence[Any],
        literals: dict[Any, Any] | None = None,
    ) -> tuple[Any, ...]:
        """An entry for a node of a Dask graph whose inputs have these keys, in this order.

        Args:
            node: the node.
            call: its function, arguments and keywords if it is an ordinary task.
            keys: the keys of its inputs.
            literals: values of further keys, or `Input` where an input has one more key.
        """
        if call is None:
            return WHOLE, node, tuple(keys), literals or None
        return NODE, call[0], call[1], call[2] or None, tuple(keys), literals or None

    def replace(self, value: Any, deps: Places) -> Any:
        """`value` with placeholders for dependencies, large literals and what tasks could change."""
        kind = type(value)
        if kind in UNCHANGING:
            return value
        if isinstance(value, self._future):
            deps.swap = True
            return _input(deps.place(value))
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            new = [self.replace(item, deps) for item in value]
            deps.swap |= kind is list or kind is set
            return value if all(map(_same, new, value)) else kind(new)
        if kind is dict:
            deps.swap = True
            new = [(self.replace(k, deps), self.replace(v, deps)) for k, v in value.items()]
            same = all(a is k and b is value[k] for (a, b), k in zip(new, value, strict=True))
            return value if same else dict(new)
        if kind in TEXT and len(value) <= LARGE_BYTES:
            return value
        if isinstance(value, type) or (kind.__module__ == "numpy" and kind.__name__ != "ndarray"):
            return value
        if kind is partial and unchanging(value):
            return value
        return self.own(value, deps)

    def own(self, value: Any, deps: Places) -> Any:
        """A placeholder for a value that tasks could change; itself if it has to be pickled with its task."""
        data = b"" if nbytes(value) > LARGE_BYTES else self._pickle(value, False)
        if data is None:
            return value
        deps.swap = True
        if not data or len(data) > LARGE_BYTES:
            dep = self.bring(value)
            if dep is not None:
                return _input(deps.place(dep))
            data = data or self._pickle(value, False) or b""
        return Own(data) if data else value

    # Batches

    def entries(
        self, entries: Sequence[tuple[Any, ...]], deps: list[list[Any]]
    ) -> Iterator[tuple[int, bytes]]:
        """Writes entries into batches.

        Args:
            entries: what `call` and `node` gave.
            deps: the dependencies of each; those that turn up while writing are appended, at the latest when
                the task's batch is there.

        Yields:
            the batches: number of tasks and bytes.

        Raises:
            TypeError: an argument cannot be pickled; the message names it.
        """
        at = 0
        while at < len(entries):
            batch = entries[at : at + self._guess]
            yield from self._write(batch, deps, at)
            at += len(batch)

    def _write(
        self, entries: Sequence[tuple[Any, ...]], deps: list[list[Any]], at: int
    ) -> Iterator[tuple[int, bytes]]:
        data = self._pickle((LIST, entries))
        count = len(entries)
        if data is not None and len(data) <= (_SPLIT_BYTES if count > 1 else LARGE_BYTES):
            self._guess = max(1, min(BATCH_TASKS, BATCH_BYTES * count // len(data)))
            yield count, data
        elif count > 1:
            half = count // 2
            yield from self._write(entries[:half], deps, at)
            yield from self._write(entries[half:], deps, at + half)
        else:
            late = (LATE, self._pickle_late(entries[0], deps[at]))
            yield 1, pickle.dumps((LIST, [late]), protocol=5)

    def replaced(
        self, rows: Sequence[Sequence[Any]], known: Sequence[Any]
    ) -> tuple[list[tuple[Any, ...]], list[list[Any]]]:
        """Rows of arguments with placeholders in place of dependencies, and the dependencies of each row."""
        new, deps = [], []
        for row in rows:
            places = Places(self._identity, known)
            new.append(tuple([self.replace(value, places) for value in row]))
            deps.append(places.list)
        return new, deps

    def shared(self, function: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any], Places]:
        """Function and keywords that many tasks have in common, and the dependencies in them."""
        places = Places(self._identity)
        function = self.replace(function, places)
        new = {}
        for name, value in kwargs.items():
            new[name] = value = self.replace(value, places)
            if type(value) in (list, tuple, dict, set):
                data = self._pickle(value, False)
                dep = self.bring(value) if data is not None and len(data) > LARGE_BYTES else None
                if dep is not None:
                    places.swap = True
                    new[name] = _input(places.place(dep))
        return function, new, places

    def mapped(
        self, function: Any, columns: Sequence[Sequence[Any]], kwargs: dict[str, Any], swap: bool
    ) -> bytes | None:
        """One batch of calls of the same function; None if its values need the way of single calls."""
        data = self._pickle((MAP, function, tuple(columns), kwargs, swap))
        return data if data is not None and len(data) <= _SPLIT_BYTES else None

    def _pickle(self, content: Any, is_batch: bool = True) -> bytes | None:
        """The bytes of a batch, or of a value by itself; None if only the late way is left."""
        file = io.BytesIO()
        try:
            self._quick(file, protocol=5).dump(content)
            data = file.getvalue()
            if b"__main__" not in data:
                return data
        except DependencyFoundError:
            return None
        except RecursionError:
            raise
        except Exception:  # Whatever it refuses, cloudpickle may know.
            pass
        file = io.BytesIO()
        try:
            self._cloud(file, protocol=5).dump(content)
            return file.getvalue()
        except DependencyFoundError:
            return None
        except Exception as err:
            if not is_batch:
                return None
            blame(_calls_of(content), self._late, err)

    def _pickle_late(self, entry: tuple[Any, ...], deps: list[Any]) -> bytes:
        known = Places(self._identity, deps)
        heavy: set[int] = set()
        file = io.BytesIO()
        self._dump_late(file, entry, known, heavy)
        if file.tell() > LARGE_BYTES and self._bring is not None:
            # Not arrays, but many small objects: whole arguments stay behind.
            for value in _parts(entry):
                probe = io.BytesIO()
                self._dump_late(probe, value, known, heavy)
                if probe.tell() > LARGE_BYTES:
                    heavy.add(id(value))
            if heavy:
                file = io.BytesIO()
                self._dump_late(file, entry, known, heavy)
        deps[:] = known.list
        return file.getvalue()

    def _dump_late(self, file: io.BytesIO, entry: Any, deps: Places, heavy: set[int]) -> None:
        try:
            self._late(file, deps, heavy).dump(entry)
        except Exception as err:
            blame(_calls_of((LIST, [entry])), self._late, err)


# The same object for the same place, because a pickle writes it once then.
_INPUTS = [Input(at) for at in range(64)]


def _input(at: int) -> Input:
    return _INPUTS[at] if at < len(_INPUTS) else Input(at)


def _same(a: Any, b: Any) -> bool:
    return a is b


def _parts(entry: tuple[Any, ...]) -> list[Any]:
    """The values of an entry that may stay behind as wholes."""
    if entry[0] == WHOLE:
        return list((entry[3] or {}).values())
    values = [*entry[2], *(entry[3] or {}).values()]
    return values + list((entry[5] or {}).values()) if entry[0] == NODE else values


def _calls_of(content: Any) -> list[tuple[Any, Sequence[Any], dict[str, Any] | None]]:
    """Functions, arguments and keywords of what is being pickled."""
    if content[0] == MAP:
        _, function, columns, kwargs, _ = content
        return [(function, row, kwargs) for row in zip(*columns, strict=True)] or [(function, (), kwargs)]
    calls = []
    for entry in content[1]:
        if not isinstance(entry, tuple):
            continue
        if entry[0] == WHOLE:
            calls.append((type(entry[1]), (entry[1],), None))
            continue
        _, function, args, kwargs = entry[:4]
        if args and isinstance(args[0], dict):
            # The tasks in a fused task of Dask say more than that.
            inner = [task for task in args[0].values() if hasattr(task, "func") and hasattr(task, "args")]
            calls.extend((task.func, task.args, task.kwargs) for task in inner)
        calls.append((function, args, kwargs))
    return calls
