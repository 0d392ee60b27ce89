//! `up`, `workers start` and `down` in the shell of `salloc`.

use super::support::repository;
use super::testbed::{Testbed, hosts, json_after, text_after};

/// From `salloc` to `down`: the example graph on four nodes, all workers killed in the middle, new ones
/// beside the same scheduler, and nothing left.
#[test]
fn a_cluster_in_an_allocation() {
    let testbed = Testbed::up(4);
    let docs = testbed.sandbox.path("docs");
    testbed.sandbox.example("changelogs.toml");
    let script = r#"
mkdir -p docs
for i in $(seq 1 40); do
    mkdir docs/p$i
    {
        printf 'p%s (1.%s) unstable; urgency=low\n\n  * Change.\n\n' $i $i
        printf ' -- A. B%s <a@b>  Mon, 02 Jan 20%02d 10:00:00 +0000\n' $((i % 7)) $((i % 20))
    } | gzip > docs/p$i/changelog.gz
done
hpcdag up
say status $(hpcdag workers list --json)
say steps $(steps)
hpcdag submit changelogs.toml --set=docs=$PWD/docs

run=$(hpcdag submit --detach --array 1-24 --stdout none -- sh -c 'sleep 0.5; echo done')
sleep 1
# Nannies first, so that nobody is restarted.
for pid in $(hpcdag workers list --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'); do
    kill -KILL $(ps -o ppid= -p $pid) $pid || true
done
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done
say killed $(workers)
# Nobody was left to remove their directories.
rm -r tmp/hpcdag-*
hpcdag workers start
say again $(hpcdag workers list --json)
hpcdag wait $run
say summary $(hpcdag wait --json $run)
hpcdag down
say steps-after $(steps)
"#;
    let out = testbed.in_allocation("cluster", &["-N4", "--mem=2000", "-c2"], script);
    let workers = json_after(&out, "status");
    assert_eq!(hosts(&workers), ["n1", "n2", "n3", "n4"]);
    let limit = |host: &str| {
        let worker =
            workers.as_array().and_then(|all| all.iter().find(|w| w["host"] == host)).expect("there");
        worker["memory"]["limit"].as_u64().expect("a limit")
    };
    assert_eq!(limit("n2"), 2000 << 20, "the job's memory on the node");
    assert_eq!(limit("n1"), 1500 << 20, "less what the scheduler may take");
    assert_eq!(text_after(&out, "steps"), "3", "the scheduler's, that of its node, that of the others");
    assert_eq!(text_after(&out, "killed"), "0");
    assert_eq!(hosts(&json_after(&out, "again")), ["n1", "n2", "n3", "n4"]);
    let summary = json_after(&out, "summary");
    assert_eq!((&summary[0]["succeeded"], &summary[0]["failed"]), (&24.into(), &0.into()), "{summary}");
    assert_eq!(text_after(&out, "steps-after"), "0");
    let mut plain = testbed.sandbox.command("bash");
    plain.arg(repository().join("tests/examples/changelogs.sh")).arg(&docs).arg("plain");
    testbed.sandbox.run("plain", plain, super::testbed::SCRIPT);
    for name in ["maintainers.txt", "years.txt"] {
        let ours = testbed.sandbox.read(&format!("out/changelogs/{name}"));
        assert_eq!(ours, testbed.sandbox.read(&format!("plain/{name}")), "{name}");
    }
    testbed.is_clean(false);
}

/// Several workers on a node, a node that cannot have one, and what is said about it.
#[test]
fn workers_that_do_not_come() {
    let testbed = Testbed::up(4);
    let script = r#"
file=$PWD/s.json
hpcdag scheduler --detach --scheduler-file $file
export HPCDAG_SCHEDULER_FILE=$file
hpcdag workers start -n 6
say six $(hpcdag workers list --json)
hpcdag workers stop --all
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done
hpcdag workers start --per numa
say numa $(hpcdag workers list --json)
hpcdag workers stop --all
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done

# On n4 the place for its files is a file.
mkdir tmp/local; touch tmp/local/n4
code=0
hpcdag workers start --local-directory "$PWD/tmp/local/\$SLURMD_NODENAME" 2> err || code=$?
say code $code
say three $(workers)
hpcdag workers stop --all
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done
hpcdag workers start --min-workers 3 --local-directory "$PWD/tmp/local/\$SLURMD_NODENAME" 2> err-min
say min $(hpcdag workers list --json)
code=0
hpcdag workers start --launcher srun --nthreads 0 2> err-usage || code=$?
say usage $code
hpcdag stop
for i in $(seq 1 100); do [ $(steps) = 0 ] && break; sleep 0.1; done
rm -r tmp/local
say left $(steps)
"#;
    let out = testbed.in_allocation("missing", &["-N4", "-c2", "--mem=1000"], script);
    assert_eq!(hosts(&json_after(&out, "six")), ["n1", "n1", "n2", "n2", "n3", "n4"]);
    let six = json_after(&out, "six");
    let limits = |host: &str| {
        let all = six.as_array().expect("a list").iter().filter(|w| w["host"] == host);
        all.map(|w| w["memory"]["limit"].as_u64().expect("a limit") >> 20).collect::<Vec<_>>()
    };
    assert_eq!((limits("n1"), limits("n3")), (vec![500, 500], vec![1000]));
    let numa = json_after(&out, "numa");
    assert!(hosts(&numa).len() >= 4, "{numa}");
    assert_eq!((text_after(&out, "code"), text_after(&out, "three")), ("11", "3"));
    let error = testbed.sandbox.read("err");
    assert!(error.contains("3 of 4 workers are connected; missing:\n  n4: "), "{error}");
    assert!(error.contains("cannot make the worker's directory"), "the worker's own words: {error}");
    assert_eq!(hosts(&json_after(&out, "min")), ["n1", "n2", "n3"]);
    assert!(testbed.sandbox.read("err-min").contains("n4: "), "it is named all the same");
    assert_eq!(text_after(&out, "usage"), "5");
    assert_eq!(text_after(&out, "left"), "0");
}

/// A heterogeneous job: each worker has what its component has on its node, tasks that need much memory go
/// where it is, and one task of the graph may need all of them.
#[test]
fn a_heterogeneous_job() {
    let testbed = Testbed::up(3);
    let graph = "version = 1\n[task.large]\nfor-each = { range = [0, 4] }\nmemory = '1500MiB'\n\
                 shell = 'sleep 0.2; echo $SLURMD_NODENAME'\n[task.small]\nfor-each = { range = [0, 24] }\n\
                 shell = 'sleep 0.3; echo $SLURMD_NODENAME'\n[task.where]\nfrom = { large = 'all' }\n\
                 shell = 'sort -u'\n[task.all]\nfrom = { small = 'all' }\nshell = 'sort -u'\n\
                 [output]\nwhere = 'large.txt'\nall = 'small.txt'\n";
    testbed.sandbox.write("graph.toml", graph);
    let script = r#"
say groups $SLURM_HET_SIZE
hpcdag up
say workers $(hpcdag workers list --json)
hpcdag submit graph.toml
say large $(tr '\n' ' ' < large.txt)
say small $(tr '\n' ' ' < small.txt)
hpcdag workers stop --all
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done
hpcdag workers start
say again $(hpcdag workers list --json)
hpcdag down
"#;
    let components = ["-N1", "-c4", "--mem=3000", ":", "-N2", "-c2", "--mem=1000"];
    let out = testbed.in_allocation("het", &components, script);
    assert_eq!(text_after(&out, "groups"), "2");
    let limits = |word: &str| {
        let workers = json_after(&out, word);
        let limit = |w: &serde_json::Value| w["memory"]["limit"].as_u64().map(|bytes| bytes >> 20);
        let mut limits: Vec<_> = workers.as_array().expect("a list").iter().map(limit).collect();
        limits.sort_unstable();
        limits
    };
    // The scheduler is on the large node.
    assert_eq!(limits("workers"), [Some(1000), Some(1000), Some(2250)]);
    assert_eq!(limits("again"), limits("workers"));
    let large = text_after(&out, "large");
    assert!(large.starts_with('n') && !large.contains(' '), "all on one node: {large}");
    assert!(text_after(&out, "small").contains(' '), "{out}");
    testbed.is_clean(false);
}

/// The same in a batch script, whose shell is on the first node: the scheduler runs beside it. One script
/// takes its cluster away, the other leaves that to Slurm.
#[test]
fn a_cluster_in_a_batch_job() {
    let testbed = Testbed::up(2);
    let script = r#"#!/usr/bin/env bash
set -euo pipefail
hpcdag up
hpcdag workers list --json | tr -d '\n' > workers-$1.json
hpcdag submit --array 1-10 -- sh -c 'echo $SLURMD_NODENAME; sleep 0.1' | sort -u > nodes-$1.txt
[ $1 = leaves ] || hpcdag down
"#;
    testbed.sandbox.write("job.sh", script);
    for how in ["ends", "leaves"] {
        let mut command = testbed.command("sbatch");
        command.args(["--wait", "-N2", "-c2", "--mem=800", "--output=job.log", "job.sh", how]);
        testbed.sandbox.run(how, command, super::testbed::SCRIPT);
        let workers: serde_json::Value =
            serde_json::from_str(&testbed.sandbox.read(&format!("workers-{how}.json"))).expect("JSON");
        assert_eq!(hosts(&workers), ["n1", "n2"]);
        let limit = |w: &serde_json::Value| w["memory"]["limit"].as_u64().map(|bytes| bytes >> 20);
        let mut limits: Vec<_> = workers.as_array().expect("a list").iter().map(limit).collect();
        limits.sort();
        assert_eq!(limits, [Some(600), Some(800)], "the scheduler's node has less");
        assert_eq!(testbed.sandbox.read(&format!("nodes-{how}.txt")), "n1\nn2\n");
    }
    testbed.is_clean(true);
}

/// The two scripts that keep a habit: a scheduler, workers, and workers again when all are gone.
#[test]
fn the_scripts_with_the_old_names() {
    let testbed = Testbed::up(2);
    let scripts = repository().join("scripts");
    let script = format!("scripts='{}'\n", scripts.display())
        + r#"
export SCHEDULE_FILE=$PWD/scheduler_$SLURM_JOB_ID.json HPCDAG_SCHEDULER_FILE=$PWD/scheduler_$SLURM_JOB_ID.json
NTHREADS=1 MEMLIMIT= INTERFACE= $scripts/start_hpcdag.sh
NTHREADS=1 NPROCS=2 MEMLIMIT=200MiB INTERFACE=lo $scripts/add_workers.sh
say four $(hpcdag workers list --json)
hpcdag workers stop --all
for i in $(seq 1 100); do [ $(workers) = 0 ] && break; sleep 0.1; done
NTHREADS= NPROCS= MEMLIMIT= INTERFACE= $scripts/add_workers.sh
say two $(hpcdag workers list --json)
say answer $(hpcdag submit -- expr 6 '*' 7 2> /dev/null)
hpcdag stop
for i in $(seq 1 100); do [ $(steps) = 0 ] && break; sleep 0.1; done
say left $(steps)
"#;
    let out = testbed.in_allocation("habit", &["-N2", "-c2", "--mem=1000"], &script);
    let four = json_after(&out, "four");
    assert_eq!(hosts(&four), ["n1", "n1", "n2", "n2"]);
    assert!(
        four.as_array().is_some_and(|all| all.iter().all(|w| w["memory"]["limit"] == 200 << 20)),
        "{four}"
    );
    assert!(four.as_array().is_some_and(|all| all.iter().all(|w| w["threads"] == 1.0)), "{four}");
    assert_eq!(hosts(&json_after(&out, "two")), ["n1", "n2"]);
    assert_eq!((text_after(&out, "answer"), text_after(&out, "left")), ("42", "0"));
}

/// The scheduler is a step on the job's first node, although the shell of `salloc` is not on it; or here, if
/// that is asked for. `-N` takes some of the nodes.
#[test]
fn the_place_of_the_scheduler() {
    let testbed = Testbed::up(3);
    let script = r#"
pid_of() { sed -n 's/^ *"pid": \([0-9]*\),.*/\1/p' $XDG_STATE_HOME/hpcdag/*/scheduler.json; }
environment() { tr '\0' '\n' < /proc/$1/environ | grep -E '^SLURM(_STEP_ID|D_NODENAME)=' | sort | tr '\n' ' '
}
# As the user leaves it: `up` is over, and so is the shell that it ran in.
bash -c 'hpcdag up -N 2' > /dev/null
say first $(environment $(pid_of))
say workers $(hpcdag workers list --json)
say log $(grep -c 'scheduler listens' $XDG_STATE_HOME/hpcdag/*/scheduler.log)
say answer $(hpcdag submit -- expr 6 '*' 7 2> /dev/null)
hpcdag down > /dev/null
say steps $(steps)
hpcdag up --scheduler here > /dev/null
say here [$(environment $(pid_of))]
say all $(hpcdag workers list --json)
hpcdag down > /dev/null
hpcdag up -N 4 2> many.err || say many $?
hpcdag up -N 1 -t 10m 2> other.err || say other $?
"#;
    let out = testbed.in_allocation("place", &["-N3", "-c2", "--mem=800"], script);
    let first = text_after(&out, "first");
    assert!(first.contains("SLURMD_NODENAME=n1") && first.contains("SLURM_STEP_ID="), "{first}");
    let limits = |word: &str| {
        let workers = json_after(&out, word);
        let limit = |w: &serde_json::Value| {
            (w["host"].as_str().map(str::to_owned), w["memory"]["limit"].as_u64().map(|bytes| bytes >> 20))
        };
        let mut limits: Vec<_> = workers.as_array().expect("a list").iter().map(limit).collect();
        limits.sort();
        limits
    };
    let node = |name: &str, limit| (Some(name.to_owned()), Some(limit));
    assert_eq!(limits("workers"), [node("n1", 600), node("n2", 800)], "the scheduler's node leaves it some");
    assert_eq!(text_after(&out, "log"), "1");
    assert_eq!((text_after(&out, "answer"), text_after(&out, "steps")), ("42", "0"));
    assert_eq!(text_after(&out, "here"), "[]", "not a step");
    assert_eq!(limits("all"), [node("n1", 800), node("n2", 800), node("n3", 800)]);
    assert_eq!((text_after(&out, "many"), text_after(&out, "other")), ("2", "2"));
    assert!(testbed.sandbox.read("many.err").contains("has 3 nodes, not 4"));
    assert!(testbed.sandbox.read("other.err").contains("--walltime is for workers in jobs of their own"));
    testbed.is_clean(false);
}
