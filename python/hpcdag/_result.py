"""Values and the parts that results consist of: a pickle-5 stream and its out-of-band buffers.

`dumps` and `loads` are used by clients and executors. The first part's name is empty, those of the buffers
are "1", "2", ... in order.
"""

from __future__ import annotations

import functools
import io
import mmap
import pickle
import time
from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from types import GeneratorType
from typing import Any

# Smaller buffers stay in the stream.
_OUT_OF_BAND_BYTES_MIN = 4 << 10
#: Parts beyond this travel as memory files, one descriptor each.
INLINE_BYTES_MAX = 64 << 10
# A frame has room for so many descriptors (128) and bytes (64 MiB); what is beyond goes into the stream.
_LARGE_MAX = 120
_SMALL_MAX = 256

# From here on an anonymous mapping: its pages are not touched before they are filled, and go back at its end.
_MAPPED_BYTES_MIN = 1 << 20

# Searching for what cannot be pickled in a value.
_SEARCH_SECONDS = 2.0
_SEARCH_DEPTH = 8
_SEARCH_MEMBERS = 1000

_ONE_TIME = (GeneratorType, map, filter, zip)


class Unpicklable(TypeError):
    """A value that cannot be made into parts; says which part of it, as far as that is known."""


def settle(value: Any) -> Any:
    """What is kept of a task's value: of generators and the like a list, since many may read a result."""
    return list(value) if isinstance(value, _ONE_TIME) else value


def _reduce_generator(generator: Any) -> tuple[Any, ...]:
    return iter, (list(generator),)


@functools.cache
def _by_value_pickler() -> type[pickle.Pickler]:
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):
        dispatch_table = ChainMap({GeneratorType: _reduce_generator}, cloudpickle.Pickler.dispatch_table)

    return ByValuePickler


def dumps(value: Any) -> list[tuple[str, Any]]:
    """The parts of a value: (name, bytes-like). Buffers are those of the value, not copies.

    Raises `Unpicklable`.
    """
    try:
        try:
            stream, buffers = _dump(value, by_value=False)
            if b"__main__" in stream:
                # Whoever loads it has another __main__.
                stream, buffers = _dump(value, by_value=True)
        except Exception:
            stream, buffers = _dump(value, by_value=True)
    except Exception as error:
        raise Unpicklable(_explain(value, error)) from None
    return [("", stream), *((str(i), buffer) for i, buffer in enumerate(buffers, 1))]


def _dump(value: Any, by_value: bool) -> tuple[Any, list[memoryview]]:
    buffers: list[memoryview] = []
    large = 0

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        nonlocal large
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < _OUT_OF_BAND_BYTES_MIN:
            return True
        is_large = raw.nbytes > INLINE_BYTES_MAX
        if large >= _LARGE_MAX if is_large else len(buffers) - large >= _SMALL_MAX:
            return True
        large += is_large
        buffers.append(raw)
        return False

    out = io.BytesIO()
    if by_value:
        pickler = _by_value_pickler()(out, protocol=5, buffer_callback=keep_in_band)
    else:
        pickler = pickle.Pickler(out, protocol=5, buffer_callback=keep_in_band)
    pickler.dump(value)
    return out.getvalue(), buffers


def loads(parts: Sequence[tuple[str, Any]] | Iterable[tuple[str, Any]]) -> Any:
    """The value of parts; its arrays use the parts' memory and can be written where that can."""
    stream: Any = None
    buffers = []
    for i, (_name, data) in enumerate(parts):
        if i == 0:
            stream = data
        else:
            buffers.append(data)
    if stream is None:
        raise ValueError("a result without parts is not a Python value")
    return pickle.loads(stream, buffers=buffers)


def room(nbytes: int) -> memoryview:
    """Writable memory for a part that is about to be received."""
    if nbytes < _MAPPED_BYTES_MIN:
        return memoryview(bytearray(nbytes))
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def size(parts: Iterable[tuple[str, Any]]) -> int:
    """Bytes of all parts."""
    return sum(memoryview(data).nbytes for _, data in parts)


def _explain(value: Any, error: Exception) -> str:
    path, culprit = _search(value)
    kind = type(culprit)
    what = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    where = f"the result, a {what}," if path == "result" else f"{path}, a {what},"
    return f"{where} cannot be pickled: {type(error).__name__}: {error}"[:2000]


def _picklable(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(value, protocol=5, buffer_callback=lambda _: None)
    except Exception:
        return False
    return True


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """What is in a value, and how it is reached."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield f"[{key!r:.60}]", one
    elif isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield f"[{i}]", one
    elif isinstance(value, (set, frozenset)):
        for one in value:
            yield " (a member)", one
    else:
        if callable(value) and getattr(value, "__closure__", None):
            for name, cell in zip(value.__code__.co_freevars, value.__closure__, strict=False):
                try:
                    yield f" (its variable {name})", cell.cell_contents
                except ValueError:
                    pass
        for name, one in getattr(value, "__dict__", {}).items():
            yield f".{name}", one


def _search(value: Any) -> tuple[str, Any]:
    """Path and object of the innermost thing that cannot be pickled, as far as it is found in time."""
    end = time.monotonic() + _SEARCH_SECONDS
    path, culprit = "result", value
    for _ in range(_SEARCH_DEPTH):
        try:
            for i, (step, one) in enumerate(_members(culprit)):
                if i >= _SEARCH_MEMBERS or time.monotonic() > end:
                    return path, culprit
                if not _picklable(one):
                    path, culprit = path + step, one
                    break
            else:
                return path, culprit
        except Exception:
            return path, culprit
    return path, culprit
