"""Tasks that launch tasks, on a cluster with fewer slots than tasks that wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hpcdag


def fibonacci(n: int) -> int:
    if n < 2:
        return n
    launched = hpcdag.get_client().map(fibonacci, [n - 1, n - 2], pure=False)
    return sum(future.result(timeout=100) for future in launched)


def total(n: int) -> int:
    client = hpcdag.get_client()
    futures = client.map(lambda i: i * i, range(n))
    return sum(future.result() for future in hpcdag.as_completed(futures))


def fails() -> None:
    hpcdag.get_client().submit(lambda: 1 / 0).result()


def array_mean() -> float:
    import dask.array as da

    return float(da.ones((40, 40), chunks=(10, 10)).mean().compute())


@pytest.fixture(scope="module")
def client() -> Iterator[hpcdag.Client]:
    with (
        hpcdag.LocalCluster(nworkers=1, nthreads=1, memory_limit="2GiB") as cluster,
        hpcdag.Client(cluster) as client,
    ):
        yield client


def test_every_slot_is_taken_by_tasks_that_wait(client: hpcdag.Client) -> None:
    assert client.submit(fibonacci, 5).result(timeout=100) == 5


def test_several_at_a_time(client: hpcdag.Client) -> None:
    futures = client.map(total, [3, 4, 5], pure=False)
    assert client.gather(futures) == [5, 14, 30]
    # Their slots are all given back: what comes next runs one at a time, and all of it.
    assert client.gather(client.map(lambda i: i + 1, range(20))) == list(range(1, 21))
    status = client.scheduler_info()
    assert status["workers"]


def test_a_failure_comes_out_of_the_outer_task(client: hpcdag.Client) -> None:
    with pytest.raises(ZeroDivisionError):
        client.submit(fails).result(timeout=100)


def test_dask_in_a_task(client: hpcdag.Client) -> None:
    assert client.submit(array_mean).result(timeout=100) == 1.0


def test_a_task_that_waits_can_be_cancelled(client: hpcdag.Client) -> None:
    outer = client.submit(lambda: hpcdag.Event("never").wait(), pure=False)
    inner = client.submit(total, 3, pure=False)
    outer.cancel()
    assert inner.result(timeout=100) == 5
