//! `workers wait`: until so many workers are connected, or until no more of them can come. Owns when the
//! batch system is asked about the jobs meanwhile.

use super::list::{self, Known};
use super::pool;
use super::trouble::{self, Trouble};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::WorkersWaitArgs;
use crate::cli::context::{Context, absolute, run_short};
use crate::cli::output::{self, Out};
use crate::client::Client;
use crate::launch::dialect::{JobState, System};
use crate::net::discovery;
use crate::protocol::messages::client::Question;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Pauses before the first questions to the batch system, in seconds; afterwards it is asked as rarely as
/// always.
const FIRST_LOOKS: [u64; 3] = [2, 5, 15];

/// Jobs about which everything is said.
const EXPLAINED_MAX: usize = 4;

/// `workers wait`
pub(in crate::cli) fn wait(context: &Context, args: &WorkersWaitArgs) -> Result<u8> {
    let wish = context.wish(&args.scheduler)?;
    let answer = run_short(async {
        let path = absolute(&discovery::find(&wish).await?.path)?;
        let client = Client::open(&path, &wish, &context.loaded.config).await?;
        let file = client.scheduler().clone();
        let look = || {
            let jobs = list::look(&path, &file)?;
            let others = pool::is_locked(&super::directory(&path, &file)?);
            Ok((jobs, others))
        };
        let poll = |system| super::poll_interval(context, system);
        let answer = wait_for(&client, args.count, Instant::now() + args.timeout.0, look, poll).await;
        client.close().await;
        answer
    })?;
    Out::stdout().value(args.json.json, &answer, |answer| match &answer["workers"] {
        n if n == 1 => "1 worker is connected".into(),
        n => format!("{n} workers are connected"),
    })?;
    Ok(0)
}

/// Waits; `look` tells the cluster's jobs, and whether somebody adds more of them, `poll` how often batch
/// systems may be asked.
async fn wait_for(
    client: &Client,
    count: u32,
    deadline: Instant,
    look: impl Fn() -> Result<(Vec<Known>, bool)>,
    poll: impl Fn(System) -> Result<Duration>,
) -> Result<Value> {
    let mut pauses = FIRST_LOOKS.into_iter();
    let mut said: Vec<String> = Vec::new();
    let mut interval = Duration::from_secs(30);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = pauses.next().map_or(interval, Duration::from_secs);
        let timeout_ms = u64::try_from(left.min(pause).as_millis()).unwrap_or(u64::MAX).max(1);
        let late = match client.ask(Question::WaitWorkers { workers: count, timeout_ms }).await {
            Err(e) if e.kind == Kind::Timeout => e,
            answer => return answer,
        };
        let (jobs, others) = look()?;
        let status = client.ask(Question::Status).await?;
        let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let troubles: Option<Vec<Vec<Trouble>>> = jobs.iter().map(|job| trouble::of(job, workers)).collect();
        let to_come =
            troubles.as_ref().map(|all| all.iter().flatten().map(|t| u64::from(t.to_come)).sum::<u64>());
        let mut troubles: Vec<Trouble> = troubles.into_iter().flatten().flatten().collect();
        if Instant::now() >= deadline {
            return Err(explained(late, troubles));
        }
        let enough = to_come.is_none_or(|n| n + workers.len() as u64 >= u64::from(count));
        if !jobs.is_empty() && !enough && !others {
            let what = format!("{} of {count} workers are connected, and no more will come", workers.len());
            return Err(explained(Error::new(Kind::Launch, what), troubles));
        }
        let polls: Vec<Duration> = jobs.iter().map(|job| poll(job.record.system)).collect::<Result<_>>()?;
        interval = polls.into_iter().max().unwrap_or(interval);
        troubles.retain(|t| t.state == JobState::Held || t.state.is_over());
        for line in troubles.iter().map(Trouble::line) {
            if !said.contains(&line) {
                output::say(&line);
                said.push(line);
            }
        }
    }
}

/// An error with what is known of the jobs whose workers are missing, and with what can be done about it.
fn explained(error: Error, mut missing: Vec<Trouble>) -> Error {
    if missing.is_empty() {
        return error;
    }
    // Those that are still there first, then the latest.
    missing.reverse();
    missing.sort_by_key(|t| t.state.is_over());
    let mut lines: Vec<String> =
        missing.iter().take(EXPLAINED_MAX).map(|t| format!("  {}", t.text())).collect();
    if let Some(more) = missing.len().checked_sub(EXPLAINED_MAX).filter(|n| *n > 0) {
        lines.push(format!("  and {more} more; `hpcdag workers list` has all"));
    }
    let hint = missing.iter().find_map(Trouble::hint);
    let message = format!("{}:\n{}", error.message, lines.join("\n"));
    Error { message, hint: hint.or(error.hint), ..error }
}
