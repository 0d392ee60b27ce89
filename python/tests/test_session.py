"""Finding schedulers, the connection to one, and what becomes of it when it is cut."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import python, until
from proxy import Proxy

from hpcdag import Client, LocalCluster, NoSchedulerError, RefusedError
from hpcdag._wire import SchedulerFile, parse_address


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nworkers=1, nthreads=2, host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture
def proxy(cluster: LocalCluster) -> Iterator[Proxy]:
    proxy = Proxy(parse_address(SchedulerFile.read(cluster.scheduler_file).address))
    yield proxy
    proxy.close()


def test_a_client_sees_its_cluster(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=10)
        info = client.scheduler_info()
        (worker,) = info["workers"].values()
        assert worker["nthreads"] == 2 and info["id"] == SchedulerFile.read(cluster.scheduler_file).id
        assert client.nthreads() == {next(iter(info["workers"])): 2}
        assert "workers=1 threads=2" in repr(client)
        assert "<table>" in client._repr_html_()
        with pytest.raises(TimeoutError, match="3 workers"):
            client.wait_for_workers(3, timeout=0.2)
        assert client.status == "running"
    assert client.status == "closed" and "closed" in repr(client)


def test_keys_are_left_nowhere(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    SchedulerFile.read(cluster.scheduler_file).context()
    assert set(os.listdir("/proc/self/fd")) == before
    monkeypatch.delattr(os, "memfd_create")
    SchedulerFile.read(cluster.scheduler_file).context()
    assert not list(tmp_path.glob(".hpcdag-*"))
    assert "PRIVATE" not in repr(SchedulerFile.read(cluster.scheduler_file))


def test_files_that_others_can_touch_are_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    copy = tmp_path / "s.json"
    text = Path(cluster.scheduler_file).read_text()
    copy.write_text(text)
    copy.chmod(0o640)
    with pytest.raises(RefusedError, match=r"can be used by others than you \(mode 640\)"):
        Client(copy, timeout=0)
    copy.chmod(0o600)
    Client(copy, set_as_default=False).close()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RefusedError):
            Client(path, timeout=0)
    with pytest.raises(NoSchedulerError, match="there is no file"):
        Client(tmp_path / "none", timeout=0)
    for wrong, why in [
        (text[:100], "half written"),
        ('{"type": "Scheduler"}', "is it Dask's"),
        ("[1]", "not a sch"),
    ]:
        copy.write_text(wrong)
        with pytest.raises((RefusedError, NoSchedulerError), match=why):
            Client(copy, timeout=0)
    old = json.loads(text) | {"protocol": 1}
    copy.write_text(json.dumps(old))
    with pytest.raises(RefusedError, match="protocol 1"):
        Client(copy, timeout=0)


def test_other_users_files_are_refused(tmp_path: Path) -> None:
    path = Path("/etc/passwd")
    if os.geteuid() == 0:
        path = tmp_path / "given"
        path.write_text("{}")
        path.chmod(0o600)
        os.chown(path, 12345, -1)
    with pytest.raises(RefusedError, match="belongs to user"):
        Client(path, timeout=0)


def test_the_scheduler_of_another_cluster_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    found = json.loads(Path(cluster.scheduler_file).read_text())
    found["id"] = "another"
    path = tmp_path / "s.json"
    path.write_text(json.dumps(found))
    path.chmod(0o600)
    with pytest.raises(RefusedError, match="is not the scheduler of cluster another"):
        Client(path, timeout=0)
    found["address"] = "tls://127.0.0.1:1"
    path.write_text(json.dumps(found))
    begin = time.monotonic()
    with pytest.raises(NoSchedulerError, match="nobody answers at tls://127.0.0.1:1"):
        Client(path, timeout=0.5)
    assert time.monotonic() - begin < 5


def test_schedulers_are_found_as_by_the_command_line(
    cluster: LocalCluster, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSchedulerError, match="no cluster of yours is running"):
        Client(timeout=0)
    text = Path(cluster.scheduler_file).read_text()

    def put(path: Path, content: str = text) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
        return path

    state = own_state / "state" / "hpcdag"
    gone = json.dumps(json.loads(text) | {"address": "tls://127.0.0.1:1"})
    put(state / "dead" / "scheduler.json", gone)
    with pytest.raises(NoSchedulerError, match="no cluster of yours answers"):
        Client(timeout=0)
    one = put(state / "one" / "scheduler.json")
    with Client(set_as_default=False) as client:
        assert client.scheduler_file == str(one)
    put(state / "two" / "scheduler.json")
    with pytest.raises(RefusedError, match="2 clusters of yours are alive"):
        Client(timeout=0)
    configured = put(own_state / "configured.json")
    put(own_state / "config/hpcdag/config.toml", f"[network]\nscheduler-file = '{configured}'\n")
    with Client(set_as_default=False) as client:
        assert client.scheduler_file == str(configured)
    monkeypatch.setenv("HPCDAG_SCHEDULER_FILE", str(one))
    with Client(set_as_default=False) as client:
        assert client.scheduler_file == str(one)
    with Client(scheduler_file=configured, set_as_default=False) as client:
        assert client.scheduler_file == str(configured)


def test_a_question_survives_a_cut(cluster: LocalCluster, proxy: Proxy) -> None:
    with Client(cluster, address=proxy.address, set_as_default=False) as client:
        assert client.nthreads() and proxy.connections == 1
        proxy.shut()
        until(lambda: client.status == "connecting")
        answers: list = []
        thread = threading.Thread(target=lambda: answers.append(client.nthreads()))
        thread.start()
        until(lambda: client._session._asked)
        proxy.open()
        thread.join(20)
        assert answers and client.status == "running" and proxy.connections == 2
        # It is the same session for the scheduler.
        assert client._session.ask("Status")["scheduler"]["clients"] >= 1


def test_questions_that_were_asked_before_a_cut_are_answered_after_it(
    cluster: LocalCluster, proxy: Proxy
) -> None:
    with Client(cluster, address=proxy.address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=10)
        outcome: list = []

        def wait() -> None:
            try:
                client.wait_for_workers(5, timeout=3)
            except TimeoutError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: client._session._asked)
        proxy.cut()
        thread.join(30)
        assert "1 of 5 workers" in outcome[0] and proxy.connections >= 2


def test_closing_without_a_connection_is_quick(cluster: LocalCluster, proxy: Proxy) -> None:
    client = Client(cluster, address=proxy.address, set_as_default=False)
    proxy.shut()
    until(lambda: client.status == "connecting")
    begin = time.monotonic()
    client.close()
    assert time.monotonic() - begin < 3
    assert not client._session._thread.is_alive()


def test_the_end_of_the_cluster_is_told(tmp_path: Path) -> None:
    with LocalCluster(nworkers=1, nthreads=1, host="127.0.0.1") as cluster:
        client = Client(cluster, set_as_default=False)
        client.shutdown()
        assert client.status == "closed"
        with pytest.raises(Exception, match="closed|stopped"):
            client.nthreads()


def test_the_interpreter_ends_quickly_and_silently(cluster: LocalCluster) -> None:
    program = """
        import sys, time, hpcdag
        client = hpcdag.Client(sys.argv[1])
        client.nthreads()
        print(time.time())
    """
    done = python(program, cluster.scheduler_file)
    assert done.returncode == 0 and done.stderr == ""
    assert time.time() - float(done.stdout) < 3


def test_a_forked_child_leaves_the_connection_alone(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        client.nthreads()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = b"nothing"
            try:
                client.nthreads()
            except Exception as error:
                said = str(error).encode()
            os.write(write, said)
            with Client(cluster, set_as_default=False) as own:
                os.write(write, b" " + str(len(own.nthreads())).encode())
            client.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.close(write)
        with os.fdopen(read) as file:
            assert "a forked process cannot use" in (text := file.read()) and text.endswith(" 1")
        assert status == 0
        assert client.nthreads()
        assert client.status == "running"


def test_addresses() -> None:
    assert parse_address("tls://[fd00::2]:4000") == ("fd00::2", 4000)
    assert parse_address("node:1") == ("node", 1)
    for wrong in ("tcp://a:1", "a", "tls://a:0", "tls://:1", "a:x"):
        with pytest.raises(ValueError):
            parse_address(wrong)


def test_runs_and_results_survive_cuts(cluster: LocalCluster, proxy: Proxy) -> None:
    with Client(cluster, address=proxy.address, set_as_default=False) as client:
        done = client.submit(pow, 2, 5)
        assert done.result(30) == 32
        gate = client.submit(time.sleep, 0.5)
        slow = client.submit(lambda _: "slow", gate)
        client._session.accepted(slow._run, 10)
        proxy.shut()
        until(lambda: client.status == "connecting")
        # Submitted and dropped while there is no connection.
        meanwhile = client.map(lambda a: a + 1, range(5000))
        after = client.submit(sum, [done, slow_length(client, slow)])
        dropped = client.submit(pow, 3, 3)
        del dropped
        proxy.open()
        assert slow.result(30) == "slow"
        assert client.gather(meanwhile) == list(range(1, 5001))
        assert after.result(30) == 36
        assert done.result(30) == 32
        until(lambda: not client._session._unconfirmed)


def slow_length(client: Client, slow):
    return client.submit(len, slow)


def test_cuts_while_a_large_run_is_being_sent(cluster: LocalCluster, proxy: Proxy) -> None:
    with Client(cluster, address=proxy.address, set_as_default=False) as client:
        stop = threading.Event()

        def cut_again_and_again() -> None:
            while not stop.wait(0.05):
                proxy.cut()

        cutter = threading.Thread(target=cut_again_and_again)
        cutter.start()
        # Text that compresses to nothing: several pieces.
        futures = client.map(len, [f"{i:0100}" for i in range(50_000)])
        threading.Event().wait(0.3)
        stop.set()
        cutter.join()
        assert client.gather(futures) == [100] * 50_000
        assert proxy.connections > 1


def test_what_nobody_refers_to_is_released(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        futures = client.map(lambda a: a, range(1000))
        one = client.submit(sum, futures[:10])
        assert one.result(30) == 45
        assert client._session.book.runs
        del futures
        until(lambda: len(client._session.book.runs) == 1)
        del one
        until(lambda: not client._session.book.runs and not client._session.book.keys)
        until(lambda: client._status()["tasks"].get("released", 0) >= 0 and results(client) == 0)


def results(client: Client) -> int:
    return sum(worker["results"] for worker in client._status()["workers"])


def test_the_interpreter_ends_quickly_with_work_pending(cluster: LocalCluster) -> None:
    program = """
        import sys, time, hpcdag
        client = hpcdag.Client(sys.argv[1])
        futures = client.map(time.sleep, [60] * 100)
        more = client.submit(time.sleep, 61)
        print(time.time())
    """
    done = python(program, cluster.scheduler_file)
    assert done.returncode == 0 and done.stderr == ""
    assert time.time() - float(done.stdout) < 4
    # And what it had asked for does not go on.
    with Client(cluster, set_as_default=False) as client:
        assert client.submit(pow, 2, 2).result(30) == 4


def test_ctrl_c_leaves_the_future_usable(cluster: LocalCluster) -> None:
    program = """
        import sys, os, signal, threading, time, hpcdag
        client = hpcdag.Client(sys.argv[1])
        future = client.submit(lambda: time.sleep(1.5) or "there")
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            future.result()
        except KeyboardInterrupt:
            print("interrupted")
        print(future.result(30))
    """
    done = python(program, cluster.scheduler_file)
    assert done.stdout.split() == ["interrupted", "there"], done.stderr
