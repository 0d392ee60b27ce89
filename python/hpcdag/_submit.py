"""Single calls become tasks of the run that the session is collecting.

Owns keys, reuse of what is the same, and the encoders. Maps and graphs go through `_graph`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from . import _book, _calls
from ._encode import Encoder
from ._graph import Brought, Options
from ._options import DEFAULT
from .future import Future

if TYPE_CHECKING:
    from ._session import Session

#: A function is pickled again after so long, seconds: what it refers to may have changed in a notebook.
_ENCODER_LIFE = 0.02


def function_name(function: Any) -> str:
    """How a function is called, without what stands around it."""
    while hasattr(function, "func"):  # partial
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return "lambda" if name == "<lambda>" else str(name)


def locate_from(session: Session) -> Callable[[Future], tuple[bytes, int]]:
    """Gives the run and the number of a future's task, for what `session` is about to send.

    Futures of another cluster are refused (ValueError), and those that have been given up.
    """

    def located(future: Future) -> tuple[bytes, int]:
        other = future._held()
        if other is not session:
            if other.file.id != session.file.id:
                raise ValueError(f"{future!r} belongs to another cluster: gather it there first")
            other.flush()
        if future._run.reason:
            raise future._exception()
        return future._run.uuid, future._index

    return located


class _Encoder:
    """An encoder and the functions that it has met."""

    def __init__(self, session: Session) -> None:
        located = locate_from(session)
        self.encoder = Encoder(Future, Brought, lambda dep: id(dep) if type(dep) is Brought else located(dep))
        self.encoder.functions.lasting = True
        self.codes: list[tuple[bytes, bytes]] = []
        self.until = time.monotonic() + _ENCODER_LIFE


class Submitter:
    """Makes tasks of calls for one session. May be used by several threads."""

    def __init__(self, session: Session, environment: Callable[[], bytes]) -> None:
        self._session = session
        self._environment = environment
        self._locate = locate_from(session)
        self._local = threading.local()

    def _encoder(self) -> _Encoder:
        found = getattr(self._local, "encoder", None)
        if found is None or time.monotonic() > found.until:
            if found is not None:
                found.encoder.forget()
            found = self._local.encoder = _Encoder(self._session)
        return found

    def submit(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: Options,
        key: Any = None,
        pure: bool = True,
    ) -> Future:
        """A future of `function(*args, **kwargs)`; that of the same call if it is `pure` and alive, or of
        the same key. Raises TypeError for arguments that cannot be sent."""
        session = self._session
        if key is not None and (known := self.known(key)) is not None:
            return known
        found = self._encoder()
        entry, deps = found.encoder.call(function, args, kwargs)
        all_deps = [deps]
        ((_, data),) = found.encoder.entries([entry], all_deps)
        deps = all_deps[0]
        found.codes += found.encoder.functions.take()
        if key is None:
            key = self._key(function, data, deps, options, pure)
        with session.lock:
            if pure and (known := self.known(key)) is not None:
                return known
            run, writer = session.shared_run(self._environment)
            seen = writer.seen.get(id(found), (None, 0))[1]
            writer.functions(found.codes[seen:])
            # The encoder is kept with its number, so that no other one gets that.
            writer.seen[id(found)] = (found, len(found.codes))
            numbers = [self._number(run, writer, dep) for dep in deps]
            option = writer.option(options)
            text = key if isinstance(key, str) else str(key)
            index = writer.batch(data, 1, option=option, deps=[numbers], keys=[text])
            run.keep += deps
            run.take(index)
            session.book.name(run, index, key)
        return Future._of(session, run, index, key)

    def known(self, key: Any) -> Future | None:
        """Another future of the task that has this key, unless that has failed."""
        session = self._session
        with session.lock:
            session.let_go()
            where = session.book.keys.get(key)
            if where is None or where[0].state[where[1]] > _book.DONE or not where[0].refs[where[1]]:
                return None
            where[0].take(where[1])
            return Future._of(session, *where, key)

    @staticmethod
    def _key(function: Any, data: bytes, deps: list[Any], options: Options, pure: bool) -> str:
        if not pure or any(type(dep) is Brought for dep in deps):
            return f"{function_name(function)}-{uuid.uuid4().hex}"
        hashed = blake2b(data, digest_size=16)
        for dep in deps:
            hashed.update(dep._run.uuid + dep._index.to_bytes(4, "little"))
        if options is not DEFAULT:
            hashed.update(repr(options).encode())
        return f"{function_name(function)}-{hashed.hexdigest()}"

    def _number(self, run: _book.Run, writer: _calls.RunWriter, dep: Any) -> int:
        if type(dep) is Brought:
            # The encoder may live longer than the run, and the literal is brought once for each run.
            if id(dep) not in writer.seen:
                name = f"literal-{run.uuid.hex()[:8]}-{writer.count}"
                task = writer.batch(b"", 1, flags=_calls.BROUGHT, keys=[name])
                run.brought.append((task, dep.value))
                writer.seen[id(dep)] = (dep, task)
            return writer.seen[id(dep)][1]
        if dep._run is run:
            return dep._index
        return writer.external(*self._locate(dep))
