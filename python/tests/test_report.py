"""A report in a real browser: one file from disk, with what was run in it, that asks nobody for anything."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, places
from clusters import isolate
from watched import HOSTILE, Watched

from hpcdag import _binary

_GRAPH = """
version = 1
[task.day]
for-each = { range = [0, 12] }
shell = "sleep 0.02; echo {item}"
[task.sum]
from = { day = "all" }
shell = "cat {inputs...}"
[task.bad]
shell = "cat %s >&2; exit 3"
"""
PAGES = {
    "overview": "Tasks by state",
    "stream": "Longest in view",
    "progress": "Groups of tasks",
    "workers": "Workers",
    "memory": "By worker",
    "events": "exit status 3",
    "graph": "Graph of groups",
    "task?key=bad": "exit status 3",
    "advice": "1 task of bad failed",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of a run of 14 tasks one of which fails, made by a cluster that is gone by now."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("report")
        isolate(directory, patch)
        stderr, graph, file = directory / "stderr", directory / "graph.toml", directory / "run.html"
        stderr.write_text(f"{HOSTILE}</script>\nbroken pump\n")
        graph.write_text(_GRAPH % stderr)
        command = [_binary.find(), "submit", str(graph), "--local", "--report", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 3, done.stderr
        yield file


@pytest.fixture
def disk(browser: Browser) -> Iterator[Browser]:
    """A window for pages from disk. In the end nothing was complained about, and nobody was asked."""
    browser.open("about:blank")
    # What the browser's own first page has asked for.
    browser.requests()
    browser.complaints()
    yield browser
    assert browser.run("return window.owned ?? null") is None
    assert browser.complaints() == []
    # Data in addresses are pictures that are written into the page.
    assert places(browser.requests()) <= {"file", "data"}


def test_pages_open_from_disk_and_ask_nobody(report: Path, disk: Browser) -> None:
    for page, wanted in PAGES.items():
        disk.open(f"{report.as_uri()}#/{page}")
        disk.until(lambda wanted=wanted: wanted in disk.text("main"))
    disk.open(f"{report.as_uri()}#/task?key=bad")
    disk.until(lambda: "broken pump" in disk.text("main"))
    assert "onerror" in disk.text("main"), "what it printed is text"


def test_a_run_of_a_cluster_has_its_figures(watched: Watched, disk: Browser) -> None:
    watched.let_go()
    run = next(run["id"] for run in watched.status()["runs"] if run["name"] == "watched")
    file = watched.directory / "report.html"
    watched.run("report", str(file), "--run", run)
    disk.open(file.as_uri())
    disk.until(lambda: [row["Done"] for row in disk.rows("Runs")] == ["30 / 32"])
    assert disk.text("[data-state=erred]") == "2"
    disk.open(f"{file.as_uri()}#/progress")
    rows = disk.until(lambda: {row["Group"]: row for row in disk.rows("Groups of tasks")})
    assert (rows["slow"]["Done"], rows["bad"]["failed"]) == ("9 / 9", "1")
    disk.open(f"{file.as_uri()}#/stream")
    disk.until(
        lambda: [row for row in disk.rows("Longest in view") if row["Longest in view"].startswith("slow")]
    )
    disk.open(f"{file.as_uri()}#/task?key=bad")
    assert HOSTILE in disk.until(lambda: disk.text("#failure-stderr"))
    disk.open(f"{file.as_uri()}#/advice")
    disk.until(lambda: "Advice" in disk.text("main"))
