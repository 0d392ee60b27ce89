"""A run of calls on its way to the scheduler: options, columns and pieces (message `Calls`).

Owns the message. What is in the batches is `_encode`'s affair, who sends the pieces `_session`'s.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from . import _columns, _frames

CALLS = 10
EXTERNAL = 1 << 31
WANTED = 1
BROUGHT = 2

#: A piece is sent when it has so many tasks or bytes of batches.
PIECE_TASKS = 4096
PIECE_BYTES = 8 << 20

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"": 1, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_size(value: str | int | float | None) -> int | None:
    """Bytes of `"4GiB"`, `"500 MB"` or a number. Raises ValueError."""
    if value is None or isinstance(value, Real):
        return None if value is None else int(value)
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]i?)?b?\s*", value.lower())
    if not found:
        raise ValueError(f"{value!r} is not a size such as '4GiB'")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def parse_seconds(value: Any) -> float | None:
    """Seconds of `"5m"`, `"1.5 h"`, a number or a timedelta. Raises ValueError."""
    if value is None or isinstance(value, Real):
        return None if value is None else float(value)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    found = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", str(value).lower())
    unit = found and _SECONDS.get(found[2], _SECONDS.get(found[2][:1]))
    if not unit:
        raise ValueError(f"{value!r} is not a time such as '5m'")
    return float(found[1]) * unit


def options(
    *,
    priority: int = 0,
    retries: int = 0,
    resources: Mapping[str, float] | None = None,
    workers: str | Sequence[str] | None = None,
    allow_other_workers: bool = False,
    memory: str | int | None = None,
    time_limit: Any = None,
    nthreads: float = 1,
    output_size: str | int | None = None,
) -> tuple:
    """How calls are to be run, as the message has it.

    `priority`: the larger, the sooner. `retries`: attempts beyond the first. `resources`: amounts by name.
    `workers`: names, addresses or hosts; others too if `allow_other_workers`. `memory`, `output_size`: bytes or
    text such as "4GiB". `time_limit`: seconds, text or timedelta. `nthreads`: CPU slots.
    Raises ValueError and TypeError for what makes no sense.
    """
    if isinstance(workers, str):
        workers = [workers]
    elif workers is not None and not isinstance(workers, (list, tuple, set, frozenset)):
        raise TypeError(f"workers: names, addresses or hosts are expected, not {type(workers).__name__}")
    amounts = {str(name): round(float(value) * 10_000) for name, value in (resources or {}).items()}
    slots = round(float(nthreads) * 10_000)
    limit = parse_seconds(time_limit)
    if slots <= 0 or retries < 0 or any(value < 0 for value in amounts.values()) or (limit is not None and limit <= 0):
        raise ValueError("nthreads and time_limit must be positive, retries and resources not negative")
    return (
        max(-(2**31), min(2**31 - 1, int(priority))),
        int(retries),
        slots,
        tuple(sorted(amounts.items())),
        tuple(str(worker) for worker in workers or ()),
        bool(allow_other_workers),
        parse_size(memory),
        parse_size(output_size),
        None if limit is None else max(1, round(limit * 1000)),
    )


DEFAULT_OPTIONS = options()


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
        *,
        is_map: bool = False,
    ) -> None:
        self.run = run
        self.name = name
        self.count = 0
        self._environment = environment
        self._send = send
        self._is_map = is_map
        self._piece = 0
        self._options: dict[tuple, int] = {}
        self._externals: dict[tuple[bytes, int], int] = {}
        self._functions: set[bytes] = set()
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

    def option(self, value: tuple) -> int:
        """The number of an option made by `options`."""
        number = self._options.get(value)
        if number is None:
            number = self._options[value] = len(self._options)
            self._new_options.append([*value[:3], dict(value[3]), list(value[4]), *value[5:]])
        return number

    def external(self, run: bytes, index: int) -> int:
        """What stands in `deps` for a task of another run."""
        key = (run, index)
        place = self._externals.get(key)
        if place is None:
            place = self._externals[key] = len(self._externals)
            self._new_externals.append([run, index])
        return EXTERNAL | place

    def functions(self, table: Mapping[bytes, Any]) -> None:
        """Functions that batches to come refer to; those already sent are not sent again."""
        for id, code in table.items():
            if id not in self._functions:
                self._functions.add(id)
                self._new_functions.append([id, bytes(code)])
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

        `deps`: for each task, numbers of this run or what `external` gave. `keys`: as many or none; the same for all
        batches of a run.
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
            self._is_map,
            self._environment if self._piece == 0 else b"",
            self._new_functions,
            self._new_options,
            self._new_externals,
        ]
        frame = [_frames.pack_head(CALLS, control, size), *body]
        self._piece += 1
        self._begin_piece()
        self._send(frame, last)
