"""Fixtures."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def zygote():
    """A zygote, for the tests of a module."""
    from executors import Zygote

    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def executor(zygote):
    """An executor of its own for a test."""
    made = zygote.executor()
    yield made
    made.channel.socket.close()
    if not made.gone:
        made.exited()
