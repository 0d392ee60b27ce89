"""The stand-in for `distributed`: what is imported, which cluster is meant, what Dask makes of it.

Scripts run in processes of their own: what is imported first decides.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcdag import _binary

PACKAGE = Path(_binary.__file__).resolve().parent.parent


def run(args: list[str], code: str, own_state: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a script by some command; it must end well."""
    script = own_state / "script.py"
    script.write_text(code)
    variables = {**os.environ, "PYTHONPATH": str(PACKAGE), **env}
    done = subprocess.run(
        [*args, str(script)], capture_output=True, text=True, env=variables, timeout=100, cwd=own_state
    )
    assert done.returncode == 0, done.stderr
    return done


def in_run(code: str, own_state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a script by `hpcdag run` with HPCDAG_COMPAT=1."""
    command = [_binary.find(), "run", *options, "--", sys.executable]
    return run(command, code, own_state, HPCDAG_COMPAT="1")


IMPORTS = """
import distributed, dask.distributed, distributed.lock, distributed.utils
from dask.distributed import Client, LocalCluster, Future, wait, as_completed, progress, get_client
from distributed.client import futures_of
from distributed.deploy.local import LocalCluster as Same
from distributed.worker import get_worker
from dask_jobqueue import SLURMCluster, PBSCluster
import dask, hpcdag
assert Same is LocalCluster and issubclass(Client, hpcdag.Client) and SLURMCluster is hpcdag.SLURMCluster
assert distributed.__version__ == dask.__version__
for name in ("Worker", "Nanny", "SSHCluster"):
    try:
        getattr(distributed, name)
    except ImportError as error:
        assert "docs/from-dask.md" in str(error), error
    else:
        raise AssertionError(name)
assert not hasattr(distributed, "such")
try:
    import distributed.shuffle._core
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("peer-to-peer methods are taken for there")
print(distributed.__file__)
"""


def test_imports_with_and_without_a_cluster(own_state: Path) -> None:
    for done in (
        run([sys.executable, "-m", "hpcdag.run"], IMPORTS, own_state),
        in_run(IMPORTS, own_state),
    ):
        assert "hpcdag/compat/site/distributed/__init__.py" in done.stdout


def test_without_the_variable_nothing_is_changed(own_state: Path) -> None:
    code = "import sys; print([p for p in sys.path if 'compat' in p])"
    done = run([_binary.find(), "run", "--", sys.executable], code, own_state)
    assert done.stdout == "[]\n"
    done = run([_binary.find(), "run", "--", sys.executable], code, own_state, HPCDAG_COMPAT="0")
    assert done.stdout == "[]\n"


def test_an_interpreter_without_the_package_is_refused(own_state: Path) -> None:
    script = own_state / "script.py"
    script.write_text("print('ran')")
    variables = {**os.environ, "HPCDAG_COMPAT": "1"}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        [_binary.find(), "run", "--", sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=variables,
        timeout=100,
        cwd=own_state,
    )
    if done.returncode == 0:
        pytest.skip("the package is installed in the interpreter of the tests")
    assert "has no package hpcdag: ModuleNotFoundError" in done.stderr, done.stderr
    assert "ran" not in done.stdout


DASK_ASKS = """
import warnings
import dask, dask.base, dask.utils, dask.array as da
from dask.distributed import Client, LocalCluster, default_client, get_client, performance_report
for ask in (default_client, get_client, Client.current):
    try:
        ask()
    except ValueError:
        pass
    else:
        raise AssertionError(ask)
# Dask looks at the default client even where a scheduler is named.
assert da.ones(4, chunks=2).sum().compute(scheduler="threads") == 4
assert da.ones(4, chunks=2).sum().compute() == 4
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    cluster = LocalCluster(n_workers=3, threads_per_worker=1)
    with Client(cluster) as client:
        assert default_client() is client and get_client() is client and Client.current() is client
        assert dask.utils.get_default_shuffle_method() != "p2p"
        assert da.core.normalize_chunks is not None
        from dask.array.rechunk import _choose_rechunk_method
        assert _choose_rechunk_method(((1,) * 1000,) * 2, ((1000,), (1000,))) == "tasks"
        assert dask.base.get_scheduler(scheduler="distributed") == client.get
        with performance_report("x.html"):
            assert client.submit(abs, -3).result() == 3
        page = open("x.html").read()
        assert page.startswith("<!doctype html>") and "abs" in page, page[:500]
    cluster.scale(5)
    cluster.close()
    with Client("tcp://somewhere:8786", n_workers=4, security=None, timeout="5s") as client:
        client.wait_for_workers(2)
        print(len(client.scheduler_info()["workers"]))
print([str(w.message) for w in told if "hpcdag" in str(w.message)])
"""


def test_what_dask_asks_and_which_cluster_is_meant(own_state: Path) -> None:
    done = in_run(DASK_ASKS, own_state, "-n", "2")
    workers, told = done.stdout.splitlines()
    assert workers == "2", done.stdout
    for wanted in ("scale has no effect", "tcp://somewhere:8786 is not used"):
        assert wanted in told, told


OWN_CLUSTER = """
from distributed import Client, LocalCluster
with Client(n_workers=2, threads_per_worker=1) as client:
    print(len(client.scheduler_info()["workers"]))
with LocalCluster(1, 2, processes=False) as cluster, Client(cluster) as client:
    print(sum(worker["threads"] for worker in cluster.workers()))
try:
    Client("tcp://somewhere:8786")
except ValueError as error:
    print(error)
"""


def test_a_script_without_a_cluster_around_it_makes_its_own(own_state: Path) -> None:
    done = run([sys.executable, "-m", "hpcdag.run"], OWN_CLUSTER, own_state)
    two, threads, refused = done.stdout.splitlines()
    assert (two, threads) == ("2", "2.0") and "needs a scheduler file" in refused
    assert list((own_state / "state" / "hpcdag").iterdir()) == []


def test_arguments_and_modules_of_scripts(own_state: Path) -> None:
    (own_state / "mine.py").write_text("import sys; print(sys.argv[1:], __name__)")
    (own_state / "beside.py").write_text("WORD = 'beside'")
    code = "import sys, beside; print(sys.argv[1:], __name__, beside.WORD)"
    assert run([sys.executable, "-m", "hpcdag.run"], code, own_state).stdout == "[] __main__ beside\n"
    done = subprocess.run(
        [sys.executable, "-m", "hpcdag.run", "-m", "mine", "a", "-b"],
        capture_output=True,
        text=True,
        cwd=own_state,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        timeout=60,
    )
    assert done.stdout == "['a', '-b'] __main__\n", done.stderr


SCIENCE = """
import operator, sys
import dask, dask.array as da, dask.bag as db
from dask.distributed import Client, Lock, as_completed, wait, worker_client

def increment(x):
    import distributed
    assert "compat" in distributed.__file__, distributed.__file__
    return x + 1

if __name__ == "__main__":
    client = Client()
    futures = client.map(increment, range(20))
    wait(futures)
    print(sum(f.result() for f in as_completed(futures)))
    print(int(da.arange(100, chunks=10).sum().compute()))
    print(db.from_sequence(range(10), npartitions=3).map(increment).sum().compute())
    lazy = dask.delayed(operator.add)(1, 2)
    print(client.compute(lazy).result(), dask.compute(lazy, lazy)[0])
    with Lock("x"):
        print("locked")
    client.close()
"""


def test_an_unmodified_script(own_state: Path) -> None:
    done = in_run(SCIENCE.replace(", worker_client", ""), own_state, "-n", "2")
    assert done.stdout.split() == ["210", "4950", "55", "3", "3", "locked"], done.stderr
