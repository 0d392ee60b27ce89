"""Tells the cluster what calls will need before they come, so that workers import it meanwhile.

Owns the message `Prepare` and the hook that sees what the user imports. What a worker makes of it is its
affair: calls do not depend on it.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import os
import sys
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from . import _environment, _frames

if TYPE_CHECKING:
    from .client import Client

_PREPARE = 17

# A larger environment, one with files, comes with the calls only.
_BYTES_MAX = 64 << 10


class Foresight(importlib.abc.MetaPathFinder):
    """Says what `client` has and what it imports, until `end`. In tasks it says nothing: what a task needs is
    what its own client needs."""

    def __init__(self, client: Client) -> None:
        self._session = client._session
        self._client = weakref.ref(client)
        self._modules: list[str] = []
        # The package itself imports dask, which says nothing of what tasks will need.
        self._unseen = {name for name in _environment.PRELOAD if name not in sys.modules and name != "dask"}
        if os.environ.get("HPCDAG_EXECUTOR"):
            return
        client._environment()
        self._session.on_resume(self._tell)
        with self._session.lock:
            self._tell()
        self._session.wake()
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Sees nothing more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Never finds anything. A part of a package is looked for once the package itself is being imported;
        the package's own name is also looked for by those who only want to know whether there is one."""
        name = fullname.rpartition(".")[0]
        if name in self._unseen:
            self._unseen.discard(name)
            self._see(name)

    def _see(self, name: str) -> None:
        if self._client() is None or self._session._forked:
            return self.end()
        # Not here: whoever has the session's lock may wait for this import. At the end no thread can start.
        with contextlib.suppress(RuntimeError):
            self._session.in_background(self._imports, name)
        return None

    def _imports(self, name: str) -> None:
        with self._session.lock:
            self._modules.append(name)
            self._tell()
        self._session.wake()

    def _tell(self) -> None:
        """With the session's lock."""
        client = self._client()
        if client is None or self._session.ended is not None or not self._session.connected:
            return
        # What was said at first, or what calls have had since: others would not be theirs.
        environment = client._packed[1]
        if len(environment) <= _BYTES_MAX:
            self._session._queue([_frames.pack_head(_PREPARE, [environment, self._modules])])
