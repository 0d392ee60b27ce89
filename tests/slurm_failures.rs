//! What goes wrong in a real Slurm, and what is said about it: each failure has one clear message and a way
//! on. Jobs that bring no worker, a controller that is down, a file system that is full.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm, json};

/// `workers wait` says which jobs keep it waiting, why in Slurm's words, what they logged, and what to do;
/// it does not wait for workers that cannot come any more.
#[test]
fn jobs_that_bring_no_worker() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
hpcdag scheduler --detach > /dev/null
start() { hpcdag workers start --launcher sbatch -t 10m --json "$@" | key id; }
wait_for() { hpcdag workers wait "$@" 2>&1 | tr '\n' ' '; }
held=$(start -N 1 -c 1 -- --hold)
say held $held $(wait_for 1 --timeout 3s)
hpcdag workers stop $held > /dev/null

killed=$(start -N 1 -c 1)
until_ok sh -c "squeue -h -j $killed -o %T | grep RUNNING"
scancel $killed
say killed $killed $(wait_for 1)

missing=$(HPCDAG_LAUNCH__SLURM__PROGRAM=/nonexistent/hpcdag start -N 1 -c 1)
say missing $missing $(wait_for 1)

# On two nodes of four the program does not start.
printf '#!/bin/sh\ncase $SLURMD_NODENAME in n[34]) exec /nonexistent/there ;; esac\n' > some.sh
printf 'exec hpcdag "$@"\n' >> some.sh
chmod 755 some.sh
half=$(HPCDAG_LAUNCH__SLURM__PROGRAM=$PWD/some.sh start -N 4 -c 1)
say half-2 $(wait_for 2)
say half-4 $half $(wait_for 4)
hpcdag workers stop $half > /dev/null

# The directory of the cluster is not there where the job runs.
unseen=$(start -N 1 -c 1 -o $PWD/unseen.log -- --hold)
mv "$XDG_STATE_HOME" away
scontrol release $unseen
until_ok over $unseen
mv away "$XDG_STATE_HOME"
say unseen $(cat unseen.log)
say unseen-wait $unseen $(wait_for 1)

array=$(start -N 2 --per-job 1 -c 1)
hpcdag workers wait 2 > /dev/null
json part hpcdag workers stop --json ${array}_1
until_ok over ${array}_1
say rest $(squeue -h -j $array -o '%i %T')
say left $(workers)
hpcdag down > /dev/null
until_ok no_job

# A node's own script refuses every job: Slurm cancels it and takes the node out.
printf '#!/bin/sh\nexit 1\n' > prolog.sh
chmod 755 prolog.sh
echo "Prolog=$PWD/prolog.sh" >> "$SLURM_CONF"
scontrol reconfigure
hpcdag scheduler --detach > /dev/null
say prolog $(start -N 1 -c 1) $(wait_for 1)
hpcdag down > /dev/null
"#,
    );
    let said = |word: &str, about: &[&str]| {
        let (id, text) = after(&output, word).split_once(' ').unwrap_or_else(|| panic!("{word}: {output}"));
        for part in about {
            let part = part.replace("ID", id);
            assert!(text.contains(&part), "{word}: no {part:?} in {text}");
        }
    };
    said("held", &["job ID is held (PENDING, JobHeldUser)", "scontrol release ID", "workers stop ID"]);
    said("killed", &["0 of 1 workers are connected, and no more will come", "job ID is cancelled"]);
    said("missing", &["job ID is failed", "/nonexistent/hpcdag: No such file", "launch.slurm.program"]);
    assert!(after(&output, "half-2").starts_with("2 workers"), "{output}");
    said(
        "half-4",
        &["2 of 4 workers", "job ID is running", "without a worker on n[3-4]", "/nonexistent/there"],
    );
    let unseen = after(&output, "unseen");
    assert!(unseen.contains("does not see ") && unseen.contains("XDG_STATE_HOME=$SCRATCH"), "{unseen}");
    said("unseen-wait", &["job ID is failed", "does not see "]);
    let part = json(&output, "part");
    let id = part["jobs"][0].as_str().unwrap_or_default();
    assert!(id.ends_with("_1") && part["stopping"].as_array().is_some_and(|w| w.len() == 1), "{part}");
    assert!(after(&output, "rest").ends_with("_0 RUNNING"), "{output}");
    assert_eq!(after(&output, "left"), "1", "the other job of the array goes on");
    said("prolog", &["job ID is cancelled", "`sinfo -R` tells of"]);
}

/// Nobody answers for Slurm: what was asked for is said not to have happened, the list shows what is known,
/// and `adapt` goes on when Slurm does.
#[test]
fn slurm_is_down_and_comes_back() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
sed -i s/MessageTimeout=10/MessageTimeout=2/ "$SLURM_CONF"
hpcdag scheduler --detach > /dev/null
start() { hpcdag workers start --launcher sbatch -t 10m -N 1 -c 1 "$@" 2>&1; }
start > /dev/null
hpcdag workers wait 1 > /dev/null
controller=$(cat "${SLURM_CONF%/*}/run/slurmctld.pid")
kill $controller
until_ok sh -c "! kill -0 $controller"
say start $(start || say code $?)
say list $(hpcdag workers list 2>&1)
say files $(find "$XDG_STATE_HOME"/hpcdag/*/jobs -name '*.sh' | wc -l)
hpcdag workers adapt --launcher sbatch --min 1 --max 2 -t 10m -c 1 --interval 300ms 2> adapt.log &
adapt=$!
until_ok grep -q 'jobs stay as they are' adapt.log
slurmctld
until_ok workers_are 2
say adapt $(grep -c 'gave up' adapt.log) $(grep -m 1 'does not answer' adapt.log)
kill -INT $adapt
wait $adapt
hpcdag down > /dev/null
until_ok no_job
"#,
    );
    let start = after(&output, "start");
    assert!(start.contains("Slurm does not answer") && start.contains("nothing was changed"), "{start}");
    assert!(start.contains("scontrol ping") && start.ends_with("code 11"), "{start}");
    let list = after(&output, "list");
    assert!(list.contains("warning: Slurm does not answer") && list.contains("unknown"), "{list}");
    assert!(list.contains("running"), "the worker is shown all the same: {list}");
    assert_eq!(after(&output, "files"), "1", "nothing is left of what was not submitted");
    assert!(after(&output, "adapt").starts_with("0 "), "it is not given up: {output}");
}

/// A full file system, where clusters are kept: the reason is said, nothing is submitted and nothing is left
/// half-written; with room again everything works.
#[test]
fn the_home_directory_is_full() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
mkdir full
cat > inside.sh << 'END'
mount -t tmpfs -o size=256k none full
export XDG_STATE_HOME=$PWD/full
fill() { for f in fill rest; do dd if=/dev/zero of=full/$f bs=1k 2> /dev/null || :; done; }
fill
say scheduler $(hpcdag scheduler --detach 2>&1 || say code $?)
say empty $(find full -type f ! -name fill ! -name rest | wc -l)
rm full/fill full/rest
hpcdag scheduler --detach > /dev/null
fill
say start $(hpcdag workers start --launcher sbatch -t 10m -N 1 -c 1 2>&1 || say code $?)
say jobs $(squeue -h | wc -l)
say files $(find full -path '*/jobs/*' | wc -l)
say list $(hpcdag workers list)
rm full/fill full/rest
hpcdag workers start --launcher sbatch -t 10m -N 1 -c 1 -- --hold > started
hpcdag down
END
as=(unshare --mount)
[ "$(id -u)" = 0 ] || as=(unshare --user --map-root-user --mount)
export -f say
if "${as[@]}" true; then "${as[@]}" bash -eu inside.sh; else say no namespaces here; fi
until_ok no_job
"#,
    );
    if output.contains("no namespaces here") {
        return;
    }
    for word in ["scheduler", "start"] {
        let text = after(&output, word);
        assert!(text.contains("No space left on device") && text.contains("XDG_STATE_HOME"), "{text}");
        assert!(text.ends_with("code 10"), "{text}");
    }
    assert_eq!((after(&output, "empty"), after(&output, "jobs"), after(&output, "files")), ("0", "0", "0"));
    assert!(output.contains(" is down"), "{output}");
}
