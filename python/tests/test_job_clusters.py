"""Clusters of jobs as far as no batch system is needed: job scripts, keywords, what is refused.

With a real Slurm they are tests/slurm_python.rs's.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from hpcdag import Cluster, HpcdagError, PBSCluster, SGECluster, SLURMCluster


def script_of(kind: type[Cluster], *args: Any, **keywords: Any) -> str:
    with kind(*args, **keywords) as cluster:
        return cluster.job_script()


def test_dask_jobqueue_s_keywords_for_slurm(own_state: Path) -> None:
    script = script_of(
        SLURMCluster,
        cores=4,
        memory="8 GB",
        processes=2,
        queue="long",
        account="phys-42",
        walltime="01:30:00",
        job_extra_directives=["--exclusive", "--constraint=gpu"],
        job_directives_skip=["--no-requeue"],
        job_script_prologue=['module load "x"', "export A=$HOME"],
        log_directory=own_state / "logs",
        job_name="mine",
    )
    head = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    for wanted in (
        "--job-name=mine",
        "--partition=long",
        "--account=phys-42",
        "--nodes=1",
        "--cpus-per-task=4",
        "--mem=7630M",
        "--time=01:30:00",
        f"--output={own_state}/logs/hpcdag-%j.log",
        "--exclusive",
        "--constraint=gpu",
    ):
        assert f"#SBATCH {wanted}" in head, script
    assert "--no-requeue" not in script
    lines = script.splitlines()
    at = lines.index('module load "x"')
    assert lines[at + 1] == "export A=$HOME"
    assert "hpcdag worker" in "\n".join(lines[at:]) or "worker --scheduler-file" in "\n".join(lines[at:])
    assert (own_state / "logs").is_dir()
    assert " --processes 2" in script, script


def test_processes_share_the_cores_of_a_node() -> None:
    assert " --processes 4" in script_of(SLURMCluster, cores=24, processes=4, walltime="1h")
    assert " --processes 2" in script_of(SLURMCluster, cores=24, processes=4, nodes=2, walltime="1h")
    assert " --processes 4" in script_of(PBSCluster, cores=24, processes=4, walltime="1h")
    assert " --processes 4" in script_of(SGECluster, cores=24, processes=4, walltime="1h", queue="all.q")
    assert "--processes" not in script_of(SLURMCluster, cores=24, walltime="1h")


def test_older_names_and_those_of_pbs() -> None:
    script = script_of(
        PBSCluster,
        cores=2,
        resource_spec="select=1:ncpus=36:mem=109gb:mpiprocs=1",
        project="nf33",
        queue="workq",
        walltime="1h",
        env_extra=["module load python3"],
        job_extra=["-l storage=gdata/nf33"],
        shebang="#!/bin/sh",
    )
    assert "#PBS -l select=1:ncpus=36:mpiprocs=1:mem=103951mb" in script
    assert "#PBS -A nf33" in script and "#PBS -q workq" in script
    assert "#PBS -l storage=gdata/nf33" in script
    assert "\nmodule load python3\n" in script
    with pytest.raises(ValueError, match="not of the form"):
        PBSCluster(cores=2, resource_spec="lots")
    with pytest.raises(ValueError, match="arch of resource_spec"):
        PBSCluster(cores=2, resource_spec="1:ncpus=2:arch=x")


def test_grid_engine() -> None:
    script = script_of(SGECluster, cores=1, walltime="1h", resource_spec="h_vmem=4G", queue="all.q")
    assert "#$ -l h_vmem=4G" in script and "#$ -q all.q" in script and "#$ -l h_rt=3600" in script


def test_what_there_cannot_be_is_said_at_once_and_nothing_is_left(own_state: Path) -> None:
    # The program's own words.
    with pytest.raises(HpcdagError, match="the walltime '30' has no unit"):
        SLURMCluster(cores=1, walltime="30")
    with pytest.raises(HpcdagError, match="PBS must be told how many processors"):
        PBSCluster(memory="1GB")
    with pytest.raises(HpcdagError, match="unexpected argument '--such'"):
        SLURMCluster(cores=1, walltime="1h", worker_extra_args=["--such"])
    with pytest.raises(HpcdagError, match="there is no setting 'worker.memory.spil'"):
        SLURMCluster(cores=1, walltime="1h", worker_options={"memory.spil": False})
    with pytest.raises(TypeError, match="no argument 'core'"):
        SLURMCluster(core=1)
    with pytest.raises(TypeError, match="'project' is another name"):
        SLURMCluster(cores=1, project="a", account="b")
    assert list((own_state / "state" / "hpcdag").iterdir()) == []


SITE = """
[launch.slurm]
account = "phys-42"
walltime = "4h"
[launch.pool.casper]
launcher = "sbatch"
partition = "dav"
cpus = 36
memory = "100G"
prologue = "module load conda"
[launch.pool.Other_one]
launcher = "pbs"
cpus = 8
"""


def test_a_site_of_the_configuration(own_state: Path) -> None:
    config = own_state / "config" / "hpcdag"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(SITE)
    script = script_of(Cluster, "casper")
    for wanted in ("--partition=dav", "--account=phys-42", "--cpus-per-task=36", "--time=04:00:00"):
        assert f"#SBATCH {wanted}" in script
    assert "\nmodule load conda\n" in script
    own = script_of(Cluster, site="casper", walltime="10m", job_script_prologue=["source env"])
    assert "#SBATCH --time=00:10:00" in own and "#SBATCH --partition=dav" in own
    assert "\nsource env\n" in own and "module load" not in own
    assert "#PBS -l select=1:ncpus=8" in script_of(Cluster, "Other_one")
    with pytest.raises(ValueError, match=r"\[launch\.pool\.Other_one\]"):
        Cluster("Other_one", job_script_prologue=["x"])
    with pytest.raises(HpcdagError, match='no pool "caspar"') as caught:
        Cluster(site="caspar")
    assert "there are Other_one, casper" in str(caught.value)


def test_cores_and_processors_may_differ() -> None:
    with SLURMCluster(cores=2, job_cpu=8, walltime="1h", python="/opt/env/bin/python") as cluster:
        answer = cluster._ask_options("start", "--dry-run")
    assert "--cpus-per-task=8" in answer["script"]
    assert "worker.nthreads = 2" in answer["settings"]
    assert 'worker.python.executable = "/opt/env/bin/python"' in answer["settings"]


def test_the_dashboard_is_where_it_is_wanted() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with SLURMCluster(cores=1, scheduler_options={"dashboard_address": f":{port}"}) as cluster:
        assert str(cluster.dashboard_link).startswith(f"http://127.0.0.1:{port}/")
    with SLURMCluster(cores=1, scheduler_options={"dashboard_address": None}) as cluster:
        assert cluster.dashboard_link is None


def test_without_a_batch_system_there_is_a_word_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="no batch system here"):
        Cluster(cores=1)


def test_counting_jobs() -> None:
    with SLURMCluster(cores=4, processes=2, walltime="1h") as cluster:
        assert [cluster._in_jobs(n) for n in (0, 1, 2, 3, 4)] == [0, 1, 1, 2, 2]
        with pytest.raises(TypeError, match="number of workers"):
            cluster.scale()
        with pytest.raises(NotImplementedError):
            cluster.scale(memory="1TB")
        with pytest.raises(TypeError, match="'maximun'"):
            cluster.adapt(maximun=3)
        assert cluster.jobs() == [] and "0 workers" in repr(cluster)
        assert cluster.scheduler_file in cluster._repr_html_()
