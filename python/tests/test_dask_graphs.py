"""Dask's collections through runs of calls, compared with what Dask's own scheduler says."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from inline import Inline, InlineFuture, through

from hpcdag import _dask, _patches
from hpcdag._graph import Graph

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")
da = pytest.importorskip("dask.array")
TaskRef = pytest.importorskip("dask._task_spec").TaskRef


class Future(InlineFuture, TaskRef):
    """A future as Dask wants it."""

    def __hash__(self) -> int:
        return hash((self.run, self.task))

    def __eq__(self, other: object) -> bool:
        return self is other


class Port:
    """A client whose cluster is this process."""

    future = Future

    def __init__(self) -> None:
        self.inline = Inline()
        self.names: dict[Any, Future] = {}
        self.graphs: list[Graph] = []

    def new_graph(self, name: str) -> Graph:
        return Graph(name, lambda future: (future.run, future.task), Future)

    def submit(self, graph: Graph, keys: Any, findable: bool) -> list[Future]:
        self.inline.run(graph)
        self.graphs.append(graph)
        found = [Future(graph.run, task, key) for task, key in zip(graph.results, keys, strict=True)]
        if findable:
            self.names.update(zip(keys, found, strict=True))
        return found

    def keys(self) -> Any:
        return self.names

    def known(self, key: Any) -> Any:
        return self.names.get(key)

    def gather(self, futures: Any) -> list[Any]:
        return [self.inline.result(f.run, f.task) for f in futures]

    # What a client has

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        return _dask.get(self, dsk, keys, **kwargs)

    def persist(self, collections: Any, **kwargs: Any) -> Any:
        return _dask.persist(self, collections, **kwargs)

    def compute(self, *collections: Any, **kwargs: Any) -> Any:
        return _dask.compute(self, collections, sync=True, **kwargs)


@pytest.fixture
def port():
    port = Port()
    undo = _patches.install(port)
    yield port
    undo()


def same(port: Port, collection: Any, compare: Any = None) -> Any:
    """The value, which is the same as by Dask's own scheduler, in one piece and by `compute`."""
    compare = compare or np.testing.assert_array_equal
    expected = collection.compute(scheduler="sync")
    sent = len(port.graphs)
    value = collection.compute()
    assert len(port.graphs) > sent, "it went through the port"
    compare(value, expected)
    compare(port.compute(collection)[0], expected)
    compare(collection.persist().compute(), expected)
    return value


def frames(a: Any, b: Any) -> None:
    import pandas as pd

    if isinstance(a, (pd.DataFrame, pd.Series)):
        a, b = (x.sort_values(list(x.columns)) if isinstance(x, pd.DataFrame) else x for x in (a, b))
        tester = (
            pd.testing.assert_frame_equal if isinstance(a, pd.DataFrame) else pd.testing.assert_series_equal
        )
        tester(a.reset_index(drop=True), b.reset_index(drop=True))
    else:
        assert a == b


# Arrays


def test_arrays(port: Port) -> None:
    x = da.random.default_rng(1).random((400, 300), chunks=(100, 70))
    same(port, x)
    same(port, (x - x.mean(axis=0)).sum(axis=1))
    same(port, (x + x.T[:300, :].reshape(-1)[0]).rechunk((37, 111)))
    same(
        port,
        da.map_overlap(lambda b: b + b.mean(), x, depth=2, boundary="reflect"),
        np.testing.assert_allclose,
    )
    same(port, x.dot(x.T), np.testing.assert_allclose)
    same(port, x.map_blocks(lambda b, k: b * k, np.arange(1, 71)[:1]))
    same(port, da.pad(x, 3, mode="wrap").std(), np.testing.assert_allclose)
    same(port, da.stack([x[:, 0], x[:, 1]])[:, ::3])


def test_get_without_waiting_gives_futures(port: Port) -> None:
    graph = {"a": (operator.add, 1, 2), "b": (operator.mul, "a", 5)}
    made = _dask.get(port, graph, ["b", ["a", "b"]], sync=False)
    assert isinstance(made[0], Future) and isinstance(made[1][0], Future)
    assert port.gather([made[0], *made[1]]) == [15, 3, 15]
    assert port.gather([_dask.get(port, graph, "a", sync=False)]) == [3]


def test_the_finalizer_runs_here(port: Port) -> None:
    x = da.ones((40, 30), chunks=10) + 1
    x.compute()
    assert port.inline.tasks == 12
    x.compute(finalize=False)
    # Until 2025 there was no task for it anyway.
    assert port.inline.tasks == 13 or not hasattr(dask.base, "collections_to_expr")
    assert isinstance(dask.compute(x, x.sum())[1], np.float64)


def test_aliases_and_literals_are_no_tasks(port: Port) -> None:
    from dask._task_spec import Alias, DataNode, Task

    graph = {
        "a": DataNode("a", 5),
        "b": Alias("b", "a"),
        "c": Task("c", operator.add, TaskRef("b"), TaskRef("a")),
        "d": Alias("d", "c"),
        "e": Alias("e", "d"),
        "f": Task("f", lambda x, y, z: (x, y, z), TaskRef("c"), TaskRef("e"), TaskRef("d")),
        "unused": Task("unused", operator.truediv, 1, 0),
    }
    assert port.get(graph, ["e", "c", "b", "f"]) == [10, 10, 5, (10, 10, 10)]
    assert port.inline.tasks == 2
    assert port.get(graph, "f") == (10, 10, 10) and port.get(graph, [["a"], ["d"]]) == [(5,), (10,)]
    assert port.get({"x": 1, "y": (operator.add, "x", 10), "z": ["y", "x", {"k": ("t", "y")}]}, "z") == [
        11,
        1,
        {"k": ("t", "y")},
    ]
    with pytest.raises(RuntimeError, match="cycle"):
        port.get({"x": (operator.neg, "y"), "y": (operator.neg, "x")}, "x")
    with pytest.raises(KeyError, match="no future"):
        port.get({"x": 1}, "nothing")


def test_keys_with_numpy_integers(port: Port) -> None:
    graph = {
        ("x", np.int64(0)): 7,
        ("y", np.int64(1)): (operator.neg, ("x", 0)),
        "z": (operator.abs, ("y", 1)),
    }
    assert port.get(graph, [("y", 1), "z"]) == [-7, 7]
    assert port.inline.keys == ["('y', 1)", "z"]


def test_large_literals_of_collections(port: Port) -> None:
    array = np.random.default_rng(0).random((1200, 1200))
    for inline in (True, False):
        x = da.from_array(array, chunks=400, inline_array=inline)
        np.testing.assert_array_equal((x + 1).compute(), array + 1)
        assert 1 <= len(port.graphs[-1].brought) <= 9 and port.inline.bytes < 100_000
    one = da.from_array(np.arange(5), chunks=5)
    np.testing.assert_array_equal(one.persist().compute(), np.arange(5))


def test_in_place_work_on_literals_does_not_spread(port: Port) -> None:
    def spoil(block: Any, extra: Any) -> Any:
        extra += 1
        return block + extra

    x = da.zeros(6, chunks=1).map_blocks(spoil, extra=np.zeros(1), meta=np.zeros(0))
    for _ in range(2):
        assert x.compute().tolist() == [1] * 6
    port.inline.run_again(port.graphs[-1])
    assert x.compute().tolist() == [1] * 6


# Delayed and bags


def test_delayed(port: Port) -> None:
    @dask.delayed
    def inc(x: int) -> int:
        return x + 1

    @dask.delayed(nout=2)
    def pair(x: int) -> tuple[int, int]:
        return x, -x

    a, b = pair(inc(1))
    total = dask.delayed(sum)([a, b, inc(a)], start=dask.delayed(10))
    assert total.compute() == 13
    assert dask.compute(total, {"k": [inc(b)]}) == (13, {"k": [-1]})
    assert port.compute(total, inc(1)) == [13, 2]
    assert dask.delayed(lambda d: sorted(d["k"]))({"k": {inc(3), 2}}).compute() == [2, 4]
    future = _dask.compute(port, inc(1))
    assert isinstance(future, Future) and port.gather([future]) == [2]
    assert port.compute([inc(1), {"k": inc(2)}], 5) == [[2, {"k": 3}], 5]
    kept = inc(100).persist()
    assert (kept + 1).compute() == 102 and port.inline.tasks == 1


def test_futures_in_collections(port: Port) -> None:
    (kept,) = port.persist([dask.delayed(np.arange)(6)])
    future = port.names[next(iter(port.names))]
    assert isinstance(future, Future)
    assert dask.delayed(sum)(future).compute() == 15
    assert dask.delayed(lambda items: [len(i) for i in items["k"]])({"k": [future, future]}).compute() == [
        6,
        6,
    ]
    assert da.from_delayed(kept, (6,), int).sum().compute() == 15
    assert da.from_delayed(dask.delayed(future), (6,), int).sum().compute() == 15


def test_bags(port: Port, tmp_path: Any) -> None:
    import dask.bag as db

    bag = db.from_sequence(range(100), npartitions=7)
    equal = operator.eq

    def check(a: Any, b: Any) -> None:
        assert equal(sorted(a) if isinstance(a, list) else a, sorted(b) if isinstance(b, list) else b)

    same(port, bag.map(lambda x: x * 2).filter(lambda x: x % 3 == 0), check)
    same(port, bag.map(lambda x: x % 5).frequencies(), check)
    same(port, bag.groupby(lambda x: x % 4, shuffle="tasks").map(lambda kv: (kv[0], sum(kv[1]))), check)
    same(port, bag.foldby(lambda x: x % 3, operator.add, 0, operator.add, 0), check)
    same(port, bag.repartition(3).accumulate(operator.add), check)
    assert bag.sum().compute() == 4950 and bag.take(3, npartitions=1) == (0, 1, 2)
    for at in range(5):
        (tmp_path / f"{at}.txt").write_text("".join(f"line {i}\n" for i in range(20)))
    lines = db.read_text(str(tmp_path / "*.txt"), blocksize=50)
    same(port, lines.map(len).frequencies(), check)


# Frames


@pytest.fixture
def table():
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    rng = np.random.default_rng(3)
    left = pd.DataFrame(
        {"k": rng.integers(0, 9, 300), "v": rng.random(300), "s": [f"s{i % 5}" for i in range(300)]}
    )
    right = pd.DataFrame({"k": np.arange(9), "w": np.arange(9) * 1.5})
    return dd, dd.from_pandas(left, npartitions=6), dd.from_pandas(right, npartitions=2)


def test_frames(port: Port, table: Any) -> None:
    _, left, right = table
    same(port, left[left.v > 0.5], frames)
    same(port, left.groupby("s").v.agg(["sum", "count"]), frames)
    same(port, left.groupby("k").v.mean(), frames)
    same(port, left.merge(right, on="k", how="inner"), frames)
    same(port, left.merge(right, on="k", shuffle_method="tasks", npartitions=4, broadcast=False), frames)
    same(
        port,
        left.shuffle("k").map_partitions(lambda part: part.assign(n=len(part.k.unique()))).k,
        lambda a, b: None,
    )
    same(port, left.sort_values("v"), frames)
    same(port, left.drop_duplicates(subset=["k", "s"])[["k", "s"]], frames)
    assert float(left.v.sum().compute()) == pytest.approx(float(left.v.sum().compute(scheduler="sync")))
    same(port, left.set_index("v").s, lambda a, b: frames(a.reset_index(), b.reset_index()))
    same(port, left.map_partitions(lambda part, factor: part.assign(v=part.v * factor), 3), frames)


def test_frames_files(port: Port, table: Any, tmp_path: Any) -> None:
    pytest.importorskip("pyarrow")
    dd, left, _ = table
    left.to_parquet(tmp_path / "out")
    back = dd.read_parquet(tmp_path / "out")
    frames(back.compute(), left.compute(scheduler="sync"))
    left.to_csv(tmp_path / "*.csv", index=False)
    frames(dd.read_csv(tmp_path / "*.csv").k.to_frame().compute(), left[["k"]].compute(scheduler="sync"))


def test_p2p_is_refused_clearly(port: Port, table: Any) -> None:
    pytest.importorskip("distributed")
    _, left, _ = table
    with pytest.raises(RuntimeError, match="tasks"):
        left.shuffle("k", shuffle_method="p2p").compute()


# xarray


def test_xarray(port: Port) -> None:
    xr = pytest.importorskip("xarray")
    time = np.arange(48)
    data = xr.DataArray(
        np.random.default_rng(0).random((48, 12, 10)),
        dims=("time", "y", "x"),
        coords={"time": time, "month": ("time", time % 12)},
        name="t",
    )
    lazy = data.chunk({"time": 12, "y": 6}).assign_coords(month=("time", time % 12))
    anomaly = lazy.groupby("month") - lazy.groupby("month").mean("time")
    expected = data.groupby("month") - data.groupby("month").mean("time")
    xr.testing.assert_allclose(anomaly.compute(), expected)
    padded = lazy.pad(x=2, mode="wrap").differentiate("x").isel(x=slice(2, -2))
    xr.testing.assert_allclose(
        padded.compute(), data.pad(x=2, mode="wrap").differentiate("x").isel(x=slice(2, -2))
    )
    kept = (lazy + 1).to_dataset().persist()
    xr.testing.assert_allclose(kept.t.load(), data + 1)
    assert port.graphs


# Persisting, options


def test_persist_is_reused(port: Port) -> None:
    calls = da.ones((20, 10), chunks=5) + 1
    x = calls.map_blocks(lambda b: b * 2)
    kept = x.persist()
    assert port.inline.tasks == 8 and len(port.graphs) == 1
    assert float(kept.sum().compute()) == 800
    np.testing.assert_array_equal(x.compute(), np.full((20, 10), 4.0))
    assert len(port.graphs) == 2, "the parts of the old collection were there already"
    again = kept.persist()
    assert len(port.graphs) == 2
    assert float((again + x).sum().compute()) == 1600
    both = dask.persist(x, {"other": x + 1})
    assert float(both[1]["other"].sum().compute()) == 1000


def test_annotations_and_options(port: Port) -> None:
    with dask.annotate(retries=3, priority=5, unknown="x"):
        one = dask.delayed(operator.neg)(1, dask_key_name="one")
    two = dask.delayed(operator.neg)(one, dask_key_name="two")
    assert two.compute(optimize_graph=False) == 1
    assert port.inline.option_of["one"][:2] == [5, 3] and port.inline.option_of["two"][:2] == [0, 0]
    with dask.annotate(resources={"GPU": 1}, priority=lambda key: 9 if key == "two" else 1):
        two.compute(
            workers=["a", "b"], allow_other_workers=True, retries=1, flush=True, num_workers=3, pool=None
        )
    first, second = port.inline.option_of["one"], port.inline.option_of["two"]
    assert (first[:2], second[:2]) == ([5, 3], [9, 1])
    assert second[3:6] == [{"GPU": 10_000}, ["a", "b"], True]
    da.ones(4, chunks=2).sum().compute(priority=-2)
    assert {option[0] for option in port.inline.option_of.values()} == {-2}


def test_errors_are_the_tasks_own(port: Port) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        dask.delayed(operator.truediv)(1, 0).compute()
    assert caught.value.args == ("division by zero",)


def test_results_are_as_they_come_out_of_the_store() -> None:
    assert through({"a": 1}) == {"a": 1}


def test_what_cannot_be_pickled_is_named(port: Port) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 1 .*lock.* cannot be sent"):
        dask.delayed(lambda held: 1)(lock).compute()
    with pytest.raises(TypeError, match=r"cannot be sent.*lock"):
        port.get({"x": lock, "y": (lambda held: 1, "x")}, "y")
    with pytest.raises(TypeError, match=r"the function of .*cannot be sent"):
        da.ones(4, chunks=2).map_blocks(lambda block: block if lock else 0, dtype=float).compute()


def test_classes_and_functions_defined_here(port: Port) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self, by: int) -> Any:
            return Point(self.x + by)

    points = [dask.delayed(Point)(i) for i in range(5)]
    moved = [point.moved(10) for point in points]
    assert dask.delayed(lambda found: [p.x for p in found])(moved).compute() == [10, 11, 12, 13, 14]
    assert dask.delayed(Point(3)).moved(1).x.compute() == 4
