//! `workers stop` for jobs, and the end of a cluster's jobs with the cluster. Owns the order: workers leave
//! by message first, with their results handed over; then the job is cancelled, and no other job than those
//! that were submitted for this cluster.

use super::list::belongs;
use super::{lasting, records};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::WorkersStopArgs;
use crate::cli::context::{Context, absolute, run_short};
use crate::cli::output::Out;
use crate::cli::up::scheduler_job;
use crate::client::Client;
use crate::launch::dialect::JobStatus;
use crate::launch::jobs::{self, Record};
use crate::net::discovery;
use crate::protocol::messages::client::Question;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Jobs that are to be cancelled, and the workers that leave.
struct Plan {
    records: Vec<Record>,
    /// Jobs of arrays, of which the others go on.
    parts: Vec<(Record, JobStatus)>,
    workers: Vec<String>,
}

/// `workers stop`: names are those of workers, or ids of jobs.
pub(in crate::cli) fn stop(context: &Context, args: &WorkersStopArgs) -> Result<u8> {
    let wish = context.wish(&args.scheduler)?;
    let (stopped, ended, cancelled) = run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let kept = records::read(&super::directory(&path, client.scheduler())?)?;
        let kept: Vec<Record> = kept.into_iter().map(|(_, record)| record).collect();
        let statuses = if kept.is_empty() { Vec::new() } else { jobs::status(&kept)? };
        let answer = client.ask(Question::Status).await?;
        let connected: Vec<&Value> = answer["workers"].as_array().into_iter().flatten().collect();
        let plan = plan(args, &kept, &statuses, &connected);
        let mut stopped = json!({ "stopping": [] });
        // Without names all are asked to leave, which is meant only by --all.
        if args.all || !plan.workers.is_empty() {
            let names = if args.all { Vec::new() } else { plan.workers.clone() };
            stopped = client.ask(Question::StopWorkers { names }).await?;
        }
        if !plan.records.is_empty() || !plan.parts.is_empty() {
            // A job whose workers have all left ends by itself, and what it held is safe.
            gone(&client, &plan.workers, context.loaded.config.worker.retire_timeout.0).await?;
        }
        client.close().await;
        let whole = plan.records.iter().map(|r| r.id.clone());
        let ids: Vec<String> = whole.chain(plan.parts.iter().map(|(_, s)| s.id.clone())).collect();
        let mut cancelled = jobs::cancel(&plan.records)?;
        cancelled.extend(jobs::cancel_parts(&plan.parts)?);
        Ok((stopped, ids, cancelled))
    })?;
    let mut json = stopped;
    json["jobs"] = json!(ended);
    // The others had ended by themselves when their workers had left.
    json["cancelled"] = json!(cancelled);
    Out::stdout().value(args.json.json, &json, |json| {
        let names: Vec<&str> =
            json["stopping"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut lines = Vec::new();
        if !names.is_empty() {
            lines.push(format!("leaving: {}", names.join(", ")));
        }
        if !ended.is_empty() {
            lines.push(format!("jobs that end: {}", ended.join(", ")));
        }
        match lines.is_empty() {
            true => "no worker is connected".into(),
            false => lines.join("\n"),
        }
    })?;
    Ok(0)
}

fn plan(args: &WorkersStopArgs, kept: &[Record], statuses: &[Vec<JobStatus>], connected: &[&Value]) -> Plan {
    let mut plan = Plan { records: Vec::new(), parts: Vec::new(), workers: Vec::new() };
    if args.all {
        plan.records = kept.iter().filter(|r| r.ended.is_none()).cloned().collect();
        plan.workers = connected.iter().filter_map(|w| w["name"].as_str()).map(str::to_owned).collect();
        return plan;
    }
    for name in &args.workers {
        let Some(at) = kept.iter().position(|r| r.id == *name || short(&r.id) == *name) else {
            match part(kept, statuses, name) {
                None => plan.workers.push(name.clone()),
                Some((record, status)) => {
                    let inside = |w: &&&Value| is_in(w, status);
                    let names = connected.iter().filter(inside).filter_map(|w| w["name"].as_str());
                    plan.workers.extend(names.map(str::to_owned));
                    plan.parts.push((record.clone(), status.clone()));
                }
            }
            continue;
        };
        let inside =
            |w: &&&Value| w["job-id"].as_str().is_some_and(|job| belongs(&kept[at], &statuses[at], job));
        let names = connected.iter().filter(inside).filter_map(|w| w["name"].as_str());
        plan.workers.extend(names.map(str::to_owned));
        plan.records.push(kept[at].clone());
    }
    plan
}

/// A job of an array by its own id: `4_1`, `4[1]`, `4.1`.
fn part<'a>(
    kept: &'a [Record],
    statuses: &'a [Vec<JobStatus>],
    name: &str,
) -> Option<(&'a Record, &'a JobStatus)> {
    let named = |s: &&JobStatus| {
        s.id == name || s.id.split_once("].").is_some_and(|(id, _)| format!("{id}]") == name)
    };
    let mut all = kept.iter().zip(statuses).filter(|(record, _)| record.jobs > 1);
    all.find_map(|(record, statuses)| Some((record, statuses.iter().find(named)?)))
}

/// Whether a worker is in this job.
fn is_in(worker: &Value, status: &JobStatus) -> bool {
    let job = worker["job-id"].as_str();
    job.is_some_and(|job| job == status.id || status.inner_id.as_deref() == Some(job))
}

/// `6[]` for `6[].login`, `12` for `12.server`: as people type it.
fn short(id: &str) -> &str {
    id.split('.').next().unwrap_or(id)
}

/// Waits until workers have left, or `patience` is at its end.
pub(super) async fn gone(client: &Client, names: &[String], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let answer = client.ask(Question::Status).await?;
        let connected = answer["workers"].as_array().into_iter().flatten().filter_map(|w| w["name"].as_str());
        if !connected.into_iter().any(|name| names.iter().any(|n| n == name)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Cancels what a cluster that has ended still has in batch systems, and removes what was kept of it. If that
/// fails the files stay, and the error names the jobs.
///
/// # Errors
/// `Launch` when a batch system does not answer or refuses.
pub(in crate::cli) fn clear(home: &Path) -> Result<()> {
    let directory = home.join(records::DIRECTORY);
    // Whoever submits jobs for it has been told; else they would come after the others were cancelled.
    lasting::withdraw(&directory)?;
    let mut kept: Vec<Record> = records::read(&directory)?.into_iter().map(|(_, record)| record).collect();
    // The scheduler has ended, or is not to come any more.
    kept.extend(scheduler_job::of(home)?);
    let open: Vec<Record> = kept.into_iter().filter(|r| r.ended.is_none()).collect();
    if let Err(e) = jobs::cancel(&open) {
        let ids: Vec<&str> = open.iter().map(|r| r.id.as_str()).collect();
        let what = format!("jobs {} may still be there: {}", ids.join(", "), e.message);
        return Err(Error::new(Kind::Launch, what)
            .hint("they end by themselves when they find no scheduler; or cancel them yourself"));
    }
    records::forget(&directory);
    records::forget(&home.join(scheduler_job::DIRECTORY));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{JsonOption, SchedulerOptions};
    use crate::launch::dialect::{JobState, System};

    #[test]
    fn jobs_and_workers_are_told_apart() {
        let record = |id: &str| Record {
            system: System::Slurm,
            id: id.into(),
            name: "n".into(),
            nodes: 1,
            jobs: 1,
            submitted: String::new(),
            script: "s".into(),
            log: String::new(),
            pool: None,
            scaled: false,
            ended: None,
        };
        let (first, second) = (record("7"), record("8.server"));
        let statuses = [
            vec![JobStatus {
                id: "7_0".into(),
                inner_id: Some("9".into()),
                state: JobState::Running,
                ..JobStatus::gone("7")
            }],
            vec![JobStatus::gone("8.server")],
        ];
        let workers =
            [json!({"name": "a", "job-id": "9"}), json!({"name": "b", "job-id": "1"}), json!({"name": "c"})];
        let connected: Vec<&Value> = workers.iter().collect();
        let args = |names: &[&str]| WorkersStopArgs {
            workers: names.iter().map(|n| (*n).to_owned()).collect(),
            all: names.is_empty(),
            scheduler: SchedulerOptions::default(),
            json: JsonOption::default(),
        };
        let kept = [first.clone(), second.clone()];
        let some = plan(&args(&["7", "c"]), &kept, &statuses, &connected);
        assert_eq!((some.records, some.workers), (vec![first.clone()], vec!["a".into(), "c".into()]));
        let other = plan(&args(&["8"]), &kept, &statuses, &connected);
        assert_eq!((other.records, other.workers.len()), (vec![second.clone()], 0));
        let array = [Record { jobs: 2, ..first.clone() }, second];
        let one = plan(&args(&["7_0"]), &array, &statuses, &connected);
        assert_eq!(
            (one.records.len(), one.parts[0].1.id.as_str(), one.workers),
            (0, "7_0", vec!["a".into()])
        );
        let all = plan(&args(&[]), &kept, &statuses, &connected);
        assert_eq!((all.records.len(), all.workers.len()), (2, 3));
    }
}
