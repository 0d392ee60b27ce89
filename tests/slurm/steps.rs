//! Workers that people start by `srun` themselves, and the ends of steps and jobs.

use super::testbed::{Testbed, hosts, json_after, text_after};

/// `srun hpcdag worker`: as many as there are tasks, each with its part of the node.
#[test]
fn workers_by_hand() {
    let testbed = Testbed::up(2);
    let script = r#"
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
hpcdag scheduler --detach --scheduler-file s.json
srun --ntasks-per-node=2 -n4 hpcdag worker --scheduler-file $PWD/s.json 2> hand.err &
hpcdag workers wait 4
say hand $(hpcdag workers list --json)
say sum $(hpcdag submit --array 1-8 -- sh -c 'echo $SLURMD_NODENAME' | sort -u | tr '\n' ' ')
hpcdag workers stop --all
wait $! && say srun $?
# A worker that may use one processor of many.
srun --overlap -n1 -N1 --cpus-per-task=1 taskset -c 0 hpcdag worker --scheduler-file $PWD/s.json 2> few.err &
hpcdag workers wait 1
hpcdag workers stop --all
wait $!
hpcdag stop
"#;
    let out = testbed.in_allocation("hand", &["-N2", "--mem=2000", "-c4"], script);
    let workers = json_after(&out, "hand");
    assert_eq!(hosts(&workers), ["n1", "n1", "n2", "n2"]);
    let online = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    for worker in workers.as_array().expect("a list") {
        assert_eq!(worker["memory"]["limit"].as_u64(), Some(1000 << 20), "half of the job's on the node");
        assert_eq!(
            worker["threads"].as_f64(),
            Some(online.min(2) as f64),
            "half of the job's there, if it has them"
        );
    }
    assert_eq!(text_after(&out, "sum"), "n1 n2");
    assert_eq!(text_after(&out, "srun"), "0");
    if online > 1 {
        let said = testbed.sandbox.read("few.err");
        assert!(said.contains("--cpus-per-task=") && said.contains("SRUN_CPUS_PER_TASK"), "{said}");
    }
}

/// Signals from Slurm reach tasks and workers alike: workers leave, and no task has failed by it.
#[test]
fn signals_are_no_failures() {
    let testbed = Testbed::up(2);
    let script = r#"
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
hpcdag scheduler --detach --scheduler-file s.json
for signal in TERM USR1; do
    hpcdag workers start
    run=$(hpcdag submit --detach --array 1-6 --stdout none -- sh -c 'sleep 2')
    sleep 0.7
    scancel -s $signal $SLURM_JOB_ID
    for i in $(seq 1 200); do [ $(workers) = 0 ] && break; sleep 0.1; done
    say left-$signal $(workers)
    hpcdag workers start
    hpcdag wait $run || true
    say summary-$signal $(hpcdag wait --json $run)
    hpcdag workers stop --all
    for i in $(seq 1 200); do [ $(workers) = 0 ] && break; sleep 0.1; done
done
hpcdag stop
"#;
    let out = testbed.in_allocation("signals", &["-N2", "-c2", "--mem=500"], script);
    for signal in ["TERM", "USR1"] {
        assert_eq!(text_after(&out, &format!("left-{signal}")), "0");
        let summary = json_after(&out, &format!("summary-{signal}"));
        assert_eq!((&summary[0]["succeeded"], &summary[0]["failed"]), (&6.into(), &0.into()), "{summary}");
    }
}

/// Workers know the end of their job, get no work that would not be done by then, and leave before it with
/// their results.
#[test]
fn the_end_of_a_job_is_known() {
    let testbed = Testbed::up(2);
    let script = r#"
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
hpcdag scheduler --detach --scheduler-file s.json
hpcdag workers start
say known $(hpcdag workers list --json)
hpcdag workers stop --all
for i in $(seq 1 200); do [ $(workers) = 0 ] && break; sleep 0.1; done

# As newer versions say it: this job is about to end.
SLURM_JOB_END_TIME=$(($(date +%s) + 12)) hpcdag workers start -n 1
say soon $(hpcdag workers list --json)
cat > g.toml << 'GRAPH'
version = 1
[task.made]
shell = "echo made; echo x >> made.count"
cwd = "."
[task.long]
time-limit = "2m"
shell = "echo long"
[task.joined]
from = ["made", "long"]
shell = "cat {inputs...}"
[output]
joined = "joined.txt"
GRAPH
hpcdag submit g.toml 2> submit.err &
for i in $(seq 1 100); do [ -e made.count ] && break; sleep 0.1; done
sleep 1
say explained $(hpcdag explain --json long)
hpcdag workers start -n 1
wait $!
for i in $(seq 1 200); do [ $(workers) = 1 ] && break; sleep 0.1; done
say after $(hpcdag workers list --json)
say made $(wc -l < made.count)
hpcdag stop
"#;
    let out = testbed.in_allocation("end", &["-N2", "-c1", "--mem=500", "--time=10"], script);
    let left = |workers: &serde_json::Value| workers[0]["leaves-in"].as_f64().expect("a time");
    let known = left(&json_after(&out, "known"));
    assert!((440.0..=480.0).contains(&known), "ten minutes, less two: {known}");
    let soon = left(&json_after(&out, "soon"));
    assert!((6.0..=9.5).contains(&soon), "twelve seconds, less a quarter: {soon}");
    let explained = json_after(&out, "explained").to_string();
    assert!(explained.contains("leaves in"), "{explained}");
    let joined = testbed.sandbox.read("joined.txt");
    assert_eq!((joined.contains("made"), joined.contains("long")), (true, true), "{joined}");
    assert_eq!(text_after(&out, "made"), "1", "nothing was computed twice");
    let after = json_after(&out, "after");
    assert!(left(&after) > 300.0, "{after}");
}
