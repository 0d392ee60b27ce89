"""Stand-in for `dask_jobqueue`: clusters of jobs, on hpcdag."""

from __future__ import annotations

from hpcdag import PBSCluster, SGECluster, SLURMCluster

__all__ = ["PBSCluster", "SGECluster", "SLURMCluster"]


def __getattr__(name: str) -> object:
    if name.endswith("Cluster"):
        raise ImportError(f"hpcdag has no {name}; it knows Slurm, PBS and Grid Engine", name="dask_jobqueue")
    raise AttributeError(f"hpcdag's stand-in for 'dask_jobqueue' has no {name!r}")
