"""Pictures of the dashboard's pages over a run, as PNG files in a directory: for scripts/screenshots."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pytest
from browser import Browser
from clusters import isolate

from hpcdag import Client, Future, LocalCluster

# (file, page, dark)
PICTURES = [
    ("overview", "overview", False),
    ("overview-dark", "overview", True),
    ("task-stream", "stream", False),
    ("progress", "progress", False),
    ("workers", "workers", False),
    ("memory", "memory", False),
    ("time-per-action", "actions", False),
    ("events", "events", False),
    ("tasks", "tasks?group=regrid", False),
    ("graph", "graph", False),
    ("profile", "profile", False),
    ("task", "task?key={failed}", False),
]


def load(month: int) -> bytes:
    """A month of something."""
    time.sleep(0.1)
    return bytes(5_000_000)


def regrid(data: bytes, month: int) -> bytes:
    """Work that a profile shows."""
    end = time.thread_time() + 0.25
    total = 0
    while time.thread_time() < end:
        total += sum(data[:5000])
    if month == 7:
        print(f"month {month}: no grid description for 'tripolar'", file=sys.stderr)
        raise ValueError("no grid description for 'tripolar'")
    return data[: len(data) // 2]


def anomaly(data: bytes) -> bytes:
    """Half as much again."""
    time.sleep(0.1)
    return data[: len(data) // 2]


def mean(*parts: bytes) -> int:
    """The last of a year."""
    time.sleep(0.3)
    return sum(len(part) for part in parts)


def work(client: Client, months: range) -> list[Future]:
    """Submits months of work; nothing is waited for."""
    fields = [client.submit(load, month, key=f"load-{month}", pure=False) for month in months]
    grids = [
        client.submit(regrid, f, m, key=f"regrid-{m}", pure=False)
        for f, m in zip(fields, months, strict=True)
    ]
    parts = [
        client.submit(anomaly, one, key=f"anomaly-{m}", pure=False)
        for one, m in zip(grids, months, strict=True)
    ]
    years = [
        client.submit(mean, *parts[first : first + 12], key=f"mean-{months[first] // 12}", pure=False)
        for first in range(0, len(parts), 12)
    ]
    return [*fields, *grids, *parts, *years]


def main(directory: Path) -> None:
    """Takes all pictures while the cluster works."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        isolate(Path(scratch), patch)
        with LocalCluster(4, nthreads=2, memory_limit="1 GiB") as cluster, Client(cluster) as client:
            browser = Browser(Path(scratch) / "browser")
            kept = [work(client, range(0, 72))]
            address = cluster.dashboard_link
            assert address, "there is no dashboard"
            try:
                # The one that fails: pages have something to say about it.
                kept[0][72 + 7].exception(timeout=300)
                time.sleep(5)
                for name, page, dark in PICTURES:
                    kept.append(work(client, range(72 * len(kept), 72 * len(kept) + 12)))
                    browser.look(dark)
                    browser.open(f"{address}#/{page.format(failed='regrid-7')}")
                    time.sleep(3)
                    browser.picture(directory / f"{name}.png")
            finally:
                browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
