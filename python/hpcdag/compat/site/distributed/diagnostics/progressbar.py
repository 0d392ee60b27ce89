"""Stand-in for `distributed.diagnostics.progressbar`: `progress`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
