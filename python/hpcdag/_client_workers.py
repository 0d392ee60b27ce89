"""What a client does with all workers: run something on each, bring files, start anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ._client_data import fire_and_forget
from ._options import options as make_options
from ._session import Session
from ._submit import Submitter

if TYPE_CHECKING:
    from .client import Client


class ClientWorkers:
    """The part of `Client` that concerns every worker."""

    _session: Session
    _submitter: Submitter
    _files: dict[str, bytes]
    _env: dict[str, str]
    _packed: tuple[Any, bytes]

    if TYPE_CHECKING:

        def _status(self, timeout: float = 30.0) -> dict[str, Any]: ...

        def gather(self, futures: Any, errors: str = "raise") -> Any: ...

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        workers: str | Collection[str] | None = None,
        wait: bool = True,
        nanny: bool = False,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Runs `function(*args, **kwargs)` once on every worker (or those of `workers`: names or addresses),
        in an executor as any task. Results by the workers' addresses; with `on_error="return"` exceptions are
        among them.
        """
        wanted = {workers} if isinstance(workers, str) else set(workers or ())
        all_workers = self._status()["workers"]
        chosen = [w for w in all_workers if not wanted or w["name"] in wanted or w["address"] in wanted]
        options = {w["address"]: make_options(workers=[w["name"]], priority=2**31 - 1) for w in chosen}
        submit = self._submitter.submit
        futures = {at: submit(function, args, kwargs, one, None, False) for at, one in options.items()}
        if not wait:
            for future in futures.values():
                fire_and_forget(future)
            return {}
        if on_error == "return":
            return {at: future.exception() or future.result() for at, future in futures.items()}
        return self.gather(futures, errors="skip" if on_error == "ignore" else "raise")

    def upload_file(self, filename: str | os.PathLike[str], load: bool = True) -> None:
        """Brings a module, egg or archive (.py, .zip, .egg, .whl) to every worker, the later ones too. Tasks
        that are submitted from now on can import it."""
        with open(filename, "rb") as file:
            self._files = {**self._files, os.path.basename(filename): file.read()}
        self._packed = (None, b"")

    def restart(self, timeout: Any = None, wait_for_workers: bool = True, **_: Any) -> Client:
        """Cancels everything of this client and starts its executors anew, with fresh modules. Results are
        lost."""
        self._session.give_up("the client was restarted")
        self._env["HPCDAG_CLIENT_RESTARTS"] = str(int(self._env.get("HPCDAG_CLIENT_RESTARTS", "0")) + 1)
        return self
