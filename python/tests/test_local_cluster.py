"""LocalCluster: it comes up, it scales, and nothing of it is left, however its process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcdag import Client, HpcdagError, LocalCluster
from hpcdag.cluster import setting_text, size_option, variable


def until(true: Callable[[], bool], limit: float = 20.0) -> None:
    """Waits until something is true."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < limit, "never"
        time.sleep(0.02)


def processes_of(scheduler_file: str) -> list[str]:
    """Command lines of the processes that know a scheduler file."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if scheduler_file.encode() in words and str(os.getpid()) != path.parent.name:
            found.append(b" ".join(words).decode(errors="replace"))
    return found


def test_a_cluster_comes_up_and_leaves_nothing(own_state: Path) -> None:
    with LocalCluster(2, nthreads=3, memory_limit="512 MiB", resources={"gpus": 2}) as cluster:
        workers = cluster.workers()
        assert [worker["threads"] for worker in workers] == [3, 3]
        assert {worker["memory"]["limit"] for worker in workers} == {512 << 20}
        assert {worker["resources"]["gpus"] for worker in workers} == {2}
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert {"scheduler"} < set(cluster.get_logs())
        assert repr(cluster) == "<LocalCluster: 2 workers, 6 threads, 1.0 GiB>"
        assert processes_of(cluster.scheduler_file)
    assert processes_of(cluster.scheduler_file) == []
    assert not os.path.exists(os.path.dirname(cluster.scheduler_file))
    assert list((own_state / "state" / "hpcdag").iterdir()) == []
    assert cluster.status == "closed" and repr(cluster) == "<LocalCluster: closed>"
    cluster.close()
    with pytest.raises(HpcdagError, match="is closed"):
        cluster.workers()


def test_dask_s_names_of_the_arguments() -> None:
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        assert [worker["threads"] for worker in cluster.workers()] == [2]
    with pytest.raises(TypeError, match="'n_worker'"):
        LocalCluster(n_worker=1)


def test_the_dashboard_is_where_the_link_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(0, dashboard_address=":0") as cluster:
        link = cluster.dashboard_link
        assert link is not None and link.startswith("http://127.0.0.1:")
        place, token = link.split("?token=")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(link) as page:
            assert page.url == place and b"<!doctype html>" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(place)
        with Client(cluster) as client:
            assert client.dashboard_link == link
            for text in (cluster._repr_html_(), client._repr_html_()):
                assert place in text and token not in text
            monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
            port = place.rstrip("/").rsplit(":", 1)[1]
            assert client.dashboard_link == f"/user/me/proxy/{port}/?token={token}"
    with LocalCluster(0, dashboard_address=None) as cluster:
        assert cluster.dashboard_link is None


def test_scale_up_and_down_and_from_nothing() -> None:
    with LocalCluster(0, nthreads=1, memory_limit=256 << 20) as cluster:
        assert cluster.workers() == []
        cluster.scale(3)
        assert [worker["memory"]["limit"] for worker in cluster.workers()] == [256 << 20] * 3
        with pytest.raises(TimeoutError, match="3 of 4 workers"):
            cluster.wait_for_workers(4, timeout=0.2)
        cluster.scale(1)
        until(lambda: len(cluster.workers()) == 1)
        cluster.adapt(maximum=2)
        assert len(cluster.workers()) == 2


def test_options_reach_scheduler_and_workers(own_state: Path) -> None:
    with pytest.raises(HpcdagError, match="no setting 'scheduler.saturatoin'") as caught:
        LocalCluster(1, scheduler_options={"saturatoin": 2})
    assert "did you mean 'saturation'?" in str(caught.value)
    directory = own_state / "scratch"
    with LocalCluster(1, local_directory=directory, worker_options={"memory.spill": False}) as cluster:
        until(lambda: any(directory.rglob("*")))
        assert cluster.workers()[0]["memory"]["limit"]


def test_what_keeps_it_from_coming_up_is_said(own_state: Path) -> None:
    own_state.joinpath("file").write_text("")
    with pytest.raises(HpcdagError) as caught:
        LocalCluster(1, local_directory=own_state / "file")
    # The worker's own words, out of its log.
    assert "cannot make the worker's directory" in str(caught.value), caught.value
    assert "nothing of the cluster was left running" in str(caught.value)
    assert list((own_state / "state" / "hpcdag").iterdir()) == []


def test_the_picture_in_a_notebook() -> None:
    with LocalCluster(1, nthreads=1, name="<mine>") as cluster:
        picture = cluster._repr_html_()
        assert "&lt;mine&gt;" in picture and "<mine>" not in picture
        assert cluster.scheduler_file in picture
    assert "closed" in cluster._repr_html_()


def test_a_cluster_that_was_stopped_by_message(own_state: Path) -> None:
    cluster = LocalCluster(1)
    cluster._run(["stop"])
    until(lambda: not os.path.exists(cluster.scheduler_file))
    cluster.close()
    assert list((own_state / "state" / "hpcdag").iterdir()) == []


_SCRIPT = """
import os, signal, sys, time
from hpcdag import LocalCluster
cluster = LocalCluster(2, nthreads=1)
print(cluster.scheduler_file, flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "1 / 0",
        "sys.exit(3)",
        "os._exit(4)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        # A child that lives on must not keep it alive.
        "if os.fork() == 0:\n    signal.pause()\nos._exit(0)",
    ],
)
def test_nothing_is_left_however_its_process_ends(end: str, own_state: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(end=end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    try:
        file = process.stdout.readline().strip()
        assert file
        process.wait(30)
        until(lambda: processes_of(file) == [])
        until(lambda: not os.path.exists(os.path.dirname(file)))
        assert list((own_state / "state" / "hpcdag").iterdir()) == []
    finally:
        # The child of the last case.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.stdout.close()


def test_ctrl_c_leaves_it_alone() -> None:
    code = _SCRIPT.format(
        end="""
try:
    os.killpg(0, signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt:
    print(len(cluster.workers()), cluster.status)
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert done.stdout.splitlines()[1:] == ["2 running"], done.stderr


def test_values_as_the_program_reads_them() -> None:
    assert [size_option(value) for value in ("4 GiB", "auto", 0, 0.5, 1 << 30)] == [
        "4GiB",
        "auto",
        "none",
        "0.5",
        "1073741824B",
    ]
    assert variable("worker.memory.max-spill") == "HPCDAG_WORKER__MEMORY__MAX_SPILL"
    assert setting_text(['module load "a"', "b"]) == '["module load \\"a\\"", "b"]'
    assert setting_text(True) == "true" and setting_text(None) == "false"
