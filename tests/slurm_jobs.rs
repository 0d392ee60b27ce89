//! Workers in jobs of a real Slurm, submitted from outside of any allocation. Each test brings up a Slurm of
//! its own with `scripts/slurm-testbed`, which takes it away with everything that runs in it; the scenarios
//! are shell scripts, as people write them on a login node.

mod support;

use serde_json::Value;
use support::scenario::{after, in_slurm, json};
use support::{Sandbox, repository};

/// Two submissions, a job of two nodes and an array of two jobs, are shown with their workers and run a
/// graph; stopping one cancels it and nothing else, least of all another job of the same user; `down` leaves
/// nothing.
#[test]
fn workers_from_the_login_node() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
other=$(sbatch --parsable -J other -o /dev/null --wrap 'exec sleep 300')
json first hpcdag workers start --json --launcher sbatch -N 2 -c 2 --walltime 10m
array=(-N 2 --per-job 1 -c 2 --mem 1G -t 10:00)
json second hpcdag workers start --json --launcher sbatch "${array[@]}" -- --comment=mine
json third hpcdag workers start --json --launcher sbatch -N 4 -t 10m --nthreads 1 -- --hold
hpcdag workers wait 4 > /dev/null
json jobs hpcdag workers list --json --jobs
json workers hpcdag workers list --json
say table $(hpcdag workers list | tr '\n' ' ')
say comment $(squeue -h -o %k -n "$(squeue -h -t pd -o %j)" -t pd)
say seen $(hpcdag submit --array 1-24 -- sh -c 'sleep 0.2; echo $SLURM_JOB_ID' | sort -u | wc -l)
first=$(hpcdag workers list --jobs --json | sed -n 's/^    "id": "\([0-9]*\)",/\1/p' | head -n 1)
json stopped hpcdag workers stop --json $first
until_ok over $first
json left hpcdag workers list --json --jobs
json left-workers hpcdag workers list --json
grep -l 'killed\|panicked' "$XDG_STATE_HOME"/hpcdag/*/jobs/*.log && say bad-log
hpcdag down > /dev/null
until_ok no_job
say other $(squeue -h -j $other -o %T)
say files $(find "$XDG_STATE_HOME" -type f | wc -l)
scancel $other
"#,
    );
    let (first, second, third) = (json(&output, "first"), json(&output, "second"), json(&output, "third"));
    assert_eq!((&first["system"], &first["nodes"], &first["jobs"]), (&"slurm".into(), &2.into(), &1.into()));
    assert_eq!((&second["nodes"], &second["jobs"]), (&1.into(), &2.into()));
    let jobs = json(&output, "jobs");
    let job = |jobs: &Value, id: &Value| {
        let found = jobs.as_array().into_iter().flatten().find(|job| job["id"] == *id).cloned();
        found.unwrap_or_else(|| panic!("no job {id} in {jobs}"))
    };
    let of_first = job(&jobs, &first["id"]);
    assert_eq!((&of_first["state"], &of_first["each"][0]["word"]), (&"running".into(), &"RUNNING".into()));
    assert_eq!(of_first["workers"].as_array().map(Vec::len), Some(2));
    let of_second = job(&jobs, &second["id"]);
    assert_eq!(of_second["workers"].as_array().map(Vec::len), Some(2), "{of_second}");
    assert_eq!(of_second["each"].as_array().map(Vec::len), Some(2), "each job of the array: {of_second}");
    let held = job(&jobs, &third["id"]);
    let each = &held["each"][0];
    assert_eq!((&each["state"], &each["reason"]), (&"held".into(), &"JobHeldUser".into()), "{held}");
    let workers = json(&output, "workers");
    let workers = workers.as_array().expect("a list");
    assert_eq!(workers.len(), 4);
    assert!(workers.iter().all(|w| w["threads"] == 2.0), "{workers:?}");
    assert!(after(&output, "table").contains("JobHeldUser"));
    assert!(after(&output, "comment").starts_with("hpcdag cluster "), "whose the job is: {output}");
    assert!(after(&output, "seen").parse::<u32>().expect("a count") >= 2, "both jobs have worked");

    let stopped = json(&output, "stopped");
    assert_eq!(stopped["jobs"], serde_json::json!([first["id"]]));
    assert_eq!(stopped["stopping"].as_array().map(Vec::len), Some(2), "its workers leave in order");
    let left = json(&output, "left");
    assert!(matches!(job(&left, &first["id"])["state"].as_str(), Some("finished" | "cancelled")), "{left}");
    assert_eq!(job(&left, &second["id"])["state"], "running");
    assert_eq!(json(&output, "left-workers").as_array().map(Vec::len), Some(2));
    assert!(!output.contains("bad-log"), "{output}");
    assert_eq!(after(&output, "other"), "RUNNING", "the user's other job is not ours");
    assert_eq!(after(&output, "files"), "0");
}

/// `doctor` knows Slurm and the job that it is in. When a scheduler has died it lists that cluster's
/// job and, asked to, ends it; another job of the same user goes on.
#[test]
fn doctor_ends_the_jobs_of_a_dead_cluster() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
other=$(sbatch --parsable -J other -o /dev/null --wrap 'exec sleep 300')
json job hpcdag workers start --json --launcher sbatch -N 1 -c 1 -t 10m
hpcdag workers wait 1 > /dev/null
json login hpcdag doctor --json
json node srun -N 1 -c 1 -t 60 hpcdag doctor --json
kill -9 $(sed -n 's/^  "pid": \([0-9]*\),/\1/p' "$XDG_STATE_HOME"/hpcdag/*/scheduler.json)
until_ok sh -c 'hpcdag doctor --orphans | grep -q dead'
json left hpcdag doctor --orphans --json
json ended hpcdag doctor --orphans --end --json
until_ok no_job
say other $(squeue -h -j $other -o %T)
say files $(find "$XDG_STATE_HOME" -type f | wc -l)
scancel $other
"#,
    );
    let (login, node) = (json(&output, "login"), json(&output, "node"));
    let limits = login["readings"]["batch"]["limits"].as_array().expect("a list").clone();
    assert!(limits.iter().any(|l| l[0] == "MaxArraySize"), "{limits:?}");
    assert!(login["readings"]["batch"]["queues"][0]["default"] == true, "{login}");
    assert!(login["readings"]["batch"]["job"].is_null());
    let left = node["readings"]["batch"]["job"]["seconds-left"].as_u64();
    assert!(left.is_some_and(|s| (3000..=3600).contains(&s)), "{}", node["readings"]["batch"]["job"]);
    assert_eq!(node["readings"]["network"]["scheduler"]["fault"], Value::Null);

    let (job, left, ended) = (json(&output, "job"), json(&output, "left"), json(&output, "ended"));
    assert_eq!(
        (&left["clusters"][0]["jobs"][0]["id"], &left["clusters"][0]["ended"]),
        (&job["id"], &Value::Null)
    );
    assert_eq!(ended["clusters"][0]["ended"], true, "{ended}");
    assert_eq!(after(&output, "other"), "RUNNING", "the user's other job is not ours");
    assert_eq!(after(&output, "files"), "0");
}

/// What Slurm refuses is said once, in its words; nothing is left of it. What it is asked about without
/// submitting it is not submitted.
#[test]
fn refusals_and_questions() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
start() { hpcdag workers start --launcher sbatch "$@" 2>&1; }
say partition $(start -N 1 -t 10m -p nosuch || say code $?)
say native $(start -N 1 -t 10m -- --no-such-option || say code $?)
say bare $(start -N 1 -t 30 || say code $?)
say check $(start -N 2 -t 10m --check)
say check-no $(start -N 2 -t 10m --mem 900G --check || say code $?)
start -N 2 -t 10m -c 3 --gpus 1 --dry-run > dry
say limit $(start -N 1 -t 10m -p short | sed 's/.*job \([0-9]*\) .*/\1/')
say jobs $(squeue -h -o %D)
json list hpcdag workers list --json --jobs
say files $(find "$XDG_STATE_HOME"/hpcdag/*/jobs -type f | wc -l)
SLURM_CONF=/nonexistent start -N 1 -t 10m > down || say down-code $?
hpcdag down > /dev/null
say "after [$(squeue -h)]"
"#,
    );
    let partition = after(&output, "partition");
    assert!(partition.contains("Slurm refused the job: invalid partition specified: nosuch"), "{partition}");
    assert!(partition.ends_with("code 11"), "{partition}");
    assert!(after(&output, "native").contains("unrecognized option '--no-such-option'"), "{output}");
    assert!(after(&output, "bare").contains("has no unit") && after(&output, "bare").ends_with("code 2"));
    let check = after(&output, "check");
    assert!(check.contains("Slurm would take it: Job") && check.contains("on nodes"), "{check}");
    let refused = after(&output, "check-no");
    assert!(refused.contains("Requested node configuration is not available"), "{refused}");
    let dry = sandbox.read("dry");
    for line in [
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --no-requeue",
        "worker.resources.gpus = 1",
        "worker.nthreads = 3",
    ] {
        assert!(dry.lines().any(|l| l == line), "{line}: {dry}");
    }
    assert!(!dry.contains("BEGIN CERTIFICATE") && !dry.contains("PRIVATE KEY"), "{dry}");
    assert_eq!(after(&output, "jobs"), "1", "only the last one was submitted");
    let list = json(&output, "list");
    let each = &list[0]["each"][0];
    assert_eq!(
        (&list[0]["id"], &each["state"]),
        (&after(&output, "limit").into(), &"pending".into()),
        "{list}"
    );
    assert!(each["reason"].as_str().is_some_and(|why| why.starts_with("Partition")), "{list}");
    assert_eq!(after(&output, "files"), "3", "script, settings and record of the one that was taken");
    assert_eq!(after(&output, "down-code"), "11");
    assert_eq!(after(&output, "after"), "[]", "`down` cancels what waits");
}

/// Its first tasks run before there is a worker for the second, which holds up the third.
const GRAPH: &str = r#"
version = 1
params = { dir = "" }
[task.a]
for-each = { range = [0, 4] }
shell = "echo {item} >> {dir}/ran; echo {item}"
[task.c]
resources = { late = 1 }
shell = "while [ ! -e {dir}/go ]; do sleep 0.1; done"
[task.b]
from = { a = "all" }
after = ["c"]
shell = "sort"
[output]
b = "b.txt"
"#;

/// A job that starts when its cluster has ended ends at once and well; one that is told to end by Slurm lets
/// its workers hand over their results, so that nothing is computed again.
#[test]
fn ends_of_clusters_and_of_jobs() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
start() { hpcdag workers start --launcher sbatch -t 10m --json "$@" | key id; }
gone=$(start -N 1 -c 1 -J gone -o gone.out -- --hold)
killed=$(start -N 1 -c 1 -J killed -o killed.out -- --hold)
one=$(start -N 2 -c 2)
hpcdag workers wait 2 > /dev/null
run=$(hpcdag submit graph.toml --set dir=$PWD --detach)
until_ok grep -c 3 ran
two=$(start -N 1 -c 2 --resources late=1)
hpcdag workers wait 3 > /dev/null
scancel $one
until_ok over $one
json moved hpcdag status --json
touch go
json summary hpcdag wait --json $run
say ran $(sort ran | tr -d '\n')
say b $(tr -d '\n' < b.txt)
json ended hpcdag workers list --jobs --json
# The scheduler dies, and its file stays; then it is gone.
kill -KILL $(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' s.json)
begin=$SECONDS
scontrol release $killed
until_ok sh -c "scontrol show job $killed | grep -q JobState=COMPLETED"
say killed-took $((SECONDS - begin))
say killed-said $(cat killed.out)
rm s.json
begin=$SECONDS
scontrol release $gone
until_ok sh -c "scontrol show job $gone | grep -q JobState=COMPLETED"
say gone-took $((SECONDS - begin))
say gone-said $(cat gone.out)
"#,
    );
    let moved = json(&output, "moved");
    assert_eq!(moved["workers"].as_array().map(Vec::len), Some(1), "{moved}");
    let summary = json(&output, "summary");
    assert_eq!((&summary[0]["succeeded"], &summary[0]["retried"]), (&6.into(), &0.into()), "{summary}");
    assert_eq!(after(&output, "ran"), "0123", "results were handed over: nothing ran again");
    assert_eq!(after(&output, "b"), "0123");
    let ended = json(&output, "ended");
    let state = |name: &str| {
        let found =
            ended.as_array().into_iter().flatten().find(|job| job["each"][0]["word"] == name).cloned();
        found.map(|job| job["state"].clone())
    };
    assert_eq!(state("CANCELLED"), Some("cancelled".into()), "{ended}");
    let seconds = |word: &str| after(&output, word).parse::<u64>().expect("seconds");
    assert!(seconds("killed-took") < 60 && seconds("gone-took") < 15, "{output}");
    assert!(after(&output, "killed-said").contains("does not answer"), "{output}");
    assert!(after(&output, "gone-said").contains("has ended"), "{output}");
}

/// The ready scripts in `slurm/`, submitted as they are: a whole run as one job on four nodes, which ends
/// with the graph's status; the same as a heterogeneous job; workers for a cluster that is there already.
#[test]
fn ready_scripts() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", HOSTS);
    let slurm = repository().join("slurm").display().to_string();
    let output = in_slurm(
        &sandbox,
        &r#"
sbatch -W --time=5 SLURM/run.sh graph.toml > /dev/null && say run $(sort -u hosts.txt | tr '\n' ' ')
say left $(ls hpcdag-*.json 2> /dev/null | wc -l)
rm hosts.txt
sbatch -W --time=5 SLURM/run-het.sh graph.toml > /dev/null && say het $(sort -u hosts.txt | tr '\n' ' ')
printf 'version = 1\n[task.bad]\nargv = ["false"]\n' > bad.toml
sbatch -W --time=5 -N 1 SLURM/run.sh bad.toml > /dev/null || say bad $?
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
sbatch --exclusive -N 2 --time=5 SLURM/workers.sh s.json > /dev/null
sbatch --array 0-1 --exclusive --time=5 SLURM/workers-array.sh s.json > /dev/null
say workers $(hpcdag workers wait 4 --timeout 60s)
hpcdag down > /dev/null
until_ok no_job
cat ./*.log
"#
        .replace("SLURM", &slurm),
    );
    assert_eq!(after(&output, "run"), "n1 n2 n3 n4", "{output}");
    assert_eq!(after(&output, "left"), "0", "no scheduler file is left");
    assert_eq!(after(&output, "het"), "n1 n2 n3 n4", "{output}");
    assert_eq!(after(&output, "bad"), "3", "the job ends as the graph does");
    assert!(after(&output, "workers").starts_with("4 workers"), "{output}");
}

/// Says which nodes have worked.
const HOSTS: &str = r#"
version = 1
[task.where]
for-each = { range = [0, 48] }
shell = "sleep 0.3; echo $SLURMD_NODENAME"
[task.all]
from = { where = "all" }
shell = "cat"
[output]
all = "hosts.txt"
"#;
