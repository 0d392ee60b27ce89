"""What a client can tell about its cluster. Owns the forms, which are those of Dask's client where it has
them."""

from __future__ import annotations

import html
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from . import _book, _dashboard

if TYPE_CHECKING:
    from ._session import Session


class ClientInfo:
    """The part of `Client` that asks the scheduler."""

    _session: Session
    id: str

    def _status(self, timeout: float = 30.0) -> dict[str, Any]:
        """The scheduler's answer to `Status` (docs/protocol.md)."""
        return self._session.ask("Status", timeout)

    def scheduler_info(self, n_workers: int | None = None, **_: Any) -> dict[str, Any]:
        """The cluster: `id`, `address`, and `workers` by address, each with `name`, `host`, `nthreads`,
        `memory_limit` (bytes, 0 if there is none), `resources`, `status` and `metrics`."""
        status = self._status()
        workers = {worker["address"]: _worker(worker) for worker in status["workers"][:n_workers]}
        scheduler = status["scheduler"]
        return {
            "type": "Scheduler",
            "id": scheduler["id"],
            "address": scheduler["address"],
            "services": {"dashboard": self._session.file.dashboard_port},
            "started": time.time() - scheduler["uptime"],
            "n_workers": len(status["workers"]),
            "total_threads": sum(worker["nthreads"] for worker in workers.values()),
            "total_memory": sum(worker["memory_limit"] for worker in workers.values()),
            "workers": workers,
        }

    def nthreads(self, workers: Collection[str] | None = None) -> dict[str, int]:
        """Threads of each worker, by address."""
        found = {worker["address"]: round(worker["threads"]) for worker in self._status()["workers"]}
        return found if workers is None else {at: found[at] for at in workers if at in found}

    ncores = nthreads

    def wait_for_workers(self, n_workers: int = 1, timeout: Any = None) -> None:
        """Waits until so many workers are connected. Raises TimeoutError after `timeout` seconds."""
        from ._options import parse_seconds

        limit = parse_seconds(timeout)
        until = None if limit is None else time.monotonic() + limit
        while True:
            left = 3600.0 if until is None else max(0.001, until - time.monotonic())
            try:
                self._session.ask({"WaitWorkers": [int(n_workers), max(1, int(left * 1000))]}, left + 10)
                return
            except TimeoutError as error:
                if until is not None and time.monotonic() >= until - 0.01:
                    raise TimeoutError(
                        f"there are not {n_workers} workers after {limit:g} s: {error}"
                    ) from None

    def who_has(self, futures: Any = None, **_: Any) -> dict[Any, tuple[str, ...]]:
        """Addresses of the workers that have the results of futures (of all of this client without any), by
        key; one of them where several have it."""
        from ._waiting import futures_in

        session = self._session
        found: dict[Any, tuple[str, ...]] = {}
        with session.lock:
            if futures is None:
                tasks = [(key, run, index) for key, (run, index) in session.book.keys.items()]
            else:
                tasks = [(future.key, future._run, future._index) for future in futures_in(futures)]
            for key, run, index in tasks:
                there = run.state[index] == _book.DONE
                address = session.book.peers.get(run.holder[index]) if there else None
                found[key] = (address,) if address else ()
        return found

    def has_what(self, workers: Collection[str] | None = None, **_: Any) -> dict[str, tuple[Any, ...]]:
        """Keys of this client's results by the address of a worker that has them."""
        found: dict[str, list[Any]] = {address: [] for address in self.nthreads()}
        for key, addresses in self.who_has().items():
            for address in addresses:
                found.setdefault(address, []).append(key)
        return {
            address: tuple(keys) for address, keys in found.items() if workers is None or address in workers
        }

    @property
    def dashboard_link(self) -> str:
        """Where the dashboard is, with what opens it; empty if there is none. Not for logs."""
        return _dashboard.reachable(self._status()["dashboard"])

    @property
    def scheduler_file(self) -> str:
        """The path of the scheduler file."""
        return self._session.path

    def __repr__(self) -> str:
        session = self._session
        if session.ended is not None or session._forked:
            return f"<Client: {session.file.address}, closed>"
        try:
            workers = self._status(5.0)["workers"]
        except Exception:
            return f"<Client: {session.file.address}, not connected>"
        threads = sum(round(worker["threads"]) for worker in workers)
        memory = sum(worker["memory"]["limit"] or 0 for worker in workers)
        what = f"workers={len(workers)} threads={threads}, memory={_size(memory)}"
        return f"<Client: {session.file.address} {what}>"

    def _repr_html_(self) -> str:
        session = self._session
        head = f"<div><strong>hpcdag client</strong> {html.escape(self.id)}</div>"
        try:
            status = self._status(5.0)
            link = _dashboard.shown(_dashboard.reachable(status["dashboard"]))
        except Exception as error:
            return f"{head}<div>not connected: {html.escape(str(error))}</div>"
        workers = status["workers"]
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(str(worker['name']))}</td>"
            f"<td>{worker['state']}</td><td>{round(worker['threads'])}</td>"
            f"<td>{_size(worker['memory']['process'] or 0)}</td>"
            f"<td>{_size(worker['memory']['limit'] or 0)}</td></tr>"
            for worker in workers[:50]
        )
        more = f"<div>and {len(workers) - 50} more</div>" if len(workers) > 50 else ""
        dashboard = (
            f"<div>Dashboard: <a href='{html.escape(link)}'>{html.escape(link)}</a> "
            "(<code>client.dashboard_link</code> opens it)</div>"
            if link
            else ""
        )
        cluster = f"<div>Cluster {html.escape(session.file.id)} at {html.escape(session.file.address)}</div>"
        return (
            f"{head}{cluster}{dashboard}<details><summary>{len(workers)} workers, "
            f"{sum(round(worker['threads']) for worker in workers)} threads, "
            f"{_size(sum(worker['memory']['limit'] or 0 for worker in workers))}</summary><table><thead><tr>"
            "<th>worker</th><th>state</th><th>threads</th><th>memory</th><th>limit</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>{more}</details>"
        )


def _worker(worker: dict[str, Any]) -> dict[str, Any]:
    """A worker as Dask's client tells it."""
    memory = worker["memory"]
    return {
        "type": "Worker",
        "id": worker["name"],
        "name": worker["name"],
        "host": worker["host"],
        "pid": worker.get("pid"),
        "nthreads": round(worker["threads"]),
        "memory_limit": memory["limit"] or 0,
        "resources": worker["resources"],
        "status": worker["state"],
        "last_seen": time.time() - (worker["last-seen"] or 0),
        "metrics": {
            "executing": worker["executing"],
            "memory": memory["process"],
            "managed_bytes": memory["managed"],
        },
        "local_directory": "",
        "services": {},
    }


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"
