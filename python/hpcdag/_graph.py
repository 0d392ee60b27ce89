"""A run of calls on its way to the scheduler: the columns of the message `Calls`, piece by piece.

Owns numbering tasks, dependencies as integers, options told once, and large literals as tasks that the client
brings. Does not own how values become bytes (`_encode`) nor sending (`_session`).

A session does::

    for piece in graph.pieces():     # encodes while it sends
        send(Calls(...piece...))

``graph.brought`` then holds the tasks and values to be brought, ``graph.results`` the task of each wanted
result in the caller's order, ``graph.keep`` the futures that must live until the run is accepted.
"""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, compress, islice
from typing import Any, NamedTuple

from hpcdag._decode import SWAP
from hpcdag._encode import BATCH_TASKS, Encoder

EXTERNAL = 1 << 31
WANTED, BROUGHT = 1, 2
PIECE_TASKS = 4096
PIECE_BYTES = 8 << 20
CHUNK_TASKS = PIECE_TASKS // 4
"""How many calls are best added at once."""
UNIT = 10_000
"""Amounts of slots and resources are sent in these parts."""


@dataclass(frozen=True)
class Options:
    """How calls are to be run; what the message calls `CallOptions`.

    Args:
        priority: the larger, the sooner.
        retries: attempts beyond the first.
        slots: CPU slots, 1.0 by default.
        resources: named resources, amounts.
        workers: names, addresses or hosts of workers that may run it; any if empty.
        loose: whether others may if none of these is there.
        memory: private memory that it needs, bytes.
        output_size: expected result, bytes.
        time_limit: longest time of an attempt, seconds.
    """

    priority: int = 0
    retries: int = 0
    slots: float = 1.0
    resources: tuple[tuple[str, float], ...] = ()
    workers: tuple[str, ...] = ()
    loose: bool = False
    memory: int | None = None
    output_size: int | None = None
    time_limit: float | None = None

    def wire(self) -> list[Any]:
        """The fields of `CallOptions` in their order."""
        limit = self.time_limit
        return [
            self.priority,
            self.retries,
            round(self.slots * UNIT),
            {name: round(amount * UNIT) for name, amount in self.resources},
            list(self.workers),
            self.loose,
            self.memory,
            self.output_size,
            None if limit is None else max(1, round(limit * 1000)),
        ]


class Brought:
    """A large literal as a dependency: a task of the run whose result the client brings."""

    __slots__ = ("task", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.task: int | None = None


@dataclass
class Piece:
    """One message `Calls` without the run's identity; integer columns as ``array("I")``, text as bytes."""

    number: int
    last: bool = False
    functions: list[tuple[bytes, bytes]] = field(default_factory=list)
    options: list[list[Any]] = field(default_factory=list)
    externals: list[list[Any]] = field(default_factory=list)
    option: array[int] = field(default_factory=lambda: array("I"))
    flags: bytearray = field(default_factory=bytearray)
    deps_end: array[int] = field(default_factory=lambda: array("I"))
    deps: array[int] = field(default_factory=lambda: array("I"))
    keys_end: array[int] = field(default_factory=lambda: array("I"))
    keys: bytearray = field(default_factory=bytearray)
    batch_end: array[int] = field(default_factory=lambda: array("I"))
    bytes_end: array[int] = field(default_factory=lambda: array("I"))
    bytes: bytearray = field(default_factory=bytearray)

    def add_keys(self, keys: Sequence[str]) -> None:
        """Appends keys of tasks."""
        before = len(self.keys)
        text = "".join(keys)
        self.keys += text.encode("utf-8", "surrogatepass")
        parts: Iterable[Any] = keys if text.isascii() else [k.encode("utf-8", "surrogatepass") for k in keys]
        self.keys_end.extend(islice(accumulate(map(len, parts), initial=before), 1, None))

    def columns(self) -> list[tuple[int, Any]]:
        """Bytes a value and values of each column, in the order of the message's body."""
        ints = (self.option, self.deps_end, self.deps, self.keys_end, self.batch_end, self.bytes_end)
        option, deps_end, deps, keys_end, batch_end, bytes_end = ints
        return [
            (4, option), (1, self.flags), (4, deps_end), (4, deps), (4, keys_end),
            (1, self.keys), (4, batch_end), (4, bytes_end), (1, self.bytes),
        ]  # fmt: skip


class Calls(NamedTuple):
    """Tasks to be added, in columns: entries of `_encode` and what the scheduler has to know of them.

    ``deps`` has for each futures, `Brought`, or numbers of earlier places in the caller's own list of tasks;
    ``option`` one number for all or one for each; ``wanted`` 1 for each whose result is wanted.
    """

    entries: list[tuple[Any, ...]]
    deps: list[list[Any]]
    keys: list[str]
    option: int | list[int]
    wanted: bytes | bytearray


class Graph:
    """A run of calls.

    Args:
        name: what people call it, and the beginning of keys that are not listed.
        locate: the run (16 bytes) and the number of a future's task.
        future: the class of futures.
        map: whether the tasks have no dependencies and one option (their keys are ``{name}-{number}``).
    """

    def __init__(
        self,
        name: str,
        locate: Callable[[Any], tuple[bytes, int]] | None = None,
        future: type | tuple[type, ...] = (),
        map: bool = False,
    ) -> None:
        self.run = uuid.uuid4().bytes
        self.name = name
        self.map = map
        self.tasks = 0
        self.brought: list[tuple[int, Any]] = []
        self.keep: list[Any] = []
        self._locate = locate
        self.encoder = Encoder(future, self._bring, self._identity)
        self._new_brought: list[Brought] = []
        self._externals: dict[tuple[bytes, int], int] = {}
        self._new_externals: list[list[Any]] = []
        self._options: dict[Options, int] = {}
        self._new_options: list[list[Any]] = []
        self._source: Iterator[None] = iter(())
        self._places = array("I")
        self._results = array("I")
        self.results: Sequence[int] = self._results
        self._piece = Piece(0)
        self.option(Options())

    def option(self, options: Options) -> int:
        """The number of these options in the run."""
        found = self._options.get(options)
        if found is None:
            found = self._options[options] = len(self._options)
            self._new_options.append(options.wire())
        return found

    def pieces(self) -> Iterator[Piece]:
        """The messages, encoded as they are asked for; the last has ``last`` set."""
        for _ in self._source:
            if len(self._piece.option) >= PIECE_TASKS or len(self._piece.bytes) >= PIECE_BYTES:
                yield self._cut(False)
        yield self._cut(True)

    def close(self) -> None:
        """Lets go of futures and values when all is sent; `results` stays."""
        self._source, self.keep, self.brought = iter(()), [], []
        self.encoder.forget()

    # What is to be run

    def set_calls(self, calls: Iterable[Calls]) -> Graph:
        """The tasks are these; a number in `deps` is the place of an earlier one."""
        self._source = self._from_calls(calls)
        return self

    def set_map(
        self,
        function: Any,
        columns: Sequence[Sequence[Any]],
        kwargs: dict[str, Any] | None = None,
        options: Options | None = None,
        keys: Sequence[str] | None = None,
    ) -> Graph:
        """The tasks are ``function(*row, **kwargs)`` for the rows of `columns`, which are equally long.

        Without dependencies and keys of their own they are one family (`map`).

        Raises:
            TypeError: a keyword or one of the first rows cannot be pickled; the message names it.
        """
        option = self.option(options or Options())
        function, kwargs, shared = self.encoder.shared(function, kwargs or {})
        simple = not shared.swap and all(map(_simple, columns)) and keys is None
        if simple and columns:
            first = [column[:1] for column in columns]
            simple = self.encoder.mapped(function, first, kwargs, False) is not None
        if simple:
            self._options = {options or Options(): 0}
            self._new_options = [next(iter(self._options)).wire()]
            self.map = True
            self._source = self._from_columns(function, columns, kwargs)
        else:
            self._source = self._from_rows(function, columns, kwargs, shared.list, option, keys)
        return self

    def _from_columns(
        self, function: Any, columns: Sequence[Sequence[Any]], kwargs: dict[str, Any]
    ) -> Iterator[None]:
        total = len(columns[0]) if columns else 0
        self.results = range(total)
        at, guess = 0, BATCH_TASKS
        while at < total:
            count = min(guess, total - at)
            data = self.encoder.mapped(function, [c[at : at + count] for c in columns], kwargs, False)
            if data is None:
                guess = max(1, count // 2)
                continue
            self._batch(count, data)
            piece = self._piece
            piece.option.frombytes(bytes(4 * count))
            piece.flags += bytes([WANTED]) * count
            piece.deps_end.frombytes(bytes(4 * count))
            at += count
            yield

    def _from_rows(
        self,
        function: Any,
        columns: Sequence[Sequence[Any]],
        kwargs: dict[str, Any],
        shared: list[Any],
        option: int,
        keys: Sequence[str] | None,
    ) -> Iterator[None]:
        total = len(columns[0]) if columns else 0
        for at in range(0, total, BATCH_TASKS):
            rows = list(zip(*(column[at : at + BATCH_TASKS] for column in columns), strict=True))
            new, deps = self.encoder.replaced(rows, shared)
            # What is not alike has to have its keys listed.
            places = range(at, at + len(rows))
            names = [f"{self.name}-{i}" if keys is None else keys[i] for i in places]
            data = self.encoder.mapped(function, list(zip(*new, strict=True)), kwargs, True)
            batches: Iterable[tuple[int, bytes]] = [(len(rows), data)] if data is not None else ()
            if data is None:
                batches = self.encoder.entries([(SWAP, function, row, kwargs) for row in new], deps)
            start = 0
            for count, batch in batches:
                stop = start + count
                self._add(batch, deps[start:stop], option, names[start:stop], None)
                start = stop
                yield

    def _from_calls(self, calls: Iterable[Calls]) -> Iterator[None]:
        for entries, deps, keys, option, wanted in calls:
            start = 0
            for count, data in self.encoder.entries(entries, deps):
                stop = start + count
                options = option if type(option) is int else option[start:stop]
                self._add(data, deps[start:stop], options, keys[start:stop], wanted[start:stop])
                start = stop
                yield

    # Columns

    def _add(
        self,
        data: bytes,
        deps: Sequence[Sequence[Any]],
        option: int | Sequence[int],
        keys: Sequence[str] | None,
        wanted: bytes | bytearray | None,
    ) -> None:
        """Adds a batch, and before it the large literals that turned up in it."""
        count = len(deps)
        self._place_brought(keys is not None)
        self._batch(count, data)
        piece = self._piece
        first = self.tasks - count
        places = range(first, self.tasks)
        self._places.extend(places)
        piece.option.extend([option] * count if isinstance(option, int) else option)
        column = piece.deps
        before = len(column)
        flat = list(chain.from_iterable(deps))
        if self.brought or not set(map(type, flat)) <= _NUMBERS:
            flat = list(map(self._number, flat))
        column.extend(flat)
        piece.deps_end.extend(islice(accumulate(map(len, deps), initial=before), 1, None))
        if wanted is None:
            piece.flags += bytes([WANTED]) * count
            self._results.extend(places)
        else:
            piece.flags += wanted
            self._results.extend(compress(places, wanted))
        if keys is not None:
            piece.add_keys(keys)

    def _number(self, dep: Any) -> int:
        if type(dep) is int:
            return self._places[dep]
        if type(dep) is Brought:
            assert dep.task is not None
            return dep.task
        assert self._locate is not None
        where = self._locate(dep)
        at = self._externals.get(where)
        if at is None:
            at = self._externals[where] = len(self._externals)
            self._new_externals.append(list(where))
            self.keep.append(dep)
        return EXTERNAL | at

    def _place_brought(self, keyed: bool) -> None:
        new, self._new_brought = self._new_brought, []
        if not new:
            return
        piece = self._piece
        for dep in new:
            dep.task = self.tasks
            self.brought.append((self.tasks, dep.value))
            self.tasks += 1
            piece.option.append(0)
            piece.flags.append(BROUGHT)
            piece.deps_end.append(len(piece.deps))
            if keyed:
                piece.keys += f"literal-{self.run.hex()[:8]}-{dep.task}".encode()
                piece.keys_end.append(len(piece.keys))
        piece.batch_end.append(len(piece.option))
        piece.bytes_end.append(len(piece.bytes))

    def _batch(self, count: int, data: bytes) -> None:
        """A batch of `count` tasks, whose columns the caller appends."""
        piece = self._piece
        self.tasks += count
        piece.bytes += data
        piece.batch_end.append(len(piece.option) + count)
        piece.bytes_end.append(len(piece.bytes))

    def _identity(self, dep: Any) -> Any:
        if type(dep) is int:
            return dep
        return (id(dep),) if type(dep) is Brought or self._locate is None else self._locate(dep)

    def _bring(self, value: Any) -> Brought:
        dep = Brought(value)
        self._new_brought.append(dep)
        return dep

    def _cut(self, last: bool) -> Piece:
        piece, self._piece = self._piece, Piece(self._piece.number + 1)
        piece.last = last
        piece.functions = self.encoder.functions.take()
        piece.options, self._new_options = self._new_options, []
        piece.externals, self._new_externals = self._new_externals, []
        return piece


def _simple(column: Sequence[Any]) -> bool:
    """Whether a column holds plain values only, none of them long."""
    if isinstance(column, range):
        return True
    kinds = set(map(type, column))
    if not kinds <= _SIMPLE:
        return False
    return not kinds & _TEXT or max(len(v) for v in column if type(v) in _TEXT) <= _LONG_TEXT


_NUMBERS = {int}
_TEXT = frozenset((str, bytes))
_SIMPLE = frozenset((int, float, bool, type(None), complex)) | _TEXT
_LONG_TEXT = 64 << 10
