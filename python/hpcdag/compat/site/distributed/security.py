"""Stand-in for `distributed.security`: `Security`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
