//! Pools of jobs in a real Slurm, and `workers adapt` that the scheduler's process runs.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm, json};

const POOLS: &str = r#"
[launch.slurm]
cpus = 1
walltime = "10m"
max-pending = 2
[launch.pool.stable]
launcher = "sbatch"
max = 1
[launch.pool.spot]
launcher = "sbatch"
max = 2
preemptible = true
options = ["--nice=10"]
"#;

/// Its first tasks run before there is a worker for the second, which holds up the third.
const GRAPH: &str = r#"
version = 1
params = { dir = "" }
[task.a]
for-each = { range = [0, 4] }
shell = "echo {item} >> {dir}/ran; echo {item}"
[task.c]
resources = { late = 1 }
shell = "cat {dir}/go"
[task.b]
from = { a = "all" }
after = ["c"]
shell = "sort"
[output]
b = "b.txt"
"#;

/// Workers say which pool they are in. When Slurm takes a job of the preemptible pool away, its results go to
/// the stable one, though another preemptible worker is as empty, so that nothing runs again when that one is
/// killed without a warning. `adapt` fills the first pool, then the next.
#[test]
fn a_stable_pool_beside_a_preemptible_one() {
    let sandbox = Sandbox::new();
    sandbox.write("config/hpcdag/config.toml", POOLS);
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
one=$(hpcdag workers start --pool spot --json | key id)
hpcdag workers wait 1 > /dev/null
run=$(hpcdag submit graph.toml --set dir=$PWD --detach)
until_ok sh -c '[ $(wc -l < ran) = 4 ]'
two=$(hpcdag workers start --pool spot --json | key id)
hpcdag workers start --pool stable > /dev/null
hpcdag workers wait 3 > /dev/null
json workers hpcdag workers list --json
say table $(hpcdag workers list | tr '\n' ' ')
scancel $one
until_ok over $one
kill -KILL $(hpcdag workers list --json | grep -B 3 '"pool": "spot"' | key pid)
scancel $two
until_ok over $two
echo > go
hpcdag workers start --pool stable --resources late=1 > /dev/null
hpcdag wait $run > /dev/null
say ran $(sort ran | tr -d '\n')
hpcdag workers stop --all > /dev/null
until_ok no_job

timing=(--interval 300ms --shrink-after 2s --min-work 500ms)
say no-max $(hpcdag workers adapt --launcher sbatch 2>&1 || say code $?)
say no-pool $(hpcdag workers adapt --pool spott 2>&1 || say code $?)
hpcdag workers adapt --pool stable --pool spot "${timing[@]}" 2> adapt.log &
adapt=$!
until_ok grep -q 'in pool spot, 0 there' adapt.log
hpcdag submit --array 1-24 -- sh -c 'sleep 0.5; echo $SLURM_JOB_ID' > jobs-that-ran
say jobs $(sort -u jobs-that-ran | wc -l)
until_ok jobs_are 0
kill -INT $adapt
wait $adapt
say stable $(grep -c 'submitted job .* in pool stable' adapt.log)
say spot $(grep -c 'submitted job .* in pool spot' adapt.log)
say first $(grep -m 1 'submitted job' adapt.log)

# Of jobs that wait there are two at most.
hpcdag workers scale 3 --launcher sbatch -- --hold 2> refused || say pending $? $(cat refused)
hpcdag workers adapt --launcher sbatch --min 4 --max 4 "${timing[@]}" -- --hold 2> held.log &
adapt=$!
until_ok jobs_are 2
sleep 2
say waiting $(jobs)
kill -INT $adapt
wait $adapt
hpcdag down > /dev/null
until_ok no_job
"#,
    );
    let workers = json(&output, "workers");
    let of = |pool: &str| workers.as_array().into_iter().flatten().filter(|w| w["pool"] == pool).count();
    assert_eq!((of("spot"), of("stable")), (2, 1), "{workers}");
    assert!(workers.as_array().into_iter().flatten().all(|w| (w["pool"] == "spot") == w["preemptible"]));
    assert!(after(&output, "table").contains("spot"), "{output}");
    assert_eq!(after(&output, "ran"), "0123", "nothing ran again");
    assert!(after(&output, "no-max").contains("--max N") && after(&output, "no-max").ends_with("code 2"));
    assert!(after(&output, "no-pool").contains("there are spot, stable"), "{output}");
    let (stable, spot) = (after(&output, "stable"), after(&output, "spot"));
    assert_eq!((stable, spot), ("1", "2"), "each up to its maximum: {output}");
    assert!(after(&output, "first").contains("in pool stable"), "{output}");
    assert!(after(&output, "jobs").parse::<u32>().expect("a count") >= 2, "{output}");
    assert!(after(&output, "pending").contains("launch.slurm.max-pending"), "{output}");
    assert_eq!(after(&output, "waiting"), "2");
}

/// The scheduler's process adapts the cluster: after the command has returned jobs come and go, `status` says
/// so, `--stop` and `workers scale` end it. What cannot submit says so at once.
#[test]
fn adapted_by_the_scheduler() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
adapt=(hpcdag workers adapt --launcher sbatch -c 2 -t 10m --interval 300ms --shrink-after 2s --min-work 500ms)
hpcdag=$(dirname "$(command -v hpcdag)")
say none $(PATH=$hpcdag "${adapt[@]}" --max 2 --in-scheduler 2>&1 || say code $?)
say began $("${adapt[@]}" --max 2 --in-scheduler)
say twice $("${adapt[@]}" --max 2 --in-scheduler 2>&1 || say code $?)
hpcdag submit --array 1-16 -- sh -c 'sleep 0.5; echo $SLURM_JOB_ID' > jobs-that-ran
say jobs $(sort -u jobs-that-ran | wc -l)
say status $(hpcdag status)
say list $(hpcdag workers list)
until_ok jobs_are 0
say stopped $(hpcdag workers adapt --stop)
say again $(hpcdag workers adapt --stop 2>&1 || say code $?)
hpcdag submit --array 1-4 --detach -- true > /dev/null
sleep 2
say frozen $(jobs)
"${adapt[@]}" --max 1 --in-scheduler > /dev/null
until_ok jobs_are 1
say scaled $(hpcdag workers scale 0 2>&1)
until_ok jobs_are 0
say after $(hpcdag status | grep -c adapted || :)
"${adapt[@]}" --min 1 --max 1 --in-scheduler > /dev/null
until_ok jobs_are 1
hpcdag down > /dev/null
until_ok no_job
say files $(find "$XDG_STATE_HOME" -type f | wc -l)
"#,
    );
    let none = after(&output, "none");
    assert!(none.contains("there is no sbatch here") && none.ends_with("code 11"), "{none}");
    assert!(after(&output, "began").contains("the scheduler's process adapts the cluster"), "{output}");
    assert!(after(&output, "twice").contains("--stop") && after(&output, "twice").ends_with("code 2"));
    assert_eq!(after(&output, "jobs"), "2", "{output}");
    for word in ["status", "list"] {
        assert!(after(&output, word).contains("adapted by the scheduler's process; last: "), "{output}");
    }
    assert!(after(&output, "stopped").contains("not adapted any more"), "{output}");
    assert!(after(&output, "again").ends_with("code 9"), "{output}");
    assert_eq!(after(&output, "frozen"), "0", "nobody submits any more");
    assert!(after(&output, "scaled").contains("does not adapt this cluster any more"), "{output}");
    assert_eq!(after(&output, "after"), "0");
    assert_eq!(after(&output, "files"), "0");
}
