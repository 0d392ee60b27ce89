"""Arrays written by many tasks to the same chunks of files on a real cluster, compared with what is eager."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")
da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")
xr = pytest.importorskip("xarray")
hpcdag = pytest.importorskip("hpcdag")

ROUNDS = 5
SHAPE = (60, 60)


@pytest.fixture
def client(own_state: Path) -> Iterator[Any]:
    with hpcdag.LocalCluster(3, 1) as cluster, hpcdag.Client(cluster) as client:
        yield client


def values(number: int) -> Any:
    """No zeros: what was not written is seen."""
    return np.arange(1.0, 1 + SHAPE[0] * SHAPE[1]).reshape(SHAPE) + 10_000 * number


@pytest.mark.parametrize("more", [{"chunks": SHAPE}, {"chunks": (5, 5), "shards": (20, 30)}])
def test_many_tasks_store_into_one_chunk(client: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    if "shards" in more and not hasattr(zarr, "create_array"):
        pytest.skip("needs zarr 3")
    create = zarr.create_array if "shards" in more else zarr.create
    for number in range(ROUNDS):
        target = create(store=str(tmp_path / f"{number}.zarr"), shape=SHAPE, dtype="f8", fill_value=0, **more)
        # 7 x 10 chunks, none of which ends where those of the target do.
        da.store(da.from_array(values(number), chunks=(9, 6)), target, lock=True)
        np.testing.assert_array_equal(target[:], values(number))


def test_several_targets_and_regions(client: Any, tmp_path: Path) -> None:
    targets = [
        zarr.open_array(str(tmp_path / name), mode="w", shape=(70, 70), chunks=(70, 70), dtype="f8")
        for name in ("a.zarr", "b.zarr")
    ]
    for number in range(ROUNDS):
        sources = [da.from_array(values(number) + i, chunks=13) for i in range(2)]
        region = (slice(number, number + 60), slice(10, 70))
        da.store(sources, targets, regions=region)
        for i, target in enumerate(targets):
            np.testing.assert_array_equal(target[region], values(number) + i)


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_netcdf(client: Any, tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"netcdf4": "netCDF4"}.get(engine, engine))
    for number in range(3):
        eager = xr.Dataset({k: (("y", "x"), values(number) + i) for i, k in enumerate("tuv")})
        encoding = {k: {"chunksizes": SHAPE, "zlib": True} for k in "tuv"}
        path = tmp_path / f"{number}.nc"
        eager.chunk({"y": 7, "x": 13}).to_netcdf(path, engine=engine, encoding=encoding)
        with xr.open_dataset(path, engine=engine) as back:
            xr.testing.assert_equal(back.load(), eager)


def test_xarray_zarr(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.zarr"
    eager = [xr.Dataset({k: (("y", "x"), values(n)) for k in "tu"}) for n in range(3)]
    lazy = [one.chunk({"y": 20, "x": 15}) for one in eager]
    lazy[0].to_zarr(path)
    lazy[1].to_zarr(path, append_dim="y")
    lazy[2].to_zarr(path, region={"y": slice(60, 120), "x": slice(0, 60)})
    with xr.open_zarr(path) as back:
        xr.testing.assert_equal(back.load(), xr.concat([eager[0], eager[2]], "y"))


def test_targets_in_memory(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcdag._targets._TOGETHER", 20 * 17 * 8 * 2)
    x = da.from_array(values(0), chunks=(20, 17))
    y = x[5:25, ::3] * 2
    mapped = np.memmap(tmp_path / "m", dtype="f8", mode="w+", shape=SHAPE)
    for target in (np.zeros(SHAPE), mapped, zarr.zeros(SHAPE, chunks=(20, 20), dtype="f8")):
        da.store(x, target, lock=threading.Lock())
        np.testing.assert_array_equal(target[:], values(0))
        region = (slice(40, 60), slice(1, 21))
        y.store(target, regions=region)
        expected = values(0)
        expected[region] = values(0)[5:25, ::3] * 2
        np.testing.assert_array_equal(target[:], expected)
    # One of two is in a file.
    file = zarr.open_array(str(tmp_path / "f.zarr"), mode="w", shape=SHAPE, chunks=SHAPE, dtype="f8")
    target = np.zeros(SHAPE, dtype="f4")
    da.store([x + 1, x + 2], [file, target])
    np.testing.assert_array_equal(file[:], values(0) + 1)
    np.testing.assert_array_equal(target, values(0) + 2)
    table = xr.Dataset({"t": (("y", "x"), values(0))})
    store = zarr.storage.MemoryStore()
    table.chunk({"y": 20}).to_zarr(store, consolidated=False)
    xr.testing.assert_equal(xr.open_zarr(store, consolidated=False).load(scheduler="threads"), table)


def test_files_open_in_the_client(client: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    netcdf = pytest.importorskip("netCDF4")
    x = da.from_array(values(0), chunks=(20, 17))
    da.to_hdf5(str(tmp_path / "a.h5"), {"/x": x, "/y": x.T})
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"][:], values(0))
        np.testing.assert_array_equal(file["y"][:], values(0).T)
    with netcdf.Dataset(tmp_path / "b.nc", "w") as file:
        file.createDimension("n", 60)
        target = file.createVariable("x", "f8", ("n", "n"))
        da.store(x, target)
        np.testing.assert_array_equal(target[:], values(0))


def test_targets_in_memory_that_stay_as_they_are(client: Any) -> None:
    x = da.from_array(values(0), chunks=20)
    target = np.zeros(SHAPE)
    with pytest.warns(RuntimeWarning, match="in the memory of this process"):
        x.store(target, compute=False)
    with pytest.warns(RuntimeWarning, match="in the memory of this process"):
        kept = da.store([x], [target], return_stored=True)
    np.testing.assert_array_equal(kept.compute(), values(0))
    with pytest.raises(ValueError, match="Different number"):
        da.store([x], [target, target])
    assert not target.any()
    da.store(x, target, scheduler="threads")
    np.testing.assert_array_equal(target, values(0))
    client.close()
    da.store(x + 3, target)
    np.testing.assert_array_equal(target, values(0) + 3)
