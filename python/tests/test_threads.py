"""Executor processes of several threads: they share a process, and nothing else gets mixed up."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import until

import hpcdag
from hpcdag import Client, LocalCluster
from hpcdag._binary import ask

THREADS = 4


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = {"kill-grace": "500ms"}
    with LocalCluster(1, THREADS, processes=1, worker_options=options) as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield client


def shared(name: str, make: Callable[[], Any]) -> Any:
    """What all calls in a process have in common."""
    objects: dict[str, Any] = sys.__dict__.setdefault("_shared_by_tests", {})
    return objects.setdefault(name, make())


def meet(name: str, n: int = THREADS) -> None:
    """Returns once so many calls in this process have come here."""
    shared(name, lambda: threading.Barrier(n)).wait(60)


def where() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def met(name: str, n: int, _: int) -> tuple[int, int]:
    meet(name, n)
    return where()


def text(client: Client, of: str) -> str:
    parts = ask(["logs", of, "--scheduler-file", client.scheduler_file])["parts"]
    return parts[0]["text"] if parts else ""


def test_calls_of_one_process_run_at_the_same_time(client: Client) -> None:
    futures = [client.submit(met, "same time", THREADS, i, pure=False) for i in range(THREADS)]
    places = client.gather(futures)
    assert len({pid for pid, _ in places}) == 1 and len({ident for _, ident in places}) == THREADS


def test_work_is_spread_over_the_processes() -> None:
    with LocalCluster(1, 4, processes=2) as cluster, Client(cluster, set_as_default=False) as client:
        # They can only meet if each process has two of them.
        futures = [client.submit(met, "spread", 2, i, pure=False) for i in range(4)]
        places = client.gather(futures)
        pids = [pid for pid, _ in places]
        assert len(set(pids)) == 2 and len(set(places)) == 4


def prints(name: str, i: int) -> None:
    print(f"{name} {i} begins ", end="")
    meet(name)
    print("and goes on")
    meet(name)
    logging.getLogger(name).warning("logged by %s", i)
    sys.stderr.write(f"wrong {i}\n")


def test_prints_are_those_of_their_task(client: Client) -> None:
    futures = [client.submit(prints, "prints", i, key=f"prints-{i}") for i in range(THREADS)]
    client.gather(futures)
    for i in range(THREADS):
        expected = [f"prints {i} begins and goes on", f"logged by {i}", f"wrong {i}"]
        assert sorted(text(client, f"prints-{i}").splitlines()) == sorted(expected)


def short(i: int) -> int:
    print(f"number {i}")
    return i


def test_prints_of_short_calls_that_go_together(client: Client) -> None:
    futures = client.map(short, range(400), key="short")
    assert client.gather(futures) == list(range(400))
    for i in range(0, 400, 7):
        assert text(client, futures[i].key) == f"number {i}\n"


def test_what_a_program_prints_is_not_lost(client: Client) -> None:
    def task() -> None:
        subprocess.run(["echo", "by a process"], check=True)
        os.write(2, b"past Python\n")
        print("x" * 300_000)
        os.write(1, b"y" * 300_000)

    future = client.submit(task, key="speaks")
    future.result(60)
    said = text(client, "speaks")
    assert "y" * 1000 in said


def current(name: str) -> str:
    before = hpcdag._tasks.current()
    meet(name)
    task = hpcdag._tasks.current()
    assert task is not None and task is before
    return task.key


def test_each_task_knows_which_one_it_is(client: Client) -> None:
    keys = [f"current-{i}" for i in range(THREADS)]
    assert client.gather([client.submit(current, "current", key=key) for key in keys]) == keys


def double(n: int) -> int:
    return 2 * n


def launches(name: str, i: int) -> int:
    meet(name)
    with hpcdag.worker_client() as own:
        return own.submit(double, i, pure=False).result(60)


def test_tasks_that_wait_for_tasks_in_all_threads(client: Client) -> None:
    futures = [client.submit(launches, "launches", i, pure=False) for i in range(THREADS)]
    assert client.gather(futures) == [0, 2, 4, 6]


def dask_s(name: str, i: int) -> list[Any]:
    dask = pytest.importorskip("dask")
    before = dask.config.get("scheduler", None)
    meet(name)
    with hpcdag.worker_client():
        meet(name)
        inside = dask.delayed(double)(i).compute()
        # They leave one after the other, in any order.
    meet(name)
    return [before, inside, dask.config.get("scheduler", None)]


def test_dask_s_scheduler_is_as_before_after_several_were_in_worker_client(client: Client) -> None:
    futures = [client.submit(dask_s, "dask", i, pure=False) for i in range(THREADS)]
    assert client.gather(futures) == [["synchronous", 2 * i, "synchronous"] for i in range(THREADS)]


def goes_on(name: str, i: int) -> int:
    started = shared(name, dict)
    started[i] = where()
    while i not in shared(name + " end", set):
        time.sleep(0.001)
    return os.getpid()


def started(name: str) -> dict[int, tuple[int, int]]:
    return dict(shared(name, dict))


def end(name: str, i: int) -> None:
    shared(name + " end", set).add(i)


def test_one_is_cancelled_and_the_others_go_on(client: Client) -> None:
    n = THREADS - 1
    futures = [client.submit(goes_on, "cancel", i, pure=False) for i in range(n)]
    until(lambda: len(client.submit(started, "cancel", pure=False).result()) == n)
    pid = client.submit(os.getpid, pure=False).result()
    # The main thread's too, which is another way.
    for i in (0, 2):
        futures[i].cancel()
        with pytest.raises(hpcdag.CancelledError):
            futures[i].result(60)
    # Their threads are free again.
    places = client.gather([client.submit(met, "free", n, i, pure=False) for i in range(n)])
    assert {place for place, _ in places} == {pid}
    client.submit(end, "cancel", 1, pure=False).result()
    assert futures[1].result(60) == pid


def test_a_time_limit_is_that_of_one(client: Client) -> None:
    other = client.submit(goes_on, "limit", 0, pure=False)
    late = [client.submit(goes_on, "limit", i, time_limit="300ms", pure=False) for i in (1, 2)]
    for future in late:
        with pytest.raises(hpcdag.TimeLimitExceeded):
            future.result(60)
    client.submit(end, "limit", 0, pure=False).result()
    assert other.result(60) == client.submit(os.getpid, pure=False).result()


def again(path: Path) -> list[int]:
    """Which processes have begun this; waits in the first one."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    pids = [int(line) for line in path.read_text().splitlines()]
    while len(pids) == 1:
        time.sleep(0.001)
    return pids


def blocks(path: Path) -> None:
    path.write_text(f"{os.getpid()}\n")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    threading.Lock().acquire() and time.sleep(600)


def begun(*paths: Path) -> bool:
    return all(path.exists() and path.read_text().endswith("\n") for path in paths)


def test_those_beside_one_that_had_to_be_killed_run_again(client: Client, tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(3)]
    others = [client.submit(again, path, pure=False) for path in paths[:2]]
    until(lambda: begun(*paths[:2]))
    stuck = client.submit(blocks, paths[2], pure=False)
    until(lambda: begun(paths[2]))
    stuck.cancel()
    with pytest.raises(hpcdag.CancelledError):
        stuck.result(60)
    for first, *more in client.gather(others):
        assert first == int(paths[2].read_text()) and len(more) == 1 and more[0] != first
    # Both in the next one.
    assert len({path.read_text() for path in paths[:2]}) == 1


def dies(how: str, paths: list[Path]) -> None:
    while not begun(*paths):
        time.sleep(0.001)
    if how == "exit":
        os._exit(7)
    print("about to", flush=True)
    ctypes.string_at(0)


@pytest.mark.parametrize("how", ["exit", "signal"])
def test_who_ends_the_process_is_blamed_and_nobody_else(client: Client, tmp_path: Path, how: str) -> None:
    paths = [tmp_path / str(i) for i in range(2)]
    others = [client.submit(again, path, pure=False) for path in paths]
    culprit = client.submit(dies, how, paths, pure=False)
    with pytest.raises(hpcdag.KilledWorker, match="exit status 7" if how == "exit" else "SIGSEGV") as caught:
        culprit.result(60)
    for first, *more in client.gather(others):
        assert len(more) == 1 and more[0] != first
    if how == "signal":
        assert "in dies" in str(caught.value), "with Python's own stack"


def test_the_only_one_in_a_process_is_blamed_at_once(client: Client, tmp_path: Path) -> None:
    def counted() -> None:
        with (tmp_path / "runs").open("a") as file:
            file.write("run\n")
        dies("signal", [])

    with pytest.raises(hpcdag.KilledWorker) as caught:
        client.submit(counted, pure=False).result(60)
    said = str(caught.value)
    assert "about to" in said and "in dies" in said, "with Python's own stack"
    assert (tmp_path / "runs").read_text() == "run\n"


class Counter:
    """Something that lives in one process: it has a lock."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(THREADS)
        self.pid = os.getpid()


def use(counter: Counter, _: int) -> bool:
    counter.barrier.wait(60)
    return counter.pid == os.getpid()


def test_live_objects_are_used_by_all_threads_at_once(client: Client) -> None:
    counter = client.submit(Counter, pure=False)
    assert all(client.gather(client.map(use, [counter] * THREADS, range(THREADS), pure=False)))


def test_arrays_arrive_and_leave_whole(client: Client) -> None:
    numpy = pytest.importorskip("numpy")

    def make(i: int) -> Any:
        return numpy.full(400_000, i)

    def add(one: Any, other: Any) -> Any:
        one += other
        return one

    arrays = client.map(make, range(24), pure=False)
    sums = client.map(add, arrays, arrays[1:] + arrays[:1], pure=False)
    for i, total in enumerate(client.gather(sums)):
        assert (total == i + (i + 1) % 24).all()


def counts(name: str, path: Path, rounds: int) -> None:
    meet(name)
    for _ in range(rounds):
        with hpcdag.Lock("counting"):
            n = int(path.read_text() or 0)
            path.write_text(str(n + 1))


def test_locks_keep_threads_of_one_process_apart_too(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("")
    futures = [client.submit(counts, "lock", path, 10, pure=False) for _ in range(THREADS)]
    client.gather(futures)
    assert path.read_text() == str(10 * THREADS)


def test_dask_s_arrays(client: Client) -> None:
    da = pytest.importorskip("dask.array")
    x = da.arange(400_000, chunks=10_000).reshape((400, 1000))
    with client.as_current():
        total = (x + x.T.sum()).sum(axis=0).compute(scheduler=client)
    n = x.compute(scheduler="synchronous")
    assert (total == (n + n.T.sum()).sum(axis=0)).all()


def turn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def twist(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def test_profiles_are_those_of_each_thread(client: Client) -> None:
    futures = [client.submit(work, 3.0, key=f"{work.__name__}-1") for work in (turn, twist)]
    client.gather(futures)

    def seen() -> bool:
        groups = client._session.ask({"View": {"Profile": [None, None, None]}})["groups"]
        samples = {group["name"]: group["samples"] for group in groups}
        return min(samples.get("turn", 0), samples.get("twist", 0)) > 4

    until(seen)
    for name in ("turn", "twist"):
        root = client._session.ask({"View": {"Profile": [None, name, None]}})["root"]
        # Loading the function may have been seen, too.
        assert {child["name"] for child in root["children"]} & {"turn", "twist"} == {name}


def test_declared_memory_is_a_limit_on_one_call_only() -> None:
    with LocalCluster(1, 2, processes=1, worker_options={"memory.enforce": True}) as cluster:
        with Client(cluster, set_as_default=False) as client:
            usual = client.submit(os.getpid, pure=False).result()
            limited = client.submit(os.getpid, pure=False, memory="200 MiB").result()
            assert limited != usual == client.submit(os.getpid, pure=False).result()
