"""Single calls on their way to the scheduler: a run that grows until it is sent (message `Calls`).

Owns the message for calls that are made one by one; whole graphs and maps are `_graph`'s. What is in the
batches is `_encode`'s affair, who sends the pieces `_session`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _columns, _frames
from ._graph import Options

CALLS = 10
EXTERNAL = 1 << 31
WANTED = 1
BROUGHT = 2

#: A piece is sent when it has so many tasks or bytes of batches.
PIECE_TASKS = 4096
PIECE_BYTES = 8 << 20


class RunWriter:
    """Collects the tasks of one run and hands pieces to `send(buffers, last)` as they become full.

    Tasks get numbers 0, 1, ... in the order in which they are added. Used by one thread at a time.
    """

    def __init__(
        self,
        run: bytes,
        name: str,
        environment: bytes,
        send: Callable[[list, bool], None],
    ) -> None:
        self.run = run
        self.name = name
        self.count = 0
        self._environment = environment
        self._send = send
        self._piece = 0
        self._options: dict[Options, int] = {}
        self._externals: dict[tuple[bytes, int], int] = {}
        self._functions: set[bytes] = set()
        #: for callers: what they have added so far
        self.seen: dict[int, Any] = {}
        self._begin_piece()

    def _begin_piece(self) -> None:
        self._new_options: list = []
        self._new_externals: list = []
        self._new_functions: list = []
        self._option = array("I")
        self._flags = bytearray()
        self._deps_end = array("I")
        self._deps = array("I")
        self._keys_end = array("I")
        self._keys = bytearray()
        self._batch_end = array("I")
        self._bytes_end = array("I")
        self._batches: list = []
        self._batch_bytes = 0
        self._code_bytes = 0

    def option(self, value: Options) -> int:
        """The number of these options in the run."""
        number = self._options.get(value)
        if number is None:
            number = self._options[value] = len(self._options)
            self._new_options.append(value.wire())
        return number

    def external(self, run: bytes, index: int) -> int:
        """What stands in `deps` for a task of another run."""
        key = (run, index)
        place = self._externals.get(key)
        if place is None:
            place = self._externals[key] = len(self._externals)
            self._new_externals.append([run, index])
        return EXTERNAL | place

    def functions(self, table: Iterable[tuple[bytes, bytes]]) -> None:
        """Functions (id, bytes) that batches to come refer to; those already sent are not sent again."""
        for ident, code in table:
            if ident not in self._functions:
                self._functions.add(ident)
                self._new_functions.append([ident, code])
                self._code_bytes += len(code)

    def batch(
        self,
        data: Any,
        count: int,
        *,
        option: int | Sequence[int] = 0,
        flags: int | Sequence[int] = WANTED,
        deps: Sequence[Sequence[int]] | None = None,
        keys: Sequence[str] | None = None,
    ) -> int:
        """Adds `count` tasks whose batch is `data` (bytes-like, not copied). Returns the number of the first.

        `deps`: for each task, numbers of this run or what `external` gave. `keys`: as many or none; the same
        for all batches of a run.
        """
        full = len(self._option) + count > PIECE_TASKS or self._batch_bytes + len(data) > PIECE_BYTES
        if self._option and (full or self._code_bytes > PIECE_BYTES):
            self.flush()
        first = self.count
        self.count += count
        self._option.extend([option] * count if isinstance(option, int) else option)
        self._flags += bytes([flags]) * count if isinstance(flags, int) else bytes(flags)
        if deps is None:
            self._deps_end.extend([len(self._deps)] * count)
        else:
            for some in deps:
                self._deps.extend(some)
                self._deps_end.append(len(self._deps))
        for key in keys or ():
            self._keys += key.encode("utf-8", "replace")
            self._keys_end.append(len(self._keys))
        self._batch_end.append(len(self._option))
        self._batches.append(data)
        self._batch_bytes += len(data)
        self._bytes_end.append(self._batch_bytes)
        return first

    def flush(self, last: bool = False) -> None:
        """Sends what has been collected. With `last` the run is complete and begins."""
        column = _columns.column
        body: list = []
        for values in (self._option, self._flags, self._deps_end, self._deps, self._keys_end, self._keys):
            body += column(values)
        body += column(self._batch_end) + column(self._bytes_end)
        data = self._batches[0] if len(self._batches) == 1 else b"".join(self._batches)
        body += column(data)
        size = sum(len(piece) for piece in body)
        control = [
            self.run,
            self._piece,
            last,
            self.name if self._piece == 0 else "",
            False,
            self._environment if self._piece == 0 else b"",
            self._new_functions,
            self._new_options,
            self._new_externals,
        ]
        frame = [_frames.pack_head(CALLS, control, size), *body]
        self._piece += 1
        self._begin_piece()
        self._send(frame, last)


def piece_frame(graph: Any, piece: Any, environment: bytes) -> list:
    """The message `Calls` of a piece (`_graph.Piece`)."""
    body: list = []
    for _, values in piece.columns():
        body += _columns.column(values)
    first = piece.number == 0
    control = [graph.run, piece.number, piece.last, graph.name if first else "", bool(graph.map)]
    control += [environment if first else b"", piece.functions, piece.options, piece.externals]
    return [_frames.pack_head(CALLS, control, sum(map(len, body))), *body]


def tasks_frame(tag: int, run: bytes, tasks: Sequence[int], later: bool = False, reason: str = "") -> list:
    """A message `RunTasks`: tasks of a run by number."""
    body = _columns.column(array("I", tasks))
    return [_frames.pack_head(tag, [run, later, reason], sum(map(len, body))), *body]
