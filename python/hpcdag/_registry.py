"""Which client is meant where none is named, in programs and in tasks.

Also what becomes of clients at the end of the interpreter and in forked processes.

Owns the lists of clients.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ._session import _sessions
from .errors import RefusedError

if TYPE_CHECKING:
    from .client import Client

_current: ContextVar[Client | None] = ContextVar("hpcdag_client", default=None)
_defaults: list[weakref.ref[Client]] = []
_open: weakref.WeakSet[Client] = weakref.WeakSet()
_of_cluster: dict[str, Client] = {}
_lock = threading.RLock()


def add(client: Client, as_default: bool) -> None:
    """A client has been made."""
    with _lock:
        _open.add(client)
        if as_default:
            _defaults.append(weakref.ref(client))


def remove(client: Client) -> None:
    """A client has been closed."""
    with _lock:
        _defaults[:] = [ref for ref in _defaults if ref() not in (None, client)]
        _open.discard(client)
        for cluster in [cluster for cluster, one in _of_cluster.items() if one is client]:
            del _of_cluster[cluster]


@contextlib.contextmanager
def current(client: Client) -> Any:
    """While this is entered, `client` is the default in this thread or asyncio task."""
    token = _current.set(client)
    try:
        yield client
    finally:
        _current.reset(token)


def default_client(client: Client | None = None) -> Client:
    """`client`, or the one that is the default. Raises ValueError if there is none."""
    if client is not None:
        return client
    current = _current.get()
    if current is not None and not current.closed:
        return current
    with _lock:
        while _defaults:
            found = _defaults[-1]()
            if found is not None and not found.closed:
                return found
            _defaults.pop()
    raise ValueError("there is no hpcdag client: make one with hpcdag.Client(...)")


def get_client(address: str | None = None, timeout: Any = None, resolve_address: bool = True) -> Client:
    """The client that is the default; in a task, one of the task's cluster. Raises ValueError if there is
    none."""
    try:
        return default_client()
    except ValueError:
        if not in_task():
            raise
    with _lock:
        from .client import Client

        found = _of_cluster.get("")
        if found is None or found.closed:
            found = _of_cluster[""] = Client(set_as_default=False, name="task")
        return found


def client_of_cluster(cluster: str) -> Client:
    """A client of the cluster with this id: one that is open, or a new one."""
    with contextlib.suppress(ValueError):
        found = default_client()
        if found._session.file.id == cluster:
            return found
    with _lock:
        for client in list(_open):
            if not client.closed and client._session.file.id == cluster:
                return client
        from .client import Client

        made = Client(set_as_default=False, name="task" if in_task() else None)
        if made._session.file.id != cluster:
            made.close()
            raise RefusedError(
                f"the future belongs to the cluster {cluster}, which this process does not use"
            )
        _of_cluster[cluster] = made
        return made


def in_task() -> bool:
    """Whether this process runs tasks."""
    return bool(os.environ.get("HPCDAG_EXECUTOR"))


class Worker:
    """What a task can know of the worker that runs it: `name`, `address`, `local_directory`."""

    def __init__(self) -> None:
        self.name = os.environ.get("HPCDAG_WORKER", "")
        self.address = os.environ.get("HPCDAG_WORKER_ADDRESS", self.name)
        self.local_directory = os.environ.get("HPCDAG_WORKER_DIR") or os.getcwd()

    @property
    def client(self) -> Client:
        """A client of the worker's cluster."""
        return get_client()


def get_worker() -> Worker:
    """The worker that runs this task. Raises ValueError outside of tasks."""
    if not in_task():
        raise ValueError("get_worker() is for tasks: this process does not run any")
    return Worker()


def _close_all() -> None:
    """At the end of the interpreter: says good-bye, and does not wait for anything else."""
    for client in list(_open):
        if not client._session._forked:
            with contextlib.suppress(Exception):
                client.close(1.0)
    for session in list(_sessions):
        session.close(0.5)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for client in list(_open):
        client._session.peers.forget()
        client._owns_cluster = False
    _defaults.clear()
    _of_cluster.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
