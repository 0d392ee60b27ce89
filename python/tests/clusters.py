"""What tests with a cluster share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Variables that would change what hpcdag does.
_NOT_INHERITED = ("HPCDAG_", "SLURM_", "PBS_", "SGE_", "XDG_", "DASK_")
_KEPT = ("HPCDAG_BINARY", "HPCDAG_TEST_PYTHON")


def isolate(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """State and configuration are in a directory, and the network is this machine's own."""
    for name in list(os.environ):
        if name.startswith(_NOT_INHERITED) and name not in _KEPT:
            patch.delenv(name)
    patch.setenv("XDG_STATE_HOME", str(directory / "state"))
    patch.setenv("XDG_CONFIG_HOME", str(directory / "config"))
    patch.setenv("HPCDAG_SCHEDULER__HOST", "127.0.0.1")
    patch.setenv("HPCDAG_WORKER__HOST", "127.0.0.1")


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        threading.Event().wait(0.01)


def python(text: str, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(text), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
