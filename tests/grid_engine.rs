//! A real Grid Engine of three hosts, which each test brings up for itself with `scripts/sge-testbed` and
//! takes away again: workers inside a job, jobs of workers from the login node, a whole run as one job. The
//! scenarios are shell scripts, as people write them on a login node.

mod support;

use support::scenario::{LIMIT, PREAMBLE, after, json, put_in_path};
use support::{Sandbox, repository};

/// What scripts beside a Grid Engine may use, too.
const GRID_ENGINE: &str = r#"
# No answer is not the answer that nothing is left.
no_job() { local left; left=$(qstat) && [ -z "$left" ]; }
# A script from stdin as a job, waited for; its output.
job() {
    { echo '#!/bin/bash'; echo 'set -euo pipefail'; echo 'say() { printf "%s\n" "$*"; }'; cat; } > job.sh
    rm -f job.out
    qsub -sync y -cwd -V -S /bin/bash -N job -j y -o job.out -l h_rt=600 "$@" job.sh > qsub.out 2>&1 ||
        say job-code $?
    cat job.out
    sed 's/^/qsub: /' qsub.out
}
"#;

/// Runs a script beside a Grid Engine with four slots on each of three hosts; what it printed. `None` where
/// no such thing can be had.
fn in_grid_engine(sandbox: &Sandbox, script: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("Grid Engine's daemons need root: nothing to see");
        return None;
    }
    sandbox.write(
        "config/hpcdag/config.toml",
        "[launch.sge]\nparallel-environment = 'two'\n[scheduler]\ninterface = 'eth0'\n\
         [worker]\ninterface = 'eth0'\n",
    );
    let mut command = sandbox.command("bash");
    command.arg(repository().join("scripts/sge-testbed")).args(["run", "--nodes", "3", "--slots", "4"]);
    command.arg("--dir").arg(sandbox.path("sge")).args(["--", "bash", "-c"]);
    command.arg(format!("{PREAMBLE}{GRID_ENGINE}{script}"));
    put_in_path(&mut command, &[]);
    let output = sandbox.run("scenario", command, LIMIT);
    assert!(!sandbox.path("sge").exists(), "nothing is left of the testbed");
    Some(output)
}

/// `up` in a job of a parallel environment puts a worker on each of its hosts, as wide as its slots there;
/// when all have died, `workers start` brings new ones, which know when the job ends; `down` leaves nothing.
#[test]
fn inside_a_job() {
    let sandbox = Sandbox::new();
    let output = in_grid_engine(
        &sandbox,
        r#"
export MODULES=loaded
job -pe two 6 << 'JOB'
hpcdag up
say workers $(hpcdag workers list --json)
where='echo $(hostname) $JOB_ID $MODULES; sleep 0.1'
say ran $(hpcdag submit --array 1-24 -- sh -c "$where" | sort -u | tr '\n' ,)
# Nannies and workers; not the shells around them.
pkill -KILL -f '^[^ ]*hpcdag worker --scheduler-file'
for host in n1 n2 n3; do
    [ $host = $(hostname) ] ||
        qrsh -inherit $host "pkill -KILL -f '^[^ ]*hpcdag worker --scheduler-file'" || true
done
for i in $(seq 1 200); do hpcdag workers list --json | grep -q joined || break; sleep 0.1; done
say died $(hpcdag workers list --json | grep -c joined || true)
say again $(hpcdag workers start --interface eth0 2>&1)
say known $(hpcdag workers list --json)
hpcdag down
say left $(find $XDG_STATE_HOME -type f | wc -l)
say processes $(ps -eo args | grep -c '^hpcdag' || true)
JOB
# The same from a shell that qrsh gives, and in a job of one slot.
cat > shell.sh << JOB
cd $PWD
export PATH=$PATH XDG_STATE_HOME=$XDG_STATE_HOME XDG_CONFIG_HOME=$XDG_CONFIG_HOME
echo "interactive \$(hpcdag up 2>&1 | tail -n 1)"
hpcdag down
JOB
timeout 60 qrsh -now n -pe two 4 -l h_rt=600 /bin/bash $PWD/shell.sh || say qrsh-code $?
job << 'JOB'
hpcdag up > /dev/null
say serial $(hpcdag workers list --json)
hpcdag down > /dev/null
JOB
until_ok no_job
"#,
    );
    let Some(output) = output else { return };
    let workers = json(&output, "workers");
    let mut found: Vec<(&str, f64)> = workers
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|w| Some((w["host"].as_str()?, w["threads"].as_f64()?)))
        .collect();
    found.sort_by_key(|(host, _)| *host);
    assert_eq!(found, [("n1", 2.0), ("n2", 2.0), ("n3", 2.0)], "{workers}");
    assert_eq!(after(&output, "ran"), "n1 1 loaded,n2 1 loaded,n3 1 loaded,");
    assert_eq!(after(&output, "died"), "0", "{output}");
    assert!(after(&output, "again").ends_with("3 workers connected on nodes of job 1"), "{output}");
    for worker in json(&output, "known").as_array().expect("a list") {
        let left = worker["leaves-in"].as_f64().expect("a time");
        assert!((300.0..=480.0).contains(&left), "ten minutes, less two: {left}");
    }
    assert_eq!((after(&output, "left"), after(&output, "processes")), ("0", "0"), "{output}");
    assert!(after(&output, "interactive").contains("is up with 2 workers"), "{output}");
    let serial = json(&output, "serial");
    assert_eq!((serial.as_array().map(Vec::len), &serial[0]["threads"]), (Some(1), &1.0.into()), "{serial}");
}

/// Jobs of workers from the login node: a parallel environment, an array, and one that waits; each in the
/// list, with why it waits; stopped one by one. As many jobs as the work is worth, and none when there is
/// none.
#[test]
fn from_the_login_node() {
    let sandbox = Sandbox::new();
    let output = in_grid_engine(
        &sandbox,
        r#"
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
export HPCDAG_SCHEDULER_FILE=$PWD/s.json
start() { hpcdag workers start --launcher qsub -t 10m "$@"; }
json first start -N 2 -c 2 --json
json array start -N 2 --per-job 1 -c 1 --json
json never start -N 5 -c 2 --json
say wrong $(start -N 1 -c 1 -- -l nosuch=1 2>&1 || say code $?)
hpcdag workers wait 4 > /dev/null
# Grid Engine says `t` until the host has told that it runs.
told() { local all; all=$(qstat) && ! grep -q ' t ' <<< "$all"; }
until_ok told
json jobs hpcdag workers list --jobs --json
say ran $(hpcdag submit --array 1-40 -- sh -c 'echo $JOB_ID; sleep 0.1' | sort -u | tr '\n' ' ')
say left-in $(hpcdag workers list --json)
hpcdag workers stop 1 > /dev/null
until_ok workers_are 2
hpcdag workers stop --all > /dev/null
until_ok no_job
json ended hpcdag workers list --jobs --json

timing=(--interval 500ms --shrink-after 2s --min-work 1s)
hpcdag workers adapt --max 2 "${timing[@]}" --launcher sge -c 2 -t 10m 2> adapt.log &
adapt=$!
until_ok grep -q 'there; Ctrl-C' adapt.log
run=$(hpcdag submit --detach --stdout none --array 1-24 -- sh -c 'sleep 0.7; hostname >> hosts')
until_ok workers_are 2
hpcdag wait $run > /dev/null
until_ok workers_are 0
until_ok no_job
say hosts $(sort -u hosts | wc -l)
kill -INT $adapt
wait $adapt && say adapt-code 0 || say adapt-code $?
hpcdag stop > /dev/null
"#,
    );
    let Some(output) = output else { return };
    let jobs = json(&output, "jobs");
    let state = |at: usize| &jobs[at]["each"][0]["state"];
    assert_eq!(
        (state(0), state(1), state(2)),
        (&"running".into(), &"running".into(), &"pending".into()),
        "{jobs}"
    );
    assert_eq!(jobs[0]["workers"].as_array().map(Vec::len), Some(2), "{jobs}");
    assert_eq!(jobs[1]["each"].as_array().map(Vec::len), Some(2), "{jobs}");
    assert!(
        after(&output, "wrong").contains("nosuch") && after(&output, "wrong").ends_with("code 11"),
        "{output}"
    );
    assert_eq!(after(&output, "ran"), "1 2", "{output}");
    for worker in json(&output, "left-in").as_array().expect("a list") {
        assert!(worker["leaves-in"].as_f64().is_some_and(|left| left < 600.0), "{worker}");
    }
    let ended = json(&output, "ended").to_string();
    assert!(!ended.contains("\"running\"") && !ended.contains("\"pending\""), "{ended}");
    assert_eq!((after(&output, "hosts"), after(&output, "adapt-code")), ("2", "0"), "{output}");
}

/// A graph as one job, waited for, with its exit code; and a run that its time limit ends.
#[test]
fn a_run_as_one_job() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "graph.toml",
        "version = 1\nparams = { code = '0' }\n[task.a]\nfor-each = { range = [0, 12] }\n\
         shell = 'sleep 0.3; echo $(hostname) {item}; exit {code}'\n[task.b]\nfrom = { a = 'all' }\n\
         shell = 'sort'\n[output]\nb = 'b.txt'\n",
    );
    let output = in_grid_engine(
        &sandbox,
        r#"
hpcdag submit graph.toml --batch sge -N 3 -c 2 -t 10m --wait > said 2> err || say wait-code $?
say nodes $(cut -d' ' -f1 b.txt | sort -u | tr '\n' ' ')
say lines $(wc -l < b.txt)
job=(--batch sge -N 2 -c 2 -t 10m --wait)
hpcdag submit graph.toml --set code=5 "${job[@]}" > /dev/null 2> failed || say failed-code $?
until_ok no_job
# Grid Engine kills when the time is up; the workers leave before, and nothing of the job is left.
hpcdag scheduler --scheduler-file s.json --detach > /dev/null
hpcdag workers start --scheduler-file s.json --launcher sge -N 2 -c 2 -t 12s > /dev/null
hpcdag workers wait --scheduler-file s.json 2 > /dev/null
say limits $(hpcdag workers list --scheduler-file s.json --json)
until_ok no_job
json over hpcdag workers list --scheduler-file s.json --jobs --json
hpcdag stop --scheduler-file s.json > /dev/null
"#,
    );
    let Some(output) = output else { return };
    let said = format!("{output}\n{}", sandbox.read("err"));
    assert!(!output.contains("wait-code"), "{said}");
    assert_eq!((after(&output, "nodes"), after(&output, "lines")), ("n1 n2 n3", "12"), "{said}");
    assert_eq!(after(&output, "failed-code"), "3", "{}", sandbox.read("failed"));
    for worker in json(&output, "limits").as_array().expect("a list") {
        assert!(worker["leaves-in"].as_f64().is_some_and(|left| left < 12.0), "{worker}");
    }
    let over = json(&output, "over").to_string();
    assert!(!over.contains("\"running\""), "{over}");
}
