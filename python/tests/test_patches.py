"""What a default client changes in Dask and xarray, and that it is as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest

from hpcdag import _patches

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")


class Client:
    """As much of a client as Dask sees."""

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        return dask.get(dsk, keys)

    def persist(self, collections: Any, **kwargs: Any) -> Any:
        self.persisted = list(collections)
        return list(collections)


class Made:
    """A lock of the cluster."""

    def __init__(self, name: str, client: Any) -> None:
        self.name, self.client = name, client


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_patches, "_new_lock", Made)


def made_by_store() -> Any:
    """What `da.store` makes its lock with."""
    import dask.array.core as core

    return core.get_scheduler_lock if hasattr(core, "get_scheduler_lock") else core.Lock


def state() -> tuple[Any, ...]:
    import dask.utils

    settings = [dask.config.get(key, None) for key in ("scheduler", "dataframe.shuffle.method")]
    functions = [
        dask.persist,
        dask.base.persist,
        dask.utils.get_scheduler_lock,
        made_by_store(),
    ]
    return (*settings, *functions, sorted(dask.base.named_schedulers), list(sys.meta_path))


def test_everything_is_undone_whatever_the_order() -> None:
    before = state()
    one, two = Client(), Client()
    first, second = _patches.install(one), _patches.install(two)
    assert dask.base.get_scheduler() == two.get == dask.base.get_scheduler(scheduler="hpcdag")
    assert dask.config.get("dataframe.shuffle.method") == "tasks"
    first()
    assert dask.base.get_scheduler() == two.get
    first = _patches.install(one)
    assert dask.base.get_scheduler() == one.get
    first()
    assert dask.base.get_scheduler() == two.get
    second()
    second()
    assert state() == before
    with dask.config.set({"dataframe.shuffle.method": "disk", "scheduler": "threads"}):
        undo = _patches.install(one)
        assert dask.config.get("dataframe.shuffle.method") == "disk"
        assert dask.base.get_scheduler() == one.get
        undo()
        assert dask.config.get("scheduler") == "threads"
    assert state() == before


def test_locks_of_dask_are_the_clusters() -> None:
    from dask.utils import SerializableLock

    client = Client()
    undo = _patches.install(client)
    try:
        a, b = made_by_store()(), dask.utils.get_scheduler_lock()
        assert isinstance(a, Made) and a.client is client and a.name != b.name
        assert isinstance(dask.utils.get_scheduler_lock(scheduler="threads"), SerializableLock)
    finally:
        undo()
    assert not isinstance(made_by_store()(), Made)


def test_locks_of_xarray_are_the_clusters() -> None:
    locks = pytest.importorskip("xarray.backends.locks")
    client = Client()
    undo = _patches.install(client)
    try:
        lock = locks.get_write_lock("/data/out.nc")
        assert isinstance(lock, Made) and lock.client is client and lock.name.endswith("/data/out.nc")
        assert locks.get_write_lock("/data/out.nc").name == lock.name
        with dask.config.set(scheduler="threads"):
            assert not isinstance(locks.get_write_lock("/data/out.nc"), Made)
    finally:
        undo()
    assert not isinstance(locks.get_write_lock("/data/out.nc"), Made)


def test_xarray_may_be_imported_later() -> None:
    pytest.importorskip("xarray")
    script = """
        import sys
        from hpcdag import _patches
        import dask

        class Client:
            def get(self, dsk, keys, **kwargs):
                return dask.get(dsk, keys)

        _patches._new_lock = lambda name, client: (name, client)
        client = Client()
        undo = _patches.install(client)
        assert "xarray" not in sys.modules
        import xarray
        from xarray.backends import locks, writers
        assert locks.get_write_lock("k") == ("xarray-k", client)
        name = "get_dask_scheduler" if hasattr(writers, "get_dask_scheduler") else "_get_scheduler"
        assert getattr(writers, name)() == "distributed"
        undo()
        assert getattr(writers, name)() != "distributed"
        assert not isinstance(locks.get_write_lock("k"), tuple)
    """
    path = [p for p in sys.path if p]
    env = {"PYTHONPATH": ":".join(path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=env, timeout=100)


def test_persist_asks_the_client() -> None:
    client = Client()
    undo = _patches.install(client)
    try:
        x = dask.delayed(len)([1])
        x.persist()
        assert len(client.persisted) == 1
        dask.persist([x, {"k": x}])
        assert client.persisted
        client.persisted = []
        dask.persist(x, scheduler="sync")
        assert not client.persisted
    finally:
        undo()
