"""Python functions and Dask graphs on hpcdag.

    from hpcdag import Client, LocalCluster

    with LocalCluster(nworkers=2) as cluster, Client(cluster) as client:
        print(client.submit(sum, [1, 2, 3]).result())

While a client lives it is Dask's default scheduler. Names are loaded when they are first used, so that
``import hpcdag`` costs nothing in processes that need only a part of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcdag._binary import HpcdagError as HpcdagError
    from hpcdag._binary import version as version
    from hpcdag._errors import RemoteError as RemoteError
    from hpcdag._inside import rejoin as rejoin
    from hpcdag._inside import secede as secede
    from hpcdag._inside import worker_client as worker_client
    from hpcdag._waiting import as_completed as as_completed
    from hpcdag._waiting import wait as wait
    from hpcdag.client import Client as Client
    from hpcdag.client import default_client as default_client
    from hpcdag.client import fire_and_forget as fire_and_forget
    from hpcdag.client import futures_of as futures_of
    from hpcdag.client import get_client as get_client
    from hpcdag.client import get_worker as get_worker
    from hpcdag.errors import CancelledError as CancelledError
    from hpcdag.errors import KilledWorker as KilledWorker
    from hpcdag.errors import LostRun as LostRun
    from hpcdag.errors import NoSchedulerError as NoSchedulerError
    from hpcdag.errors import OutOfMemory as OutOfMemory
    from hpcdag.errors import RefusedError as RefusedError
    from hpcdag.errors import TaskError as TaskError
    from hpcdag.errors import TimeLimitExceeded as TimeLimitExceeded
    from hpcdag.future import Future as Future
    from hpcdag.jobqueue import Cluster as Cluster
    from hpcdag.jobqueue import PBSCluster as PBSCluster
    from hpcdag.jobqueue import SGECluster as SGECluster
    from hpcdag.jobqueue import SLURMCluster as SLURMCluster
    from hpcdag.local import LocalCluster as LocalCluster
    from hpcdag.locks import Event as Event
    from hpcdag.locks import Lock as Lock
    from hpcdag.locks import MultiLock as MultiLock
    from hpcdag.locks import Queue as Queue
    from hpcdag.locks import Semaphore as Semaphore
    from hpcdag.locks import Variable as Variable
    from hpcdag.progress import progress as progress
    from hpcdag.report import performance_report as performance_report

# Where each name is. Whoever adds a module adds its names here, and above for type checkers.
_EXPORTS = {
    "Client": "client",
    "Cluster": "jobqueue",
    "Future": "future",
    "HpcdagError": "_binary",
    "LocalCluster": "local",
    "PBSCluster": "jobqueue",
    "SGECluster": "jobqueue",
    "SLURMCluster": "jobqueue",
    "fire_and_forget": "client",
    "futures_of": "client",
    "get_client": "client",
    "CancelledError": "errors",
    "KilledWorker": "errors",
    "LostRun": "errors",
    "NoSchedulerError": "errors",
    "OutOfMemory": "errors",
    "RefusedError": "errors",
    "TaskError": "errors",
    "TimeLimitExceeded": "errors",
    "as_completed": "_waiting",
    "default_client": "client",
    "get_worker": "client",
    "performance_report": "report",
    "progress": "progress",
    "wait": "_waiting",
    "RemoteError": "_errors",
    "Event": "locks",
    "Lock": "locks",
    "MultiLock": "locks",
    "Queue": "locks",
    "Semaphore": "locks",
    "Variable": "locks",
    "rejoin": "_inside",
    "secede": "_inside",
    "version": "_binary",
    "worker_client": "_inside",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("hpcdag._binary").version()
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'hpcdag' has no attribute {name!r}")
    value = getattr(import_module(f"hpcdag.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
