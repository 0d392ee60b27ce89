"""Why a task has no result, as an exception: what `CallsFailed` says becomes what `Future.result` raises."""

from __future__ import annotations

import pickle
import re
import signal
import threading
import types
from typing import Any

from ._errors import RemoteError, add_note
from .errors import CancelledError, KilledWorker, OutOfMemory, TaskError, TimeLimitExceeded

#: A killed process of its own is told by these kinds, lost workers by the last.
_KILLED = ("Signal", "Exit", "WorkersLost")
_MEMORY = ("Memory", "Outgrown", "Overrun")


def exception_of(failure: list, key: Any) -> BaseException:
    """A new exception for a `FailedCall`; `key` is the one of the task that was asked for."""
    _task, cancelled, blamed, host, attempts, (kind, _command, stderr, reason) = failure
    name, about = next(iter(kind.items())) if isinstance(kind, dict) else (kind, None)
    if blamed != str(key):
        # The scheduler calls the tasks of a map `name[i]`.
        blamed = re.sub(r"\[(\d+)\]$", r"-\1", blamed)
    where = f"task {blamed!r}" + (f" on {host}" if host else "")
    if attempts > 1:
        where += f", attempt {attempts}"
    if name == "Raised":
        return _raised(about, where, "" if str(key) == blamed else f"; {key!r} depends on it", stderr)
    if cancelled or name == "Cancelled":
        why = f": {reason}" if reason else ""
        return CancelledError(
            f"{key!r} was cancelled{why}" if str(key) == blamed else f"{blamed!r} was cancelled{why}"
        )
    text = f"{where}: {_words(name, about)}"
    if reason:
        text += f" ({reason})"
    if stderr.strip():
        text += "\n" + stderr.rstrip()
    if name in _KILLED:
        return KilledWorker(text, name)
    if name in _MEMORY:
        return OutOfMemory(text, name)
    if name == "TimeLimit":
        return TimeLimitExceeded(text, name)
    return TaskError(text, name)


def traceback_text(failure: list) -> str:
    """The task's own traceback as text; empty if it did not raise."""
    kind = failure[5][0]
    return kind["Raised"][1] if isinstance(kind, dict) and "Raised" in kind else ""


def traceback_of(failure: list) -> types.TracebackType | str | None:
    """The task's own traceback: an object if `tblib` is installed on both sides, else text."""
    kind = failure[5][0]
    if not isinstance(kind, dict) or "Raised" not in kind:
        return None
    return getattr(_load(kind["Raised"]), "__traceback__", None) or kind["Raised"][1]


def _load(raised: list) -> BaseException:
    # In a thread of its own: the frames that `tblib` makes would refer to those of the caller, and so keep
    # alive whatever the user has in them.
    loaded: list[BaseException] = []
    thread = threading.Thread(target=lambda: loaded.append(_load_here(raised)), name="hpcdag-load")
    thread.start()
    thread.join()
    return loaded[0] if loaded else RemoteError(*raised[0].partition(": ")[::2])


def _load_here(raised: list) -> BaseException:
    summary, _, payload = raised
    try:
        error = pickle.loads(payload)
    except Exception as problem:
        name, _, text = summary.partition(": ")
        return RemoteError(name, f"{text} (it cannot be loaded here: {type(problem).__name__}: {problem})")
    # What ends a program is not to end this one: it was the task's.
    return error if isinstance(error, Exception) else RemoteError(*summary.partition(": ")[::2])


def _raised(raised: list, where: str, because: str, printed: str) -> BaseException:
    error = _load(raised)
    text = raised[1].rstrip()
    if text:
        add_note(error, f"\nraised by {where}{because}:\n{text}")
    if printed.strip():
        add_note(error, f"\nthe last that the task printed:\n{printed.rstrip()}")
    return error


def _words(name: str, about: Any) -> str:
    if name == "Signal":
        return f"its process was ended by signal {about}{_signal_name(about)}"
    if name == "Exit":
        return f"its process ended with exit status {about}"
    if name == "WorkersLost":
        return f"took down {len(about)} workers: " + "; ".join(about)
    if name == "TimeLimit":
        return f"ran longer than its time limit of {about / 1000:g} s"
    if name == "Prepare":
        return f"could not be prepared: {about}"
    if name == "Spawn":
        return f"could not be started: {about}"
    if name == "Inputs":
        return f"its inputs could not be had: {about}"
    if name == "Dependency":
        return f"depends on {about}, which failed"
    if name == "Impossible":
        return f"cannot run anywhere: {about}"
    if name == "OutputTooLarge":
        return f"its output grew beyond {about} bytes"
    if name == "MissingOutput":
        return f"did not write its output {about}"
    if name == "Overrun":
        declared, reached, _ = about
        return f"ended for memory: it declared {_size(declared)} and reached {_size(reached)}"
    if name == "Memory":
        return _shortage(about)
    if name == "Outgrown":
        attempts, end = about
        text = "; then, ".join(
            f"{'alone ' if alone else ''}on {at}: {_shortage(s)}" for at, alone, s in attempts
        )
        if isinstance(end, dict):
            return (
                f"{text}; no worker has more room, the largest limit is {_size(next(iter(end.values()))[0])}"
            )
        return text + (
            "; it had the worker to itself, and no other has more room" if end == "WasAlone" else ""
        )
    return str(about) if about else name


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:  # Real-time signals have none.
        return ""


def _shortage(about: list) -> str:
    peak, expected, limit, results, _neighbours = about
    text = f"ended for memory: it occupied {_size(peak)}"
    if expected:
        text += f" where {_size(expected)} were expected"
    return f"{text}, the worker's limit is {_size(limit)}, results took {_size(results)}"


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"
