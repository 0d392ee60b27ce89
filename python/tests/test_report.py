"""A report in a real browser: one file from disk, with what was run in it, that asks nobody for anything."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, places
from clusters import isolate
from watched import HOSTILE

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


def test_pages_open_from_disk_and_ask_nobody(report: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        browser.open("about:blank")
        # What the browser's own first page has asked for.
        browser.requests()
        for page, wanted in PAGES.items():
            browser.open(f"{report.as_uri()}#/{page}")
            browser.until(lambda wanted=wanted: wanted in browser.text("main"))
        browser.open(f"{report.as_uri()}#/task?key=bad")
        browser.until(lambda: "broken pump" in browser.text("main"))
        assert "onerror" in browser.text("main"), "what it printed is text"
        assert browser.run("return window.owned ?? null") is None
        assert browser.complaints() == []
        assert places(browser.requests()) <= {"file", "data"}
    finally:
        browser.close()
