"""What a default client changes in Dask and xarray while it lives, and undoes when it ends.

Owns the list of these changes: Dask's scheduler and its name `hpcdag`, how tables are shuffled, locks for
writers that know no scheduler's own, and what `da.store` does with targets in memory (`_targets`). Several
clients may be made and closed in any order; the newest one counts.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hpcdag._targets import patched_store

_CONFIG = "scheduler"
_SHUFFLE = "dataframe.shuffle.method"
_UNSET = object()

_lock = threading.RLock()
_clients: list[Any] = []
_undo: list[Callable[[], None]] = []


def install(client: Any) -> Callable[[], None]:
    """Makes a client Dask's default scheduler. Without dask nothing happens.

    Args:
        client: what has `get`.

    Returns:
        what undoes it.
    """
    try:
        import dask
    except ImportError:
        return lambda: None
    with _lock:
        if not _clients:
            _undo.append(_config_back(_CONFIG))
            if dask.config.get(_SHUFFLE, None) is None:
                _undo.append(_config_back(_SHUFFLE))
                dask.config.set({_SHUFFLE: "tasks"})
            _undo.extend((_patch_persist(), _patch_dask_locks(), _patch_store(), _patch_xarray()))
        _clients.append(client)
        _use(client)

    def undo() -> None:
        with _lock:
            if not any(one is client for one in _clients):
                return
            _clients[:] = [one for one in _clients if one is not client]
            if _clients:
                _use(_clients[-1])
                return
            from dask import base

            base.named_schedulers.pop("hpcdag", None)
            while _undo:
                _undo.pop()()

    return undo


def _use(client: Any) -> None:
    import dask
    from dask import base

    dask.config.set({_CONFIG: client.get})
    base.named_schedulers["hpcdag"] = client.get


def _config_back(key: str) -> Callable[[], None]:
    """What gives a setting the value that it has now."""
    import dask

    before = dask.config.get(key, _UNSET)

    def back() -> None:
        if before is not _UNSET:
            dask.config.set({key: before})
            return
        at = dask.config.config
        *path, last = key.split(".")
        for part in path:
            at = at.get(part, {})
        at.pop(last, None)

    return back


def owner(scheduler: Any) -> Any:
    """The client whose `get` a scheduler function is; None if it is another one."""
    client = getattr(scheduler, "__self__", None)
    if client is None:
        return None
    module = sys.modules.get("hpcdag.client")
    if any(one is client for one in _clients) or (module and isinstance(client, module.Client)):
        return client
    return None


def _active() -> Any:
    """The client that Dask uses now, or None."""
    from dask import base

    return owner(base.get_scheduler())


def _version() -> tuple[int, ...]:
    """Dask's year and month."""
    import dask

    return tuple(int(part) for part in dask.__version__.split(".")[:2])


# dask.persist


def _patch_persist() -> Callable[[], None]:
    """Before 2026.1 `dask.persist` does not ask a scheduler for its own way, and would fetch all results."""
    from dask import base

    if _version() >= (2026, 1):
        return lambda: None
    original = base.persist

    def persist(
        *args: Any, traverse: bool = True, optimize_graph: bool = True, scheduler: Any = None, **kwargs: Any
    ) -> Any:
        collections, repack = base.unpack_collections(*args, traverse=traverse)
        used = base.get_scheduler(scheduler=scheduler, collections=collections) if collections else None
        client = owner(used)
        if client is None:
            more = {"traverse": traverse, "optimize_graph": optimize_graph, "scheduler": scheduler}
            return original(*args, **more, **kwargs)
        return repack(client.persist(collections, optimize_graph=optimize_graph, **kwargs))

    persist.__doc__, persist.__wrapped__ = original.__doc__, original  # type: ignore[attr-defined]
    return _replace_everywhere(original, persist, ("dask", "dask.base"))


# Locks


def _new_lock(name: str, client: Any) -> Any:
    from hpcdag.locks import Lock

    return Lock(name, client=client)


def _patch_dask_locks() -> Callable[[], None]:
    from dask import base, utils

    original = utils.get_scheduler_lock

    def get_scheduler_lock(collection: Any = None, scheduler: Any = None) -> Any:
        client = owner(base.get_scheduler(collections=[collection], scheduler=scheduler))
        if client is None:
            return original(collection, scheduler)
        return _new_lock(f"dask-{uuid.uuid4().hex}", client)

    get_scheduler_lock.__doc__ = original.__doc__
    modules = ("dask.utils", "dask.array.core", "dask.dataframe.io.hdf")
    back = _replace_everywhere(original, get_scheduler_lock, modules)
    if _version() < (2025, 1):
        with contextlib.suppress(ImportError):
            importlib.import_module("dask.array")  # Its lock can be patched only then.
    core = sys.modules.get("dask.array.core")
    if core is None or hasattr(core, "get_scheduler_lock") or not hasattr(core, "Lock"):
        return back
    # Until 2025 `da.store` makes a lock of one process, whatever the scheduler.
    kind = core.Lock

    def lock(*args: Any) -> Any:
        client = None if args else owner(base.get_scheduler(collections=[core.Array]))
        return kind(*args) if client is None else _new_lock(f"dask-{uuid.uuid4().hex}", client)

    core.Lock = lock

    def both() -> None:
        core.Lock = kind
        back()

    return both


def _patch_store() -> Callable[[], None]:
    """`da.store` writes to what is in memory, too."""

    def patch(core: ModuleType) -> Callable[[], None]:
        modules = ("dask.array", "dask.array.core")
        return _replace_everywhere(core.store, patched_store(core, owner), modules)

    return _when_imported("dask.array.core", patch)


_XARRAY = "xarray.backends.locks"


def _patch_xarray() -> Callable[[], None]:
    """xarray's locks."""
    return _when_imported(_XARRAY, _patch_xarray_locks)


def _when_imported(name: str, patch: Callable[[ModuleType], Callable[[], None]]) -> Callable[[], None]:
    """Changes a module, now or as soon as it is imported; what undoes it."""
    if name in sys.modules:
        return patch(sys.modules[name])
    undo: list[Callable[[], None]] = []
    finder = _AfterImport(name, lambda module: undo.append(patch(module)))
    sys.meta_path.insert(0, finder)

    def back() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        for one in undo:
            one()

    return back


def _patch_xarray_locks(module: ModuleType) -> Callable[[], None]:
    undo = []
    modules = (_XARRAY, "xarray.backends.writers", "xarray.backends.api", "xarray.backends.common")
    make = getattr(module, "_get_lock_maker", None)
    if make is not None:

        def _get_lock_maker(scheduler: str | None = None) -> Any:
            client = _active() if scheduler == "distributed" else None
            if client is None:
                return make(scheduler)
            return lambda key: _new_lock(f"xarray-{key}", client)

        undo.append(_replace_everywhere(make, _get_lock_maker, modules))
    # The second name is that of versions before 2025.
    for name in ("get_dask_scheduler", "_get_scheduler"):
        known = getattr(module, name, None)
        if known is not None:
            undo.append(_replace_everywhere(known, _scheduler_of_xarray(known), modules))
    return lambda: [one() for one in undo] and None


def _scheduler_of_xarray(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_dask_scheduler(*args: Any, **kwargs: Any) -> str | None:
        # Files are closed after each write and locks hold between processes when xarray hears this.
        return "distributed" if _active() is not None else original(*args, **kwargs)

    return get_dask_scheduler


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls something once with a module that has just been imported."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of the others, with a loader that calls back."""
        if fullname != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _replace_everywhere(old: Any, new: Any, modules: Sequence[str]) -> Callable[[], None]:
    """Puts a function in the place of another in those modules that are loaded.

    Returns:
        what puts the old one back, also in modules that took the new one when they were loaded later.
    """

    def put(old: Any, new: Any) -> None:
        for name in modules:
            module = sys.modules.get(name)
            for attribute, value in list(vars(module).items()) if module else ():
                if value is old:
                    setattr(module, attribute, new)

    put(old, new)
    return lambda: put(new, old)
