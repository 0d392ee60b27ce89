"""What all tests have: a state directory and a configuration of their own, and nothing of who runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Variables that would change what hpcdag does.
_NOT_INHERITED = ("HPCDAG_", "SLURM_", "PBS_", "SGE_", "XDG_", "DASK_")
_KEPT = ("HPCDAG_BINARY", "HPCDAG_TEST_PYTHON")


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with state and configuration for one test. The network is this machine's own."""
    for name in list(os.environ):
        if name.startswith(_NOT_INHERITED) and name not in _KEPT:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPCDAG_SCHEDULER__HOST", "127.0.0.1")
    monkeypatch.setenv("HPCDAG_WORKER__HOST", "127.0.0.1")
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
