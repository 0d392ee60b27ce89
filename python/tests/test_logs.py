"""What Python tasks print is there for those who ask, by task; and where they spend their time."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from hpcdag import Client, LocalCluster, _binary
from hpcdag._binary import ask


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with LocalCluster(1, nthreads=2, memory_limit="1 GiB") as cluster, Client(cluster) as client:
        yield client


def logs(client: Client, of: str) -> dict[str, Any]:
    return ask(["logs", of, "--scheduler-file", client.scheduler_file])


def text(client: Client, of: str) -> str:
    said = logs(client, of)
    assert said["kind"] == "task" and len(said["parts"]) <= 1, said
    return said["parts"][0]["text"] if said["parts"] else ""


def prints(n: int) -> int:
    print(f"number {n}")
    if n % 3 == 0:
        print(f"wrong {n}", file=sys.stderr)
    return n


def test_each_task_has_what_it_has_printed(client: Client) -> None:
    futures = client.map(prints, range(300), key="prints")
    assert client.gather(futures) == list(range(300))
    for n in (0, 1, 2, 3, 150, 298, 299):
        expected = f"number {n}\n" + (f"wrong {n}\n" if n % 3 == 0 else "")
        assert text(client, futures[n].key) == expected
    quiet = client.submit(abs, -1, key="quiet")
    assert quiet.result() == 1 and text(client, "quiet") == ""


def test_logging_warnings_and_processes_too(client: Client) -> None:
    def task() -> None:
        logging.getLogger("mine").warning("logged")
        warnings.warn("warned", stacklevel=1)
        subprocess.run(["echo", "by a process"], check=True)
        os.write(2, b"past Python\n")
        raise ValueError("no")

    future = client.submit(task, key="speaks")
    with pytest.raises(ValueError, match="no"):
        future.result()
    said = text(client, "speaks")
    for part in ("logged", "warned", "by a process\n", "past Python\n"):
        assert part in said, said


def spin(seconds: float) -> float:
    def burn(until: float) -> None:
        while time.monotonic() < until:
            sum(range(1000))

    burn(time.monotonic() + seconds)
    return seconds


def profile(client: Client, run: Any = None, group: str | None = None) -> dict[str, Any]:
    return client._session.ask({"View": {"Profile": [run, group, None]}})


def test_profiles_show_where_the_time_goes(client: Client) -> None:
    assert client.submit(spin, 2.5, key="spin-1").result() == 2.5
    deadline = time.monotonic() + 20
    while "spin" not in {group["name"] for group in profile(client)["groups"]}:
        assert time.monotonic() < deadline, profile(client)
        time.sleep(0.1)
    seen = profile(client, group="spin")
    assert 0 < seen["interval"] <= 0.1
    (top,) = seen["root"]["children"]
    assert top["name"] == "spin" and top["file"] == __file__, top
    assert top["line"] == spin.__code__.co_firstlineno
    names = {child["name"]: child["samples"] for child in top["children"]}
    burnt = sum(n for name, n in names.items() if "burn" in name)
    # It looks every 50 ms or so, on a machine with other work less often.
    assert burnt >= 0.8 * seen["samples"] > 8, seen
    assert seen["workers"] == {"asked": 1, "answered": 1, "gone": 0}


def test_profiles_of_workers_that_are_gone_are_left() -> None:
    with LocalCluster(2, nthreads=1, memory_limit="1 GiB") as cluster, Client(cluster) as client:
        spun = client.submit(spin, 2.5, key="spin-1")
        assert spun.result() == 2.5
        (holder,) = client.who_has(spun)[spun.key]

        def samples() -> int:
            groups = {group["name"]: group["samples"] for group in profile(client)["groups"]}
            return groups.get("spin", 0)

        deadline = time.monotonic() + 30
        while (before := samples()) < 8:
            assert time.monotonic() < deadline, profile(client)
            time.sleep(0.1)
        # Its nanny finds what is left.
        os.kill(client.scheduler_info()["workers"][holder]["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while (seen := profile(client))["workers"]["gone"] != 1:
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)
        assert samples() >= before
        tops = profile(client, group="spin")["root"]["children"]
        assert ("spin", __file__) in [(top["name"], top["file"]) for top in tops], tops
        # One that is stopped tells it itself.
        other = client.submit(spin, 2.5, key="turn-1")
        assert other.result() == 2.5
        (holder,) = client.who_has(other)[other.key]
        name = client.scheduler_info()["workers"][holder]["name"]
        command = [_binary.find(), "workers", "stop", name, "--scheduler-file", client.scheduler_file]
        subprocess.run(command, check=True, timeout=60, capture_output=True)
        deadline = time.monotonic() + 60
        while (seen := profile(client))["workers"]["gone"] != 2:
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)
        assert {"spin", "turn"} <= {group["name"] for group in seen["groups"]}
