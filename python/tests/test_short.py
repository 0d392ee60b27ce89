"""Short calls, of which executors get several at once: nothing may show that, whatever one of them does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import hpcdag

N = 400
ODD = 250  #: by then the worker knows that the others are short


@pytest.fixture(scope="module")
def client() -> Iterator[hpcdag.Client]:
    with (
        hpcdag.LocalCluster(nworkers=1, nthreads=2, memory_limit="2GiB") as cluster,
        hpcdag.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def narrow() -> Iterator[hpcdag.Client]:
    """A worker of its own for each test: once a call has waited for another one, the worker has a second
    thread, and what is lined up does not run in order any more."""
    with (
        hpcdag.LocalCluster(nworkers=1, nthreads=1, memory_limit="2GiB") as cluster,
        hpcdag.Client(cluster) as client,
    ):
        yield client


def waits_for_file(i: int, path: str) -> int:
    while i == ODD and not os.path.exists(path):
        time.sleep(0.01)
    return i


def dies(i: int) -> int:
    if i == ODD:
        os._exit(3)
    return i


def raises(i: int) -> int:
    if i % 7 == 0:
        print(f"said by {i}", file=sys.stderr)
        raise ValueError(f"no {i}")
    return i


def launches(i: int) -> int:
    if i == ODD:
        return hpcdag.get_client().submit(abs, -i).result(timeout=100)
    return i


def large(i: int) -> bytes:
    return bytes(100_000) if i % 50 == 0 else b"x" * i


def test_one_that_is_long_holds_up_nobody(client: hpcdag.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    futures = client.map(waits_for_file, range(N), path=str(go), pure=False)
    others = futures[:ODD] + futures[ODD + 1 :]
    hpcdag.wait(others, timeout=100)
    assert not futures[ODD].done()
    go.touch()
    assert client.gather(futures) == list(range(N))


def test_one_that_dies_takes_nobody_along(client: hpcdag.Client) -> None:
    # Often, for where in its batch it stands differs.
    for _ in range(5):
        futures = client.map(dies, range(N), pure=False)
        hpcdag.wait(futures, timeout=100)
        assert [i for i, f in enumerate(futures) if f.status == "error"] == [ODD]
    with pytest.raises(Exception, match="exit"):
        futures[ODD].result()
    rest = futures[:ODD] + futures[ODD + 1 :]
    assert client.gather(rest) == [i for i in range(N) if i != ODD]


def test_errors_are_those_of_their_calls(client: hpcdag.Client) -> None:
    futures = client.map(raises, range(N), pure=False)
    for i, future in enumerate(futures):
        if i % 7:
            assert future.result(timeout=100) == i
        else:
            error = future.exception(timeout=100)
            assert isinstance(error, ValueError) and str(error) == f"no {i}"


def test_one_that_waits_for_another_gets_it(narrow: hpcdag.Client) -> None:
    futures = narrow.map(launches, range(N), pure=False)
    assert narrow.gather(futures) == list(range(N))


def test_cancelled_ones_do_not_run(narrow: hpcdag.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    futures = narrow.map(waits_for_file, range(N), path=str(go), pure=False)
    hpcdag.wait(futures[:ODD], timeout=100)
    narrow.cancel(futures[ODD + 1 : ODD + 20])
    for future in futures[ODD + 1 : ODD + 20]:
        with pytest.raises(CancelledError):
            future.result(timeout=100)
    go.touch()
    rest = futures[: ODD + 1] + futures[ODD + 20 :]
    assert narrow.gather(rest) == [i for i in range(N) if not ODD < i < ODD + 20]


def test_one_that_runs_is_cancelled(narrow: hpcdag.Client, tmp_path: Path) -> None:
    futures = narrow.map(waits_for_file, range(N), path=str(tmp_path / "never"), pure=False)
    hpcdag.wait(futures[:ODD], timeout=100)
    narrow.cancel(futures[ODD : ODD + 1])
    rest = futures[:ODD] + futures[ODD + 1 :]
    assert narrow.gather(rest) == [i for i in range(N) if i != ODD]


def test_large_results_come_with_small_ones(client: hpcdag.Client) -> None:
    results = client.gather(client.map(large, range(N), pure=False))
    assert [len(r) for r in results] == [100_000 if i % 50 == 0 else i for i in range(N)]


def test_a_worker_is_meant_by_its_address(client: hpcdag.Client) -> None:
    address, worker = next(iter(client.scheduler_info()["workers"].items()))
    here = client.submit(os.environ.get, "HPCDAG_WORKER", workers=[address], pure=False)
    here.result(timeout=100)
    assert client.who_has([here]) == {here.key: (address,)}, worker
    with pytest.raises(Exception, match="no worker has the address"):
        client.submit(abs, -1, workers=["tls://127.0.0.1:1"], pure=False).result(timeout=100)
