"""A cluster on this machine: a scheduler and workers of the real program, in processes of their own.

Owns `LocalCluster`; that nothing is left of it is `_keeper`'s.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcdag._keeper import Keeper
from hpcdag.cluster import ClusterBase, dashboard_setting, settings_env, size_option

# What Dask's LocalCluster has and what has no meaning here: taken, so that existing calls work.
_WITHOUT_EFFECT = {
    "worker_dashboard_address",
    "silence_logs",
    "protocol",
    "security",
    "loop",
    "diagnostics_port",
}


class LocalCluster(ClusterBase):
    """A scheduler and workers on this machine. They end with this process, however it ends.

    Args:
        nworkers: how many workers; one is right for most work, since tasks run in processes of their own
            anyway.
        nthreads: how many tasks a worker runs at once. Without it the workers share the processors that this
            process may use.
        processes: how many processes of a worker run its calls of Python functions, each in as many threads
            as it takes: of 24 threads, 4 processes have 6 each. Threads of one process share its modules,
            objects and memory, but also its interpreter's lock: for numpy, pandas and the like. Without it
            each thread is a process of its own. `True` and `False`, as Dask has them, mean that and one
            process.
        memory_limit: memory of each worker with its tasks and results: bytes, a text such as `"4GiB"`, a
            fraction of what is granted to this process, `"auto"`, or 0 for no limit.
        local_directory: where spilled results and working directories go.
        resources: what each worker offers besides, such as `{"gpus": 1}`.
        scheduler_options: settings of `[scheduler]`: `{"saturation": 2, "idle-timeout": "1h"}`.
        worker_options: settings of `[worker]`: `{"memory.spill": 0.8}`.
        host: what scheduler and workers listen on.
        interface: network interface to listen on, instead of `host`.
        dashboard_address: where the dashboard is served: `":8787"` for this machine only (or the next free
            port), `"HOST:PORT"`, `None` for nowhere; `"auto"` as the configuration says: port 8787 if it is
            free.
        timeout: seconds until which all must be up.
        name: how the cluster is called when it is shown.
        n_workers, threads_per_worker: other names of `nworkers` and `nthreads`, those of Dask.

    Further keywords of Dask's LocalCluster are taken and have no effect.

    Raises:
        HpcdagError: it did not come up; the text is what the program said. Nothing is left running.
        TypeError: an argument that nobody knows.
    """

    def __init__(
        self,
        nworkers: int | None = None,
        nthreads: int | None = None,
        memory_limit: str | int | float | None = None,
        *,
        processes: int | bool | None = None,
        local_directory: str | Path | None = None,
        resources: Mapping[str, float] | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        worker_options: Mapping[str, Any] | None = None,
        host: str | None = None,
        interface: str | None = None,
        dashboard_address: str | int | None = "auto",
        timeout: float = 60.0,
        name: str | None = None,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        asynchronous: bool = False,
        **others: Any,
    ) -> None:
        unknown = sorted(set(others) - _WITHOUT_EFFECT)
        if unknown:
            raise TypeError(f"LocalCluster takes no argument {unknown[0]!r}")
        if asynchronous:
            raise NotImplementedError("there are no asynchronous clusters; futures can be awaited anyway")
        count = n_workers if nworkers is None else nworkers
        # Dask makes many workers because its tasks share an interpreter; here they do not.
        count = 1 if count is None else count
        self._options = _options(
            nthreads=threads_per_worker if nthreads is None else nthreads,
            processes=(None if processes else 1) if isinstance(processes, bool) else processes,
            memory_limit=memory_limit,
            local_directory=local_directory,
            resources=resources,
        )
        # Others have no business here, and a laptop's network comes and goes.
        where = {} if interface else {"host": host or "127.0.0.1"}
        served = dashboard_setting(dashboard_address)
        scheduler = {**where, **served, **(scheduler_options or {})}
        self._env = {
            **settings_env("scheduler", scheduler),
            **settings_env("worker", {**where, **(worker_options or {})}),
        }
        place = ["--interface", interface] if interface else []
        self._interface = place
        wait = ["--timeout", f"{max(timeout, 0.001):.3f}s"]
        if count > 0:
            start = ["up", "--launcher", "local", "--json", "-n", str(count), *wait, *place, *self._options]
            super().__init__(Keeper(start, own_file=True, env=self._env), name)
            self._log = Path(json.loads(self._keeper.said)["log"])
        else:
            start = ["scheduler", "--detach", *place]
            super().__init__(Keeper(start, own_file=False, env=self._env), name)
            self._log = self._keeper.scheduler_file
        self._timeout = timeout

    def _home(self) -> Path:
        return self._log.parent

    def scale(self, n: int = 0) -> None:
        """Starts workers, or lets some leave, until there are `n`; those that leave hand over their results.

        Args:
            n: how many workers there are to be.

        Raises:
            HpcdagError: some did not come; the text says which, and why.
        """
        workers = self.workers()
        if n > len(workers):
            more = ["-n", str(n - len(workers)), "--start-timeout", f"{self._timeout:.3f}s"]
            order = ["workers", "start", "--launcher", "local", *more, *self._interface, *self._options]
            self._run(order, env=self._env)
        elif n < len(workers):
            # Those with the least to do and to hand over go.
            busy = sorted(workers, key=lambda w: (w["executing"] + w["queued"], w["results"], w["name"]))
            leaving = [worker["name"] for worker in busy[: len(workers) - n]]
            self._run(["workers", "stop", *leaving])

    def adapt(self, minimum: int = 0, maximum: int | None = None, **others: Any) -> None:
        """Starts as many workers as `maximum` says: on one machine those that are idle cost next to nothing.

        Args:
            minimum: has no effect.
            maximum: how many workers; `None` leaves them as they are.
        """
        if maximum is None:
            warnings.warn("a LocalCluster does not adapt: its workers stay as they are", stacklevel=2)
        else:
            self.scale(maximum)


def _options(
    nthreads: int | None,
    processes: int | None,
    memory_limit: str | int | float | None,
    local_directory: str | Path | None,
    resources: Mapping[str, float] | None,
) -> list[str]:
    options = []
    if nthreads is not None:
        options += ["--nthreads", str(nthreads)]
    if processes is not None:
        options += ["--processes", str(processes)]
    if memory_limit is not None:
        options += ["--memory-limit", size_option(memory_limit)]
    if local_directory is not None:
        options += ["--local-directory", str(Path(local_directory).absolute())]
    if resources:
        options += ["--resources", ",".join(f"{name}={amount:g}" for name, amount in resources.items())]
    return options
