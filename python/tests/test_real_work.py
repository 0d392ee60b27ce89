"""Small pieces of real work on one real cluster; each gives what the same work gives without a cluster."""

from __future__ import annotations

import collections
import gzip
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
da = pytest.importorskip("dask.array")
db = pytest.importorskip("dask.bag")
dd = pytest.importorskip("dask.dataframe")
hpcdag = pytest.importorskip("hpcdag")

FILES, LINES = 60, 20
NAMES = ["Ada", "Béla", "Chloé", "Dmitri", "Emma"]


@pytest.fixture(scope="module")
def cluster_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client of the one cluster, with a state directory that lasts as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with (
            hpcdag.LocalCluster(nworkers=2, nthreads=1, memory_limit="1GiB") as cluster,
            hpcdag.Client(cluster) as client,
        ):
            client.wait_for_workers(2, timeout=30)
            yield client


@pytest.fixture
def client(cluster_client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The same; a test that sent it no graph was computed elsewhere, and fails."""
    session, sent = cluster_client._session, []
    send = session.submit_graph

    def submit_graph(graph: Any, environment: bytes) -> Any:
        sent.append(graph)
        return send(graph, environment)

    monkeypatch.setattr(session, "submit_graph", submit_graph)
    yield cluster_client
    assert sent, "nothing was computed on the cluster"


def people(number: int) -> list[dict[str, Any]]:
    """The records of a file. How often a name occurs differs for each name."""
    rng = np.random.default_rng(number)
    ages = rng.integers(18, 80, LINES)
    return [
        {"name": NAMES[min(int(age) * (i + 1) % 13 % 7, 4)], "age": int(age), "id": number * LINES + i}
        for i, age in enumerate(ages)
    ]


@pytest.fixture
def written(tmp_path: Path) -> str:
    """A pattern of gzipped files with a JSON record in each line."""
    for number in range(FILES):
        with gzip.open(tmp_path / f"{number:02}.json.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in people(number))
    return str(tmp_path / "*.json.gz")


EVERYBODY = list(itertools.chain.from_iterable(people(number) for number in range(FILES)))


def test_counting_in_many_compressed_files(client: Any, written: str) -> None:
    records = db.read_text(written, encoding="utf-8").map(json.loads)
    assert records.npartitions == FILES
    names = records.filter(lambda record: record["age"] >= 30).pluck("name")
    expected = collections.Counter(record["name"] for record in EVERYBODY if record["age"] >= 30)
    assert len(set(expected.values())) == len(NAMES), "the order is certain"
    assert names.frequencies(sort=True).compute() == expected.most_common()
    top = names.frequencies(split_every=8).topk(3, key=lambda pair: pair[1])
    assert top.compute() == expected.most_common(3)


def test_many_files_become_three(client: Any, written: str, tmp_path: Path) -> None:
    records = db.read_text(written, encoding="utf-8").map(json.loads).repartition(npartitions=3)
    out = tmp_path / "out"
    paths = records.map(json.dumps).to_textfiles(str(out / "*.json"))
    assert sorted(paths) == sorted(str(path) for path in out.iterdir())
    parts = [(out / f"{number}.json").read_text().splitlines() for number in range(3)]
    assert [len(part) for part in parts] == [FILES * LINES // 3] * 3
    assert [json.loads(line) for line in itertools.chain(*parts)] == EVERYBODY


def test_bags_by_partitions(client: Any) -> None:
    values = list(range(1000))
    bag = db.from_sequence(values, partition_size=150)
    running = bag.map_partitions(itertools.accumulate).map_partitions(list)
    size = 150
    expected = [list(itertools.accumulate(values[at : at + size])) for at in range(0, len(values), size)]
    assert running.compute() == list(itertools.chain(*expected))
    parts = running.to_delayed()
    assert len(parts) == len(expected)
    assert list(dask.compute(*parts)) == expected
    assert dask.delayed(max)([dask.delayed(sum)(part) for part in parts]).compute() == max(map(sum, expected))


def test_parquet_with_each_compression(client: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"name": NAMES[i * i % 5], "value": i // 10 / 8, "number": i % 17} for i in range(20_000)]
    bag = db.from_sequence(rows, partition_size=7000)
    expected, sizes = pd.DataFrame(rows), {}
    for compression in (None, "gzip", "snappy"):
        path = tmp_path / str(compression)
        bag.to_dataframe().to_parquet(str(path), compression=compression, write_index=False)
        files = sorted(path.glob("*.parquet"))
        assert len(files) == 3
        sizes[compression] = sum(file.stat().st_size for file in files)
        back = dd.read_parquet(str(path)).compute().reset_index(drop=True)
        # The texts are in the form that Dask reads them as.
        pd.testing.assert_frame_equal(back.astype({"name": expected.name.dtype}), expected)
    assert sizes["gzip"] < sizes["snappy"] < sizes[None]


@pytest.fixture
def sales() -> Any:
    """A table whose keys are in no order."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {"key": rng.integers(0, 50, 3000), "amount": rng.random(3000), "at": rng.permutation(3000)}
    )


def test_groups(client: Any, sales: Any) -> None:
    how = {"amount": ["sum", "mean", "std", "count"], "at": ["min", "max"]}
    expected = sales.groupby("key").agg(how)
    table = dd.from_pandas(sales, npartitions=6)
    for more in ({}, {"split_out": 3}):
        got = table.groupby("key").agg(how, **more).compute().sort_index()
        pd.testing.assert_frame_equal(got, expected)
    # This one brings all rows of a group together.
    spread = table.groupby("key").amount.apply(lambda v: v.max() - v.min(), meta=("amount", "f8")).compute()
    expected = sales.groupby("key").amount.apply(lambda v: v.max() - v.min())
    pd.testing.assert_series_equal(spread.sort_index(), expected)


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_merging_by_tasks(client: Any, sales: Any, how: str) -> None:
    # Keys that only one of both has, and some that occur twice.
    prices = pd.DataFrame({"key": [*range(20, 70), *range(25)], "price": np.arange(75) / 4})
    left, right = dd.from_pandas(sales, npartitions=5), dd.from_pandas(prices, npartitions=4)
    merged = left.merge(right, on="key", how=how, shuffle_method="tasks", broadcast=False)
    order = ["key", "at", "price"]
    got = merged.compute().sort_values(order).reset_index(drop=True)
    expected = sales.merge(prices, on="key", how=how).sort_values(order).reset_index(drop=True)
    pd.testing.assert_frame_equal(got, expected)


def test_sorting(client: Any, sales: Any) -> None:
    table = dd.from_pandas(sales, npartitions=5)
    indexed = table.set_index("at")
    assert indexed.known_divisions
    pd.testing.assert_frame_equal(indexed.compute(), sales.set_index("at").sort_index())
    part = indexed.loc[100:199].amount.sum().compute()
    assert part == pytest.approx(sales.set_index("at").sort_index().loc[100:199].amount.sum())
    got = table.sort_values("amount", ascending=False).compute()
    pd.testing.assert_frame_equal(got, sales.sort_values("amount", ascending=False))


@pytest.mark.parametrize("store", ["netcdf4", "h5netcdf", "zarr"])
def test_anomalies(client: Any, tmp_path: Path, store: str) -> None:
    xr = pytest.importorskip("xarray")
    pytest.importorskip({"netcdf4": "netCDF4"}.get(store, store))
    days = pd.date_range("2001-01-01", "2002-12-31", freq="5D")
    values = np.random.default_rng(1).random((len(days), 6, 8))
    coords = {"time": days, "lat": np.linspace(-75, 75, 6), "lon": np.arange(8) * 45.0}
    eager = xr.Dataset({"t": (("time", "lat", "lon"), values, {"units": "K"})}, coords=coords)
    expected = eager.t.groupby("time.month") - eager.t.groupby("time.month").mean("time")
    if store == "zarr":
        path = str(tmp_path / "t.zarr")
        eager.chunk({"time": 25, "lat": 3}).to_zarr(path, consolidated=False)
        opened = xr.open_zarr(path, consolidated=False)
    else:
        for number, (_, part) in enumerate(eager.resample(time="QS")):
            part.to_netcdf(tmp_path / f"{number}.nc", engine=store)
        where = str(tmp_path / "*.nc")
        opened = xr.open_mfdataset(where, chunks={"time": 12, "lat": 3}, engine=store, parallel=True)
    with opened as data:
        assert len(data.t.data.chunks[0]) > 4
        anomaly = data.t.groupby("time.month") - data.t.groupby("time.month").mean("time")
        xr.testing.assert_allclose(anomaly.compute(), expected)
        assert abs(float(anomaly.mean())) < 1e-12


def test_arrays_in_other_chunks(client: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((400, 60)), rng.random((60, 90))
    x = da.from_array(a, chunks=(50, 60)).rechunk((130, 17))
    y = da.from_array(b, chunks=(20, 30))
    np.testing.assert_allclose((x @ y).compute(), a @ b)
    np.testing.assert_array_equal(x.T.rechunk((60, 45)).compute(), a.T)


def test_singular_values(client: Any) -> None:
    rng = np.random.default_rng(4)
    # Of rank 5, so that the compressed form leaves nothing out.
    a = rng.random((600, 5)) @ rng.random((5, 80))
    u, s, v = da.linalg.svd_compressed(da.from_array(a, chunks=(100, 40)), k=5, n_power_iter=2, seed=0)
    u, s, v = dask.compute(u, s, v)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False)[:5], rtol=1e-6)
    np.testing.assert_allclose(u * s @ v, a, rtol=1e-6)


def diamonds(call: Callable[..., Any], count: int) -> Any:
    """`count` diamonds one below the other, of four calls each."""
    last = 1
    for number in range(count):
        top = call(lambda x, n: (x * 3 + n) % 1_000_003)(last, number)
        left, right = call(lambda x: x + 7)(top), call(lambda x: x * 2)(top)
        last = call(lambda x, y: x ^ y)(left, right)
    return last


def test_a_chain_of_diamonds(client: Any) -> None:
    last = diamonds(dask.delayed, 50)
    assert len(last.__dask_graph__()) == 200
    assert last.compute() == diamonds(lambda function: function, 50)


def test_a_wide_diamond(client: Any) -> None:
    top = dask.delayed(np.arange)(1000)
    middle = [dask.delayed(np.roll)(top, number) for number in range(198)]
    got = dask.delayed(sum)(middle).compute()
    np.testing.assert_array_equal(got, sum(np.roll(np.arange(1000), number) for number in range(198)))


@pytest.fixture
def joblib(cluster_client: Any) -> Any:
    """joblib with our backend."""
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("hpcdag.joblib")
    return joblib


def root_and_process(value: float) -> tuple[float, int]:
    """A result, and who made it."""
    return math.sqrt(value), os.getpid()


def test_joblib(joblib: Any) -> None:
    calls = [joblib.delayed(root_and_process)(i) for i in range(100)]
    with joblib.parallel_config("hpcdag"):
        got = joblib.Parallel()(calls)
        assert [root for root, _ in got] == [math.sqrt(i) for i in range(100)]
        assert os.getpid() not in {process for _, process in got}
        with pytest.raises(ValueError, match="math domain error|nonnegative"):
            joblib.Parallel()(joblib.delayed(math.sqrt)(i) for i in (1, -1, 2))
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(5)) == list(range(5))
        in_turn = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(-i) for i in range(5))
        assert list(in_turn) == list(range(5))


def test_joblib_sends_large_arguments_once(joblib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.arange(200_000.0)
    sent = []
    scatter = hpcdag.Client.scatter
    monkeypatch.setattr(hpcdag.Client, "scatter", lambda c, data: sent.append(data) or scatter(c, data))
    with joblib.parallel_config("hpcdag", n_jobs=2):
        picked = joblib.delayed(lambda values, at: values[at])
        assert joblib.Parallel(batch_size=1)(picked(table, at) for at in range(8)) == list(range(8))
    assert len(sent) == 1 and sent[0][0] is table


def inner_sum(joblib: Any, n: int, n_jobs: int | None) -> tuple[int, set[int]]:
    """A Parallel in a call: its sum, and the processes that made it."""
    got = joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(root_and_process)(i * i) for i in range(n))
    return sum(int(root) for root, _ in got), {process for _, process in got} - {os.getpid()}


def test_joblib_in_calls_of_joblib(joblib: Any) -> None:
    call = joblib.delayed(inner_sum)
    with joblib.parallel_config("hpcdag"):
        # As many as there are slots: they wait for calls which need those slots.
        got = joblib.Parallel(batch_size=1)(call(joblib, 4, 2) for _ in range(6))
        assert all(total == 6 and others for total, others in got)
        # Without a number of jobs it stays in its process.
        assert joblib.Parallel()(call(joblib, 4, None) for _ in range(2)) == [(6, set())] * 2


def test_joblib_without_a_client(joblib: Any) -> None:
    from hpcdag import _registry
    from hpcdag.joblib import HpcdagBackend

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registry, "_defaults", [])
        with pytest.raises(ValueError, match="make one with"):
            HpcdagBackend()


def test_searching_a_grid(joblib: Any) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.datasets import make_classification
    from sklearn.svm import SVC

    x, y = make_classification(120, 6, random_state=0)
    grid = {"C": [0.1, 1.0, 10.0], "gamma": [0.01, 0.1]}
    eager = selection.GridSearchCV(SVC(), grid, cv=3, n_jobs=1).fit(x, y)
    with joblib.parallel_config("hpcdag", n_jobs=4):
        search = selection.GridSearchCV(SVC(), grid, cv=3).fit(x, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], eager.cv_results_["mean_test_score"])
    assert search.best_params_ == eager.best_params_
    np.testing.assert_array_equal(search.predict(x), eager.predict(x))


def test_delayed_models(client: Any) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.base import clone
    from sklearn.datasets import make_regression
    from sklearn.linear_model import Ridge

    x, y = make_regression(200, 10, noise=5.0, random_state=0)
    folds, model = selection.KFold(5), Ridge(alpha=0.5)
    data, target = dask.delayed(x), dask.delayed(y)
    scores, models = [], []
    for train, test in folds.split(x):
        fitted = dask.delayed(clone(model)).fit(data[train], target[train])
        models.append(fitted)
        scores.append(fitted.score(data[test], target[test]))
    got, fitted = dask.compute(scores, models)
    np.testing.assert_allclose(got, selection.cross_val_score(model, x, y, cv=folds))
    expected = [clone(model).fit(x[train], y[train]).coef_ for train, _ in folds.split(x)]
    np.testing.assert_allclose([each.coef_ for each in fitted], expected)
