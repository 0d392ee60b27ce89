"""Stand-in for `distributed.deploy.local`: `LocalCluster`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
