"""`performance_report`: what a part of a program did on the cluster, as a page.

Owns the context manager; the page is made by the program, `hpcdag report`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def performance_report(
    filename: str | os.PathLike[str] = "dask-report.html", *args: Any, **keywords: Any
) -> Iterator[None]:
    """Writes a page about the cluster's work when the block ends, also by an exception.

    The page is one file that opens from disk and asks nobody for anything. It has everything that the
    scheduler remembers by then: of a long-lived cluster also what was before the block.

    Args:
        filename: the page, HTML; an older one is replaced.
        args: what `distributed.performance_report` takes besides; without effect.
        keywords: likewise.

    Raises:
        ValueError: there is no client.
        HpcdagError: the page cannot be written; a warning instead when the block has raised something itself.
    """
    from . import _binary
    from .client import get_client

    path = os.path.abspath(filename)
    command = ["report", path, "--all", "--scheduler-file", str(get_client().scheduler_file)]
    try:
        yield
    except BaseException:
        try:
            _binary.run(command)
        except _binary.HpcdagError as error:
            import warnings

            warnings.warn(f"there is no performance report: {error}", stacklevel=3)
        raise
    _binary.run(command)
