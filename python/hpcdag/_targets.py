"""`dask.array.store` into what only the client's process can write to: its memory, and files open in it.

Owns what the default client puts in its place: such targets are written to here, with chunks that workers
computed. Under dask.distributed they silently keep what they had (NumPy), or are refused (zarr, h5py).
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# Bytes of chunks that are fetched at once; they are in memory besides the target.
_TOGETHER = 64 << 20


def patched_store(core: ModuleType, owner: Callable[[Any], Any]) -> Callable[..., Any]:
    """A `dask.array.store` that writes to targets of this process itself.

    Args:
        core: `dask.array.core`.
        owner: the client a scheduler function is of, or None.

    Returns:
        what does the same as `core.store` for the caller. Where it cannot (`compute=False`, `return_stored`),
        it warns and the target stays as it is.
    """
    original = core.store

    @functools.wraps(original)
    def store(
        sources: Any,
        targets: Any,
        lock: Any = True,
        regions: Any = None,
        compute: bool = True,
        return_stored: bool = False,
        load_stored: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        from dask import base

        def plain(sources: Any, targets: Any, regions: Any) -> Any:
            return original(sources, targets, lock, regions, compute, return_stored, load_stored, **kwargs)

        used = base.get_scheduler(scheduler=kwargs.get("scheduler"), collections=[core.Array])
        client = owner(used)
        one = isinstance(sources, core.Array)
        all_sources, all_targets = ([sources], [targets]) if one else (list(sources), list(targets))
        count = len(all_targets)
        parts = [regions] * count if regions is None or isinstance(regions, tuple) else list(regions)
        here = [i for i, target in enumerate(all_targets) if only_here(target)] if client else []
        arrays = all(isinstance(source, core.Array) for source in all_sources)
        if not here or not arrays or not len(all_sources) == len(parts) == count:
            return plain(sources, targets, regions)
        if return_stored or not compute:
            warnings.warn(
                "a target is in the memory of this process, or open in it: workers have copies at best; it "
                'stays as it is. Use compute=True without return_stored, a file, or scheduler="threads"',
                RuntimeWarning,
                stacklevel=2,
            )
            return plain(sources, targets, regions)
        # A lock of the caller's is for other threads of this process; nobody else writes otherwise.
        held = lock if hasattr(lock, "acquire") else None
        kept = base.persist(*(all_sources[i] for i in here), **kwargs)
        others = [i for i in range(count) if i not in here]
        if others:
            plain(*([values[i] for i in others] for values in (all_sources, all_targets, parts)))
        for source, i in zip(kept, here, strict=True):
            _write(client, source, all_targets[i], parts[i], held)
        return None

    return store


def _write(client: Any, source: Any, target: Any, region: Any, lock: Any) -> None:
    """Writes the chunks of a persisted array to a target."""
    import numpy as np
    from dask.array.core import slices_from_chunks
    from dask.array.optimization import fuse_slice
    from dask.core import flatten

    graph = dict(source.__dask_graph__())
    futures = [graph[key] for key in flatten(source.__dask_keys__())]
    slices = slices_from_chunks(source.chunks)
    size = math.prod(max(sizes, default=1) for sizes in source.chunks) * source.dtype.itemsize
    step = max(1, _TOGETHER // max(size, 1))
    for at in range(0, len(futures), step):
        values: Sequence[Any] = client.gather(futures[at : at + step])
        for index, value in zip(slices[at : at + step], values, strict=True):
            where = fuse_slice(region, index) if region else index
            if lock:
                lock.acquire()
            try:
                if value.size:
                    target[where] = np.asanyarray(value)
            finally:
                if lock:
                    lock.release()


def only_here(target: Any) -> bool:
    """Whether only its own process can write to a target, as far as is known."""
    import numpy as np

    # xarray's wrappers have the array of the file inside.
    target = getattr(target, "_array", target)
    if isinstance(target, np.ndarray):
        return True  # Memory-mapped ones arrive as copies, too.
    for module, name in (("h5py", "Dataset"), ("netCDF4", "Variable")):
        if isinstance(target, getattr(sys.modules.get(module), name, ())):
            return True  # They cannot be pickled.
    zarr = sys.modules.get("zarr")
    if zarr is None or not isinstance(target, zarr.Array):
        return False
    kinds = [getattr(zarr.storage, name, None) for name in ("MemoryStore", "KVStore")]
    return isinstance(target.store, (dict, *filter(None, kinds)))
