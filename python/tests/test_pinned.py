"""Results that cannot be pickled live in the process that made them, and what depends on them runs there."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from clusters import until

import hpcdag
from hpcdag import Client, wait

# Of each of the two workers (conftest).
NTHREADS = 2


class Counter:
    """Something that lives in one process: it has a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        self.n = 0

    def add(self, n: int) -> int:
        with self.lock:
            self.n += n
            return self.n


def make(_: int = 0) -> Counter:
    return Counter()


def add(counter: Counter, n: int) -> tuple[bool, int]:
    return counter.pid == os.getpid(), counter.add(n)


def both(one: Counter, other: Counter) -> bool:
    return one is not other


def test_what_depends_on_it_runs_in_the_process_that_made_it(client: Client) -> None:
    counter = client.submit(make, pure=False)
    done = client.gather(client.map(add, [counter] * 100, range(100), pure=False))
    assert all(here for here, _ in done)
    assert max(n for _, n in done) == sum(range(100)), "it is the same object in all of them"
    assert counter.status == "finished"


def test_nobody_else_can_have_it_and_the_error_says_what_to_do(client: Client) -> None:
    counter = client.submit(make, pure=False)
    with pytest.raises(TypeError, match=r"result\.lock, a _thread.lock, cannot be pickled.*depends on it"):
        counter.result(60)
    with pytest.raises(TypeError, match="let the task return something that can be pickled"):
        client.gather([counter])
    assert client.submit(add, counter, 1).result(60) == (True, 1), "it is none the worse for it"


def test_two_of_them_from_different_processes_cannot_come_together(client: Client) -> None:
    names = sorted(worker["name"] for worker in client.scheduler_info()["workers"].values())
    counters = [client.submit(make, workers=[name], pure=False) for name in names]
    wait(counters, 60)
    either = f"({names[0]} and {names[1]}|{names[1]} and {names[0]})"
    with pytest.raises(hpcdag.TaskError, match=f"on workers {either}: make them in one task"):
        client.submit(both, *counters).result(60)
    with pytest.raises(hpcdag.TaskError, match=f"stays on worker {names[0]}, where it may not run"):
        client.submit(add, counters[0], 1, workers=[names[1]]).result(60)


def test_its_process_takes_it_along_and_it_is_made_again(client: Client) -> None:
    counter = client.submit(make, pure=False)
    pid = client.submit(lambda counter: counter.pid, counter, pure=False).result(60)
    assert client.submit(add, counter, 5).result(60) == (True, 5)
    os.kill(pid, signal.SIGKILL)
    # One that is on its way there before the worker knows of the end dies with it.
    again = client.submit(add, counter, 1, pure=False, retries=2)
    assert again.result(60) == (True, 1), "this is another one"
    assert client.submit(lambda counter: counter.pid, counter, pure=False).result(60) != pid


def test_a_task_that_kills_the_process_is_to_blame(client: Client) -> None:
    counter = client.submit(make, pure=False)
    bad = client.submit(lambda counter: os.kill(counter.pid, signal.SIGKILL), counter, pure=False)
    assert isinstance(bad.exception(60), hpcdag.KilledWorker)
    assert client.submit(add, counter, 1).result(60) == (True, 1)


def test_with_its_last_future_it_goes(client: Client, tmp_path: Any) -> None:
    gone = tmp_path / "gone"

    class Telltale(Counter):
        def __del__(self) -> None:
            gone.touch()

    future = client.submit(Telltale, pure=False)
    assert client.submit(add, future, 1).result(60) == (True, 1)
    assert not gone.exists()
    del future
    until(gone.exists)


def test_it_may_be_in_between_in_a_dask_graph(client: Client) -> None:
    delayed = pytest.importorskip("dask").delayed
    counter = delayed(make)()
    sums = [delayed(add)(counter, n) for n in range(10)]
    done = client.compute(delayed(list)(sums)).result(60)
    assert all(here for here, _ in done) and max(n for _, n in done) == 45
