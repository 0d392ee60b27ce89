"""What all tests have: a state directory and a configuration of their own, and nothing of who runs them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Who was started in the background of a script ignores it, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with state and configuration for one test."""
    from clusters import isolate

    isolate(tmp_path, monkeypatch)
    yield tmp_path


@pytest.fixture(scope="module")
def zygote() -> Iterator[Any]:
    """A zygote, for the tests of a module."""
    from executors import Zygote

    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def executor(zygote: Any) -> Iterator[Any]:
    """An executor of its own for a test."""
    made = zygote.executor()
    yield made
    made.channel.socket.close()
    if not made.gone:
        made.exited()


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of two workers for all tests of a file, each worker with NTHREADS of that file."""
    from hpcdag import Client, LocalCluster

    nthreads = getattr(request.module, "NTHREADS", 1)
    with LocalCluster(nworkers=2, nthreads=nthreads, host="127.0.0.1") as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield client


@pytest.fixture
def client(whole: Any) -> Any:
    """That client, once both workers are there (again)."""
    whole.wait_for_workers(2, timeout=60)
    return whole


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One cluster for all tests of a file, with a run on it that stands still."""
    from clusters import isolate
    from watched import Watched

    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("watched")
        isolate(directory, patch)
        made = Watched(directory)
        try:
            made.submit()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One window for all tests of a file."""
    from browser import Browser

    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()
