//! Workers in jobs of PBS, through stand-ins for its commands in `tests/pbs`: they check their arguments as
//! strictly as OpenPBS does and run the jobs on this machine, in an environment as bare as PBS's. No PBS
//! takes part.

mod support;

use support::scenario::{self, after, json};
use support::{Sandbox, repository};

/// What all scripts begin with, besides what all scenarios have.
const PREAMBLE: &str = r#"
# Whatever is left of a scenario that fails.
end() {
    local f
    for f in "$PBS_STAND_IN"/*/pid "$PBS_STAND_IN"/*/*/pid; do
        [ -e "$f" ] && kill -KILL -- -$(cat "$f") 2> /dev/null || true
    done
    HPCDAG_CLIENT__TIMEOUT=1s hpcdag stop > /dev/null 2>&1 || true
}
trap end EXIT
start() { hpcdag workers start --launcher qsub -t 10m "$@"; }
"#;

fn in_pbs(sandbox: &Sandbox, script: &str) -> String {
    sandbox.write(
        "config/hpcdag/config.toml",
        "[launch.pbs]\nprologue = 'export MODULES=loaded'\n\
         [scheduler]\nhost = '127.0.0.1'\n[worker]\nhost = '127.0.0.1'\n",
    );
    std::fs::create_dir(sandbox.path("home")).expect("a directory");
    let mut command = sandbox.command("bash");
    command.args(["-c", &format!("{}{PREAMBLE}{script}", scenario::PREAMBLE)]);
    scenario::put_in_path(&mut command, &[&repository().join("tests/pbs")]);
    command.env("PBS_STAND_IN", sandbox.path("pbs")).env("HOME", sandbox.path("home"));
    sandbox.run("scenario", command, scenario::LIMIT)
}

#[test]
fn workers_in_jobs_of_pbs() {
    let sandbox = Sandbox::new();
    let output = in_pbs(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
printf '#!/bin/sh\nexec sleep 300\n' > other.sh
other=$(qsub -l select=1:ncpus=1 other.sh)
json first start -N 2 -c 2 --mem 4G -p workq --json
json second start -N 2 --per-job 1 -c 1 --json
json third start -N 9 -c 4 --json
json fourth start -N 1 -c 1 --json -- -h
hpcdag workers wait 4 > /dev/null
json jobs hpcdag workers list --jobs --json
say ran $(hpcdag submit --array 1-40 -- sh -c 'echo $PBS_JOBID $MODULES' | sort -u | tr '\n' ,)
json stopped hpcdag workers stop --json 1
until_ok sh -c "hpcdag workers list --jobs --json | grep -q '\"state\": \"finished\"'"
json left hpcdag workers list --json
hpcdag down > /dev/null
until_ok sh -c 'qstat -x -f -F json "2[].login"; ! grep -L F pbs/[1-9]*/state | grep .'
say other $(cat pbs/$other/state)
say rerun $(cat pbs/1.login/rerun)
qdel $other
"#,
    );
    let jobs = json(&output, "jobs");
    let ids: Vec<&str> = jobs.as_array().into_iter().flatten().filter_map(|j| j["id"].as_str()).collect();
    assert_eq!(ids, ["1.login", "2[].login", "3.login", "4.login"], "{jobs}");
    assert_eq!(json(&output, "first")["id"], "1.login");
    assert_eq!(jobs[0]["workers"].as_array().map(Vec::len), Some(2), "one for each node: {jobs}");
    assert_eq!(jobs[1]["each"].as_array().map(Vec::len), Some(2), "the array itself is no job: {jobs}");
    assert_eq!(jobs[1]["workers"].as_array().map(Vec::len), Some(2), "one for each job of the array: {jobs}");
    assert_eq!(
        (&jobs[2]["each"][0]["state"], &jobs[3]["each"][0]["state"]),
        (&"pending".into(), &"held".into())
    );
    let reason = jobs[2]["each"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("Can Never Run"), "{jobs}");
    let ran = after(&output, "ran");
    assert!(ran.contains("1.login loaded"), "the prologue ran on the nodes: {ran}");
    let stopped = json(&output, "stopped");
    assert_eq!(stopped["jobs"], serde_json::json!(["1.login"]));
    assert_eq!(json(&output, "left").as_array().map(Vec::len), Some(2));
    assert_eq!(after(&output, "other"), "R", "the user's other job is not ours");
    assert_eq!(after(&output, "rerun"), "n");
}

/// In a job's own shell: `up` puts a worker on each node, with the node's share; when all have gone, `workers
/// start` brings new ones; a node that does not come is named, with what pbsdsh says.
#[test]
fn inside_a_job() {
    let sandbox = Sandbox::new();
    let output = in_pbs(
        &sandbox,
        r##"
cat > job.sh << JOB
#!/bin/bash
#PBS -l select=2:ncpus=2:mpiprocs=2:mem=800mb
#PBS -l walltime=00:20:00
#PBS -j oe
#PBS -o $PWD/job.out
export XDG_STATE_HOME=$XDG_STATE_HOME PATH=$PATH
JOB
cat >> job.sh << 'JOB'
set -euo pipefail
cd $PBS_O_WORKDIR
say() { printf '%s\n' "$*"; }
export HPCDAG_SCHEDULER__HOST=127.0.0.1 HPCDAG_WORKER__HOST=127.0.0.1 MODULES="a 'b'"
hpcdag up
say workers $(hpcdag workers list --json)
where='echo $PBS_NODENUM $PBS_JOBID $MODULES; sleep 0.1'
say ran $(hpcdag submit --array 1-24 -- sh -c "$where" | sort -u | tr '\n' ,)
hpcdag workers stop --all > /dev/null
for i in $(seq 1 100); do hpcdag workers list --json | grep -q joined || break; sleep 0.1; done
touch $PBS_STAND_IN/dead-n2
code=0
said=$(hpcdag workers start --min-workers 1 2>&1) || code=$?
say some $code $said
said=$(hpcdag workers start 2>&1) || code=$?
say missing $code $said
hpcdag down > /dev/null
say left $(find $XDG_STATE_HOME -type f | wc -l)
JOB
run=$(qsub job.sh)
until_ok grep -q F pbs/$run/state
cat job.out
"##,
    );
    let workers = json(&output, "workers");
    let mut found: Vec<_> = workers.as_array().into_iter().flatten().collect();
    found.sort_by_key(|w| w["name"].as_str());
    assert_eq!(found.len(), 2, "two nodes with two lines each: {workers}");
    for (at, worker) in found.iter().enumerate() {
        assert!(worker["name"].as_str().is_some_and(|n| n.starts_with(&format!("n{}-", at + 1))), "{worker}");
        let (threads, limit) = (worker["threads"].as_f64(), worker["memory"]["limit"].as_u64());
        assert_eq!((threads, limit), (Some(2.0), Some(800 << 20)), "{worker}");
        assert!(worker["leaves-in"].as_f64().is_some_and(|left| (900.0..1200.0).contains(&left)), "{worker}");
    }
    assert_eq!(after(&output, "ran"), "0 0.login a 'b',2 0.login a 'b',", "{output}");
    let said = "pbsdsh: spawn failed on node 2";
    let some = after(&output, "some");
    assert!(some.starts_with("0 ") && some.contains(said) && some.contains("1 worker connected"), "{some}");
    let missing = after(&output, "missing");
    assert!(
        missing.starts_with("11 ") && missing.contains("n2: pbsdsh ended") && missing.contains(said),
        "{missing}"
    );
    assert_eq!(after(&output, "left"), "0", "{output}");
}

#[test]
fn what_pbs_refuses_is_said_in_its_words() {
    let sandbox = Sandbox::new();
    let output = in_pbs(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
say queue $(start -N 1 -c 1 -p nosuch 2>&1 || say code $?)
say resource $(start -N 1 -c 1 -- -l foo=bar 2>&1 || say code $?)
say cpus $(start -N 1 2>&1 || say code $?)
say qos $(start -N 1 -c 1 --qos high 2>&1 || say code $?)
say check $(start -N 1 -c 1 --check 2>&1 || say code $?)
start -N 2 -c 1 --dry-run > dry
say jobs $(ls pbs 2> /dev/null | wc -l)
say files "$(find "$XDG_STATE_HOME"/hpcdag/*/jobs -type f | wc -l)"
"#,
    );
    assert!(after(&output, "queue").contains("PBS refused the job: Unknown queue"), "{output}");
    assert!(after(&output, "queue").ends_with("code 11"), "{output}");
    assert!(after(&output, "resource").contains("Unknown resource Resource_List.foo"), "{output}");
    assert!(after(&output, "cpus").contains("[launch.pbs]"), "{output}");
    assert!(after(&output, "qos").contains("PBS has nothing that --qos could mean"), "{output}");
    assert!(after(&output, "check").contains("--dry-run"), "{output}");
    assert!(sandbox.read("dry").contains("#PBS -l place=scatter\n"), "{}", sandbox.read("dry"));
    assert_eq!((after(&output, "jobs"), after(&output, "files")), ("0", "0"));
}

/// Without work there is no job; a graph brings two, and afterwards they go. Never more than the maximum, of
/// which one waits at a time, and another job of the same user goes on.
#[test]
fn from_nothing_to_two_jobs_and_back() {
    let sandbox = Sandbox::new();
    let output = in_pbs(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
printf '#!/bin/sh\nexec sleep 300\n' > other.sh
other=$(qsub -l select=1:ncpus=1 other.sh)
timing=(--interval 300ms --shrink-after 2s --min-work 500ms)
hpcdag workers adapt --launcher qsub --max 2 -c 1 -t 10m "${timing[@]}" 2> adapt.log &
adapt=$!
until_ok grep -q '0 there; Ctrl-C' adapt.log
hpcdag submit --array 1-16 -- sh -c 'sleep 0.5; echo $PBS_JOBID' > ran
say ran $(wc -l < ran) $(sort -u ran | wc -l)
until_ok workers_are 0
until_ok sh -c "[ \$(grep -c 'cancelling job' adapt.log) = 2 ]"
kill -INT $adapt
wait $adapt && say code 0 || say code $?
say states $(cat pbs/[2-9]*/state | sort -u)
say other $(cat pbs/$other/state)
json scaled hpcdag workers scale 2 --json --launcher pbs -c 1 -t 10m
hpcdag workers wait 2
HPCDAG_LAUNCH__PBS__MAX_JOBS=2 hpcdag workers scale 3 -c 1 -t 10m 2> refused || say limit $? $(cat refused)
json down hpcdag workers scale 0 --json -c 1
say left $(workers)
qdel $other
cat adapt.log
"#,
    );
    assert_eq!(after(&output, "ran"), "16 2", "two jobs have worked: {output}");
    assert_eq!((after(&output, "code"), after(&output, "states")), ("0", "F"), "{output}");
    assert_eq!(after(&output, "other"), "R", "the user's other job is not ours");
    assert_eq!(output.lines().filter(|line| line.contains("Z submitted job")).count(), 2, "{output}");
    assert_eq!(json(&output, "scaled")["submitted"].as_array().map(Vec::len), Some(2));
    let limit = after(&output, "limit");
    assert!(limit.starts_with("11 ") && limit.contains("launch.pbs.max-jobs"), "{limit}");
    assert_eq!(json(&output, "down")["ended"].as_array().map(Vec::len), Some(2), "{output}");
    assert_eq!(after(&output, "left"), "0");
}

/// The ready scripts in `pbs/`, submitted as they are: a whole run as one job, and workers for a cluster.
#[test]
fn ready_scripts() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "graph.toml",
        "version = 1\n[task.where]\nfor-each = { range = [0, 8] }\nshell = 'sleep 0.2; echo $PBS_NODENUM'\n\
         [task.all]\nfrom = { where = 'all' }\nshell = 'cat'\n[output]\nall = 'nodes.txt'\n",
    );
    let pbs = repository().join("pbs").display().to_string();
    let output = in_pbs(
        &sandbox,
        &r#"
run=$(qsub -l select=2:ncpus=1:mpiprocs=1 -v GRAPH=graph.toml PBS/run.sh)
until_ok grep -q F pbs/$run/state
say exit $(cat pbs/$run/exit)
say nodes $(sort -u nodes.txt | tr '\n' ' ')
say left $(ls hpcdag-*.json 2> /dev/null | wc -l)
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
qsub -l select=2:ncpus=1:mpiprocs=1 -v SCHEDULER_FILE=s.json PBS/workers.sh > /dev/null
qsub -J 0-1 -v SCHEDULER_FILE=s.json PBS/workers-array.sh > /dev/null
say workers $(hpcdag workers wait 4 --timeout 20s)
hpcdag stop > /dev/null
cat hpcdag-*.o*
"#
        .replace("PBS/", &format!("{pbs}/")),
    );
    assert_eq!(after(&output, "exit"), "0", "{output}");
    assert_eq!(after(&output, "nodes"), "0 1", "both nodes have worked: {output}");
    assert_eq!(after(&output, "left"), "0");
    assert!(after(&output, "workers").starts_with("4 workers"), "{output}");
}
