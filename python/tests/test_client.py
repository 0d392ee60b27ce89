"""Clients of a real cluster: maps, data, options, executors, what is told of the cluster."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Iterator

import pytest

import hpcdag
from hpcdag import Client, LocalCluster, get_client, progress

np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(nworkers=2, nthreads=2, host="127.0.0.1", resources={"licence": 1}) as cluster:
        with Client(cluster, name="tests", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            yield client


def test_maps_are_numbered_calls(client: Client) -> None:
    futures = client.map(pow, range(1000), [2] * 1000)
    assert client.gather(futures) == [i * i for i in range(1000)]
    assert futures[7].key.startswith("pow-") and futures[7].key.endswith("-7")
    assert client.map(pow, []) == []
    assert client.gather(client.map(sum, [[1, i] for i in range(300)])) == [1 + i for i in range(300)]
    named = client.map(str, [1, 2], key=["first", "second"])
    assert [future.key for future in named] == ["first", "second"] and client.gather(named) == ["1", "2"]
    assert client.gather(client.map(lambda a, b=0: a + b, [1], b=5)) == [6]
    with pytest.raises(ValueError, match="3 keys for 2"):
        client.map(str, [1, 2], key=["a", "b", "c"])
    with pytest.raises(TypeError):
        client.map(3, [1])


def test_gather_keeps_structures(client: Client) -> None:
    one = client.submit(lambda: 1)
    assert client.gather({"a": [one, (one, 2)], "b": "text"}) == {"a": [1, (1, 2)], "b": "text"}
    assert client.gather(iter([one, one])) == [1, 1]
    assert client.gather([]) == [] and client.gather(one) == 1


def test_scattered_data_are_arguments(client: Client) -> None:
    array = np.arange(200_000.0)
    future = client.scatter(array)
    assert future.status == "finished" and client.submit(np.sum, future).result(30) == array.sum()
    assert (future.result(30) == array).all()
    a, b = client.scatter([1, "two"])
    assert client.gather([a, b]) == [1, "two"]
    named = client.scatter({"x": 5}, broadcast=True)
    assert named["x"].key == "x" and client.submit(lambda v: v + 1, named["x"]).result(30) == 6
    assert client.scatter([]) == []
    spread = client.scatter(list(range(8)))
    assert len(set(client.who_has(spread).values())) == 2


def test_large_arguments_and_results_travel(client: Client) -> None:
    array = np.ones(3_000_000)
    assert client.submit(np.sum, array).result(60) == 3_000_000
    assert client.submit(lambda d: d["x"].sum(), {"x": array}).result(60) == 3_000_000
    result = client.submit(np.ones, 6_000_000).result(60)
    assert result.flags.writeable and result.flags.aligned and result.sum() == 6_000_000
    result += 1
    futures = client.map(lambda n: np.full(n, 1.0), [400_000] * 8)
    assert sum(part.sum() for part in client.gather(futures)) == 3_200_000


def test_options_are_honoured(client: Client) -> None:
    names = [worker["name"] for worker in client.scheduler_info()["workers"].values()]
    for name in names:
        future = client.submit(os.getpid, workers=name, pure=False)
        future.result(30)
        assert client.who_has(future)[future.key] == tuple(
            address for address, w in client.scheduler_info()["workers"].items() if w["name"] == name
        )
    held = client.map(lambda _: time.time_ns(), range(4), resources={"licence": 1}, priority=5)
    assert len(client.gather(held)) == 4
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"time limit of 0\.3 s"):
        client.submit(time.sleep, 60, time_limit="300ms").result(60)
    assert time.monotonic() - begin < 30
    for wrong in ({"retries": -1}, {"memory": "lots"}, {"time_limit": "soon"}, {"nthreads": 0}):
        with pytest.raises(ValueError):
            client.submit(pow, 1, 1, **wrong)
    with pytest.raises(NotImplementedError):
        client.submit(pow, 1, 1, actor=True)


def test_something_runs_on_every_worker(client: Client) -> None:
    pids = client.run(os.getppid)
    assert set(pids) == set(client.nthreads()) and len(set(pids.values())) == 2
    one = next(iter(pids))
    assert set(client.run(os.getppid, workers=[one])) == {one}
    with pytest.raises(ZeroDivisionError):
        client.run(lambda: 1 / 0)


def test_modules_are_brought(client: Client, tmp_path) -> None:
    path = tmp_path / "brought_along.py"
    path.write_text("def answer():\n    return 42\n")

    def use() -> int:
        import brought_along

        return brought_along.answer()

    with pytest.raises(ImportError, match="brought_along"):
        client.submit(use).result(30)
    client.upload_file(path)
    assert client.submit(use).result(60) == 42


def test_an_executor_of_the_standard_library(client: Client) -> None:
    with client.get_executor(retries=1) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        futures = [executor.submit(pow, 2, i) for i in range(5)]
        done, _ = concurrent.futures.wait(futures, timeout=60)
        assert sorted(future.result() for future in done) == [1, 2, 4, 8, 16]
        assert list(executor.map(pow, [2, 3], [2, 2], timeout=60)) == [4, 9]
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result(60)
        slow = executor.submit(time.sleep, 120)
        assert slow.cancel() and slow.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 1, 1)


def test_progress_in_a_terminal(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    progress(client.map(lambda i: i, range(20)), notebook=False)
    assert capsys.readouterr().out.startswith("20 of 20")
    shown = progress(client.map(lambda i: i, range(20)), notebook=True)
    assert "<progress" in shown._repr_html_()


def test_which_client_is_meant(client: Client) -> None:
    with pytest.raises(ValueError, match="no hpcdag client"):
        get_client()
    with Client(client.scheduler_file) as first:
        assert get_client() is first
        with Client(client.scheduler_file) as second:
            assert get_client() is second
            with first.as_current():
                assert get_client() is first
        assert get_client() is first
        with Client(client.scheduler_file, set_as_default=False):
            assert get_client() is first
    with pytest.raises(ValueError):
        hpcdag.get_worker()


def test_arguments_of_clients(client: Client) -> None:
    with pytest.raises(TypeError, match="no argument 'colour'"):
        Client(client.scheduler_file, colour="red")
    with pytest.raises(TypeError, match="a cluster, a scheduler file or an address"):
        Client(3)
    with pytest.raises(hpcdag.RefusedError, match="address of Dask"):
        Client("tcp://127.0.0.1:8786")
    with pytest.raises(NotImplementedError):
        Client(client.scheduler_file, asynchronous=True)
    assert client.asynchronous is False and client.id.startswith("Client-tests-")


def test_dask_runs_here_while_a_client_lives(client: Client) -> None:
    da = pytest.importorskip("dask.array")
    with Client(client.scheduler_file) as own:
        x = da.ones((400, 400), chunks=100)
        assert (x + 1).sum().compute() == 320_000
        kept = (x * 2).persist()
        futures = hpcdag.futures_of(kept)
        assert len(futures) == 16 and kept.sum().compute() == 320_000
        assert own.compute(x.mean()).result(60) == 1.0
        from dask import delayed

        assert delayed(lambda a, b: a + b)(own.submit(pow, 2, 2), 1).compute() == 5


def test_a_restart_gives_fresh_processes(client: Client) -> None:
    with Client(client.scheduler_file, set_as_default=False) as own:
        old = own.submit(os.getpid)
        before = old.result(60)
        own.restart()
        with pytest.raises(concurrent.futures.CancelledError):
            old.result(60)
        with pytest.raises(hpcdag.HpcdagError):
            own.submit(lambda _: None, old).result(60)
        assert own.submit(os.getpid, pure=False).result(60) != before
