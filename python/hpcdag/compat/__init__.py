"""A stand-in for `distributed`, so that scripts written for Dask run without a change.

Importing this puts the directory `PATH` first in `sys.path`; from then on `import distributed`,
`dask.distributed` and `dask_jobqueue` find what is there. `hpcdag run` with HPCDAG_COMPAT=1 does the same by
PYTHONPATH, and so does `python -m hpcdag.run`. Owns the directory and its order; the names are `site/`'s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: The directory that goes into `sys.path`.
PATH = str(Path(__file__).resolve().parent / "site")


def install() -> None:
    """Puts the stand-in first in `sys.path`. Again does nothing.

    Raises:
        RuntimeError: the real `distributed` has been imported already.
    """
    loaded = sys.modules.get("distributed")
    if loaded is not None and not is_ours(loaded):
        raise RuntimeError("distributed has been imported already: import hpcdag.compat before it")
    if PATH not in sys.path:
        sys.path.insert(0, PATH)
    # For executors, and for processes that this one starts.
    os.environ["HPCDAG_COMPAT"] = "1"


def active() -> bool:
    """Whether `import distributed` finds the stand-in in this process."""
    return PATH in sys.path


def is_ours(module: object) -> bool:
    """Whether a module is part of the stand-in."""
    return str(getattr(module, "__file__", None) or "").startswith(PATH)


install()
