"""What clients import, workers import meanwhile: before the first call."""

from clusters import python
from test_zygote import _place

# What a cluster and its client are; the package that the client imports says who imports it.
_PROGRAM = """
    import os, sys

    own, fifo = sys.argv[1:]
    sys.path.insert(0, own)
    from hpcdag import Client, LocalCluster

    said = os.open(fifo, os.O_RDWR)

    def importers(known, n):
        while len(known) < n:
            known |= set(map(int, os.read(said, 1 << 16).split()))
        return known

    def look():
        return "xarray.part" in sys.modules, os.getppid()

    with LocalCluster(nworkers=2, nthreads=1, host="127.0.0.1") as cluster:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2)
            import xarray

            pids = importers({os.getpid()}, 3)
            cluster.scale(3)
            pids = importers(pids, 4)
            has, parent = client.submit(look).result()
            print(has, parent in pids - {os.getpid()})
"""


def test_workers_import_what_the_client_imports_those_too_that_come_later(tmp_path):
    _place(tmp_path / "own", "xarray", tmp_path / "fifo")
    done = python(_PROGRAM, str(tmp_path / "own"), str(tmp_path / "fifo"))
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
