//! Whole runs as one job of a real Slurm, submitted from outside of any allocation: outputs, exit codes,
//! and what a cancelled run does when it is resumed. The scenarios are shell scripts, as people write them
//! on a login node.

mod support;

use serde_json::Value;
use support::Sandbox;
use support::scenario::{after, in_slurm};

const GRAPH: &str = r#"
version = 1
params = { fail = "no" }
[task.a]
for-each = { range = [0, 8] }
shell = "echo {item} on $SLURMD_NODENAME >> ran; [ {fail} = no ] || [ {item} != 5 ]; sleep 0.3; echo {item}"
cwd = "."
[task.b]
from = { a = "all" }
shell = "sort"
[output]
a = "out/{index}.txt"
b = "b.txt"
"#;

/// A graph as one job of three nodes writes its outputs and ends with 0, seen by whoever waits; a task that
/// fails gives the exit code of failed tasks; nothing of the cluster is left.
#[test]
fn a_graph_as_one_job() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag submit graph.toml --batch slurm -N 3 -c 2 --mem 500M --walltime 10m --dry-run > dry
hpcdag submit graph.toml --batch slurm -N 2 -c 2 --mem 500M -t 10m --check > check
say before $(ls | tr '\n' ' ')
hpcdag submit graph.toml --batch slurm -N 3 -c 2 --mem 500M -t 10m --wait > said 2> err || say code $?
say wait-code ${PIPESTATUS[0]}
dir=$(echo graph-runs/*)
say b $(tr '\n' ' ' < b.txt)
say files $(ls out | wc -l)
say nodes $(sed 's/.* on //' ran | sort -u | wc -l)
say exit $(key exit-code < $dir/summary.json)
say state $(key state < $dir/progress.json)
say lines $(grep -c fingerprint $dir/manifest.jsonl)
say again $(hpcdag resume $dir)
hpcdag submit graph.toml --set fail=yes --batch slurm -N 2 -c 2 --mem 500M -t 10m --wait \
    --run-directory failing > /dev/null 2> failed || say failed-code $?
say failed-word $(grep -c 'a\[5\] failed' failed)
until_ok nothing_queued
say state-files $(find "$XDG_STATE_HOME" -type f | wc -l)
say logs $(ls $dir/logs | wc -l)
hpcdag run --batch slurm -N 2 -c 2 --mem 500M -t 10m --wait \
    --run-directory client -- \
    sh -c 'hpcdag workers list --json | grep -c \"joined\" > workers; exit 7' > /dev/null 2>&1 \
    || say run-code $?
say workers $(cat workers)
say stdout $(hpcdag submit --batch slurm -c 1 --mem 300M -t 10m --wait \
    --run-directory lines --array 1-3 -- echo n{item} > /dev/null 2>&1
    cat lines/stdout/*)
until_ok nothing_queued
"#,
    );
    let dry = sandbox.read("dry");
    for line in ["#SBATCH --nodes=3", "#SBATCH --requeue", "#SBATCH --open-mode=append"] {
        assert!(dry.lines().any(|l| l == line), "{line}: {dry}");
    }
    assert!(sandbox.read("check").contains("Slurm would take it"), "{}", sandbox.read("check"));
    assert_eq!(
        after(&output, "before"),
        "check dry graph.toml scenario.err scenario.out",
        "nothing is left of questions"
    );
    assert_eq!(after(&output, "wait-code"), "0", "{}", sandbox.read("err"));
    assert!(!output.contains("\ncode "), "{output}");
    assert!(sandbox.read("said").contains("run directory /"), "{}", sandbox.read("said"));
    assert_eq!(after(&output, "b"), "0 1 2 3 4 5 6 7");
    assert_eq!(after(&output, "files"), "8");
    assert!(after(&output, "nodes").parse::<u32>().expect("a count") >= 2, "{output}");
    assert_eq!((after(&output, "exit"), after(&output, "state")), ("0", "ended"));
    assert_eq!(after(&output, "lines"), "9");
    assert!(after(&output, "again").contains("nothing is left"), "{output}");
    assert_eq!(after(&output, "failed-code"), "3", "{}", sandbox.read("failed"));
    assert_eq!(after(&output, "failed-word"), "1", "{}", sandbox.read("failed"));
    assert_eq!(after(&output, "state-files"), "0");
    assert!(after(&output, "logs").parse::<u32>().expect("a count") >= 2, "{output}");
    assert_eq!((after(&output, "run-code"), after(&output, "workers")), ("7", "2"));
    assert_eq!(after(&output, "stdout"), "n1 n2 n3");
}

/// Each task says that it ran; the later ones wait until they may.
const SLOW: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 6] }
shell = "echo a{item} >> ran; echo {item}"
cwd = "."
[task.b]
for-each = { same-as = "a" }
from = { a = "each" }
shell = """echo $SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0} b{index} >> ran-b
[ {index} -lt 4 ] || while [ ! -e go ]; do sleep 0.1; done; sed s/^/b/"""
cwd = "."
[task.c]
from = { b = "all" }
shell = "sort"
[output]
b = "b{index}.txt"
c = "c.txt"
"#;

/// A run that is cancelled in the middle and resumed runs only what is left, and so does one that Slurm
/// queues again.
#[test]
fn cancelled_and_resumed() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", SLOW);
    let output = in_slurm(
        &sandbox,
        r#"
json=$(hpcdag submit graph.toml --batch slurm -N 2 -c 4 --mem 500M -t 10m --run-directory run --json)
job=$(echo "$json" | key id)
until_ok sh -c '[ "$(grep -c fingerprint run/manifest.jsonl)" = 4 ]'
until_ok grep b4 ran-b
hpcdag resume run > busy 2>&1 || say busy-code $?
(hpcdag resume run --wait > followed 2>&1 || echo "code $?" >> followed) &
follower=$!
sleep 1
scancel $job
until_ok over $job
say ended $(test -e run/summary.json && echo yes || echo no)
wait $follower
say first $(sort ran | tr '\n' ' ')
json=$(hpcdag resume run --json)
job=$(echo "$json" | key id)
until_ok grep '^2.0 b5' ran-b
# Slurm itself starts it again.
scontrol requeue $job
until_ok grep '^2.1 b5' ran-b
touch go
hpcdag resume run --wait > end 2>&1 || say end-code $?
say ran $(sort ran | grep 'a[0-3]' | tr '\n' ' ')
say again $(sed -n 's/^2.. //p' ran-b | sort -u)
say once $(sed -n 's/^1.. //p' ran-b | grep 'b[0-3]' | sort)
say c $(tr '\n' ' ' < c.txt)
say kept $(key kept < run/summary.json)
until_ok nothing_queued
say state-files $(find "$XDG_STATE_HOME" -type f | wc -l)
"#,
    );
    assert_eq!(after(&output, "busy-code"), "2", "{}", sandbox.read("busy"));
    assert!(sandbox.read("busy").contains("--wait follows it"), "{}", sandbox.read("busy"));
    let followed = sandbox.read("followed");
    assert!(
        followed.contains("ended before its run: cancelled") && followed.ends_with("code 130\n"),
        "{followed}"
    );
    assert_eq!(after(&output, "ended"), "no");
    assert_eq!(after(&output, "first"), "a0 a1 a2 a3 a4 a5");
    assert!(!output.contains("end-code"), "{}", sandbox.read("end"));
    assert_eq!(after(&output, "ran"), "a0 a1 a2 a3", "once each: nothing that runs needs them");
    assert_eq!(after(&output, "again"), "b4 b5", "only what was not written ran again");
    assert_eq!(after(&output, "once"), "b0 b1 b2 b3");
    assert_eq!(after(&output, "c"), "b0 b1 b2 b3 b4 b5");
    let kept: u32 = after(&output, "kept").parse().expect("a count");
    assert!((8..=10).contains(&kept), "four of a, four of b, and what was in memory of a: {kept}");
    assert_eq!(after(&output, "state-files"), "0");
    let _: Value = serde_json::from_str(&sandbox.read("run/summary.json")).expect("JSON");
}
