"""Stand-in for `distributed.utils`: what Dask itself and scripts take from there."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any


def iscoroutinefunction(function: Any) -> bool:
    """Whether calling a function gives a coroutine."""
    return inspect.iscoroutinefunction(function)


def import_term(name: str) -> Any:
    """What a dotted name stands for: `"math.sin"`."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute) if module else import_module(name)


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
