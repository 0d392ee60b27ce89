"""Work that is larger than the workers' memory, for `scripts/bench-python`.

Owns the graphs and what is measured while they run. Workers are given these functions by value.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
from bench_python import disk_bytes, memory_bytes, of_all, written

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def anomaly(size: int) -> Any:
    """Deviations from the mean of each group: all of a group must be there first."""
    import dask.array as da
    import numpy as np
    import xarray

    rows, width = 10, max(100, size // 64 // 80)
    days = 64 * rows
    data = da.random.random((days, width), chunks=(rows, width))
    array = xarray.DataArray(data, dims=["time", "x"], coords={"day": ("time", np.arange(days) % 16)})
    mean = array.groupby("day").mean(dim="time")
    return (array.groupby("day") - mean).mean(dim="time").sum().data


def vorticity(size: int) -> Any:
    """Two fields, padded, rechunked and multiplied."""
    import dask.array as da

    side = max(10, int((size / 2 / 128 / 8) ** 0.5))
    u, v = (da.random.random((side, side, 128), chunks=(side, side, 1)) for _ in "uv")
    dx, dy = (da.random.random((side + 1, side), chunks=(side + 1, side)) for _ in "xy")

    def padded(field: Any) -> Any:
        wide = da.pad(field, [(0, 1), (0, 0), (0, 0)], mode="wrap")
        return wide.rechunk({0: -1})

    result = dx[..., None] * padded(u) - dy[..., None] * padded(v)
    return result.map_blocks(lambda b: b.mean(keepdims=True), chunks=(1, 1, 1)).sum()


def limit_of(scale: float) -> int:
    """Memory of each of two workers, bytes: much less than this holds little besides an interpreter."""
    return max(512 << 20, round(scale * (1 << 30)))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory on a disk."""
    return tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"))


class Peaks:
    """The most that the workers occupy while this context lasts."""

    def __init__(self, directory: str) -> None:
        """Files in `directory` are looked at too."""
        self.memory = self.disk = 0
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.memory = max(self.memory, memory_bytes(str(os.getpid())))
            self.disk = max(self.disk, disk_bytes(self._directory))

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def beyond(kind: type, make: Callable[[int], Any], scale: float) -> dict[str, float]:
    """Work on four times the memory of two workers.

    Args:
        kind: which system.
        make: makes a collection of so many bytes whose result is one number.
        scale: of the memory, which is a gibibyte each at 1.
    """
    limit = limit_of(scale)
    with scratch() as directory:
        system = kind(2, 1, limit, directory)
        try:
            work = make(8 * limit)
            before, begin = of_all(written), time.perf_counter()
            with Peaks(directory) as peaks:
                finished = math.isfinite(float(system.client.compute(work).result(timeout=1200)))
            sent = of_all(written) - before
            return {
                "seconds": time.perf_counter() - begin,
                "finished": float(finished),
                "total_over_memory": 4.0,
                "peak_memory_over_limits": peaks.memory / (2 * limit),
                "written_megabytes": sent / 1e6,
                "written_over_total": sent / (8 * limit),
            }
        except Exception as error:
            print(f"{kind.name}: {type(error).__name__}: {error}", file=sys.stderr)
            return {"finished": 0.0}
        finally:
            system.close()


def persist(kind: type, scale: float) -> dict[str, float]:
    """Twice the memory of two workers made, kept and read back; `dd` on the same disk beside."""
    import dask.array as da

    limit = limit_of(scale)
    side = max(100, int((limit / 16 / 8) ** 0.5))
    chunks = 4 * limit // (side * side * 8)
    with scratch() as directory:
        file = os.path.join(directory, "dd")
        mebibytes = 4 * limit >> 20
        into = timed("dd", "if=/dev/zero", f"of={file}", "bs=8M", f"count={mebibytes // 8}", "oflag=direct")
        back = timed("dd", f"if={file}", "of=/dev/null", "bs=8M", "iflag=direct")
        os.unlink(file)
        system = kind(2, 1, limit, directory)
        try:
            module: Any = importlib.import_module(kind.name)
            data = da.random.random((chunks * side, side), chunks=(side, side))
            begin = time.perf_counter()
            kept = system.client.persist(data)
            module.wait(module.futures_of(kept), timeout=1200)
            made, begin = time.perf_counter() - begin, time.perf_counter()
            finished = math.isfinite(float(system.client.compute(kept.sum()).result(timeout=1200)))
            read = time.perf_counter() - begin
            megabytes = data.nbytes / 1e6
            return {
                "finished": float(finished),
                "make_megabytes_per_second": megabytes / made,
                "read_megabytes_per_second": megabytes / read,
                "dd_write_megabytes_per_second": mebibytes * 1.048576 / into,
                "dd_read_megabytes_per_second": mebibytes * 1.048576 / back,
            }
        except Exception as error:
            print(f"{kind.name}: {type(error).__name__}: {error}", file=sys.stderr)
            return {"finished": 0.0}
        finally:
            system.close()


def timed(*command: str) -> float:
    """How long a command takes, seconds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin
