"""The picklers of calls: functions by reference into a table, dependencies and large literals found.

Owns what is replaced while pickling and the table of functions. Does not own the layout of batches
(`_decode`) nor what is written when (`_encode`).
"""

from __future__ import annotations

import inspect
import io
import operator
import pickle
import warnings
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType
from typing import Any, NoReturn

import cloudpickle

from hpcdag._decode import FunctionRef

LARGE_BYTES = 1 << 20
"""Literals beyond this do not travel in batches."""

PLAIN = frozenset((int, float, bool, type(None), complex))
TEXT = frozenset((str, bytes))
UNCHANGING = PLAIN | {
    FunctionType,
    BuiltinFunctionType,
    type,
    range,
    slice,
    type(Ellipsis),
    date,
    datetime,
    timedelta,
}
"""Types of values that no task can change, and that are small."""
_HEAVY_FUNCTION_BYTES = 10 << 20


class DependencyFoundError(Exception):
    """A future or a large array turned up where the quick way does not replace it."""


def nbytes(value: Any) -> int:
    """Bytes of a value that says how many it has (arrays, tables, text); 0 for all others."""
    kind = type(value)
    if kind in PLAIN:
        return 0
    if kind in TEXT or kind is bytearray:
        return len(value)
    if isinstance(value, type) or hasattr(value, "__dask_graph__"):
        return 0
    try:
        size = getattr(value, "nbytes", None)
        if size is None and hasattr(value, "memory_usage"):
            size = value.memory_usage(index=True)
            size = size.sum() if hasattr(size, "sum") else size
        return int(size) if size is not None else 0
    except Exception:  # Whatever a stranger's property raises, it is not an array.
        return 0


def _bound(function: Any) -> list[Any]:
    """What a function has from around it at this moment: variables it closes over, and globals."""
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    values = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # Not bound yet.
            values.append(None)
    names = getattr(function, "__globals__", {})
    values += [names.get(name) for name in getattr(code, "co_names", ())]
    return values


class Functions:
    """The table of functions of one run: each is pickled once.

    `lasting`: it serves submissions one after the other, between which variables may get other values.
    """

    lasting = False

    def __init__(self) -> None:
        self._new: list[tuple[bytes, bytes]] = []
        self._idents: dict[int, tuple[Any, bytes]] = {}
        self._bound: dict[int, list[Any]] = {}
        self._known: set[bytes] = set()

    def take(self) -> list[tuple[bytes, bytes]]:
        """The functions (id, bytes) added since the last call."""
        new, self._new = self._new, []
        return new

    def forget(self) -> None:
        """Lets go of the functions, and of what they close over."""
        self._idents.clear()
        self._bound.clear()

    def ident(self, function: Any) -> bytes:
        """The id of a function (or class, or anything that cloudpickle writes), which is added if new."""
        found = self._idents.get(id(function))
        if self.lasting:
            now = _bound(function)
            then = self._bound.get(id(function), now)
            self._bound[id(function)] = now
            if len(now) != len(then) or not all(map(operator.is_, now, then)):
                found = None
        if found is None:
            data = cloudpickle.dumps(function, protocol=5)
            ident = blake2b(data, digest_size=16).digest()
            if ident not in self._known:
                self._known.add(ident)
                self._new.append((ident, data))
                if len(data) > _HEAVY_FUNCTION_BYTES:
                    name = getattr(function, "__qualname__", repr(function))
                    warnings.warn(
                        f"{name} drags {len(data) >> 20} MiB of data along (values it closes over, or "
                        "globals): pass them as arguments, or client.scatter(...) them first",
                        stacklevel=4,
                    )
            found = self._idents[id(function)] = (function, ident)
        return found[1]


class Places:
    """Dependencies of one task, each once, in order.

    Args:
        identity: equal for dependencies that are the same.
        known: those that have their places already.
    """

    __slots__ = ("_identity", "_places", "list", "swap")

    def __init__(self, identity: Callable[[Any], Any], known: Sequence[Any] = ()) -> None:
        self.list: list[Any] = list(known)
        self.swap = False
        """Whether the task has placeholders, or containers that it could change."""
        self._identity = identity
        self._places: dict[Any, int] | None = None

    def place(self, dep: Any) -> int:
        """The place of a dependency, which is added if new."""
        places = self._places
        if places is None:
            if not self.list:
                # Most tasks have one: no dictionary for it.
                self.list.append(dep)
                return 0
            if len(self.list) == 1 and self.list[0] is dep:
                return 0
            places = self._places = {self._identity(known): at for at, known in enumerate(self.list)}
        who = self._identity(dep)
        at = places.get(who)
        if at is None:
            at = places[who] = len(self.list)
            self.list.append(dep)
        return at


def unchanging(value: Any) -> bool:
    """Whether no task can change the value, as far as can be seen quickly."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return all(map(unchanging, value))
    if kind is partial:
        parts = (value.func, *value.args, *value.keywords.values())
        return all(map(unchanging, parts))
    return kind in UNCHANGING or (kind in TEXT and len(value) < LARGE_BYTES)


def _by_value(cls: type) -> bool:
    """Whether no import finds the class."""
    return cls.__module__ == "__main__" or "<locals>" in cls.__qualname__


def picklers(
    functions: Functions, future: type | tuple[type, ...], bring: Callable[[Any], Any]
) -> tuple[type, type, type]:
    """The classes of picklers of one run.

    Args:
        functions: the table.
        future: classes of dependencies.
        bring: the dependency that stands for a large literal, or None.

    Returns:
        the C pickler and cloudpickle's, which raise `DependencyFoundError`; one for single entries, which
        is made with a file, the task's `Places` and ids of objects to leave out: it writes persistent ids.
    """

    def override(obj: Any, other: Callable[[Any], Any] | None) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            return FunctionRef, (functions.ident(obj),)
        if isinstance(obj, type):
            if _by_value(obj):
                return FunctionRef, (functions.ident(obj),)
        elif kind.__name__ == "Task" and kind.__module__ == "dask._task_spec":
            # Dask's own way has nine fields, one call of a Python function for each.
            from hpcdag._dask_nodes import TaskOf

            return TaskOf, (obj.key, obj.func, obj.args, obj.kwargs or None)
        elif isinstance(obj, future) or (kind.__name__ == "ndarray" and obj.nbytes > LARGE_BYTES):
            raise DependencyFoundError
        return NotImplemented if other is None else other(obj)

    class Quick(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return override(obj, None)

    class Cloud(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            return override(obj, super().reducer_override)

    class Late(cloudpickle.Pickler):
        def __init__(self, file: io.BytesIO, places: Places, heavy: set[int]) -> None:
            super().__init__(file, protocol=5)
            self.places, self.heavy = places, heavy

        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, future):
                return self.places.place(obj)
            kind = type(obj)
            if id(obj) in self.heavy or (
                (kind in TEXT or kind.__name__ == "ndarray") and nbytes(obj) > LARGE_BYTES
            ):
                dep = bring(obj)
                return None if dep is None else self.places.place(dep)
            return None

        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is FunctionType or (isinstance(obj, type) and _by_value(obj)):
                return FunctionRef, (functions.ident(obj),)
            return super().reducer_override(obj)

    return Quick, Cloud, Late


def blame(
    calls: Sequence[tuple[Any, Sequence[Any], dict[str, Any] | None]], late: type, err: Any
) -> NoReturn:
    """Raises the error of a batch that cannot be pickled, naming the argument.

    Args:
        calls: function, arguments and keywords of its tasks.
        late: the third of `picklers`.
        err: what pickling raised.

    Raises:
        TypeError: always.
    """

    def check(what: str, function: Any, value: Any) -> None:
        try:
            late(io.BytesIO(), Places(id), set()).dump(value)
        except Exception as why:
            name = getattr(function, "__qualname__", None) or repr(function)
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(
                f"{what} of {name} (a {kind}) cannot be sent to workers: {type(why).__name__}: {why}"
            ) from why

    for function, args, kwargs in calls:
        check("the function", function, function)
        for at, value in enumerate(args):
            check(f"argument {at + 1}{_parameter(function, at)}", function, value)
        for name, value in (kwargs or {}).items():
            check(f"argument {name!r}", function, value)
    raise TypeError(f"a task cannot be sent to workers: {type(err).__name__}: {err}") from err


def _parameter(function: Any, at: int) -> str:
    """The name of a function's positional parameter, in brackets, if it is known."""
    try:
        names = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return f" ({names[at]!r})"
    except (TypeError, ValueError, IndexError):
        return ""
