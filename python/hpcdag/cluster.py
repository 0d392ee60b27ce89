"""What all clusters that Python starts have in common: who is in them, waiting, closing, how they look.

Owns the common interface; how scheduler and workers are started is `local`'s and `jobqueue`'s.
"""

from __future__ import annotations

import html
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from hpcdag import _binary, _dashboard
from hpcdag._keeper import Keeper

# Between two looks at the workers, in seconds.
_LOOK = 0.1

# `typing.Self` is newer than Python 3.10.
_Self = TypeVar("_Self", bound="ClusterBase")


class ClusterBase:
    """A cluster that belongs to this process and ends with it.

    `Client(cluster)` connects to it. It is a context manager; `close()` ends it, and so does the end of this
    process, also by SIGKILL.
    """

    def __init__(self, keeper: Keeper, name: str | None = None) -> None:
        self._keeper = keeper
        self.name = name or type(self).__name__

    @property
    def scheduler_file(self) -> str:
        """Path of the cluster's scheduler file: for `Client` and for the command line."""
        return str(self._keeper.scheduler_file)

    @property
    def status(self) -> str:
        """`"running"` or `"closed"`."""
        return "running" if self._keeper.is_open else "closed"

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler, such as `tls://10.0.0.1:40123`."""
        return str(self._status()["scheduler"]["address"])

    @property
    def dashboard_link(self) -> str | None:
        """Address of the dashboard, with what opens it; `None` if the cluster has none. Not for logs."""
        return _dashboard.reachable(self._status().get("dashboard")) or None

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._ask(["status"])
        return status

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are connected now, as `hpcdag workers list --json` has them; memory in bytes."""
        answer = self._ask(["workers", "list"])
        workers: list[dict[str, Any]] = answer if isinstance(answer, list) else answer["workers"]
        return workers

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Waits until so many workers are connected.

        Args:
            n_workers: how many.
            timeout: seconds; `None` for as long as it takes.

        Raises:
            TimeoutError: there are fewer after that time.
        """
        begin = time.monotonic()
        while (there := len(self.workers())) < n_workers:
            if timeout is not None and time.monotonic() - begin > timeout:
                raise TimeoutError(f"{there} of {n_workers} workers are connected after {timeout:g} s")
            time.sleep(_LOOK)

    def get_client(self, **keywords: Any) -> Any:
        """A `Client` of this cluster; keywords are the client's."""
        from hpcdag.client import Client

        return Client(self, **keywords)

    def get_logs(self) -> dict[str, str]:
        """What scheduler and workers have logged, by the name of the log. Gone once the cluster is closed."""
        logs = {}
        for path in sorted(self._home().rglob("*.log")):
            logs[path.stem] = path.read_text(errors="replace")
        return logs

    def _home(self) -> Path:
        """The cluster's directory, in which its logs are."""
        raise NotImplementedError

    def close(self, timeout: float | None = None) -> None:
        """Ends scheduler and workers, jobs included; returns when nothing is left. Again does nothing.

        Args:
            timeout: has no effect; it is there because Dask's clusters have it.

        Raises:
            HpcdagError: it could not be ended.
        """
        self._keeper.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, args: list[str], **keywords: Any) -> str:
        return _binary.run(self._of_this(args), **keywords)

    def _ask(self, args: list[str], **keywords: Any) -> Any:
        return _binary.ask(self._of_this(args), **keywords)

    def _of_this(self, args: list[str]) -> list[str]:
        if not self._keeper.is_open:
            raise _binary.HpcdagError(f"{self.name} is closed")
        # What follows `--` is the batch system's.
        at = args.index("--") if "--" in args else len(args)
        return [*args[:at], "--scheduler-file", self.scheduler_file, *args[at:]]

    def _numbers(self) -> tuple[int, float, int]:
        workers = self.workers()
        limits = sum(worker["memory"]["limit"] or 0 for worker in workers)
        return len(workers), sum(worker["threads"] for worker in workers), limits

    def __repr__(self) -> str:
        if self.status == "closed":
            return f"<{self.name}: closed>"
        workers, threads, memory = self._numbers()
        return f"<{self.name}: {workers} workers, {threads:g} threads, {bytes_text(memory)}>"

    def _repr_html_(self) -> str:
        name = html.escape(self.name)
        if self.status == "closed":
            return f"<div><strong>{name}</strong>: closed</div>"
        workers, threads, memory = self._numbers()
        link = self.dashboard_link
        rows = [
            ("Workers", str(workers)),
            ("Threads", f"{threads:g}"),
            ("Memory", bytes_text(memory)),
            ("Scheduler file", html.escape(self.scheduler_file)),
        ]
        if link:
            target = html.escape(_dashboard.shown(link), quote=True)
            opens = "(<code>cluster.dashboard_link</code> opens it)"
            rows.append(("Dashboard", f'<a href="{target}" target="_blank">{target}</a> {opens}'))
        cells = "".join(f"<tr><td><em>{left}</em></td><td>{right}</td></tr>" for left, right in rows)
        return f"<div><strong>{name}</strong><table>{cells}</table></div>"


def bytes_text(size: float) -> str:
    """A size in bytes as people read it: `7.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def dashboard_setting(address: str | int | None) -> dict[str, Any]:
    """The setting for where the dashboard is served: `"auto"`, `None` for nowhere, a port, or `HOST:PORT`."""
    if address == "auto":
        return {}
    if address is None:
        return {"dashboard-address": "none"}
    host, _, port = str(address).rpartition(":")
    # As with Dask, a port that is taken is no reason to fail.
    ports = f"{port}-65535" if port.isdigit() and int(port) > 0 else port
    return {"dashboard-address": f"{host}:{ports}"}


def size_option(value: str | int | float) -> str:
    """A size as Python code gives it, as the command line takes it.

    Numbers above 1 are bytes, fractions stay fractions, 0 is `none` as in Dask; text such as `"4 GiB"`,
    `"auto"` or `"0.5"` stays as it is but for blanks.
    """
    if isinstance(value, str):
        return value.replace(" ", "")
    if value == 0:
        return "none"
    if isinstance(value, float) and value <= 1:
        return repr(value)
    return f"{int(value)}B"


def time_option(value: str | int | float) -> str:
    """A duration as Python code gives it, as the command line takes it: numbers are seconds."""
    return value.strip() if isinstance(value, str) else f"{round(value * 1000)}ms"


def settings_env(section: str, settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Settings of a section of the configuration as environment variables.

    Names may have `_` for `-`; a dot leads into a table below: `{"memory.spill": False}`. Numbers of seconds
    or bytes need a unit, as in the configuration.
    """
    return {variable(f"{section}.{name}"): setting_text(value) for name, value in (settings or {}).items()}


def variable(key: str) -> str:
    """The environment variable of a setting: `HPCDAG_WORKER__MEMORY__SPILL` for `worker.memory.spill`."""
    name = re.sub(r"[-_]", "_", key).upper().replace(".", "__")
    return f"HPCDAG_{name}"


def setting_text(value: Any) -> str:
    """A value as TOML."""
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(json.dumps(str(item), ensure_ascii=False) for item in value) + "]"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
