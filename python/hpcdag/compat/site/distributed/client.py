"""Stand-in for `distributed.client`: the names of the package."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
