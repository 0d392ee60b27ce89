//! A run as one job, seen from the login node: its files, and now and then the batch system's word. Owns
//! when which is looked at, and what is said of a job that ended before its run.

use super::directory::{End, RunDirectory};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::JsonOption;
use crate::cli::context::{Context, run_short};
use crate::cli::output::{self, Out};
use crate::cli::progress::{Progress, summary_text};
use crate::cli::signals::Requests;
use crate::launch::dialect::JobState;
use crate::launch::jobs::{self, Record};
use std::time::{Duration, Instant};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// After what time the batch system is asked first; later as often as it wants to be.
const FIRST_QUESTION: Duration = Duration::from_secs(3);

/// How long the word of a run's end may take to a host where its job is known to be over.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest time between two questions.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// Follows a run to its end; its exit code.
pub(super) fn follow(context: &Context, directory: &RunDirectory, json: JsonOption) -> Result<u8> {
    let Some(record) = directory.jobs()?.pop() else {
        return Err(Error::new(Kind::NotFound, "the run has no job"));
    };
    let mut progress = Progress::new(context.verbosity.quiet > 0);
    let end = run_short(watch(directory, &record, &mut progress));
    progress.finish();
    let end = end?;
    if json.json {
        Out::stdout().json(&end)?;
    } else if let Some(summary) = &end.summary {
        output::say(&summary_text(summary));
    }
    if let Some(error) = &end.error {
        output::say(&format!("error: {}", output::harmless(error)));
    }
    Ok(end.exit_code)
}

async fn watch(directory: &RunDirectory, record: &Record, progress: &mut Progress) -> Result<End> {
    let mut requests = Requests::listen()?;
    let mut asking = Asking::new(record);
    let mut over: Option<(JobState, Instant)> = None;
    loop {
        if let Some(end) = directory.end()? {
            return Ok(end);
        }
        if let Some(now) = directory.standing().and_then(|s| s.progress) {
            progress.update(&now);
        }
        match over {
            Some((state, since)) if since.elapsed() >= PATIENCE => {
                return Err(ended_early(directory, record, state));
            }
            Some(_) => {}
            None => over = asking.ask().await?.map(|state| (state, Instant::now())),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            signal = requests.next() => {
                let path = directory.path().display();
                let what = format!("{signal}: not followed any more; job {} goes on", record.id);
                return Err(Error::new(Kind::Cancelled, what)
                    .hint(format!("`hpcdag resume {path} --wait` follows it again")));
            }
        }
    }
}

/// Questions to the batch system, less often as long as nothing changes.
struct Asking<'a> {
    record: &'a Record,
    next: Instant,
    interval: Duration,
    last: Option<JobState>,
}

impl<'a> Asking<'a> {
    fn new(record: &'a Record) -> Asking<'a> {
        let interval = record.system.poll_interval();
        Asking { record, next: Instant::now() + FIRST_QUESTION, interval, last: None }
    }

    /// The job's state if it is over; `None` if it is not, or if it is not time to ask.
    async fn ask(&mut self) -> Result<Option<JobState>> {
        if Instant::now() < self.next {
            return Ok(None);
        }
        let record = self.record.clone();
        let asked = tokio::task::spawn_blocking(move || jobs::status(&[record])).await;
        let asked = asked.map_err(|e| Error::os("asking the batch system was given up", e))?;
        let state = match asked {
            Ok(statuses) => jobs::summary(&statuses.concat()),
            // It may be away for a while; the files tell as well.
            Err(error) => {
                tracing::warn!("{}", error.message);
                JobState::Unknown
            }
        };
        self.interval = match self.last == Some(state) {
            true => (self.interval * 2).min(INTERVAL_MAX),
            false => self.record.system.poll_interval(),
        };
        if self.last != Some(state) && !state.is_over() {
            output::say(&format!("job {} is {}", self.record.id, state.words()));
        }
        self.last = Some(state);
        self.next = Instant::now() + self.interval;
        Ok(state.is_over().then_some(state))
    }
}

fn ended_early(directory: &RunDirectory, record: &Record, state: JobState) -> Error {
    let kind = if state == JobState::Cancelled { Kind::Cancelled } else { Kind::Launch };
    let what = format!("job {} ended before its run: {}", record.id, state.words());
    let path = directory.path().display();
    Error::new(kind, what).hint(format!(
        "`hpcdag resume {path}` goes on with what is left; the job's output is in {path}, as job*.log"
    ))
}
