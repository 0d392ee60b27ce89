#!/usr/bin/env python3
"""Records graphs that Dask makes, and Dask's order of them, as tests/recordings/order/*.json.

    python3 -m venv venv && venv/bin/pip install 'dask[array,dataframe]' xarray
    PYTHONHASHSEED=0 venv/bin/python scripts/record-order.py tests/recordings/order

Tasks are numbered level by level (longest path from the first tasks), as a generator of graphs would write them:
nothing of Dask's order is in the numbers. `inputs` has a row for each task, `rank` its place in Dask's order, which
differs a little with Python's hash seed.
"""

import json
import pathlib
import sys

import dask
import dask.array as da
import numpy as np
from dask._task_spec import convert_legacy_graph
from dask.order import order


def source(shape, chunks):
    """One task for each chunk and one before it, like reading a file and decoding it."""
    return da.ones(shape, chunks=chunks).map_blocks(np.positive)


def graphs():
    x = source((20, 20), (2, 2))
    yield "mean-axis", x.mean(axis=0, split_every=4)
    yield "sum-tree", source((256,), (1,)).sum(split_every=4)
    yield "transpose-add", x + x.T
    yield "transpose-add-sum", (x + x.T).sum(split_every=4)
    yield "rechunk-sum", source((24, 24), (2, 24)).rechunk((24, 2)).sum(axis=0)
    yield "overlap-2d", source((16, 16), (2, 2)).map_overlap(lambda a: a, depth=1, boundary="none")
    yield "overlap-1d", source((64,), (2,)).map_overlap(lambda a: a, depth=1, boundary="none")
    t = source((40, 6), (2, 2))
    yield "anomaly", t - t.mean(axis=0, split_every=4)
    yield "anomaly-std", ((t - t.mean(axis=0)) / t.std(axis=0)).sum(axis=1)
    m = source((12, 12), (2, 2))
    yield "matmul", m @ m
    yield "matmul-transposed", da.dot(m, m.T).sum()
    yield "tensordot", da.tensordot(source((8, 8, 4), (2, 2, 2)), source((8, 8, 4), (2, 2, 2)), axes=((0, 1), (0, 1)))
    yield "cumsum", source((40, 8), (2, 2)).cumsum(axis=0)
    yield "cumsum-mean", source((40, 8), (2, 2)).cumsum(axis=0).mean(axis=0)
    u, s, v = da.linalg.svd(source((40, 4), (2, 4)))
    yield "svd-tsqr", [u, s, v]
    a, b = source((60, 6), (2, 3)), source((60, 6), (2, 3))
    yield "quadratic-mean", [(a**2).mean(axis=0), (b**2).mean(axis=0), (a * b).mean(axis=0)]
    vort = source((48,), (1,))
    yield "side-chain", ((vort[1:] - vort[:-1]) ** 2).mean(split_every=4)
    try:
        import dask.dataframe as dd
        import pandas as pd
    except ImportError:
        return
    import xarray as xr

    days = pd.date_range("2001-01-01", periods=96, freq="7D")
    field = xr.DataArray(source((96, 4), (4, 2)), dims=("time", "x"), coords={"time": days})
    months = field.groupby("time.month")
    yield "climatology", (months - months.mean()).data
    yield "rolling-mean", field.rolling(time=8).mean().mean("time").data
    frame = pd.DataFrame({"k": range(120), "v": range(120)})
    df = dd.from_pandas(frame, npartitions=30)
    yield "groupby-tree", df.groupby("k").v.sum(split_every=4)
    yield "groupby-split-out", df.groupby("k").v.sum(split_out=4, split_every=4)
    yield "shuffle", df.shuffle("k", npartitions=10).map_partitions(len)


def plain(what):
    if hasattr(what, "expr"):  # a dataframe
        return convert_legacy_graph(dict(what.optimize(fuse=False).__dask_graph__()))
    many = what if isinstance(what, list) else [what]
    many = dask.optimize(*many, optimize_graph=True)
    merged = {}
    for one in many:
        merged.update(dict(one.__dask_graph__()))
    return convert_legacy_graph(merged)


def record(name, what, folder):
    # Fused as Dask would run it would leave little to order: blocks are kept apart.
    with dask.config.set({"optimization.fuse.active": False}):
        graph = plain(what)
    rank = order(graph)
    inputs = {k: [d for d in t.dependencies if d in graph] for k, t in graph.items()}
    height = {}
    todo = list(graph)
    while todo:
        k = todo[-1]
        missing = [d for d in inputs[k] if d not in height]
        if missing:
            todo.extend(missing)
            continue
        height[k] = 1 + max((height[d] for d in inputs[k]), default=-1)
        todo.pop()

    def place(key):
        layer, *chunk = key if isinstance(key, tuple) else (key,)
        return (height[key], str(layer), tuple((0, c, "") if isinstance(c, int) else (1, 0, str(c)) for c in chunk))

    keys = sorted(graph, key=place)
    number = {k: i for i, k in enumerate(keys)}
    ranks = sorted(range(len(keys)), key=lambda i: rank[keys[i]])
    dense = [0] * len(keys)
    for at, i in enumerate(ranks):
        dense[i] = at
    told = {
        "graph": name,
        "dask": dask.__version__,
        "tasks": len(keys),
        "inputs": [sorted(number[d] for d in inputs[k]) for k in keys],
        "rank": dense,
    }
    text = json.dumps(told, separators=(",", ":")) + "\n"
    (folder / f"{name}.json").write_text(text)
    print(f"{name}: {len(keys)} tasks, {len(text)} bytes")


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for graph_name, collection in graphs():
        record(graph_name, collection, target)
