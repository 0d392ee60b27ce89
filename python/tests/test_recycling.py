"""Memory of results that is used again: on real executors and a real cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from clusters import until
from executors import receive

from hpcdag import _executor, _result

np = pytest.importorskip("numpy")
hpcdag = pytest.importorskip("hpcdag")

#: Elements; 8 MB.
LENGTH = 1_000_000


def test_an_executor_fills_what_it_is_lent(zygote: Any) -> None:
    executor = zygote.executor(version=3)
    descriptors = executor.run(lambda: sorted(os.listdir("/proc/self/fd")))
    for lent in (True, False):
        task = executor.start(np.full, LENGTH, 7.0)
        assert receive(executor.channel, _executor.ROOM).control == [8 * LENGTH]
        fd = os.memfd_create("lent")
        os.write(fd, bytes(100))
        theirs = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        executor.channel.send(_executor.LENT, None, [], [theirs] if lent else [])
        end, parts, _ = executor.done(task)
        assert end == "Succeeded" and (_result.loads(parts) == 7).all()
        assert os.stat(fd).st_size == (8 * LENGTH if lent else 100)
        os.close(fd)
        os.close(theirs)
    assert executor.run(lambda: sorted(os.listdir("/proc/self/fd"))) == descriptors
    # The worker goes while it is asked.
    executor.start(np.full, LENGTH, 7.0)
    receive(executor.channel, _executor.ROOM)
    executor.channel.socket.close()
    assert executor.exited() == (0, "")


def place(array: Any) -> int:
    """The file in which an array is, by its inode."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if start <= address < end:
                return int(line.split()[4])
    raise AssertionError("it is nowhere")


def test_who_keeps_an_array_keeps_its_bytes(own_state: Path) -> None:
    with (
        hpcdag.LocalCluster(1, 1, memory_limit=1 << 30) as cluster,
        hpcdag.Client(cluster) as client,
    ):

        def keep(array: Any) -> tuple[int, int]:
            sys.kept = array  # type: ignore[attr-defined]
            return os.getpid(), place(array)

        def look(array: Any, value: float) -> tuple[int, bool]:
            array += 1  # In a copy of one's own.
            return place(array), bool((array == value + 1).all())

        def kept(drop: bool) -> bool:
            sound = bool((sys.kept == 1).all())  # type: ignore[attr-defined]
            if drop:
                del sys.kept  # type: ignore[attr-defined]
            return sound

        numbers = iter(range(2, 10_000))

        def another() -> int:
            value = float(next(numbers))
            made = client.submit(np.full, LENGTH, value, pure=False)
            where, sound = client.submit(look, made, value, pure=False).result()
            assert sound
            return where

        first = client.submit(np.full, LENGTH, 1.0)
        pid, held = client.submit(keep, first).result()
        del first
        seen: set[int] = set()

        def is_used_again() -> bool:
            where = another()
            assert where != held
            again = where in seen
            seen.add(where)
            return again

        for _ in range(3):
            until(is_used_again)
        assert client.submit(kept, False, pure=False).result()
        assert client.submit(os.getpid, pure=False).result() == pid
        assert client.submit(kept, True, pure=False).result()
        until(lambda: another() == held)


def test_memory_that_waits_counts_and_is_given_up(own_state: Path) -> None:
    results, limit = 10, 600 << 20
    with (
        hpcdag.LocalCluster(1, 1, memory_limit=limit) as cluster,
        hpcdag.Client(cluster) as client,
    ):

        def process_bytes() -> int:
            (worker,) = client.scheduler_info()["workers"].values()
            return 0 if worker["metrics"]["managed_bytes"] else worker["metrics"]["memory"]

        def files_of_worker() -> int:
            """What the memory files occupy that the worker has open, bytes."""
            pid = os.getpid()
            for _ in range(2):  # The zygote, the worker.
                with open(f"/proc/{pid}/stat") as file:
                    pid = int(file.read().rpartition(")")[2].split()[1])
            total = 0
            for name in os.listdir(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(f"/proc/{pid}/fd/{name}").startswith("/memfd:hpcdag:"):
                        total += os.stat(f"/proc/{pid}/fd/{name}").st_blocks * 512
                except FileNotFoundError:
                    pass
            return total

        def ask() -> int:
            return client.submit(files_of_worker, pure=False).result()

        def crowd(nbytes: int, bound: int) -> None:
            taken = np.ones(nbytes // 8)
            until(lambda: files_of_worker() <= bound)
            assert taken[-1] == 1

        client.submit(np.full, LENGTH, 0.0).result()
        until(lambda: ask() <= 8 * LENGTH)
        until(process_bytes)
        before = process_bytes()
        made = client.map(np.full, [LENGTH] * results, range(results), pure=False)
        hpcdag.wait(made)
        assert ask() >= results * 8 * LENGTH
        del made
        until(lambda: process_bytes() >= before + (results - 2) * 8 * LENGTH)
        assert ask() >= (results - 2) * 8 * LENGTH
        # It goes before anything waits for memory, or has to end.
        client.submit(crowd, 280 << 20, 8 * LENGTH).result()
