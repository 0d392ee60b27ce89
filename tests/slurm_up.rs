//! `up` on the login node of a real Slurm: workers in a job, the scheduler in one too, and that nothing is
//! left when it is given up.

mod support;

use support::Sandbox;
use support::scenario::{after, in_slurm, json};

/// Workers come as a job, the scheduler is here; what cannot come is said; Ctrl-C takes the job back.
#[test]
fn workers_in_a_job() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
json up hpcdag up --json -N 2 -c 2 --mem 500M -t 10m 2> up.err
json workers hpcdag workers list --json
say nodes $(hpcdag submit --array 1-8 -- sh -c 'sleep 0.2; echo $SLURMD_NODENAME' | sort -u | wc -l)
# More of them, by the batch system that is there.
hpcdag workers start -N 1 -c 1 --mem 200M -t 10m > started
hpcdag workers wait 3 > /dev/null
hpcdag down > /dev/null
until_ok no_job
say files $(find "$XDG_STATE_HOME" -type f | wc -l)

hpcdag up -N 2 -c 1 -t 10m -- --hold > held.out 2> held.err &
until_ok grep -q JobHeldUser held.err
say alive $(hpcdag clusters | grep -c alive)
kill -INT $!
code=0; wait $! || code=$?
say held-code $code
until_ok no_job
say held-files $(find "$XDG_STATE_HOME" -type f | wc -l)

code=0
HPCDAG_LAUNCH__SLURM__PROGRAM=/none/hpcdag hpcdag up -N 1 -c 1 -t 10m 2> failed.err || code=$?
say failed-code $code
say failed-files $(find "$XDG_STATE_HOME" -type f | wc -l)
hpcdag up -N 1 --batch --launcher srun 2> usage.err || say usage $?
hpcdag up --scheduler first-node 2> first.err || say first $?
"#,
    );
    let up = json(&output, "up");
    assert_eq!((&up["workers"], &up["worker-job"]["nodes"]), (&2.into(), &2.into()), "{up}");
    assert_eq!(up["scheduler-job"], serde_json::Value::Null);
    let said = sandbox.read("up.err");
    assert!(said.contains("of workers") && said.contains("of 2 workers; job "), "{said}");
    let workers = json(&output, "workers");
    assert!(workers.as_array().is_some_and(|all| all.iter().all(|w| w["job-id"] == up["worker-job"]["id"])));
    assert_eq!(after(&output, "nodes"), "2");
    assert!(sandbox.read("started").contains("submitted Slurm job"), "sbatch is the launcher that is there");
    assert_eq!(after(&output, "files"), "0");

    assert!(sandbox.read("held.err").contains(" is held (JobHeldUser)"), "{}", sandbox.read("held.err"));
    assert_eq!((after(&output, "alive"), after(&output, "held-code")), ("1", "130"));
    assert!(sandbox.read("held.err").contains("SIGINT: given up"));
    assert_eq!(after(&output, "held-files"), "0");

    assert_eq!((after(&output, "failed-code"), after(&output, "failed-files")), ("11", "0"));
    let failed = sandbox.read("failed.err");
    assert!(
        failed.contains("0 of 1 workers are connected, and job ") && failed.contains("/none/hpcdag"),
        "{failed}"
    );
    assert_eq!((after(&output, "usage"), after(&output, "first")), ("2", "2"));
}

/// The scheduler is a job of its own, its workers are in another one that waits for it; `down` ends both,
/// also when neither has begun.
#[test]
fn the_scheduler_in_a_job() {
    let sandbox = Sandbox::new();
    let output = in_slurm(
        &sandbox,
        r#"
json up hpcdag up --json --batch -N 2 -c 2 --mem 500M -t 10m 2> up.err
pid=$(key pid < "$(echo "$XDG_STATE_HOME"/hpcdag/*/scheduler.json)")
tr '\0' '\n' < /proc/$pid/environ > environment
say environment $(grep -E '^(SLURM_JOB_ID|SLURMD_NODENAME)=' environment | sort | tr '\n' ' ')
say asked $(squeue -h -n "$(squeue -h -o %j | grep scheduler)" -o '%C %m')
say sum $(hpcdag submit --array 1-8 -- echo {item} | wc -l)
json jobs hpcdag workers list --jobs --json
say stopped $(hpcdag workers stop --all | wc -l)
say alive $(hpcdag clusters | grep -c alive)
# Workers again, beside the same scheduler.
hpcdag workers start -N 1 -c 1 --mem 200M -t 10m > /dev/null
hpcdag workers wait 1 > /dev/null
hpcdag down > /dev/null
until_ok no_job
say files $(find "$XDG_STATE_HOME" -type f | wc -l)

json later hpcdag up --json --batch slurm --no-wait -N 2 -c 1 -t 10m -- --begin=now+1hour 2> later.err
say queued $(jobs)
hpcdag down > down.out
until_ok no_job
say later-files $(find "$XDG_STATE_HOME" -type f | wc -l)

hpcdag up --batch -t 10m > alone
say alone $(hpcdag workers list --json | tr -d '\n')
hpcdag down > /dev/null
until_ok no_job
say alone-files $(find "$XDG_STATE_HOME" -type f | wc -l)
"#,
    );
    let up = json(&output, "up");
    let job = up["scheduler-job"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(up["workers"], 2, "{up}");
    assert_ne!(up["worker-job"]["id"].as_str(), Some(job.as_str()));
    let environment = after(&output, "environment");
    assert!(
        environment.contains("SLURMD_NODENAME=n") && environment.contains(&format!("SLURM_JOB_ID={job}"))
    );
    assert_eq!(after(&output, "asked"), "1 1G");
    assert_eq!(after(&output, "sum"), "8");
    let jobs = json(&output, "jobs");
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "jobs of workers: {jobs}");
    assert_eq!(after(&output, "alive"), "1", "the scheduler stays when its workers leave");
    assert_eq!(after(&output, "files"), "0");
    assert_eq!(after(&output, "queued"), "2");
    let later = json(&output, "later");
    assert!(sandbox.read("down.out").contains(later["id"].as_str().expect("an id")), "{later}");
    assert_eq!(after(&output, "later-files"), "0");
    assert!(sandbox.read("alone").contains("with 0 workers"));
    assert_eq!((after(&output, "alone"), after(&output, "alone-files")), ("[]", "0"));
}
