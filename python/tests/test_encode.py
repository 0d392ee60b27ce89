"""Calls through bytes and back: functions, arguments, dependencies, large literals, errors."""

from __future__ import annotations

import functools
import itertools
import operator
import subprocess
import sys
import textwrap
import threading

import pytest
from inline import Inline, InlineFuture, in_columns

from hpcdag import _decode
from hpcdag._graph import Graph, Options

np = pytest.importorskip("numpy")


def calls(graph: Graph, *specs: tuple) -> Graph:
    """A graph of ``(function, args, kwargs)``."""

    made = [graph.encoder.call(function, args, kwargs) for function, args, kwargs in specs]
    return graph.set_calls(in_columns(made))


def run(*specs: tuple) -> list:
    inline = Inline()
    return inline.run(calls(inline.graph(), *specs))


class Local:
    def __init__(self, held):
        self.held = held


def weigh(*args, **kwargs):
    return [getattr(a, "nbytes", a) for a in args], sorted(kwargs)


def test_plain_calls_lambdas_closures_classes_and_bound_methods() -> None:
    offset = 5

    class Inner:
        def __init__(self, x):
            self.x = x

        def double(self):
            return 2 * self.x

    assert run(
        (operator.add, (1, 2), {}),
        (lambda x: x + offset, (1,), {}),
        (sorted, ([3, 1, 2],), {"reverse": True}),
        (Inner(4).double, (), {}),
        (lambda v: v.x, (Inner(7),), {}),
        (functools.partial(lambda a, b: a - b, 10), (3,), {}),
        (max, ({"a", "b"},), {}),
    ) == [3, 6, [3, 2, 1], 8, 7, 7, "b"]


def test_functions_are_written_once() -> None:
    def mine(x):
        return x * 2

    graph = calls(Inline().graph(), *[(mine, (i,), {}) for i in range(700)])
    pieces = list(graph.pieces())
    assert sum(len(p.functions) for p in pieces) == 1
    assert sum(len(p.bytes) for p in pieces) < 700 * 30


def test_futures_anywhere_are_inputs() -> None:
    inline = Inline()
    graph = calls(inline.graph(), (list, ((1, 2, 3),), {}), (int, ("40",), {}))
    assert inline.run(graph) == [[1, 2, 3], 40]
    a, b = InlineFuture(graph.run, 0, "a"), InlineFuture(graph.run, 1, "b")
    again = InlineFuture(graph.run, 1, "b")
    more = calls(
        inline.graph(),
        (sum, (a,), {}),
        (lambda x, y=0: x + y, (b,), {"y": b}),
        (lambda x: x[0][1]["k"] + x[1], (([1, {"k": b}], again),), {}),
        (lambda x: x.held, (Local(Local(b)),), {}),
        (lambda x, y: [*x.held, y], (Local(a), 1), {}),
        (lambda f: f(), (functools.partial(operator.neg, b),), {}),
    )
    results = inline.run(more)
    assert results[:3] == [6, 80, 80]
    assert results[3].held == 40 and results[4:] == [[1, 2, 3, 1], -40]
    assert len(more.keep) == 2


def test_large_literals_are_brought_once_each() -> None:
    inline = Inline()
    array = np.arange(400_000.0)
    text = "x" * (2 << 20)
    many = list(range(600_000))
    graph = calls(
        inline.graph(),
        *[(weigh, (array, i), {}) for i in range(300)],
        (weigh, (Local(array).held, [array]), {}),
        (lambda x: x.held.nbytes, (Local(array),), {}),
        (len, (text,), {}),
        (lambda x: len(x.held), (Local(text),), {}),
        (len, (many,), {}),
    )
    results = inline.run(graph)
    assert results[5] == ([array.nbytes, 5], []) and results[300][0][0] == array.nbytes
    assert results[301:] == [array.nbytes, len(text), len(text), len(many)]
    assert len(graph.brought) == 4 and inline.bytes < 1 << 20


def test_batches_stay_small() -> None:
    inline = Inline()
    graph = calls(inline.graph(), *[(len, (bytes(100_000) + bytes([i % 256]),), {}) for i in range(400)])
    sizes = []
    for piece in graph.pieces():
        ends = list(piece.bytes_end)
        sizes += [b - a for a, b in itertools.pairwise([0, *ends])]
        assert len(piece.bytes) < 16 << 20
    assert max(sizes) <= 2 << 20 and len(sizes) > 10


def test_map_of_plain_values_is_one_family() -> None:
    inline = Inline()
    graph = inline.graph("square").set_map(lambda x, y, k: x * y + k, [range(5000), [2] * 5000], {"k": 1})
    assert inline.run(graph) == [2 * i + 1 for i in range(5000)]
    assert graph.map and inline.pieces == 2 and inline.bytes < 5000 * 12


def test_map_over_futures_and_arrays() -> None:
    inline = Inline()
    source = inline.graph("s").set_map(operator.neg, [list(range(600))])
    assert inline.run(source)[599] == -599
    futures = [InlineFuture(source.run, task) for task in source.results]
    big = np.ones(300_000)
    graph = inline.graph("m")
    graph.set_map(
        lambda x, y, big, z: x + y + z + big.sum(), [futures, range(600)], {"big": big, "z": futures[3]}
    )
    assert inline.run(graph) == [300_000 - 3] * 600
    assert not graph.map and len(graph.brought) == 1
    deep = inline.graph("d").set_map(lambda x: x.held, [[Local(f) for f in futures]])
    assert inline.run(deep)[7] == -7
    options = Options(retries=2, resources=(("GPU", 1.0),))
    keyed = inline.graph("k").set_map(len, [["a", "bb"]], options=options, keys=["one", "two"])
    assert inline.run(keyed) == [1, 2] and inline.keys == ["one", "two"]
    assert inline.option_of["two"][1:4] == [2, 10_000, {"GPU": 10_000}]
    only = inline.graph("o").set_map(len, [["a", "bb"]], options=options)
    assert inline.run(only) == [1, 2] and only.map and inline.options[0][1] == 2
    assert inline.run(inline.graph("e").set_map(len, [[]])) == []
    assert inline.run(inline.graph("t").set_map(len, [["a" * 50_000] * 999]))[998] == 50_000


def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def mine(first, second, *, third=None):
        raise AssertionError

    with pytest.raises(TypeError, match=r"argument 2 \('second'\) of .*mine.*_thread.lock"):
        run((operator.add, (1, 2), {}), (mine, (1, lock), {}))
    with pytest.raises(TypeError, match=r"argument .third. of .*mine"):
        run((mine, (1,), {"third": [lock]}))
    with pytest.raises(TypeError, match=r"the function of .*cannot be sent"):
        run((lambda: lock, (), {}))
    with pytest.raises(TypeError, match=r"argument 1 \('obj'\) of len.*lock"):
        inline = Inline()
        inline.run(inline.graph().set_map(len, [[1, lock]]))


def test_a_function_that_cannot_be_loaded_fails_only_its_tasks() -> None:
    graph = calls(Inline().graph(), (lambda: 1, (), {}), (len, ("ab",), {}))
    (piece,) = graph.pieces()

    def missing(ident: bytes):
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    batch = _decode.Batch(bytes(piece.bytes), missing)
    assert batch.run(1, []) == 2
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        batch.run(0, [])


def test_a_missing_module_is_explained(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_helpers

    graph = calls(Inline().graph(), (my_helpers.twice, (4,), {}))
    (piece,) = graph.pieces()
    ((_, data),) = piece.functions
    assert b"my_helpers" in data and len(data) < 100, "by reference"
    assert _decode.load_function(data)(4) == 8
    sys.path.remove(str(tmp_path))
    del sys.modules["my_helpers"]
    with pytest.raises(ModuleNotFoundError) as caught:
        _decode.load_function(data)
    assert "upload_file" in "".join(getattr(caught.value, "__notes__", [])) + str(caught.value)


def test_main_module_by_value(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from dataclasses import dataclass
        from inline import Inline, in_columns

        FACTOR = 3

        @dataclass
        class Point:
            x: int

        def scale(p):
            return Point(p.x * FACTOR)

        inline = Inline()
        graph = inline.graph()
        entries = [graph.encoder.call(scale, (Point(i),), {}) for i in range(300)]
        graph.set_calls(in_columns(entries))
        pieces = list(graph.pieces())
        import pickle
        pickle.dump([(dict(pieces[0].functions), bytes(p.bytes), list(p.bytes_end)) for p in pieces],
                    open(sys.argv[1], "wb"))
        """)
    )
    out = tmp_path / "out"
    path = [p for p in sys.path if p]
    env = {"PYTHONPATH": ":".join(path)}
    subprocess.run([sys.executable, str(script), str(out)], check=True, env=env, timeout=60)
    import pickle

    ((functions, data, ends),) = pickle.loads(out.read_bytes())
    loaded = {ident: _decode.load_function(code) for ident, code in functions.items()}
    batch = _decode.Batch(data[: ends[0]], loaded.__getitem__)
    assert batch.run(7, []).x == 21 and type(batch.run(7, [])).__name__ == "Point"
    assert ends[0] < 256 * 128


def test_what_a_task_changes_no_other_sees() -> None:
    def grow(items, table=None, *, held):
        items.append(1)
        held.held += 1
        if table is not None:
            table["n"] = table.get("n", 0) + 1
            table["a"] += 1
        return len(items), held.held, table and (table["n"], table["a"].sum())

    items, held, table = [0], Local(1), {"a": np.zeros(3)}
    specs = [(grow, (items, table), {"held": held})] * 3 + [(grow, (items,), {"held": held})]
    inline = Inline()
    graph = calls(inline.graph(), *specs)
    assert inline.run(graph) == [(2, 2, (1, 3.0))] * 3 + [(2, 2, None)]
    assert inline.run_again(graph) == [(2, 2, (1, 3.0))] * 3 + [(2, 2, None)]
    mapped = inline.graph().set_map(grow, [[items] * 3, [table] * 3], {"held": held})
    assert inline.run(mapped) == [(2, 2, (1, 3.0))] * 3

    class Counter:
        n = 0

        def add(self, x):
            self.n += x
            return self.n

    assert inline.run(inline.graph().set_map(Counter().add, [[1, 2, 3]])) == [1, 2, 3]
