"""What is shared by name, with a real scheduler and real processes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proxy import Proxy

from hpcdag import Client, LocalCluster, RefusedError, _share
from hpcdag._wire import SchedulerFile, parse_address
from hpcdag.locks import Event, Lock, MultiLock, Queue, Semaphore, Variable

PACKAGE = str(Path(_share.__file__).parents[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nworkers=1, nthreads=2, host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def file(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HPCDAG_SCHEDULER_FILE", cluster.scheduler_file)
    return cluster.scheduler_file


class Script:
    """A Python process that is told to go on line by line, and what it says. It is gone when the test is."""

    def __init__(self, text: str, *args: str, **variables: str) -> None:
        head = (
            "import sys\nfrom hpcdag.locks import *\n"
            "def say(word): print(word, flush=True)\ndef told(): return sys.stdin.readline()\n"
        )
        environment = {**os.environ, "PYTHONPATH": PACKAGE, **variables}
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(text), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        return self.process.wait(30)

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list]:
    """Runs `call` beside this; its result is the list's first element."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    return thread, results


def test_one_process_at_a_time(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """
        from pathlib import Path
        file, lock = Path(sys.argv[1]), Lock("counter")
        for _ in range(50):
            with lock:
                n = int(file.read_text())
                file.write_text(str(n + 1))
    """
    scripts = [Script(script, str(counter)) for _ in range(4)]
    assert [script.end() for script in scripts] == [0] * 4
    assert counter.read_text() == "200"
    assert not Lock("counter").locked()


def test_what_a_killed_process_holds_is_let_go() -> None:
    lock = Lock("killed")
    with Script("Lock('killed').acquire(); say('held'); told()", HPCDAG_EXECUTOR="1") as holder:
        assert holder.hear() == "held"
        assert lock.locked() and not lock.acquire(timeout=0) and not lock.acquire(blocking=False)
        thread, got = in_thread(lambda: lock.acquire(timeout=30))
        holder.process.kill()
        thread.join(30)
    assert got == [True]
    lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_an_interrupted_wait_leaves_nothing_behind() -> None:
    lock = Lock("interrupted")
    lock.acquire()
    script = """
        import threading
        from hpcdag import _share
        def watch():
            opened = []
            while not any(request.fields[3] == "Acquire" for request in opened):
                opened = [r for own in list(_share._own.values()) for r in list(own.board._open.values())]
            say("waits")
        threading.Thread(target=watch, daemon=True).start()
        try:
            Lock("interrupted").acquire()
        except KeyboardInterrupt:
            say("interrupted")
        told()
        say("still there")
    """
    with Script(script) as waits:
        assert waits.hear() == "waits"
        waits.process.send_signal(signal.SIGINT)
        assert waits.hear() == "interrupted"
        lock.release()
        assert lock.acquire(timeout=20), "nobody who waits no more has got it"
        lock.release()
        waits.tell()
        assert waits.hear() == "still there"


def test_names_travel() -> None:
    lock = Lock()
    copy = pickle.loads(pickle.dumps(lock))
    assert copy.name == lock.name == lock.token and Lock().name != lock.name
    with lock:
        assert copy.locked() and not copy.acquire(timeout=0)
        with pytest.raises(RuntimeError):
            copy.release()
    assert pickle.loads(pickle.dumps(Semaphore(3, "s"))).max_leases == 3
    assert pickle.loads(pickle.dumps(Queue("q", maxsize=2))).maxsize == 2
    long = "é" * 3000
    with Lock(long):
        assert Lock(long).locked() and not Lock(long + "x").locked()
    with pytest.raises(TypeError, match="string"):
        Lock(3)  # type: ignore[arg-type]


def test_dask_takes_it_for_a_lock() -> None:
    dask_array = pytest.importorskip("dask.array")
    numpy = pytest.importorskip("numpy")
    target = numpy.zeros(1000)
    lock = Lock("store")
    dask_array.store(dask_array.arange(1000, chunks=100), target, lock=lock, scheduler="threads")
    assert (target == numpy.arange(1000)).all() and not lock.locked()


def test_semaphores_and_several_locks() -> None:
    first, second, third = (Semaphore(2, "two") for _ in range(3))
    assert first.acquire() and second.acquire() and not third.acquire(timeout=0.05)
    assert third.get_value() == 2
    with pytest.raises(RefusedError, match="limited to 2"):
        Semaphore(3, "two").acquire()
    first.release()
    assert third.acquire(timeout="20 s")
    for semaphore in (second, third):
        semaphore.release()
    with MultiLock(["b", "a"]) as both:
        assert Lock("a").locked() and Lock("b").locked() and both.names == ["a", "b"]
        assert not MultiLock(["c", "b"]).acquire(timeout=0)
        assert not Lock("c").locked(), "all or none"
    assert not Lock("a").locked()


def test_events_variables_and_queues_join_processes() -> None:
    script = """
        numbers, results = Queue("numbers"), Queue("results", maxsize=1)
        Event("go").wait()
        factor = Variable("factor").get(timeout=20)
        for _ in range(20):
            results.put(factor * numbers.get(timeout=20))
    """
    with Script(script) as one, Script(script) as two:
        numbers, results = Queue("numbers"), Queue("results", maxsize=1)
        for n in range(40):
            numbers.put(n)
        assert not Event("go").is_set() and not Event("go").wait(timeout=0.05)
        Event("go").set()
        Variable("factor").set(10)
        assert sorted(results.get(timeout=20) for _ in range(40)) == [10 * n for n in range(40)]
        assert one.end() == two.end() == 0
    Event("go").clear()
    Variable("factor").delete()
    with pytest.raises(TimeoutError, match="no value"):
        Variable("factor").get(timeout=0)
    with pytest.raises(TimeoutError, match="is empty"):
        numbers.get(timeout=0)
    results.put("x")
    with pytest.raises(TimeoutError, match="is full"):
        results.put("y", timeout=0.05)
    assert (results.qsize(), results.get(batch=True), results.get(batch=True)) == (1, ["x"], [])
    with pytest.raises(ValueError, match=r"client\.scatter"):
        Variable("large").set(bytes(100_000))


def test_a_queue_that_is_closed_lets_nobody_wait() -> None:
    queue = Queue("closed")

    def get() -> str:
        try:
            return queue.get()
        except RefusedError as error:
            return str(error)

    thread, got = in_thread(get)
    while thread.is_alive():
        # It may not have begun to wait.
        queue.close()
        thread.join(0.05)
    assert "was closed" in got[0]


def test_a_client_that_is_cut_off_keeps_what_it_holds(cluster: LocalCluster) -> None:
    proxy = Proxy(parse_address(SchedulerFile.read(cluster.scheduler_file).address))
    try:
        with Client(cluster, address=proxy.address, set_as_default=False) as client:
            lock = Lock("cut", client)
            lock.acquire()
            waits, got = in_thread(lambda: Queue("cut", client).get(timeout=30))
            proxy.cut()
            assert not Lock("cut").acquire(timeout=0.1)
            lock.release()
            assert Lock("cut").acquire(timeout=20)
            Queue("cut").put("later")
            waits.join(30)
            assert got == ["later"]
    finally:
        proxy.close()


def test_a_client_that_ends_lets_go(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        Lock("ends", client).acquire()
        assert not Lock("ends").acquire(timeout=0)
    assert Lock("ends").acquire(timeout=20)


def test_executors_are_no_clients(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        before = client._session.ask("Status")["scheduler"]["clients"]
        with Script("Lock('count').acquire(); say('held'); told()") as script:
            assert script.hear() == "held"
            assert client._session.ask("Status")["scheduler"]["clients"] == before
