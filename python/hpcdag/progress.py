"""Progress of futures: a bar in terminals, a bar of HTML in notebooks."""

from __future__ import annotations

import html
import shutil
import sys
import threading
import time
from typing import Any

from . import _book
from ._waiting import futures_in
from .future import Future

_INTERVAL = 0.2


def progress(
    *futures: Any, notebook: bool | None = None, multi: bool = True, complete: bool = True, **_: Any
) -> Any:
    """Shows how far futures (in lists, Dask collections and the like) are.

    In a terminal it waits for the end; in a notebook it comes back at once and goes on showing.
    """
    from .client import futures_of

    found = list(dict.fromkeys([*futures_in(futures), *futures_of(list(futures))]))
    if not found:
        raise ValueError("there are no futures to show: persist a collection, or submit something")
    if notebook is None:
        notebook = _in_notebook()
    if notebook:
        return _Notebook(found)
    _Terminal(found).run()
    return None


class _Count:
    """How many futures are in which state."""

    def __init__(self, futures: list[Future]) -> None:
        self._futures = futures
        self._left = list(futures)
        self._begin = time.monotonic()
        self.total = len(futures)

    def take(self) -> tuple[int, int, float]:
        """Ended tasks, failed ones among them, and seconds since the beginning."""
        self._left = [future for future in self._left if not future.done()]
        states = (future._run.state[future._index] for future in self._futures)
        failed = sum(state > _book.DONE for state in states)
        return self.total - len(self._left), failed, time.monotonic() - self._begin

    def wait(self, seconds: float) -> None:
        """Waits for the end, but not longer than that."""
        future = self._left[-1]
        session = future._session
        if session is not None:
            session.wait([(f._run, f._index) for f in self._left if f._session is session], seconds)


class _Terminal:
    def __init__(self, futures: list[Future]) -> None:
        self._count = _Count(futures)
        self._tty = sys.stdout.isatty()

    def run(self) -> None:
        """Shows a bar until the end; on Ctrl-C the tasks go on."""
        while True:
            ended, failed, seconds = self._count.take()
            self._show(ended, failed, seconds, ended == self._count.total)
            if ended == self._count.total:
                return
            self._count.wait(_INTERVAL)

    def _show(self, ended: int, failed: int, seconds: float, last: bool) -> None:
        total = self._count.total
        text = f"{ended} of {total}"
        if failed:
            text += f", {failed} failed"
        text += f"  {seconds:.1f} s"
        if not self._tty:
            if last:
                print(text, flush=True)
            return
        width = max(10, min(40, shutil.get_terminal_size().columns - len(text) - 6))
        full = width * ended // total
        print(f"\r[{'#' * full}{' ' * (width - full)}] {text}\x1b[K", end="\n" if last else "", flush=True)


class _Notebook:
    """A bar that shows itself and goes on in the background."""

    def __init__(self, futures: list[Future]) -> None:
        self._count = _Count(futures)
        self._handle: Any = None
        self._text = ""

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.display import HTML, display

        ended, failed, seconds = self._count.take()
        self._handle = display(HTML(self._html(ended, failed, seconds)), display_id=True)
        threading.Thread(target=self._go_on, name="hpcdag-progress", daemon=True).start()

    def _go_on(self) -> None:
        from IPython.display import HTML

        while True:
            ended, failed, seconds = self._count.take()
            text = self._html(ended, failed, seconds)
            if text != self._text and self._handle is not None:
                self._handle.update(HTML(text))
                self._text = text
            if ended == self._count.total:
                return
            try:
                self._count.wait(_INTERVAL)
            except Exception:
                return  # The client was closed.

    def _html(self, ended: int, failed: int, seconds: float) -> str:
        total = self._count.total
        failures = f", <b>{failed} failed</b>" if failed else ""
        words = html.escape(f"{ended} of {total}")
        return (
            f"<progress value='{ended}' max='{total}' style='width:60%'></progress> {words}{failures} "
            f"<span style='color:gray'>{seconds:.1f} s</span>"
        )

    def _repr_html_(self) -> str:
        return self._html(*self._count.take())


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
