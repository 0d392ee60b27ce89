"""Dask's collections on a real cluster: what `test_dask_graphs` shows without one, and more."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_dask_graphs as graphs

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")
da = pytest.importorskip("dask.array")
hpcdag = pytest.importorskip("hpcdag")


class Real:
    """A client with what the tests of graphs look at."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.graphs: list[Any] = []
        session = client._session
        send = session.submit_graph

        def submit_graph(graph: Any, environment: bytes) -> Any:
            self.graphs.append(graph)
            return send(graph, environment)

        session.submit_graph = submit_graph

    def compute(self, *collections: Any, **kwargs: Any) -> Any:
        return self.client.compute(list(collections), sync=True, **kwargs)


@pytest.fixture
def port(own_state: Path) -> Iterator[Real]:
    with hpcdag.LocalCluster(2, 1) as cluster, hpcdag.Client(cluster) as client:
        yield Real(client)


table = graphs.table


def test_arrays(port: Real) -> None:
    graphs.test_arrays(port)


def test_bags(port: Real, tmp_path: Path) -> None:
    graphs.test_bags(port, tmp_path)


def test_frames(port: Real, table: Any) -> None:
    graphs.test_frames(port, table)


def test_frames_files(port: Real, table: Any, tmp_path: Path) -> None:
    graphs.test_frames_files(port, table, tmp_path)


def test_xarray(port: Real) -> None:
    graphs.test_xarray(port)


def test_persisted_parts_are_used_again(port: Real) -> None:
    x = da.ones((20, 10), chunks=5) + 1
    kept = x.persist()
    hpcdag.wait(hpcdag.futures_of(kept))
    assert len(hpcdag.futures_of(kept)) == 8
    sent = len(port.graphs)
    np.testing.assert_array_equal(x.compute(), np.full((20, 10), 2.0))
    assert len(port.graphs) == sent, "all parts were there"
    assert float(kept.sum().compute()) == 400
    future = port.client.compute(kept.sum())
    assert isinstance(future, hpcdag.Future) and float(future.result(30)) == 400
    del kept
    assert float(x.sum().compute()) == 400


def test_large_literals_and_futures(port: Real) -> None:
    array = np.random.default_rng(0).random((1200, 1200))
    x = da.from_array(array, chunks=400)
    np.testing.assert_array_equal((x + 1).compute(), array + 1)
    future = port.client.submit(np.arange, 6)
    assert dask.delayed(sum)(future).compute() == 15
    assert da.from_delayed(dask.delayed(future), (6,), int).sum().compute() == 15


def test_futures_of_a_map_are_arguments_within_graphs(port: Real) -> None:
    from dask._task_spec import Task

    one, two = port.client.map(operator.neg, [5, 6])
    assert port.client.get({"x": (operator.add, one, (operator.neg, two))}, "x") == 1
    assert port.client.get({"x": (sum, [one, two])}, "x") == -11
    assert port.client.get({"x": Task("x", operator.add, one, 1)}, "x") == -4


def test_errors_are_the_tasks_own(port: Real) -> None:
    def breaks(x: int) -> float:
        return x / 0

    with pytest.raises(ZeroDivisionError) as caught:
        dask.delayed(operator.neg)(dask.delayed(breaks)(1)).compute()
    assert "return x / 0" in "".join(getattr(caught.value, "__notes__", [str(caught.value.__cause__)]))


def test_the_client_is_the_default_only_while_it_lives(port: Real) -> None:
    assert dask.base.get_scheduler() == port.client.get
    assert dask.delayed(operator.neg)(1).compute(scheduler="hpcdag") == -1
    port.client.close()
    assert dask.base.get_scheduler() is None
    assert dask.delayed(operator.neg)(1).compute() == -1


def test_writing_to_shared_chunks_is_locked(port: Real, tmp_path: Path) -> None:
    pytest.importorskip("hpcdag.locks")
    h5py = pytest.importorskip("h5py")
    xr = pytest.importorskip("xarray")
    data = xr.DataArray(np.arange(3600.0).reshape(60, 60), dims=("y", "x"), name="t").chunk({"y": 7, "x": 13})
    for engine in ("h5netcdf", "netcdf4"):
        path = tmp_path / f"{engine}.nc"
        data.to_netcdf(path, engine=engine)
        with xr.open_dataset(path, engine=engine) as back:
            np.testing.assert_array_equal(back.t.values, np.arange(3600.0).reshape(60, 60))
    assert h5py.File(tmp_path / "h5netcdf.nc").keys()
