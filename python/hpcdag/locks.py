"""What processes of a cluster share by name: `Lock`, `MultiLock`, `Semaphore`, `Event`, `Variable`, `Queue`,
and published results.

All live on the scheduler and can be used in clients and in tasks. An object is only a name: it can be
pickled, and two objects of the same name are the same thing. What a process holds is let go when the process
ends (in a task: when its executor dies; in a client: when its session ends).

Owns the forms for users. Requests and connections are `_share`'s.
"""

from __future__ import annotations

import io
import pickle
import sys
import time
import uuid
from collections.abc import Iterable
from hashlib import blake2b
from types import TracebackType
from typing import Any

from . import _share

_MISSING = object()

#: Longer names are shortened, bytes.
_NAME_BYTES_MAX = 500


def _seconds(timeout: Any) -> float | None:
    """Seconds of a number, `"5 s"` or a timedelta; None and negative numbers, as in `threading`, for ever."""
    from ._options import parse_seconds

    seconds = parse_seconds(timeout)
    return None if seconds is None or seconds < 0 else seconds


def _dumps(value: Any) -> tuple[bytes, list[tuple[bytes, int]]]:
    """A value as bytes, and the results that its futures refer to."""
    import cloudpickle

    future = getattr(sys.modules.get("hpcdag.future"), "Future", None)
    tasks: dict[tuple[bytes, int], None] = {}

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if future is not None and isinstance(obj, future):
                tasks[(obj._run.uuid, obj._index)] = None
            return super().reducer_override(obj)

    out = io.BytesIO()
    Pickler(out, protocol=5).dump(value)
    return out.getvalue(), list(tasks)


def _small(value: Any, what: str) -> tuple[bytes, list[tuple[bytes, int]]]:
    data, tasks = _dumps(value)
    if len(data) > _share.VALUE_BYTES_MAX:
        raise ValueError(
            f"a value of {len(data)} bytes is larger than {_share.VALUE_BYTES_MAX >> 10} KiB, which a {what} "
            "holds: put it on a worker, `future = client.scatter(value)`, and share the future"
        )
    return data, tasks


def _short(name: str) -> str:
    """A name as the scheduler takes it: those of locks may be made of long paths."""
    data = name.encode()
    if len(data) <= _NAME_BYTES_MAX:
        return name
    return data[:_NAME_BYTES_MAX].decode(errors="ignore") + blake2b(data, digest_size=16).hexdigest()


class _Named:
    """Something on the scheduler that has a name."""

    _kind = ""

    def __init__(self, name: str | None = None, client: Any = None) -> None:
        """`name`: who has the same shares it; without one it is a new one. `client`: by default the one that
        is current."""
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of a {self._kind.lower()} is a string, not {name!r}")
        self.name = name or f"{self._kind.lower()}-{uuid.uuid4().hex}"
        self._client = client

    def _ask(self, verb: str, **more: Any) -> Any:
        return _share.board(self._client).call(self._kind, verb, _short(self.name), **more)

    def __reduce__(self) -> tuple:
        return type(self), (self.name,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    def __dask_tokenize__(self) -> tuple:
        return type(self).__name__, self.name


class _Held(_Named):
    """Something that is held and let go."""

    _limit: int | None = None

    def __init__(self, name: str | None = None, client: Any = None) -> None:
        super().__init__(name, client)
        self._owners: list[str] = []

    def acquire(self, blocking: bool = True, timeout: Any = None) -> bool:
        """Waits, in the order of asking, until it is ours; for `timeout` seconds at most. Whether it is.

        An interrupted wait (Ctrl-C, a cancelled task) leaves nothing behind.
        """
        owner = uuid.uuid4().hex
        seconds = _seconds(timeout) if blocking else 0.0
        word, _ = self._ask("Acquire", owner=owner, limit=self._limit, timeout=seconds)
        if word == "Done":
            self._owners.append(owner)
        return word == "Done"

    def release(self) -> bool:
        """Lets go. Raises RuntimeError if this object does not hold it, RefusedError if it was let go for us:
        the connection was cut for too long."""
        if not self._owners:
            raise RuntimeError(f"{self!r} is not held by this object")
        self._ask("Release", owner=self._owners.pop())
        return True

    def __enter__(self) -> Any:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Lock(_Held):
    """A lock of the whole cluster: one holder at a time, the next in the order of asking. It can be used
    wherever Dask and xarray take a lock (`to_zarr`, `to_netcdf`, `dask.array.store`). Not reentrant."""

    _kind = "Lock"

    @property
    def token(self) -> str:
        """The name, as `dask.utils.SerializableLock` calls it."""
        return self.name

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self._ask("Count")[1] > 0


class Semaphore(_Held):
    """At most `max_leases` holders at a time. All who use the name must agree on the number as long as
    somebody holds it."""

    _kind = "Semaphore"

    def __init__(
        self, max_leases: int = 1, name: str | None = None, client: Any = None, **_dask_options: Any
    ) -> None:
        super().__init__(name, client)
        if max_leases < 1:
            raise ValueError("a semaphore has at least one lease")
        self.max_leases = self._limit = max_leases

    def acquire(self, timeout: Any = None) -> bool:  # type: ignore[override]
        """Waits for a lease, for `timeout` seconds at most. Whether there is one."""
        return super().acquire(timeout=timeout)

    def get_value(self) -> int:
        """How many leases are held."""
        return self._ask("Count")[1]

    def __reduce__(self) -> tuple:
        return type(self), (self.max_leases, self.name)


class MultiLock:
    """Several locks, held together; taken in the order of their names, so that no two wait for one
    another."""

    def __init__(self, names: Iterable[str] = (), client: Any = None) -> None:
        self.names = sorted(set(names))
        self._client = client
        self._locks = [Lock(name, client) for name in self.names]

    def acquire(self, blocking: bool = True, timeout: Any = None) -> bool:
        """Waits for all, for `timeout` seconds at most in all. Whether they are held; if not, none is."""
        seconds = _seconds(timeout) if blocking else 0.0
        until = None if seconds is None else time.monotonic() + seconds
        held: list[Lock] = []
        try:
            for lock in self._locks:
                left = None if until is None else max(0.0, until - time.monotonic())
                if not lock.acquire(timeout=left):
                    break
                held.append(lock)
            else:
                held = []
                return True
            return False
        finally:
            for lock in reversed(held):
                lock.release()

    def release(self) -> None:
        """Lets go of all."""
        for lock in reversed(self._locks):
            lock.release()

    def __enter__(self) -> MultiLock:
        self.acquire()
        return self

    def __exit__(self, *_error: Any) -> None:
        self.release()

    def __reduce__(self) -> tuple:
        return type(self), (self.names,)


class Event(_Named):
    """A flag for which others wait."""

    _kind = "Event"

    def wait(self, timeout: Any = None) -> bool:
        """Waits until it is set, for `timeout` seconds at most. Whether it is."""
        return self._ask("Wait", timeout=_seconds(timeout))[0] == "Done"

    def set(self) -> None:
        """All who wait go on, and nobody waits any more."""
        self._ask("Set")

    def clear(self) -> None:
        """It is not set any more."""
        self._ask("Clear")

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._ask("Count")[1] > 0


class Variable(_Named):
    """One value, up to 64 KiB; futures within it keep their results. It stays until it is deleted."""

    _kind = "Variable"

    def set(self, value: Any, timeout: Any = None) -> None:
        """Gives it a value, in place of the one before. Raises ValueError if that is too large."""
        data, tasks = _small(value, "variable")
        self._ask("Set", value=data, tasks=tasks)

    def get(self, timeout: Any = None) -> Any:
        """The value; waits for one, for `timeout` seconds at most. Raises TimeoutError."""
        word, value = self._ask("Get", timeout=_seconds(timeout), take=pickle.loads)
        if word != "Value":
            raise TimeoutError(f"variable {self.name!r} has no value")
        return value

    def delete(self) -> None:
        """It has no value any more."""
        self._ask("Delete")


class Queue(_Named):
    """Values up to 64 KiB, first in, first out; futures within them keep their results. At most `maxsize` if
    that is not 0."""

    _kind = "Queue"

    def __init__(self, name: str | None = None, client: Any = None, maxsize: int = 0) -> None:
        super().__init__(name, client)
        self.maxsize = maxsize

    def put(self, value: Any, timeout: Any = None) -> None:
        """Appends a value; waits while the queue is full, for `timeout` seconds at most.

        Raises TimeoutError, and ValueError if the value is too large.
        """
        data, tasks = _small(value, "queue")
        more = {"limit": self.maxsize or None, "timeout": _seconds(timeout)}
        if self._ask("Put", value=data, tasks=tasks, **more)[0] != "Done":
            raise TimeoutError(f"queue {self.name!r} is full")

    def get(self, timeout: Any = None, batch: bool | int = False) -> Any:
        """Takes the first value; waits for one, for `timeout` seconds at most. Raises TimeoutError.

        With `batch`, a list: all values that are there (True), or so many, which are waited for.
        """
        if batch is False:
            return self._take(_seconds(timeout))
        values: list[Any] = []
        while batch is True or len(values) < batch:
            try:
                values.append(self._take(0.0 if batch is True else _seconds(timeout)))
            except TimeoutError:
                if batch is True:
                    break
                raise
        return values

    def _take(self, seconds: float | None) -> Any:
        word, value = self._ask("Get", timeout=seconds, limit=self.maxsize or None, take=pickle.loads)
        if word != "Value":
            raise TimeoutError(f"queue {self.name!r} is empty")
        return value

    def qsize(self) -> int:
        """How many values are there."""
        return self._ask("Count")[1]

    def close(self) -> None:
        """Drops all values; whoever waits hears that it was closed."""
        self._ask("Delete")

    def __reduce__(self) -> tuple:
        return type(self), (self.name, None, self.maxsize)


class _OnWorker:
    """Stands for a dataset that is too large for the scheduler: its bytes are a result."""

    def __init__(self, future: Any) -> None:
        self.future = future


def publish_dataset(
    client: Any, *args: Any, name: str | None = None, override: bool = False, **named: Any
) -> None:
    """Publishes values (futures, persisted collections, anything that can be pickled) by name; their results
    are kept until they are unpublished, whether this client lives or not.

    `publish_dataset(client, value, name="x")` or `publish_dataset(client, x=value, y=other)`. With `override`
    a dataset of the same name is replaced; else RefusedError is raised.
    """
    if args:
        if len(args) != 1 or name is None:
            raise ValueError("give one value and its name, or name=value for each")
        named = {**named, name: args[0]}
    elif name is not None:
        raise ValueError("there is a name and no value")
    board = _share.board(client)
    for key, value in named.items():
        data, tasks = _dumps(value)
        if len(data) > _share.VALUE_BYTES_MAX:
            placed = client.scatter(data)
            outer, more = _dumps(_OnWorker(placed))
            data, tasks = outer, [*more, *tasks]
        verb = "Set" if override else "Put"
        board.call("Dataset", verb, key, value=data, tasks=tasks)


def get_dataset(client: Any, name: str, default: Any = _MISSING) -> Any:
    """What was published under a name. Raises KeyError if there is nothing, unless `default` is given."""

    def take(data: bytes) -> Any:
        value = pickle.loads(data)
        return pickle.loads(value.future.result()) if isinstance(value, _OnWorker) else value

    word, value = _share.board(client).call("Dataset", "Get", name, take=take)
    if word == "Value":
        return value
    if default is _MISSING:
        raise KeyError(f"there is no dataset {name!r}")
    return default


def list_datasets(client: Any) -> tuple[str, ...]:
    """The names of all that is published."""
    return tuple(_share.board(client).call("Dataset", "List")[1])


def unpublish_dataset(client: Any, name: str) -> None:
    """Its results need not be kept any more. Raises KeyError if there is no such dataset."""
    if _share.board(client).call("Dataset", "Delete", name)[0] != "Done":
        raise KeyError(f"there is no dataset {name!r}")
