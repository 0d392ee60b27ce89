//! Clusters of jobs that Python scripts make, in a real Slurm: what `SLURMCluster` submits, that calls run in
//! those jobs, and that no job is left however the script ends.

mod support;

use std::process::Command;
use support::scenario::{after, in_slurm};
use support::{Sandbox, repository};

/// What a scientist writes: jobs, a map over them, the end.
const SCRIPT: &str = r#"
import os, sys
from hpcdag import Client, SLURMCluster

def where(i):
    return os.environ.get("SLURM_JOB_ID"), i * i

def own_variable():
    return os.environ.get("MINE")

job = dict(cores=2, memory="1GB", processes=2, walltime="00:10:00", n_workers=2)
mine = dict(job_extra_directives=["--comment=mine"], job_script_prologue=["export MINE=yes"])
with SLURMCluster(**job, **mine) as cluster:
    print("script", cluster.job_script().replace("\n", " "))
    cluster.scale(jobs=2)
    cluster.wait_for_workers(2, timeout=60)
    print("jobs", len(cluster.jobs()), {job["state"] for job in cluster.jobs()})
    with Client(cluster) as client:
        found = client.gather(client.map(where, range(40)))
        print("squares", [square for _, square in found] == [i * i for i in range(40)])
        own = {str(job["id"]) for job in cluster.jobs()}
        print("inside", {job for job, _ in found} <= own and len(found) == 40)
        print("variable", client.submit(own_variable).result())
    cluster.scale(1)
    cluster.adapt(maximum_jobs=1, interval=1)
    print("adapted", bool(cluster._status()["adapted"]))
print("closed", cluster.status)
"#;

/// It is killed while a job of its runs and another one waits.
const KILLED: &str = r#"
import os, signal
from hpcdag import SLURMCluster
cluster = SLURMCluster(cores=4, walltime="10m", submit_command_extra=["--exclusive"])
cluster.scale(jobs=5)
cluster.wait_for_workers(1, timeout=60)
print("file", cluster.scheduler_file, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"#;

#[test]
fn slurm_cluster_of_a_python_script() {
    let sandbox = Sandbox::new();
    sandbox.write("script.py", SCRIPT);
    sandbox.write("killed.py", KILLED);
    let python = Command::new(repository().join("scripts/python-env")).output().expect("a script that runs");
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    let package = repository().join("python");
    let output = in_slurm(
        &sandbox,
        &format!(
            r#"
export PYTHONPATH={} PYTHONDONTWRITEBYTECODE=1
export HPCDAG_BINARY=$(command -v hpcdag)
{python} script.py
until_ok no_job
say left $(find "$XDG_STATE_HOME" -type f | wc -l)

{python} killed.py || true
until_ok no_job
until_ok sh -c '[ $(find "$XDG_STATE_HOME" -type f | wc -l) = 0 ]' || {{
    find "$XDG_STATE_HOME" -type f -printf '%T+ %s %p\n' -exec tail -n 20 {{}} \; >&2
    exit 1
}}
say over yes
"#,
            package.display()
        ),
    );
    let script = after(&output, "script");
    let mine = ["--comment=mine", "export MINE=yes"];
    for wanted in ["--cpus-per-task=2", "--mem=954M", "--time=00:10:00"].into_iter().chain(mine) {
        assert!(script.contains(wanted), "{wanted}: {script}");
    }
    assert_eq!(after(&output, "jobs"), "2 {'running'}");
    assert_eq!((after(&output, "squares"), after(&output, "inside")), ("True", "True"), "{output}");
    assert_eq!(after(&output, "variable"), "yes");
    assert_eq!(after(&output, "adapted"), "True");
    assert_eq!((after(&output, "closed"), after(&output, "left")), ("closed", "0"));
    assert_eq!(after(&output, "over"), "yes", "nothing is left of a script that was killed");
}
