"""A pytest plugin that runs Dask's own test suites on hpcdag: `scripts/dask-conformance` loads it.

`HPCDAG_CONFORMANCE` chooses what computes: `hpcdag` (a cluster for each process of the tests), `distributed`
(Dask's own cluster, with processes: the reference), or `dask` (nothing is changed: the baseline). Tests that
are listed in `dask_xfail.txt` may fail on hpcdag.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

_XFAIL = Path(__file__).parent.parent / "dask_xfail.txt"
_running: list[Any] = []


def pytest_configure(config: pytest.Config) -> None:
    """Starts what computes, in each process that runs tests."""
    mode = os.environ.get("HPCDAG_CONFORMANCE", "hpcdag")
    distributing = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if mode == "dask" or distributing:
        return
    import dask
    from dask import base

    if mode == "hpcdag":
        from hpcdag import Client, LocalCluster

        cluster = LocalCluster(2, 1)
        client = Client(cluster)
    else:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
        client = Client(cluster)
    _running.extend((client, cluster))
    # Most tests compare with scheduler="sync", which would not come to the cluster otherwise.
    for name in list(base.named_schedulers):
        base.named_schedulers[name] = client.get
    dask.config.set({"scheduler": client.get, "dataframe.shuffle.method": "tasks"})


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends it."""
    while _running:
        _running.pop(0).close()


def _expected() -> dict[str, str]:
    """Reasons of listed tests, by their names."""
    found: dict[str, str] = {}
    reason = ""
    for line in _XFAIL.read_text().splitlines() if _XFAIL.exists() else ():
        if line.startswith("#"):
            reason = line.lstrip("# ")
        elif line.strip():
            found[line.strip()] = reason
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the listed tests."""
    if os.environ.get("HPCDAG_CONFORMANCE", "hpcdag") != "hpcdag":
        return
    expected = _expected()
    for item in items:
        where = item.path.as_posix().split("site-packages/")[-1]
        name = f"{where}::{item.nodeid.split('::', 1)[-1]}"
        reason = expected.get(name) or expected.get(name.split("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
