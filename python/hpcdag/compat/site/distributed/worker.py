"""Stand-in for `distributed.worker`: `get_client` and `get_worker`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
