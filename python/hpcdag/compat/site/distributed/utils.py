"""Stand-in for `distributed.utils`: what Dask itself and scripts take from there."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def iscoroutinefunction(function: Any) -> bool:
    """Whether calling a function gives a coroutine."""
    return inspect.iscoroutinefunction(function)


def import_term(name: str) -> Any:
    """What a dotted name stands for: `"math.sin"`."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute) if module else import_module(name)


@contextmanager
def log_errors(pdb: bool = False) -> Iterator[None]:
    """Logs exceptions of a block, or of the function that it decorates, and lets them pass."""
    try:
        yield
    except Exception:
        logging.getLogger("distributed").exception("an error passed through here")
        raise


def __getattr__(name: str) -> Any:
    import distributed

    return getattr(distributed, name)
