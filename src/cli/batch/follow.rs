//! A run as one job, or a chain of them, seen from the login node: its scheduler where that can be reached,
//! its files, and now and then the batch system's word. Owns when which is looked at, and what is said of
//! jobs that ended before their run.

use super::chain;
use super::directory::{End, Order, RunDirectory};
use super::live::{Live, Ways};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::JsonOption;
use crate::cli::context::{Context, run_short};
use crate::cli::jobs as cli_jobs;
use crate::cli::output::{self, Out};
use crate::cli::progress::{Progress, summary_text};
use crate::cli::signals::Requests;
use crate::launch::dialect::JobState;
use crate::launch::jobs::Record;
use crate::launch::relay::Follow;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// After what time the batch system is asked first; later as often as it wants to be.
const FIRST_QUESTION: Duration = Duration::from_secs(3);

/// How long the word of a run's end may take to a host where its job is known to be over.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest time between two questions.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// Follows a run to its end; its exit code.
pub(super) fn follow(
    context: &Context,
    directory: &RunDirectory,
    order: &Order,
    json: JsonOption,
) -> Result<u8> {
    let records = directory.chain(order)?;
    if records.is_empty() {
        return Err(Error::new(Kind::NotFound, "the run has no job"));
    }
    let way = cli_jobs::follow(context)?;
    let program = cli_jobs::start::program(&cli_jobs::settings(context, order.system)?)?;
    let ways = (way != Follow::Files).then_some(Ways { follow: way, system: order.system, program });
    let interval = cli_jobs::poll_interval(context, order.system)?;
    let mut progress = Progress::new(context.verbosity.quiet > 0);
    let end = run_short(watch(directory, &records, interval, ways, &mut progress));
    progress.finish();
    let end = end?;
    chain::cancel_rest(&records, end.job_id.as_deref());
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

async fn watch(
    directory: &RunDirectory,
    records: &[Record],
    interval: Duration,
    ways: Option<Ways>,
    progress: &mut Progress,
) -> Result<End> {
    let mut requests = Requests::listen()?;
    let mut asking = Asking::new(records, interval);
    let live = match ways {
        Some(ways) => Some(Live::start(ways, directory, asking.current.subscribe())),
        None => {
            output::say(&format!("following {}", directory.file("progress.json").display()));
            None
        }
    };
    let mut over: Option<(JobState, Instant)> = None;
    loop {
        if let Some(end) = directory.end()? {
            return Ok(end);
        }
        let now = live.as_ref().and_then(Live::progress);
        if let Some(now) = now.or_else(|| directory.standing()?.progress) {
            progress.update(&now);
        }
        match over {
            Some((state, since)) if since.elapsed() >= PATIENCE => {
                return Err(ended_early(directory, records, state));
            }
            Some(_) => {}
            None => over = asking.ask().await?.map(|state| (state, Instant::now())),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            signal = requests.next() => {
                let path = directory.path().display();
                let what = format!("{signal}: not followed any more; {} goes on", chain::names(records));
                return Err(Error::new(Kind::Cancelled, what)
                    .hint(format!("`hpcdag resume {path} --wait` follows it again")));
            }
        }
    }
}

/// Questions to the batch system, less often as long as nothing changes.
struct Asking {
    records: Vec<Record>,
    /// The id of the job that runs, or comes next.
    current: watch::Sender<String>,
    next: Instant,
    /// The least time between two questions, and what it is now.
    least: Duration,
    interval: Duration,
    last: Option<(String, JobState)>,
}

impl Asking {
    fn new(records: &[Record], interval: Duration) -> Asking {
        let first = records.first();
        let (current, _) = watch::channel(first.map(|r| r.id.clone()).unwrap_or_default());
        Asking {
            records: records.to_vec(),
            current,
            next: Instant::now() + FIRST_QUESTION,
            least: interval,
            interval,
            last: None,
        }
    }

    /// How the last job ended if all are over; `None` if one is not, or if it is not time to ask.
    async fn ask(&mut self) -> Result<Option<JobState>> {
        if Instant::now() < self.next {
            return Ok(None);
        }
        let records = self.records.clone();
        let asked = tokio::task::spawn_blocking(move || chain::current(&records)).await;
        let asked = asked.map_err(|e| Error::os("asking the batch system was given up", e))?;
        let (id, state) = match asked {
            Ok((record, state)) => (record.id, state),
            // It may be away for a while; the files tell as well.
            Err(error) => {
                tracing::warn!("{}", error.message);
                (self.current.borrow().clone(), JobState::Unknown)
            }
        };
        let now = Some((id.clone(), state));
        let longest = INTERVAL_MAX.max(self.least);
        self.interval = if self.last == now { (self.interval * 2).min(longest) } else { self.least };
        if self.last != now && !state.is_over() {
            output::say(&format!("job {id} is {}", state.words()));
        }
        self.last = now;
        self.current.send_replace(id);
        self.next = Instant::now() + self.interval;
        Ok(state.is_over().then_some(state))
    }
}

fn ended_early(directory: &RunDirectory, records: &[Record], state: JobState) -> Error {
    let kind = if state == JobState::Cancelled { Kind::Cancelled } else { Kind::Launch };
    let what = format!("{} ended before its run: {}", chain::names(records), state.words());
    let path = directory.path().display();
    Error::new(kind, what).hint(format!(
        "`hpcdag resume {path}` goes on with what is left; the job's output is in {path}, as job*.log"
    ))
}
