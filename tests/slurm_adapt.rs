//! Jobs of workers that come and go by themselves, in a real Slurm of four nodes: as many as the work is
//! worth, none when there is none; and what is said when Slurm takes no jobs.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm};

/// Each says which node it has run on.
const GRAPH: &str = r#"
version = 1
params = { dir = "" }
[task.where]
for-each = { range = [0, 60] }
shell = "sleep 1; echo $SLURMD_NODENAME {item} >> {dir}/ran; echo {item}"
[task.all]
from = { where = "all" }
shell = "sort -n"
[output]
all = "all.txt"
"#;

/// Without work there is no job; a graph brings jobs, one after the other until there are four, and late
/// workers take over what was queued; afterwards all of them leave, with nothing lost and nothing else ended.
#[test]
fn from_nothing_to_four_nodes_and_back() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
other=$(sbatch --parsable -J other -o /dev/null -n 1 -c 1 --mem 100 --wrap 'exec sleep 300')
pool=(--launcher sbatch -c 3 --mem 1G --walltime 10m)
timing=(--interval 500ms --shrink-after 3s --min-work 1s)
hpcdag workers adapt --max 4 "${timing[@]}" "${pool[@]}" 2> adapt.log &
adapt=$!
until_ok grep -q 'there; Ctrl-C' adapt.log
sleep 2
say before $(jobs)
hpcdag workers scale 2 "${pool[@]}" 2> second || say second $? $(cat second)
run=$(hpcdag submit graph.toml --set dir=$PWD --detach)
until_ok workers_are 4
say four $(jobs)
hpcdag wait $run > /dev/null
say nodes $(cut -d' ' -f1 ran | sort -u | tr '\n' ' ')
say ran $(wc -l < ran) $(sort -u ran | wc -l)
say late $(awk 'NR > 16 { print $1 }' ran | sort | uniq -c | awk '{ print $1 }' | tr '\n' ' ')
until_ok jobs_are 0
say after $(workers)
say lines $(wc -l < all.txt)
kill -INT $adapt
wait $adapt && say code 0 || say code $?
say other $(squeue -h -j $other -o %T)
hpcdag workers scale 3 "${pool[@]}" > scale
until_ok workers_are 3
say scaled $(cat scale)
hpcdag workers scale 1 > scale
say down $(cat scale)
until_ok jobs_are 1
hpcdag workers list
say left $(workers)
hpcdag down > /dev/null
until_ok jobs_are 0
scancel $other
cat adapt.log
"#,
    );
    assert_eq!(after(&output, "before"), "0", "no work, no job");
    assert!(after(&output, "second").contains("is at work on this cluster"), "{output}");
    assert_eq!(after(&output, "four"), "4", "never more than the maximum: {output}");
    assert_eq!(after(&output, "nodes").split(' ').count(), 4, "{output}");
    assert_eq!(after(&output, "ran"), "60 60", "each task once");
    let shares: Vec<u32> = after(&output, "late").split(' ').map(|n| n.parse().expect("a count")).collect();
    assert!(shares.len() == 4 && shares.iter().all(|n| *n >= 3), "late workers take over: {shares:?}");
    assert_eq!(after(&output, "after"), "0");
    assert_eq!(after(&output, "lines"), "60");
    assert_eq!(after(&output, "code"), "0");
    assert_eq!(after(&output, "other"), "RUNNING", "the user's other job is not ours");
    let line = |what: &str| output.lines().filter(|line| line.contains(what)).count();
    assert!(
        line("Z submitting 1: 60 tasks to run") >= 1 && line(" leave: nothing to do for") == 4,
        "{output}"
    );
    assert_eq!(line("Z submitted job"), 4, "no job came twice: {output}");
    assert_eq!(line("SIGINT: 0 jobs with 0 workers stay as they are"), 1, "{output}");
    assert!(after(&output, "scaled").starts_with("0 jobs, submitted "), "{output}");
    assert!(after(&output, "down").starts_with("3 jobs, ended "), "{output}");
    assert_eq!(after(&output, "left"), "1");
}

/// What Slurm refuses is tried again a few times, ever later, and then given up with its words. A job that
/// waits is cancelled when nobody needs it any more; the end of `adapt` cancels nothing.
#[test]
fn refusals_and_waiting_jobs() {
    let sandbox = Sandbox::new();
    sandbox.write("graph.toml", GRAPH);
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
run=$(hpcdag submit graph.toml --set dir=$PWD --detach)
adapt=(hpcdag workers adapt --launcher sbatch -c 2 --walltime 10m --interval 200ms --shrink-after 1s)
"${adapt[@]}" --max 4 -p nosuch 2> refused && say code 0 || say code $?
say attempts $(grep -c 'next attempt in' refused)
say said $(tail -n 3 refused | tr '\n' ' ')
say files $(find "$XDG_STATE_HOME"/hpcdag/*/jobs -name 'workers-*' | wc -l)
"${adapt[@]}" --max 2 -- --hold 2> held &
pid=$!
until_ok jobs_are 1
sleep 1
say waiting $(jobs)
kill -KILL $pid
wait $pid || true
say frozen $(jobs)
"${adapt[@]}" --max 2 -- --hold 2> again &
pid=$!
until_ok grep -q ', 1 there' again
hpcdag cancel $run > /dev/null
until_ok jobs_are 0
until_ok grep -q 'cancelling job .*no task is ready' again
hpcdag down > /dev/null
wait $pid && say ended $(tail -n 1 again)
"#,
    );
    assert_eq!(after(&output, "code"), "11");
    assert_eq!(after(&output, "attempts"), "4");
    let said = after(&output, "said");
    assert!(said.contains("gave up after 5 refused submissions in a row"), "{said}");
    assert!(said.contains("Slurm refused the job: invalid partition specified: nosuch"), "{said}");
    assert_eq!(after(&output, "files"), "0", "nothing is left of what was refused");
    assert_eq!(after(&output, "waiting"), "1", "guesses wait for the first worker");
    assert_eq!(after(&output, "frozen"), "1", "its loss cancels nothing");
    assert!(after(&output, "ended").ends_with("the cluster has ended"), "{output}");
}
