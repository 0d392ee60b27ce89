//! Commands that steer a running cluster: wait, cancel, stop. Owns what is asked and
//! what is said about the answer.

use super::args::{CancelArgs, StopArgs, WaitArgs};
use super::batch;
use super::context::{Context, run_id, run_short};
use super::output::{self, Out};
use super::progress::summary_text;
use super::submit::exit_code;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::RunUuid;
use crate::client::Client;
use crate::client::summary::{FailedTask, RunSummary};
use crate::net::discovery;
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::protocol::messages::client::Question;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the end of a cluster may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A time for a question, in milliseconds; at least one, for none means for ever.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// `wait`
pub fn wait(context: &Context, args: &WaitArgs) -> Result<u8> {
    let runs = args.runs.iter().map(|text| run_id(text)).collect::<Result<Vec<_>>>()?;
    let deadline = args.timeout.map(|t| Instant::now() + t.0);
    let left = || deadline.map_or(0, |d| millis(d.saturating_duration_since(Instant::now())));
    let results = run_short(async {
        let client = context.client(&args.scheduler).await?;
        let mut results = Vec::new();
        for run in &runs {
            results.push(client.ask(Question::WaitRun { run: Some(*run), timeout_ms: left() }).await?);
        }
        if runs.is_empty() {
            let mut all = client.ask(Question::WaitRun { run: None, timeout_ms: left() }).await?;
            if let Value::Array(all) = all["runs"].take() {
                results = all;
            }
        }
        client.close().await;
        Ok(results)
    })?;
    let summaries: Vec<RunSummary> = results.iter().map(summary_of).collect();
    if args.json.json {
        Out::stdout().json(&summaries)?;
    } else {
        for (result, summary) in results.iter().zip(&summaries) {
            let name = result["name"].as_str().unwrap_or_default();
            output::say(&format!("{name} {}: {}", summary.run, summary_text(summary)));
            if let Some(kept) = result["outputs-to-take"].as_u64().filter(|n| *n > 0) {
                output::say(&format!("  {kept} results are kept: get them with hpcdag fetch KEY"));
            }
        }
    }
    Ok(summaries.iter().map(|s| exit_code(s, false)).max().unwrap_or(0))
}

/// A run's figures as the scheduler answers them.
fn summary_of(result: &Value) -> RunSummary {
    let summary = &result["summary"];
    let n = |name: &str| summary[name].as_u64().unwrap_or(0);
    let seconds =
        |name: &str| Duration::try_from_secs_f64(summary[name].as_f64().unwrap_or(0.0)).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let failed = |failure: &Value| FailedTask {
        key: text(&failure["key"]),
        command: text(&failure["command"]),
        reason: text(&failure["what"]),
        host: text(&failure["host"]),
        attempts: failure["attempts"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        stderr: text(&failure["stderr"]),
        exit_code: None,
        signal: None,
    };
    RunSummary {
        run: result["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default(),
        tasks: n("done") + n("failed") + n("skipped") + n("cancelled"),
        succeeded: n("done"),
        failed: n("failed"),
        skipped: n("skipped"),
        cancelled: n("cancelled"),
        retried: n("retried"),
        wall: seconds("wall-seconds"),
        task_time: seconds("task-seconds"),
        bytes_moved: n("bytes-moved"),
        cancel_reason: summary["cancel-reason"].as_str().map(str::to_owned),
        failures: summary["failures"].as_array().into_iter().flatten().map(failed).collect(),
    }
}

/// Why a run was cancelled by that command.
pub(super) const CANCEL_REASON: &str = "asked for by hpcdag cancel";

/// `cancel`
pub fn cancel(context: &Context, args: &CancelArgs) -> Result<u8> {
    if let Some(directory) = args.runs.iter().map(Path::new).find(|path| path.is_dir()) {
        if args.runs.len() > 1 {
            return Err(Error::new(Kind::Usage, "the directory of a run is cancelled by itself")
                .hint("name one directory, or ids of runs"));
        }
        let jobs = batch::cancel(directory)?;
        Out::stdout().value(args.json.json, &json!({ "jobs": jobs }), |_| match jobs.len() {
            0 => "its jobs are over".into(),
            _ => jobs.iter().map(|id| format!("cancelled job {id}\n")).collect(),
        })?;
        return Ok(0);
    }
    let wanted = args.runs.iter().map(|text| run_id(text)).collect::<Result<Vec<_>>>()?;
    let cancelled = run_short(async {
        let client = context.client(&args.scheduler).await?;
        let open = open_runs(&client).await?;
        let chosen = match args.all {
            true => open.iter().filter(|(_, is_open)| *is_open).map(|(run, _)| *run).collect(),
            false => wanted,
        };
        for run in &chosen {
            match open.iter().find(|(id, _)| id == run) {
                None => {
                    return Err(Error::new(Kind::NotFound, format!("the scheduler does not know run {run}")));
                }
                Some((_, false)) => {
                    return Err(Error::new(Kind::NotFound, format!("run {run} is over already")));
                }
                Some((_, true)) => client.cancel(*run, CANCEL_REASON).await?,
            }
        }
        client.close().await;
        Ok(chosen)
    })?;
    Out::stdout().value(args.json.json, &json!({ "cancelled": cancelled }), |_| match cancelled.len() {
        0 => "no run was going on".into(),
        _ => cancelled.iter().map(|run| format!("cancelled {run}\n")).collect(),
    })?;
    Ok(0)
}

/// The runs that the scheduler knows, and whether they go on.
async fn open_runs(client: &Client) -> Result<Vec<(RunUuid, bool)>> {
    let status = client.ask(Question::Status).await?;
    let runs = status["runs"].as_array().into_iter().flatten();
    Ok(runs
        .filter_map(|run| {
            let is_open = !matches!(run["state"].as_str(), Some("done" | "failed" | "cancelled"));
            Some((run["id"].as_str()?.parse().ok()?, is_open))
        })
        .collect())
}

/// Asks all workers to leave, so that they write what would be lost with them, and waits until they are gone,
/// but not longer than `patience`.
pub(super) async fn let_workers_go(client: Client, patience: Duration) {
    let gone = async {
        client.ask(Question::StopWorkers { names: Vec::new() }).await?;
        loop {
            let status = client.ask(Question::Status).await?;
            if status["workers"].as_array().is_none_or(Vec::is_empty) {
                return Ok::<(), Error>(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // If the scheduler ends first, or they take too long, there is nothing more to be had.
    let _ = tokio::time::timeout(patience, gone).await;
}

/// A cluster that was told to end.
pub(super) struct Stopped {
    pub(super) path: PathBuf,
    pub(super) file: SchedulerFile,
}

/// Tells the cluster that is meant to end, and waits until its scheduler file is gone.
pub(super) fn stop_cluster(context: &Context, scheduler: &super::args::SchedulerOptions) -> Result<Stopped> {
    run_short(async {
        let wish = context.wish(scheduler)?;
        let path = discovery::find(&wish).await?.path;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let file = client.scheduler().clone();
        client.ask(Question::Stop).await?;
        drop(client);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while scheduler_file::is_ours(&path, &file) {
            if Instant::now() >= deadline {
                let what = format!("the cluster was told to end, but {} is still there", path.display());
                return Err(Error::new(Kind::Timeout, what));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Stopped { path, file })
    })
}

/// `stop`
pub fn stop(context: &Context, args: &StopArgs) -> Result<u8> {
    let stopped = stop_cluster(context, &args.scheduler)?;
    let json = json!({ "stopped": stopped.file.id, "scheduler-file": stopped.path });
    Out::stdout().value(args.json.json, &json, |_| format!("stopped cluster {}", stopped.file.id))?;
    Ok(0)
}
