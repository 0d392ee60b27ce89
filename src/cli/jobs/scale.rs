//! `workers scale`: so many jobs, no more and no less. Owns the order in which jobs go.

use super::start::{Submitter, record_json};
use super::stop::gone;
use super::{lasting, pool, pools};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::WorkersScaleArgs;
use crate::cli::context::{Context, run_short};
use crate::cli::output::{self, Out};
use crate::client::Client;
use crate::launch::adapt::Condition;
use crate::launch::jobs::Record;
use crate::protocol::messages::client::Question;
use serde_json::{Value, json};

/// A job that is there.
struct Job {
    record: Record,
    waits: bool,
    /// Its connected workers, and tasks that they have.
    workers: Vec<String>,
    tasks: u64,
}

/// `workers scale`
pub(in crate::cli) fn scale(context: &Context, args: &WorkersScaleArgs) -> Result<u8> {
    if args.pool.pool.len() > 1 {
        return Err(Error::new(Kind::Usage, "one pool at a time is scaled"));
    }
    let start = args.pool.start_args(args.pool.pool.first().map(String::as_str), args.json);
    let mut start = pools::apply(context, &start)?.unwrap_or(start);
    let system = pool::system(context, &args.pool, start.placement.launcher)?;
    start.jobs.per_job = None;
    let submitter = Submitter::new(context, &start, system)?;
    if let Some(code) = submitter.only_asked()? {
        return Ok(code);
    }
    if lasting::withdraw(&submitter.directory)? {
        output::say("the scheduler's process does not adapt this cluster any more");
    }
    let _lock = pool::lock(&submitter)?;
    let open = pool::open(&submitter.directory, submitter.pool.as_ref())?;
    let mut there = pool::conditions(&open)?;
    there.retain(|(_, condition)| !matches!(condition, Condition::Over { .. }));
    let (wanted, before) = (args.count as usize, there.len());
    if let Some(most) = submitter.settings.max_jobs.filter(|most| args.count > *most && wanted > before) {
        return Err(submitter.over_limit(&format!("{wanted} jobs are wanted"), most));
    }
    let (submitted, ended) = if wanted >= before {
        let waiting = there.iter().filter(|(_, c)| *c == Condition::Waiting).count();
        (grow(&submitter, wanted - before, waiting)?, Vec::new())
    } else {
        let kept = |id: &String| open.iter().find(|(_, r)| r.id == *id).map(|(_, r)| r.clone());
        let jobs: Vec<(Record, bool)> =
            there.iter().filter_map(|(id, c)| Some((kept(id)?, *c == Condition::Waiting))).collect();
        let wish = context.wish(&args.pool.scheduler)?;
        let ended = run_short(async {
            let client = Client::open(&submitter.path, &wish, &context.loaded.config).await?;
            let ended = shrink(context, &client, jobs, before - wanted).await;
            client.close().await;
            ended
        })?;
        (Vec::new(), ended)
    };
    let json = json!({
        "jobs": wanted,
        "before": before,
        "submitted": submitted.iter().map(record_json).collect::<Vec<_>>(),
        "ended": ended,
    });
    Out::stdout().value(args.json.json, &json, |_| {
        let ids: Vec<&str> = submitted.iter().map(|r| r.id.as_str()).collect();
        match (ids.is_empty(), ended.is_empty()) {
            (true, true) => format!("there are {before} jobs"),
            (false, _) => format!("{before} jobs, submitted {}", ids.join(", ")),
            (true, false) => format!("{before} jobs, ended {}", ended.join(", ")),
        }
    })?;
    Ok(0)
}

fn grow(submitter: &Submitter, jobs: usize, waiting: usize) -> Result<Vec<Record>> {
    let most = submitter.settings.max_pending.unwrap_or(u32::MAX) as usize;
    if jobs > 0 && waiting + jobs > most {
        let what = format!("{waiting} jobs wait and {jobs} would be added, of {most} that may wait");
        let key = submitter.system.key();
        return Err(Error::new(Kind::Launch, what).hint(format!(
            "launch.{key}.max-pending is the limit; `workers adapt` submits the next when one has started"
        )));
    }
    let mut submitted = Vec::new();
    for _ in 0..jobs {
        match submitter.submit(true) {
            Ok(record) => submitted.push(record),
            Err(e) => {
                let message = format!("{}; {} of {jobs} jobs were submitted", e.message, submitted.len());
                return Err(Error { message, ..e });
            }
        }
    }
    Ok(submitted)
}

async fn shrink(
    context: &Context,
    client: &Client,
    jobs: Vec<(Record, bool)>,
    n: usize,
) -> Result<Vec<String>> {
    let status = client.ask(Question::Status).await?;
    let mut all: Vec<Job> = jobs.into_iter().map(|(record, waits)| job(record, waits, &status)).collect();
    // Those that wait first, the latest first; then those with least to do.
    all.reverse();
    all.sort_by_key(|job| (!job.waits, job.tasks));
    all.truncate(n);
    let names: Vec<String> = all.iter().flat_map(|job| job.workers.iter().cloned()).collect();
    if !names.is_empty() {
        client.ask(Question::StopWorkers { names: names.clone() }).await?;
        gone(client, &names, context.loaded.config.worker.retire_timeout.0).await?;
    }
    let to_end: Vec<(Record, bool)> = all.into_iter().map(|job| (job.record, false)).collect();
    let mut ended = Vec::new();
    for ((record, _), fate) in to_end.iter().zip(pool::cancel(&to_end)) {
        match fate {
            pool::Fate::Over => ended.push(record.id.clone()),
            pool::Fate::Stayed(why) => {
                return Err(Error::new(Kind::Launch, format!("job {} is still there: {why}", record.id)));
            }
        }
    }
    Ok(ended)
}

fn job(record: Record, waits: bool, status: &Value) -> Job {
    let workers: Vec<String> = pool::workers_of(status, &record.id).into_iter().map(str::to_owned).collect();
    let all = status["workers"].as_array().into_iter().flatten().filter(|w| w["job-id"] == *record.id);
    let count = |w: &Value, key: &str| w[key].as_u64().unwrap_or(0);
    let tasks = all.map(|w| count(w, "executing") + count(w, "queued")).sum();
    Job { waits: waits && workers.is_empty(), record, workers, tasks }
}
