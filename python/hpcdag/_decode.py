"""Executor side of calls: bytes of batches and functions become things that can be called.

Owns the layout of a batch. A batch is one pickle: either ``(MAP, function, columns, kwargs, swap)``, the
columns holding one value a task, or ``(LIST, [entry, ...])``. An entry is a tuple whose first item says what
it is:

* ``(CALL, function, args, kwargs | None)``: a call as it stands;
* ``(SWAP, function, args, kwargs | None)``: the same with placeholders (`Input`, `Own`) in (nested) lists,
  tuples, sets and dicts, which are made anew for each run;
* ``(NODE, function, args, kwargs | None, keys, literals | None)``: a task of Dask: ``keys`` name the inputs
  in their order, ``literals`` are further values by key (an `Input` where an input has one more key);
* ``(DIRECT, function, args, kwargs | None)``: a task of Dask whose placeholders are arguments themselves;
* ``(WHOLE, node, keys, literals | None)``: any other node of Dask, which is called with the values;
* ``(LATE, bytes)``: one of the above, pickled by itself with inputs as persistent ids, for values that hold
  inputs where no walk finds them.

Does not import dask or numpy by itself, and nothing of the client.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

MAP, LIST = 0, 1
CALL, SWAP, NODE, WHOLE, LATE, DIRECT = range(6)

_context = threading.local()


class FunctionRef:
    """Stands for a function of the table in a pickle: unpickling gives the function itself.

    A class and not a function, because the pickler that writes it replaces functions.
    """

    __slots__ = ()

    def __new__(cls, ident: bytes) -> Any:
        functions = getattr(_context, "functions", None)
        if functions is None:
            raise pickle.UnpicklingError("a function reference outside of a batch")
        try:
            return functions(ident)
        except Exception as err:  # The other tasks of the batch may do without it.
            return Unloadable(err)


class Unloadable:
    """A function that cannot be loaded here: calling it raises why."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    def __repr__(self) -> str:
        return f"<a function that cannot be loaded: {self.error!r}>"


class Input:
    """Stands for the input at place ``at`` of the task's dependencies."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at

    def __reduce__(self) -> tuple[Any, ...]:
        return Input, (self.at,)

    def __repr__(self) -> str:
        return f"Input({self.at})"


class Own:
    """Stands for a value that each run of a task gets a copy of: what one task changes, no other sees."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return Own, (self.data,)


def load_function(data: bytes) -> Any:
    """The function whose bytes these are.

    Raises:
        what unpickling raises; for a module that is missing here, ImportError with a note on what to do.
    """
    try:
        return pickle.loads(data)
    except ImportError as err:
        _explain(err)
        raise


def _explain(err: ImportError) -> None:
    note = (
        f"The function refers to module {err.name!r}, which the client can import and this worker cannot: "
        "install it in the worker's environment, put it where both see it, or send it with "
        "client.upload_file(...)."
    )
    if hasattr(err, "add_note"):
        err.add_note(note)
    else:
        err.msg = f"{err.msg}\n{note}"


class _LateUnpickler(pickle.Unpickler):
    """Unpickles one entry with its inputs in place."""

    def __init__(self, data: bytes, inputs: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._inputs = inputs

    def persistent_load(self, pid: Any) -> Any:
        return self._inputs[pid]


def swap(value: Any, inputs: Sequence[Any]) -> Any:
    """``value`` with inputs and copies in place of their placeholders; containers are made anew."""
    kind = type(value)
    if kind is Input:
        return inputs[value.at]
    if kind is Own:
        return pickle.loads(value.data)
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind([swap(item, inputs) for item in value])
    if kind is dict:
        return {swap(k, inputs): swap(v, inputs) for k, v in value.items()}
    return value


# Imported with the first task of Dask.
_dask_nodes: Any = None


def _import_nodes() -> Any:
    global _dask_nodes
    from hpcdag import _dask_nodes as nodes

    _dask_nodes = nodes
    return nodes


class Batch:
    """Tasks that came together, decoded once.

    Args:
        data: the batch's bytes.
        functions: the function of an id (16 bytes); called when the batch is read, its errors are kept for
            the tasks that call the function.

    Raises:
        what unpickling raises (ImportError with a note on what to do).
    """

    def __init__(self, data: bytes, functions: Callable[[bytes], Any]) -> None:
        self._functions = functions
        content = self._reading(lambda: pickle.loads(data))
        self._map = content[0] == MAP
        if self._map:
            _, self._function, self._columns, self._kwargs, self._swap = content
            self._entries: list[tuple[Any, ...]] = []
        else:
            self._entries = content[1]

    def __len__(self) -> int:
        return len(self._columns[0]) if self._map else len(self._entries)

    def run(self, index: int, inputs: Sequence[Any]) -> Any:
        """Runs one of the tasks.

        Args:
            index: its place in the batch.
            inputs: values of its dependencies, in their order.
        """
        if self._map and not self._swap:
            return self._function(*[column[index] for column in self._columns], **self._kwargs)
        before = getattr(_context, "functions", None)
        _context.functions = self._functions
        try:
            call = self._made(index, inputs)
        except ImportError as err:
            _explain(err)
            raise
        finally:
            _context.functions = before
        return call()

    def _made(self, index: int, inputs: Sequence[Any]) -> Callable[[], Any]:
        """A task with its inputs in place."""
        if self._map:
            entry: tuple[Any, ...] = (SWAP, self._function, [c[index] for c in self._columns], self._kwargs)
        else:
            entry = self._entries[index]
        if entry[0] == LATE:
            entry = _LateUnpickler(entry[1], inputs).load()
        kind = entry[0]
        if kind <= SWAP:
            _, function, args, kwargs = entry
            if kind == SWAP:
                function, kwargs = swap(function, inputs), swap(kwargs, inputs)
                args = [swap(arg, inputs) for arg in args]
            return partial(function, *args, **kwargs) if kwargs else partial(function, *args)
        nodes = _dask_nodes or _import_nodes()
        if kind == DIRECT:
            args = [swap(arg, inputs) if type(arg) in (Input, Own) else arg for arg in entry[2]]
            return partial(nodes.call, entry[1], args, entry[3])
        values = dict(zip(entry[-2], inputs, strict=False))
        if entry[-1]:
            for key, value in entry[-1].items():
                values[key] = swap(value, inputs) if type(value) in (Input, Own) else value
        if kind == WHOLE:
            return partial(entry[1], values)
        return partial(nodes.evaluate, entry[1], entry[2], entry[3], values)

    def _reading(self, read: Callable[[], Any]) -> Any:
        before = getattr(_context, "functions", None)
        _context.functions = self._functions
        try:
            return read()
        except ImportError as err:
            _explain(err)
            raise
        finally:
            _context.functions = before
