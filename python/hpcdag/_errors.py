"""Exceptions of tasks on their way from executors to clients.

Owns `RemoteError` and the two directions: `describe` makes summary, traceback text and payload of an
exception, `rebuild` is what payloads call when they are loaded. A payload always loads where hpcdag is there.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import socket
import sys
import traceback
from collections import ChainMap
from types import TracebackType
from typing import Any

# A larger exception has data in it that belongs into results; everybody on the way would have to keep it.
_PAYLOAD_BYTES_MAX = 256 << 10
_SUMMARY_CHARS_MAX = 500
_TEXT_CHARS_MAX = 64 << 10
_REPR_CHARS_MAX = 4000
_CHAIN_MAX = 8

_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep


class RemoteError(Exception):
    """A task's exception that cannot be loaded here as what it was.

    `type_name` is its class with its module, `text` what it said.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _say(error: BaseException) -> str:
    """`str(error)`, whatever its class does."""
    try:
        return str(error)
    except Exception as problem:
        return f"<{_type_name(problem)} in its __str__>"


def _shown_repr(error: BaseException) -> str:
    try:
        return repr(error)[:_REPR_CHARS_MAX]
    except Exception:
        return _say(error)[:_REPR_CHARS_MAX]


def _without_own_frames(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not ours."""
    while tb is not None and os.path.abspath(tb.tb_frame.f_code.co_filename).startswith(_OWN_DIRECTORY):
        tb = tb.tb_next
    return tb


def _strip(error: BaseException) -> None:
    """Takes our own frames from the tracebacks of `error` and of those it came from."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = _without_own_frames(one.__traceback__)
            todo += [one.__cause__, one.__context__]


def add_note(error: BaseException, note: str) -> None:
    """`error.add_note(note)`, on Python 3.10 as well."""
    try:
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:
            error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
    except Exception:
        pass  # Some classes have no room for it.


def import_advice(error: ImportError) -> str:
    """What to do about a module that is not where a task runs."""
    module = (error.name or "").partition(".")[0]
    what = f"the module {module!r}" if module else "a module"
    return (
        f"{what} could not be imported on {socket.gethostname()} by {sys.executable}. If it is a file of "
        f"yours: send it with client.upload_file({(module or 'module') + '.py'!r}), or keep it in a "
        "directory that is on sys.path when the Client is made and on a file system that the workers "
        "share. If it is a "
        "package: install it in the environment of the workers (worker.python.executable)."
    )


def describe(error: BaseException) -> tuple[str, str, bytes]:
    """Summary (a line), traceback text without our own frames, and payload of a task's exception."""
    _strip(error)
    told = "".join(map(str, getattr(error, "__notes__", None) or ()))
    if isinstance(error, ImportError) and "upload_file" not in told + _say(error):
        add_note(error, import_advice(error))
    first = (_say(error).strip().splitlines() or [""])[0]
    summary = (f"{_type_name(error)}: {first}" if first else _type_name(error))[:_SUMMARY_CHARS_MAX]
    try:
        text = "".join(traceback.format_exception(error))
        if not hasattr(error, "add_note"):  # Python 3.10 does not show them.
            text += "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
    except Exception:
        text = summary + "\n"
    if len(text) > _TEXT_CHARS_MAX:
        half = _TEXT_CHARS_MAX // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
    return summary, text, payload(error)


def payload(error: BaseException) -> bytes:
    """A pickle that loads as `error`, with its notes and what it came from, or as a `RemoteError`."""
    try:
        packed = pickle.dumps(_Carried(_carry(error, _CHAIN_MAX)), protocol=5)
        if len(packed) <= _PAYLOAD_BYTES_MAX:
            return packed
    except Exception:
        pass
    return pickle.dumps(RemoteError(_type_name(error), _shown_repr(error)), protocol=5)


class _Carried:
    """Pickles as a call of `rebuild`."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self.state,)


def _carry(error: BaseException, depth: int) -> dict[str, Any]:
    state: dict[str, Any] = {"type": _type_name(error), "repr": _shown_repr(error)}
    state["pickle"] = _loadable_pickle(error)
    state["notes"] = [str(note) for note in getattr(error, "__notes__", None) or ()]
    state["traceback"] = _traceback_dict(error.__traceback__)
    if error.__suppress_context__:
        state["suppress_context"] = True
    if depth > 1:
        if error.__cause__ is not None:
            state["cause"] = _carry(error.__cause__, depth - 1)
        elif error.__context__ is not None and not error.__suppress_context__:
            state["context"] = _carry(error.__context__, depth - 1)
    return state


def _loadable_pickle(error: BaseException) -> bytes | None:
    """A pickle of `error` alone that was seen to load, or None."""
    import cloudpickle

    # `tblib`, once somebody has installed it (distributed does), pickles what an exception came from with it:
    # one that does not load would spoil all.
    own = {k: v for k, v in copyreg.dispatch_table.items() if not issubclass(k, BaseException)}

    class ByValue(cloudpickle.Pickler):
        dispatch_table = ChainMap(getattr(cloudpickle.Pickler, "_dispatch_table", {}), own)

    class ByName(pickle.Pickler):
        dispatch_table = own

    def dump(pickler: type[pickle.Pickler]) -> bytes:
        out = io.BytesIO()
        pickler(out, protocol=5).dump(error)
        return out.getvalue()

    try:
        try:
            packed = dump(ByName)
            if b"__main__" in packed:
                raise pickle.PicklingError("classes of __main__ go by value")
        except Exception:
            packed = dump(ByValue)
        again = pickle.loads(packed)
    except Exception:
        return None
    return packed if isinstance(again, BaseException) and len(packed) <= _PAYLOAD_BYTES_MAX // 2 else None


def _traceback_dict(tb: TracebackType | None) -> dict[str, Any] | None:
    """What `tblib` makes of a traceback: plain data."""
    try:
        from tblib import Traceback

        return Traceback(tb).to_dict() if tb is not None else None
    except Exception:
        return None


def rebuild(state: dict[str, Any]) -> BaseException:
    """The exception that `state` (of `_carry`) tells of; a `RemoteError` if its class is not known here."""
    error: Any = None
    if state.get("pickle") is not None:
        try:
            error = pickle.loads(state["pickle"])
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(state["type"], state["repr"])
    for note in state.get("notes", ()):
        if note not in (getattr(error, "__notes__", None) or ()):
            add_note(error, note)
    if state.get("traceback"):
        try:
            from tblib import Traceback

            error.__traceback__ = Traceback.from_dict(state["traceback"]).as_traceback()
        except Exception:
            pass  # It is in the text as well.
    if "cause" in state:
        error.__cause__ = rebuild(state["cause"])
    elif "context" in state:
        error.__context__ = rebuild(state["context"])
    if state.get("suppress_context"):
        error.__suppress_context__ = True
    return error
