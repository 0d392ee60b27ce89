"""`Client` and `LocalCluster` with the arguments of `distributed`'s.

Owns which cluster is meant: under `hpcdag run` it is the one around the script, whatever the script says
about workers, because who ran it has said so; without one the script's own arguments count.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import hpcdag
from hpcdag import _dashboard
from hpcdag._binary import ask
from hpcdag.cluster import ClusterBase

_VARIABLE = "HPCDAG_SCHEDULER_FILE"

# Arguments of distributed.Client that have no meaning here.
_WITHOUT_EFFECT = {
    "connection_limit",
    "deserializers",
    "direct_to_workers",
    "extensions",
    "heartbeat_interval",
    "loop",
    "no_watch",
    "security",
    "serializers",
}
_OF_CLIENT = {"name", "set_as_default", "timeout"}


def around() -> str | None:
    """The scheduler file of the cluster around this script."""
    return os.environ.get(_VARIABLE) or None


class Around:
    """The cluster around the script, where the script makes one of its own."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.scheduler_file = around()
        self.name = "cluster of hpcdag run"

    def scale(self, *args: Any, **keywords: Any) -> None:
        """Does nothing but say so: the workers are those that `hpcdag run` was told to start."""
        warnings.warn("scale has no effect: the workers are those of `hpcdag run`", stacklevel=2)

    adapt = scale

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler."""
        status = ask(["status", "--scheduler-file", str(self.scheduler_file)])
        return str(status["scheduler"]["address"])

    @property
    def dashboard_link(self) -> str:
        """Address of the dashboard, with what opens it; empty without one."""
        return _dashboard.reachable(
            ask(["status", "--scheduler-file", str(self.scheduler_file)])["dashboard"]
        )

    def close(self, timeout: Any = None) -> None:
        """Does nothing: the cluster ends with `hpcdag run`."""

    def __enter__(self) -> Around:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.scheduler_file}>"


class _LocalClusterMeta(type):
    # Both kinds are what scripts take for a LocalCluster.
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (Around, hpcdag.LocalCluster))


class LocalCluster(metaclass=_LocalClusterMeta):
    """The cluster around the script; without one a cluster on this machine with these arguments."""

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        if around():
            return Around()
        # The second argument of distributed's is threads as well, the third whether to use processes.
        return hpcdag.LocalCluster(*args[:2], **keywords)


class Client(hpcdag.Client):
    """`hpcdag.Client` with the arguments of `distributed.Client`."""

    def __init__(
        self,
        address: Any = None,
        *,
        scheduler_file: Any = None,
        asynchronous: bool = False,
        **others: Any,
    ) -> None:
        if asynchronous:
            raise NotImplementedError("there are no asynchronous clients; futures can be awaited anyway")
        keywords = {key: others.pop(key) for key in _OF_CLIENT & set(others)}
        for name in _WITHOUT_EFFECT:
            others.pop(name, None)
        if isinstance(keywords.get("timeout"), str):
            keywords["timeout"] = _seconds(keywords["timeout"])
        own = None
        if isinstance(address, (ClusterBase, Around)) or (
            scheduler_file is not None and os.path.exists(scheduler_file)
        ):
            pass
        elif around():
            if address is not None or scheduler_file is not None:
                said = address if scheduler_file is None else scheduler_file
                warnings.warn(f"{said} is not used: the cluster is that of `hpcdag run`", stacklevel=2)
            address, scheduler_file = None, around()
        elif address is None and scheduler_file is None:
            address = own = hpcdag.LocalCluster(**others)
        elif address is not None:
            raise ValueError(f"{address}: hpcdag needs a scheduler file, not an address alone")
        try:
            super().__init__(address, scheduler_file=scheduler_file, **keywords)
        except BaseException:
            if own is not None:
                own.close()
            raise
        self._owns_cluster = own is not None

    @classmethod
    def current(cls, allow_global: bool = True) -> Any:
        """The client of this process or of the task that runs.

        Raises:
            ValueError: there is none.
        """
        return hpcdag.get_client()


def _seconds(text: str) -> float:
    from dask.utils import parse_timedelta

    return float(parse_timedelta(text))
