"""Stand-in for `distributed`: names that scripts import, on hpcdag.

Found instead of the real package in scripts that `hpcdag run` starts with HPCDAG_COMPAT=1. What is the same,
what differs and what is absent: docs/from-dask.md.
"""

from __future__ import annotations

import sys
from typing import Any

import hpcdag
from hpcdag.compat import _client

Client = _client.Client
LocalCluster = _client.LocalCluster

# As far as this version of the package has them.
_FROM_HPCDAG = (
    "CancelledError",
    "Event",
    "Future",
    "Lock",
    "PBSCluster",
    "Queue",
    "SGECluster",
    "SLURMCluster",
    "Semaphore",
    "TimeoutError",
    "Variable",
    "as_completed",
    "fire_and_forget",
    "futures_of",
    "get_worker",
    "performance_report",
    "progress",
    "rejoin",
    "secede",
    "wait",
    "worker_client",
)

# What scripts import now and then, and that there is no counterpart of.
_ABSENT = {
    "Actor",
    "ActorFuture",
    "Adaptive",
    "MultiLock",
    "Nanny",
    "NannyPlugin",
    "Pub",
    "SSHCluster",
    "Scheduler",
    "SchedulerPlugin",
    "SpecCluster",
    "SubprocessCluster",
    "Sub",
    "UploadDirectory",
    "Worker",
    "WorkerPlugin",
    "get_task_metadata",
    "get_task_stream",
    "rpc",
}

# Where Dask asks for a client only to choose between peer-to-peer and task-based methods: for what it would
# choose there are no workers here.
_ASKS_FOR_PEER_TO_PEER = {"dask.utils", "dask.array.rechunk", "dask.dataframe.shuffle"}

__all__ = [  # noqa: PLE0604
    "Client",
    "LocalCluster",
    "Security",
    "default_client",
    "get_client",
    *(name for name in _FROM_HPCDAG if name in hpcdag.__all__),
]


def default_client(c: Any = None) -> Any:
    """The client that is the default in this process.

    Raises:
        ValueError: there is none; or Dask asks, to choose a method that needs its own workers.
    """
    if c is not None:
        return c
    caller = sys._getframe(1).f_globals.get("__name__", "")
    if caller in _ASKS_FOR_PEER_TO_PEER:
        raise ValueError("peer-to-peer methods need workers of Dask's own")
    return Client.current()


def get_client(address: Any = None, timeout: Any = None, resolve_address: bool = True) -> Any:
    """The client of this process or of the task that runs.

    Raises:
        ValueError: there is none.
    """
    caller = sys._getframe(1).f_globals.get("__name__", "")
    try:
        return Client.current()
    except ValueError:
        raise
    except Exception as error:
        # Dask goes on without one after this error, and only after this one.
        if caller.startswith("dask."):
            raise ValueError(str(error)) from error
        raise


class Security:
    """Taken and not looked at: connections are always by TLS, with the credentials of the scheduler file."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    @classmethod
    def temporary(cls, **keywords: Any) -> Security:
        """The same as `Security()`."""
        return cls()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import dask

        return dask.__version__
    if name in _FROM_HPCDAG and name in hpcdag.__all__:
        return getattr(hpcdag, name)
    if name in _ABSENT or name in _FROM_HPCDAG:
        raise ImportError(
            f"hpcdag has nothing like distributed.{name}; see docs/from-dask.md", name="distributed"
        )
    raise AttributeError(f"hpcdag's stand-in for 'distributed' has no {name!r}; see docs/from-dask.md")
