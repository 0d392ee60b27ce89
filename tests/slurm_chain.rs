//! Runs that take longer than their job in a real Slurm: the time limit of one job is reached, and the next
//! one of its chain goes on with what the first has made, written or not.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm};

/// The middle stage takes a while and is written nowhere; the last one waits until it may.
const GRAPH: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 6] }
shell = "echo a{item} >> ran; echo {item}"
cwd = "."
[task.b]
for-each = { same-as = "a" }
from = { a = "each" }
shell = "echo b{index} >> ran; sleep 2; sed s/^/b/"
cwd = "."
[task.c]
for-each = { same-as = "a" }
from = { b = "each" }
shell = "while [ ! -e go ]; do sleep 0.1; done; echo c{index} >> ran; sed s/^/c/"
cwd = "."
[task.d]
from = { c = "all" }
shell = "sort"
[output]
d = "d.txt"
"#;

/// Functions of both scripts: whether all of the middle stage is in memory, and how much of it is in the
/// checkpoint.
const FUNCTIONS: &str = r#"
middle_is_done() { hpcdag status --json --scheduler-file run/scheduler.json | grep '"released": 6'; }
stored() { cat run/checkpoint/*.jsonl | grep -o '"key":"b[^"]*"' | sort -u | wc -l; }
"#;

/// The first job reaches its limit with all of the middle stage in its workers' memory. The second one, which
/// was submitted with it, computes none of that again; the third has nothing to do.
#[test]
fn the_time_limit_is_reached() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let script = FUNCTIONS.to_owned()
        + r#"
hpcdag submit graph.toml --batch slurm -N 2 -c 4 --mem 500M -t 10m --chain 3 --run-directory run --json > sent
mapfile -t jobs < <(sed -n '/"chain"/,/]/s/^ *"\([0-9]*\)",\{0,1\}$/\1/p' sent)
say jobs ${#jobs[@]}
until_ok sh -c '[ "$(squeue -h -t r | wc -l)" = 1 ]'
say waiting $(squeue -h -t pd -o %i | wc -l)
hpcdag resume run > busy 2>&1 || say busy $?
(hpcdag resume run --wait > /dev/null 2> followed && echo ended >> followed) &
until_ok middle_is_done
# Sooner than the workers expect it; Slurm looks every half minute.
scontrol update JobId=${jobs[0]} EndTime=now+2
for i in $(seq 1 1200); do over ${jobs[0]} && break; sleep 0.1; done
say first $(scontrol show job ${jobs[0]} | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')
say stored $(stored)
say modes $(stat -c %a run/checkpoint run/checkpoint/* | sort -u | tr '\n' ' ')
touch go
wait
say d $(tr '\n' ' ' < d.txt)
say ran $(sort ran | tr '\n' ' ')
say last $(key job-id < run/summary.json)
say second ${jobs[1]}
say checkpoint $(test -e run/checkpoint && echo there || echo gone)
until_ok nothing_queued
say third $(scontrol show job ${jobs[2]} | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')
"#;
    let output = in_slurm(&sandbox, &script);
    assert_eq!((after(&output, "jobs"), after(&output, "waiting")), ("3", "2"));
    assert_eq!(after(&output, "busy"), "2");
    assert!(sandbox.read("busy").contains("will go on with it"), "{}", sandbox.read("busy"));
    assert_eq!(after(&output, "first"), "TIMEOUT");
    assert_eq!(after(&output, "stored"), "6");
    assert_eq!(after(&output, "modes"), "600 700");
    assert_eq!(after(&output, "d"), "cb0 cb1 cb2 cb3 cb4 cb5");
    assert_eq!(after(&output, "ran"), "a0 a1 a2 a3 a4 a5 b0 b1 b2 b3 b4 b5 c0 c1 c2 c3 c4 c5", "once each");
    assert_eq!(after(&output, "last"), after(&output, "second"));
    assert_eq!(after(&output, "checkpoint"), "gone");
    let third = after(&output, "third");
    assert!(matches!(third, "CANCELLED" | "COMPLETED"), "{third}");
    assert!(sandbox.read("followed").ends_with("ended\n"), "{}", sandbox.read("followed"));
}

/// Cancelling a run by its directory cancels its chain, what it held in memory is kept, and a file that was
/// damaged meanwhile only means that its task runs again.
#[test]
fn cancelled_with_its_chain() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let script = FUNCTIONS.to_owned()
        + r#"
hpcdag submit graph.toml --batch slurm -N 2 -c 4 --mem 500M -t 10m --run-directory run --chain 2 > /dev/null
until_ok middle_is_done
hpcdag cancel run > cancelled
say cancelled $(wc -l < cancelled)
until_ok nothing_queued
say stored $(stored)
say ended $(test -e run/summary.json && echo yes || echo no)
# Two workers may have written it: the second when the first was killed.
sed -n 's/.*"key":"b.3."[^}]*"path":"\([^"]*\)".*/\1/p' run/checkpoint/*.jsonl \
    | while read -r file; do echo other > "$file"; done
touch go
hpcdag resume run --chain 1 --wait > end 2>&1 || { say end-code $?; cat run/job*.log >> end; }
say d $(tr '\n' ' ' < d.txt)
say twice $(sort ran | uniq -d | tr '\n' ' ')
until_ok nothing_queued
"#;
    let output = in_slurm(&sandbox, &script);
    assert_eq!(after(&output, "cancelled"), "2");
    assert_eq!((after(&output, "stored"), after(&output, "ended")), ("6", "no"));
    assert!(!output.contains("end-code"), "{}", sandbox.read("end"));
    assert_eq!(after(&output, "d"), "cb0 cb1 cb2 cb3 cb4 cb5");
    assert_eq!(after(&output, "twice"), "a3 b3");
}
