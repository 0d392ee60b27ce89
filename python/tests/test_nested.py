"""Tasks that launch tasks, on a cluster with fewer slots than tasks that wait."""

from __future__ import annotations

import threading
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


def with_worker_client(n: int) -> int:
    with hpcdag.worker_client() as inner:
        assert hpcdag.get_client() is inner
        return sum(inner.gather(inner.map(lambda i: i * i, range(n), pure=False)))


def dask_on_the_cluster() -> tuple[float, bool]:
    import os

    import dask

    with hpcdag.worker_client():
        elsewhere = dask.delayed(os.getpid)().compute() != os.getpid()
    return float(dask.delayed(1.0).compute()), elsewhere


def steps_aside(n: int) -> int:
    """Waits in a way that we do not see: without `secede` it would wait for ever."""
    inner = hpcdag.get_client().submit(hpcdag.Event("others").set, pure=False)
    hpcdag.secede()
    hpcdag.secede()
    ended = threading.Event()
    inner.add_done_callback(lambda _: ended.set())
    assert ended.wait(60)
    hpcdag.rejoin()
    hpcdag.rejoin()
    return n


def test_worker_client(client: hpcdag.Client) -> None:
    assert client.gather(client.map(with_worker_client, [3, 4])) == [5, 14]
    assert client.submit(dask_on_the_cluster).result(timeout=100) == (1.0, True)


def test_secede_and_rejoin(client: hpcdag.Client) -> None:
    assert client.gather(client.map(steps_aside, [1, 2])) == [1, 2]
    # Also without `rejoin` nothing is left of it afterwards.
    client.submit(hpcdag.secede, pure=False).result(timeout=100)
    assert client.gather(client.map(abs, [-1, -2])) == [1, 2]


def test_what_is_for_tasks_only(client: hpcdag.Client) -> None:
    for call in (hpcdag.secede, hpcdag.rejoin, hpcdag.worker_client().__enter__):
        with pytest.raises(ValueError, match="for tasks"):
            call()
