"""How calls are to be run: from what users write to `_graph.Options`.

Owns the units and what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from ._graph import Options

_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
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
) -> Options:
    """How calls are to be run.

    `priority`: the larger, the sooner. `retries`: attempts beyond the first. `resources`: amounts by name.
    `workers`: names, addresses or hosts; others too if `allow_other_workers`. `memory`, `output_size`: bytes
    or text such as "4GiB". `time_limit`: seconds, text or timedelta. `nthreads`: CPU slots.
    Raises ValueError and TypeError for what makes no sense.
    """
    said = priority or retries or resources or workers or memory or time_limit is not None or output_size
    if not said and nthreads == 1 and not allow_other_workers and "DEFAULT" in globals():
        return DEFAULT
    if isinstance(workers, str):
        workers = [workers]
    elif workers is not None and not isinstance(workers, (list, tuple, set, frozenset)):
        raise TypeError(f"workers: names, addresses or hosts are expected, not {type(workers).__name__}")
    amounts = {str(name): float(value) for name, value in (resources or {}).items()}
    limit = parse_seconds(time_limit)
    wrong = nthreads <= 0 or retries < 0 or any(value < 0 for value in amounts.values())
    if wrong or (limit is not None and limit <= 0):
        raise ValueError("nthreads and time_limit must be positive, retries and resources not negative")
    return Options(
        priority=max(-(2**31), min(2**31 - 1, int(priority))),
        retries=int(retries),
        slots=float(nthreads),
        resources=tuple(sorted(amounts.items())),
        workers=tuple(str(worker) for worker in workers or ()),
        loose=bool(allow_other_workers),
        memory=parse_size(memory),
        output_size=parse_size(output_size),
        time_limit=limit,
    )


#: What calls have of which nothing is said.
DEFAULT = options()
