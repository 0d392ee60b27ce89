"""What tasks may call that launch further tasks: `worker_client`, `secede`, `rejoin`, as in Dask.

A task that waits for others gives its slot away by itself (`_tasks.away`), so programs written for hpcdag
need only `get_client`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _registry, _tasks

if TYPE_CHECKING:
    from .client import Client


def secede() -> None:
    """Gives the slot of the task that calls this away for good, so that the worker starts another one.

    Raises ValueError outside of tasks.
    """
    task, running = _task("secede"), _tasks.running()
    if running.seceded is not None and running.seceded[0] is task:
        return
    away = _tasks.away()
    away.__enter__()
    # With the task: at its end nothing is given back.
    running.seceded = (task, away)


def rejoin() -> None:
    """Takes back what `secede` gave away; does nothing if that was nothing. The task goes on at once, also if
    others run in its slot: those are not stopped.

    Raises ValueError outside of tasks.
    """
    task, running = _task("rejoin"), _tasks.running()
    given, running.seceded = running.seceded, None
    if given is not None and given[0] is task:
        given[1].__exit__(None, None, None)


@contextlib.contextmanager
def worker_client(timeout: Any = None, separate_thread: bool = True) -> Iterator[Client]:
    """In a task: a client of its cluster, which is the default (Dask's, too) in the `with` block.

    Args:
        timeout: taken and ignored; the client tries for half a minute to reach the scheduler.
        separate_thread: whether the task's slot is free for others meanwhile. If not, it is still free while
            the task waits for others.

    Raises ValueError outside of tasks.
    """
    _task("worker_client")
    client = _registry.get_client()
    with contextlib.ExitStack() as stack:
        if separate_thread:
            stack.enter_context(_tasks.away())
        stack.enter_context(client.as_current())
        if "dask" in sys.modules or "dask.config" in sys.modules:
            stack.enter_context(_as_dask_s(client))
        yield client


# Tasks of one process that are in `worker_client`, and the setting that they share.
_lock = threading.Lock()
_inside: list[Any] = []
_setting: Any = None


@contextlib.contextmanager
def _as_dask_s(client: Client) -> Iterator[None]:
    """Makes `client` Dask's scheduler: a setting of the process, which the last of several threads undoes."""
    global _setting
    import dask

    with _lock:
        _inside.append(client)
        if len(_inside) == 1:
            _setting = dask.config.set(scheduler=client)
            _setting.__enter__()
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _setting.__exit__(None, None, None)


def _task(name: str) -> Any:
    task = _tasks.current()
    if task is None:
        raise ValueError(f"{name}() is for tasks: this process does not run one")
    return task
