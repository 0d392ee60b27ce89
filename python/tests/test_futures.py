"""Futures of a real cluster: results, failures, waiting, what may be an argument."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from clusters import python, until

import hpcdag
from hpcdag import Client, Future, KilledWorker, LocalCluster, as_completed, wait


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(nworkers=2, nthreads=2, host="127.0.0.1") as cluster:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            yield client


def increment(value: int, by: int = 1) -> int:
    return value + by


def fail(text: str) -> None:
    raise ValueError(text)


def test_calls_and_their_results(client: Client) -> None:
    future = client.submit(increment, 1, by=2)
    assert isinstance(future, Future) and future.result(30) == 3
    assert future.status == "finished" and future.done() and not future.cancelled()
    assert future.exception(30) is None and future.traceback(30) is None
    assert future.key.startswith("increment-") and "finished" in repr(future)
    assert client.submit(lambda: None).result(30) is None


def test_futures_anywhere_in_arguments_are_results_there(client: Client) -> None:
    one, two = client.submit(increment, 0), client.submit(increment, 1)

    class Holder:
        def __init__(self, inner: object) -> None:
            self.inner = inner

    assert client.submit(sum, [one, two]).result(30) == 3
    assert client.submit(lambda d: d["a"][0] + d["b"], {"a": (one,), "b": two}).result(30) == 3
    assert client.submit(increment, one, by=two).result(30) == 3
    assert client.submit(lambda h: h.inner[1], Holder([one, two])).result(30) == 2
    assert client.gather(client.map(increment, [one, two], by=two)) == [3, 4]


def test_the_same_call_is_the_same_task(client: Client) -> None:
    a, b = client.submit(increment, 10), client.submit(increment, 10)
    assert a.key == b.key and a == b and a is not b
    assert client.submit(increment, 10, pure=False).key != a.key
    assert client.submit(increment, 11).key != a.key
    named = client.submit(increment, 1, key="mine")
    assert named.key == "mine" and client.submit(increment, 5, key="mine").result(30) == 2
    failed = client.submit(fail, "first")
    wait(failed, 30)
    again = client.submit(fail, "first")
    assert again != failed


def test_exceptions_are_the_tasks_own(client: Client) -> None:
    future = client.submit(fail, "no such thing")
    with pytest.raises(ValueError, match="no such thing") as caught:
        future.result(30)
    text = "\n".join(caught.value.__notes__) if sys.version_info >= (3, 11) else ""
    assert "in fail" in text or sys.version_info < (3, 11)
    assert isinstance(future.exception(), ValueError) and future.status == "error" and future.traceback()
    after = client.submit(increment, future)
    with pytest.raises(ValueError, match="no such thing"):
        after.result(30)
    with pytest.raises(ValueError, match="no such thing"):
        client.gather([client.submit(increment, 1), future])
    assert client.gather([client.submit(increment, 1), future], errors="skip") == [2]


def test_arguments_that_cannot_be_sent_are_named(client: Client) -> None:
    with pytest.raises(TypeError, match="argument 1"):
        client.submit(increment, threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        client.map(increment, [1, threading.Lock()])
    assert client.submit(increment, 1).result(30) == 2


def test_results_that_cannot_be_pickled_say_so(client: Client) -> None:
    with pytest.raises(Exception, match="pickle"):
        client.submit(threading.Lock).result(30)


def test_a_killed_process_is_told(client: Client) -> None:
    future = client.submit(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    with pytest.raises(KilledWorker, match="signal 11"):
        future.result(60)
    assert client.submit(increment, 1, pure=False).result(30) == 2


def test_waiting_has_its_limits(client: Client) -> None:
    slow = client.submit(time.sleep, 1.2)
    with pytest.raises(TimeoutError):
        slow.result(timeout=0.1)
    with pytest.raises(TimeoutError):
        slow.exception(timeout="100 ms")
    with pytest.raises(TimeoutError):
        wait([slow], timeout=0.1)
    assert slow.status == "pending"
    assert slow.result(30) is None


def test_cancelled_tasks_and_what_depends_on_them(client: Client) -> None:
    begin = time.monotonic()
    slow = client.submit(time.sleep, 120)
    after = client.submit(increment, slow)
    until(lambda: client._status()["tasks"])
    client.cancel([slow])
    for future in (slow, after):
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(30)
        assert future.cancelled() and isinstance(future.exception(30), hpcdag.CancelledError)
    assert time.monotonic() - begin < 30


def test_failed_tasks_can_be_tried_again(client: Client, tmp_path) -> None:
    path = tmp_path / "there"

    def needs(path: str) -> str:
        with open(path) as file:
            return file.read()

    future = client.submit(needs, str(path))
    after = client.submit(str.upper, future)
    with pytest.raises(FileNotFoundError):
        after.result(30)
    path.write_text("text")
    future.retry()
    assert future.result(30) == "text"
    assert after.result(30) == "TEXT"


def test_retries_are_made(client: Client, tmp_path) -> None:
    def once(path: str) -> str:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) < 3:
                raise OSError("not yet")
        return "now"

    assert client.submit(once, str(tmp_path / "count"), retries=4).result(60) == "now"


def test_as_completed_gives_them_as_they_come(client: Client) -> None:
    slow, quick = client.submit(lambda: time.sleep(0.6) or "slow"), client.submit(lambda: "quick")
    found = as_completed([slow, quick], with_results=True, timeout=30)
    assert next(found) == (quick, "quick") and found.count() == 1
    found.add(more := client.submit(increment, 1))
    assert dict(found) == {more: 2, slow: "slow"} and found.is_empty()
    failed = client.submit(fail, "late")
    with pytest.raises(ValueError, match="late"):
        list(as_completed([failed], with_results=True))
    ((_, error),) = as_completed([failed], with_results=True, raise_errors=False)
    assert isinstance(error, ValueError)
    many = client.map(increment, range(500))
    assert sum(len(batch) for batch in as_completed(many).batches()) == 500
    never = client.submit(time.sleep, 30)
    with pytest.raises(TimeoutError):
        next(as_completed([never], timeout=0.2))
    never.cancel()


def test_wait_tells_done_from_not_done(client: Client) -> None:
    slow, quick = client.submit(time.sleep, 2.5), client.submit(increment, 1)
    done, not_done = wait([slow, quick], timeout=30, return_when="FIRST_COMPLETED")
    assert done == {quick} and not_done == {slow}
    assert wait({"a": [quick]}).done == {quick}


def test_callbacks_are_called_in_another_thread(client: Client) -> None:
    called: list = []
    event = threading.Event()

    def call(future: Future) -> None:
        called.append((future.result(), threading.current_thread()))
        event.set()

    future = client.submit(increment, 41)
    future.add_done_callback(call)
    assert event.wait(30) and called[0][0] == 42
    assert called[0][1] is not threading.current_thread()


def test_futures_can_be_awaited(client: Client) -> None:
    async def both() -> tuple:
        one, two = client.submit(increment, 1), client.submit(increment, 2)
        found = [await one, await two]
        async for future in as_completed([one, two]):
            found.append(future.status)
        with pytest.raises(ValueError, match="awaited"):
            await client.submit(fail, "awaited")
        return tuple(found)

    assert asyncio.run(both()) == (2, 3, "finished", "finished")


def test_pickled_futures_are_references(client: Client) -> None:
    future = client.submit(increment, 6)
    again = pickle.loads(pickle.dumps(future))
    assert again == future and again.result(30) == 7
    del future
    assert again.result(30) == 7


def test_other_clients_can_take_a_future(client: Client) -> None:
    future = client.submit(increment, 20)
    assert future.result(30) == 21
    program = """
        import sys, pickle, hpcdag
        with hpcdag.Client(sys.argv[1]) as client:
            future = pickle.loads(bytes.fromhex(sys.argv[2]))
            print(future.result(30), client.submit(sum, [future, 1]).result(30))
    """
    done = python(program, client.scheduler_file, pickle.dumps(future).hex())
    assert done.stdout.split() == ["21", "22"], done.stderr
    assert future.result(30) == 21


def test_released_futures_are_of_no_use(client: Client) -> None:
    future = client.submit(increment, 30)
    future.release()
    with pytest.raises(concurrent.futures.CancelledError, match="released"):
        future.result()


def test_fire_and_forget_outlives_its_client(client: Client, tmp_path) -> None:
    path = tmp_path / "written"
    with Client(client.scheduler_file, set_as_default=False) as other:
        gate = other.submit(time.sleep, 0.3)
        hpcdag.fire_and_forget(other.submit(lambda _, p: open(p, "w").close(), gate, str(path)))
        del gate
    until(path.exists)


def test_results_of_lost_workers_are_made_again() -> None:
    with LocalCluster(nworkers=2, nthreads=1, host="127.0.0.1") as cluster:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            futures = client.map(increment, range(40))
            brought = client.scatter(7)
            assert sum(client.gather(futures)) == 820
            for worker in client.scheduler_info()["workers"].values():
                os.kill(worker["pid"], signal.SIGKILL)
            assert sum(client.gather(futures)) == 820
            # What no task has made cannot be made again.
            with pytest.raises(hpcdag.HpcdagError, match="brought by a client"):
                brought.result(60)


def test_what_the_scheduler_refuses_says_why(client: Client) -> None:
    future = client.submit(increment, 1, resources={"licences": 1e9})
    with pytest.raises(hpcdag.TaskError, match="refuses 'increment-.*more of a resource than any worker"):
        future.result(30)
    assert future.status == "lost"


def test_a_key_is_free_as_soon_as_its_last_future_is_gone(client: hpcdag.Client) -> None:
    for number in range(20):
        future = client.submit(int, number, key="the only one")
        assert future.result(timeout=60) == number
        del future


def test_nothing_waits_for_the_garbage_collector(client: Client) -> None:
    class Large:
        """Stands for an array that a function closes over."""

    large = Large()
    about = weakref.ref(large)
    gc.collect()
    gc.disable()
    try:
        made = client.map(lambda i, _=large: i, range(3), pure=False)
        assert client.gather(client.map(increment, made)) == [1, 2, 3]
        assert client.gather(client.submit(sum, made)) == 3
        futures = [weakref.ref(future) for future in made]
        del made, large
        client.submit(int, 1, pure=False).result(30)
        until(lambda: about() is None and not any(future() for future in futures))
    finally:
        gc.enable()
