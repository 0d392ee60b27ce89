"""What `scripts/bench-python` measures: the two systems, and the processes that belong to them.

Owns no functions that tasks call: workers could not import them.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

_MARK = f"HPCDAG_BENCH_MARK={uuid.uuid4().hex}"
_TICKS = os.sysconf("SC_CLK_TCK")
# Whoever is busy for so long without work always is.
_SETTLE_SECONDS = 15


def mark() -> None:
    """All processes that are started from here are found from now on."""
    variable, _, value = _MARK.partition("=")
    os.environ[variable] = value


def marked() -> Iterator[str]:
    """Processes that were started here, this one included."""
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                if pid == str(os.getpid()) or _MARK.encode() in file.read():
                    yield pid


def cpu_seconds() -> float:
    """User and system time of all of them and of their children that have ended."""
    total = 0
    for pid in marked():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            total += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return total / _TICKS


def settle() -> None:
    """Waits until they have little to do: what a cluster does once after its start counts as its start."""
    until = time.monotonic() + _SETTLE_SECONDS
    before = cpu_seconds()
    while time.monotonic() < until:
        time.sleep(0.5)
        now = cpu_seconds()
        if now - before < 0.05:
            return
        before = now


def of_all(what: Callable[[str], int]) -> int:
    """The sum of a figure of each process."""
    total = 0
    for pid in marked():
        with contextlib.suppress(OSError, ValueError):
            total += what(pid)
    return total


def resident(pid: str) -> int:
    """Memory of a process that is its own, bytes."""
    with open(f"/proc/{pid}/statm") as file:
        pages = file.read().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def memory_bytes(apart: str) -> int:
    """Memory of all processes but one, with the memory files that they have open."""
    total = 0
    files: dict[tuple[int, int], int] = {}
    for pid in marked():
        if pid == apart:
            continue
        # One that has just ended has no such line.
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/status") as file:
            total += int(file.read().split("RssAnon:")[1].split()[0]) << 10
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                with contextlib.suppress(OSError):
                    if os.readlink(path).startswith("/memfd:"):
                        about = os.stat(path)
                        files[about.st_dev, about.st_ino] = about.st_blocks * 512
    return total + sum(files.values())


def written(pid: str) -> int:
    """Bytes that a process has sent to storage."""
    with open(f"/proc/{pid}/io") as file:
        return int(file.read().split("write_bytes:")[1].split()[0])


def disk_bytes(directory: str) -> int:
    """What files in a directory hold."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(where, name)).st_blocks * 512
    return total


class Hpcdag:
    """hpcdag with so many workers."""

    name = "hpcdag"

    def __init__(
        self, workers: int, threads: int, memory: int = 4 << 30, directory: str | None = None
    ) -> None:
        import hpcdag

        self.cluster = hpcdag.LocalCluster(
            nworkers=workers, nthreads=threads, memory_limit=memory, local_directory=directory
        )
        self.client: Any = hpcdag.Client(self.cluster)
        self.client.wait_for_workers(workers)

    def places(self) -> list[str]:
        """What `workers=` takes."""
        return [worker["name"] for worker in self.client.scheduler_info()["workers"].values()]

    def scheduler(self) -> str:
        """The process of the scheduler."""
        for pid in marked():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().split(b"\0")[1:2] == [b"scheduler"]:
                    return pid
        raise RuntimeError("there is no process of a scheduler")

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


class Distributed:
    """dask.distributed with so many worker processes, its queuing off unless memory is short."""

    name = "distributed"

    def __init__(
        self, workers: int, threads: int, memory: int = 4 << 30, directory: str | None = None
    ) -> None:
        import dask
        import distributed

        dask.config.set({"distributed.scheduler.worker-saturation": 1.1 if directory else "inf"})
        self.cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=memory,
            local_directory=directory,
            dashboard_address=None,
        )
        self.client: Any = distributed.Client(self.cluster)

    def places(self) -> list[str]:
        """What `workers=` takes."""
        return list(self.client.scheduler_info()["workers"])

    def scheduler(self) -> str:
        """The process of the scheduler."""
        return str(os.getpid())

    def close(self) -> None:
        # With much to do it may not end in its time.
        for part in (self.client, self.cluster):
            with contextlib.suppress(Exception):
                part.close()


def measured(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of an action."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    action()
    wall = time.perf_counter() - wall
    return wall, cpu_seconds() - cpu


def per_task(tasks: int, action: Callable[[], Any], rounds: int = 3) -> dict[str, float]:
    """Medians of an action's time a task, microseconds."""
    settle()
    rows = [measured(action) for _ in range(rounds)]
    return {
        "wall_us_per_task": statistics.median(wall for wall, _ in rows) / tasks * 1e6,
        "cpu_us_per_task": statistics.median(cpu for _, cpu in rows) / tasks * 1e6,
    }
