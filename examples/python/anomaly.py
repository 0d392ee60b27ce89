"""Deviations from the mean of each month, over a NetCDF file that is read and written in pieces by tasks.

    python examples/python/anomaly.py

Makes a file of daily temperatures first. The pieces are written by tasks of several processes into one file:
hpcdag makes the library's lock one of the whole cluster.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from hpcdag import Client, LocalCluster


def make(path: Path, days: int = 730) -> None:
    """A file of temperatures in kelvin: days x latitude x longitude."""
    time = np.arange("2020-01-01", days, dtype="datetime64[D]").astype("datetime64[ns]")
    rng = np.random.default_rng(1)
    season = 10 * np.cos(2 * np.pi * np.arange(days) / 365.25)
    values = 280 + season[:, None, None] + rng.normal(0, 2, (days, 36, 72))
    grid = {"time": time, "lat": np.linspace(-87.5, 87.5, 36), "lon": np.arange(0, 360, 5.0)}
    data = xr.DataArray(values.astype("f4"), grid, ("time", "lat", "lon"), name="t2m", attrs={"units": "K"})
    data.to_netcdf(path, engine="h5netcdf")


def anomaly(data: xr.DataArray) -> xr.DataArray:
    """The difference to the mean of the same month in all years."""
    months = data.groupby("time.month")
    return months - months.mean("time")


def main(directory: Path) -> None:
    """Computes the anomaly on a cluster and compares it with the eager one."""
    source, target = directory / "t2m.nc", directory / "anomaly.nc"
    make(source)
    with LocalCluster(nworkers=2, nthreads=1) as cluster, Client(cluster):
        data = xr.open_dataset(source, engine="h5netcdf", chunks={"time": 365})["t2m"]
        anomaly(data).to_netcdf(target, engine="h5netcdf")
    eager = anomaly(xr.load_dataset(source, engine="h5netcdf")["t2m"])
    written = xr.load_dataset(target, engine="h5netcdf")["t2m"]
    low, high = float(written.min()), float(written.max())
    print(f"anomalies of {written.sizes['time']} days, from {low:.1f} to {high:.1f} K")
    np.testing.assert_allclose(written.values, eager.values, atol=1e-4)
    print("equal to the eager result")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
