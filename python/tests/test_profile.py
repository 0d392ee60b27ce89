"""Profiles: what executors see of their tasks, how it is summed, and that it costs nothing to speak of."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import uuid
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from hpcdag import _profile


class Task(NamedTuple):
    key: str
    run: bytes


RUN = uuid.UUID(int=7)


def outer(samples: _profile.Samples, task: Task) -> None:
    inner(samples, task)


def inner(samples: _profile.Samples, task: Task) -> None:
    samples.take(task, sys._getframe(), RUNNING)


def running(samples: _profile.Samples, task: Task) -> None:
    outer(samples, task)


RUNNING: CodeType = running.__code__


def groups(samples: _profile.Samples) -> dict[tuple[str | None, str], Any]:
    said = json.loads(samples.to_json())
    return {(group["run"], group["name"]): (group["nodes"], said["frames"]) for group in said["groups"]}


def test_stacks_are_summed_below_the_task() -> None:
    samples = _profile.Samples(0.01)
    for n in range(3):
        running(samples, Task(f"inc-{n}", RUN.bytes))
    ((nodes, frames),) = [groups(samples)[RUN.hex, "inc"]]
    assert nodes == [[-1, 0, 0], [0, 1, 3]]
    assert [frame[0] for frame in frames] == ["outer", "inner"]
    assert frames[0][1] == __file__ and frames[0][2] == outer.__code__.co_firstlineno


def test_runs_and_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = _profile.Samples(0.01)
    for n in range(200):
        running(samples, Task("inc-1", uuid.UUID(int=n).bytes))
    seen = groups(samples)
    assert len(seen) <= _profile._RUNS_MAX + 1
    total = sum(node[2] for nodes, _ in seen.values() for node in nodes)
    assert total == 200 and seen[None, "inc"][0][1][2] >= 100

    monkeypatch.setattr(_profile, "_NODES_MAX", 1)
    samples = _profile.Samples(0.01)
    running(samples, Task("a", RUN.bytes))
    running(samples, Task("b", RUN.bytes))
    assert sum(len(nodes) for nodes, _ in groups(samples).values()) <= 2

    def deep(n: int, frame: FrameType | None = None) -> None:
        if n:
            deep(n - 1)
        else:
            samples.take(Task("deep", RUN.bytes), sys._getframe(), RUNNING)

    monkeypatch.setattr(_profile, "_NODES_MAX", 1000)
    deep(300)
    assert len(groups(samples)[RUN.hex, "deep"][0]) == _profile._DEPTH_MAX


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("inc-0", "inc"),
        ("inc-a1b2c3d4e5f60718293a4b5c6d7e8f90", "inc"),
        ("read-parquet-fused-0123", "read-parquet-fused"),
        ("('sum-aggregate-abcdefab', 3)", "sum-aggregate"),
        ("('x-1', 2)", "x"),
        ("0123456789abcdef0123456789abcdef", "data"),
        ("", "?"),
        ("_(", "_("),
    ],
)
def test_groups_are_named_as_the_scheduler_does(key: str, group: str) -> None:
    assert _profile.key_split(key) == group


def test_looking_takes_no_more_than_its_share() -> None:
    assert _profile.pause_after(0.5, 0.0001) == 0.5
    for cost in (0.0, 0.0001, 0.01):
        pause = _profile.pause_after(0.01, cost)
        assert (cost + _profile._HANDED_OVER) / pause <= 0.01 - _profile._WRITE_SHARE


def test_a_look_stands_for_the_time_before_it_and_a_dear_one_is_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Executor:
        running = Task("inc-1", RUN.bytes)
        busy = threading.Event()

    slept: list[float] = []
    used = itertools.accumulate([0.0] + [0.0001] * 10 + [1.0] * 10)
    monkeypatch.setattr(_profile.time, "sleep", slept.append)
    monkeypatch.setattr(_profile.time, "thread_time", lambda: next(used))
    monkeypatch.setattr(_profile.time, "monotonic", lambda: -1e9)
    Executor.busy.set()
    file = tmp_path / "profile" / "1"
    _profile._look_for_ever(Executor(), threading.get_ident(), RUNNING, 0.01, str(file))
    said = json.loads(file.read_text())
    counted = sum(node[2] for group in said["groups"] for node in group["nodes"])
    assert len(slept) == 11 and min(slept) > 0.05
    assert abs(counted * said["interval"] - sum(slept)) < 0.02
    assert "takes too long" in capsys.readouterr().err
