"""A pytest plugin that runs Dask's own test suites on hpcdag: `scripts/dask-conformance` loads it.

`HPCDAG_CONFORMANCE` chooses what computes: `hpcdag` (a cluster for each process of the tests), `distributed`
(Dask's own cluster, with processes: the reference), or `dask` (nothing is changed: the baseline). Tests that
are listed in `dask_xfail.txt` may fail on hpcdag.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

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


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Tries a failed test once more, after garbage was collected, and says so: some of Dask's tests give
    other data the names of results that are garbage, and get those if Python has not collected them yet."""
    if os.environ.get("HPCDAG_CONFORMANCE", "hpcdag") != "hpcdag":
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        gc.collect()
        item._initrequest()  # type: ignore[attr-defined]
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            report.flaky = report.when == "call" and report.passed
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Tests that passed the second time are counted by themselves."""
    return ("flaky", "f", "FLAKY") if getattr(report, "flaky", False) else None


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
