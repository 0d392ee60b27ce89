//! `up` where workers, and perhaps the scheduler, are jobs of a batch system: what is submitted, what is
//! shown while they wait in the queue, and that nothing stays when it is given up. Owns the order of these.

use super::{Cluster, scheduler_job, start_here, undo, workers_word};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::Span;
use crate::cli::args::{
    BatchName, JobOptions, JsonOption, LauncherName, ListenOptions, SchedulerOptions, UpCommandArgs,
    WorkersStartArgs,
};
use crate::cli::background::StartedScheduler;
use crate::cli::context::{Context, absolute, run_short};
use crate::cli::gather;
use crate::cli::jobs::start::{Submitter, record_json, size_text};
use crate::cli::jobs::{self, present};
use crate::cli::output::{self, Out};
use crate::cli::serve::tell;
use crate::cli::signals;
use crate::client::Client;
use crate::launch::dialect::{JobState, JobStatus, System};
use crate::launch::jobs::{self as launched, Record};
use crate::net::scheduler_file::{self, Liveness};
use crate::net::state_dir::{ClusterDir, StateDir, batch_job_id};
use crate::protocol::credentials::new_cluster_id;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether workers have come.
const LOOK: Duration = Duration::from_millis(300);

/// When the batch system is asked first and once more; later as often as it wants to be.
const FIRST_QUESTIONS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The longest time between two questions.
const INTERVAL_MAX: Duration = Duration::from_secs(300);

/// The batch system that workers are submitted to: the launcher's, or where only a job can give what is asked
/// for, the one that is there. `None` for workers here, or on the nodes of the allocation that this is in.
///
/// # Errors
/// `Usage` when jobs are wanted and there is no batch system; `Launch`.
pub(in crate::cli) fn system(launcher: Option<LauncherName>, jobs: &JobOptions) -> Result<Option<System>> {
    if let Some(launcher) = launcher {
        return jobs::system_of(launcher);
    }
    match jobs.given() {
        Some(option) if batch_job_id().is_none() => required(option).map(Some),
        _ => Ok(None),
    }
}

fn required(option: &str) -> Result<System> {
    present()?.ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("{option} needs a batch system, but there is neither sbatch nor qsub"),
        )
        .hint("run this on a login node; -n starts workers on this machine")
    })
}

/// The batch system of `--batch`.
fn named(batch: Option<BatchName>) -> Result<System> {
    match batch {
        None => required("--batch"),
        Some(BatchName::Slurm) => Ok(System::Slurm),
        Some(BatchName::Pbs) => Ok(System::Pbs),
        Some(BatchName::Sge) => Ok(System::GridEngine),
    }
}

/// `up` with jobs, if that is meant.
pub(super) fn up(context: &Context, args: &UpCommandArgs) -> Result<Option<u8>> {
    let launcher = system(args.up.placement.launcher, &args.jobs)?;
    let system = match args.batch {
        Some(batch) => named(batch)?,
        None => match launcher {
            Some(system) => system,
            None => return Ok(None),
        },
    };
    if launcher.is_some_and(|other| other != system) || args.batch.is_some() && other_launcher(args) {
        return Err(Error::new(Kind::Usage, "--batch and --launcher name different ways to the nodes")
            .hint("--batch alone submits scheduler and workers to the same batch system"));
    }
    if args.jobs.dry_run || args.jobs.check {
        return Err(Error::new(Kind::Usage, "--dry-run and --check are for a cluster that is there")
            .hint("`hpcdag scheduler --detach`, then `hpcdag workers start --dry-run`"));
    }
    let start = start_args(args);
    let up = Up { context, args, start: &start, system };
    let (cluster, scheduler, workers) = match args.batch {
        Some(_) => up.all_in_jobs()?,
        None => up.workers_in_jobs()?,
    };
    up.tell(&cluster, scheduler.as_ref(), workers.as_ref()).map(Some)
}

fn other_launcher(args: &UpCommandArgs) -> bool {
    args.up.placement.launcher.is_some() && !args.launches_jobs()
}

/// What `workers start` would be given.
fn start_args(args: &UpCommandArgs) -> WorkersStartArgs {
    let mut placement = args.up.placement.clone();
    // Here it is known when they are there.
    placement.min_workers = None;
    WorkersStartArgs {
        placement,
        start_timeout: args.up.timeout,
        pool: None,
        jobs: args.jobs.clone(),
        worker: args.up.worker.clone(),
        listen: ListenOptions { interface: args.up.interface.clone(), ..ListenOptions::default() },
        scheduler: SchedulerOptions::default(),
        json: JsonOption::default(),
    }
}

struct Up<'a> {
    context: &'a Context,
    args: &'a UpCommandArgs,
    start: &'a WorkersStartArgs,
    system: System,
}

/// A cluster, the job of its scheduler, and that of its workers.
type Brought = (Cluster, Option<Record>, Option<Record>);

impl Up<'_> {
    /// The scheduler here, workers in jobs.
    fn workers_in_jobs(&self) -> Result<Brought> {
        super::tell_cpu_limit(self.context);
        let scheduler = start_here(self.context, &self.args.up)?;
        let home = StateDir::of_user()?.cluster(&scheduler.file.id)?;
        let brought = (|| {
            signals::go_on()?;
            let place = (scheduler.path.as_path(), scheduler.file.id.as_str(), &home);
            let submitter = Submitter::for_cluster(self.context, self.start, self.system, place)?;
            submitter.is_allowed()?;
            let workers = submitter.submit(false)?;
            self.told(&workers);
            let connected = self.come(&scheduler.path, None, Some(&workers))?;
            Ok((connected, workers))
        })();
        match brought {
            Ok((workers, record)) => Ok((Cluster { scheduler, home, workers }, None, Some(record))),
            Err(error) => {
                undo(self.context, &scheduler.path, &home);
                Err(nothing_left(error))
            }
        }
    }

    /// The scheduler in a job, workers in others if some are asked for.
    fn all_in_jobs(&self) -> Result<Brought> {
        let id = new_cluster_id();
        let home = StateDir::of_user()?.cluster(&id)?;
        let path = match &self.args.up.scheduler_file {
            Some(path) => absolute(path)?,
            None => home.scheduler_file(),
        };
        let brought = self.submit_both(&path, &id, &home);
        match brought {
            Ok((scheduler, record, workers, connected)) => {
                Ok((Cluster { scheduler, home, workers: connected }, Some(record), workers))
            }
            Err(error) => {
                undo(self.context, &path, &home);
                Err(nothing_left(error))
            }
        }
    }

    fn submit_both(
        &self,
        path: &Path,
        id: &str,
        home: &ClusterDir,
    ) -> Result<(StartedScheduler, Record, Option<Record>, u32)> {
        let place = (path, id, home);
        let scheduler =
            scheduler_job::submit(self.context, (&self.args.up, &self.args.jobs), self.system, place)?;
        tell(self.context, &format!("submitted {} job {} for the scheduler", self.system, scheduler.id));
        let workers = match self.args.jobs.nodes {
            None => None,
            Some(_) => {
                signals::go_on()?;
                let mut submitter = Submitter::for_cluster(self.context, self.start, self.system, place)?;
                submitter.after(&scheduler.id, &home.path().join(scheduler_job::DIRECTORY));
                submitter.is_allowed()?;
                let workers = submitter.submit(false)?;
                self.told(&workers);
                Some(workers)
            }
        };
        let connected = self.come(path, Some(&scheduler), workers.as_ref())?;
        let file = match self.args.no_wait {
            // It is not there yet; what is known of it is its place.
            true => home.authority().and_then(|authority| {
                let address = "tls://127.0.0.1:1".parse()?;
                scheduler_file::SchedulerFile::new(&authority, address, 1)
            })?,
            false => scheduler_file::read(path)?,
        };
        Ok((StartedScheduler { pid: file.pid, path: path.to_owned(), file }, scheduler, workers, connected))
    }

    fn told(&self, workers: &Record) {
        let size = size_text(workers);
        tell(self.context, &format!("submitted {} job {} for {size} of workers", self.system, workers.id));
    }

    /// Waits until scheduler and workers are there; how many of these.
    fn come(&self, path: &Path, scheduler: Option<&Record>, workers: Option<&Record>) -> Result<u32> {
        if self.args.no_wait {
            return Ok(0);
        }
        let expected = workers.map_or(0, |w| w.nodes.saturating_mul(w.jobs));
        let min = self.args.up.placement.min_workers.unwrap_or(expected).min(expected);
        let mut waiting = Waiting {
            context: self.context,
            path: path.to_owned(),
            watch: Watch::new(scheduler, workers, jobs::poll_interval(self.context, self.system)?),
            line: Line::new(self.context.verbosity.quiet > 0),
            wanted: (expected, min),
            timeout: self.args.up.timeout.0,
            since: None,
        };
        run_short(waiting.run())
    }

    fn tell(&self, cluster: &Cluster, scheduler: Option<&Record>, workers: Option<&Record>) -> Result<u8> {
        let path = &cluster.scheduler.path;
        let id = cluster.home.id();
        let json = json!({
            "id": id,
            "address": (!self.args.no_wait || scheduler.is_none()).then_some(&cluster.scheduler.file.address),
            "scheduler-file": path,
            "workers": cluster.workers,
            "log": scheduler.map_or_else(|| cluster.home.log().display().to_string(), |s| s.log.clone()),
            "scheduler-job": scheduler.map(record_json),
            "worker-job": workers.map(record_json),
        });
        Out::stdout().value(self.args.up.json.json, &json, |_| {
            let how = match self.args.no_wait {
                true => "is submitted".to_owned(),
                false => format!("is up with {}", workers_word(cluster.workers)),
            };
            format!("cluster {id} {how}: {}", path.display())
        })?;
        Ok(0)
    }
}

fn nothing_left(error: Error) -> Error {
    Error { hint: Some("nothing of the cluster was left, its jobs were cancelled".into()), ..error }
}

/// The wait for a scheduler and workers in jobs.
struct Waiting<'a> {
    context: &'a Context,
    path: PathBuf,
    watch: Watch,
    line: Line,
    /// How many workers are to come, and how many are enough.
    wanted: (u32, u32),
    /// What they may take once their jobs have begun.
    timeout: Duration,
    since: Option<Instant>,
}

impl Waiting<'_> {
    async fn run(&mut self) -> Result<u32> {
        let (expected, min) = self.wanted;
        let mut client: Option<Client> = None;
        loop {
            signals::go_on()?;
            self.watch.ask().await;
            if client.is_none() && self.is_alive().await {
                let wish = self.context.wish(&SchedulerOptions::default())?;
                client = Some(Client::open(&self.path, &wish, &self.context.loaded.config).await?);
            }
            let connected = match &client {
                Some(client) => u32::try_from(gather::connected(client).await?.len()).unwrap_or(u32::MAX),
                None => 0,
            };
            if client.is_some() && (connected >= expected || connected >= min && self.rest_is_late()) {
                if let Some(client) = client {
                    client.close().await;
                }
                if connected < expected {
                    output::say(&format!(
                        "{connected} of {expected} workers are connected; {}",
                        self.watch.text()
                    ));
                }
                return Ok(connected);
            }
            self.look_for_faults(client.is_some(), connected)?;
            let scheduler = if client.is_some() { "" } else { "no scheduler yet, " };
            self.line.show(&format!("{scheduler}{connected} of {expected} workers; {}", self.watch.text()));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_alive(&self) -> bool {
        let Ok(file) = scheduler_file::read(&self.path) else { return false };
        matches!(scheduler_file::probe(&file).await, Liveness::Alive)
    }

    /// Whether those that are missing are not to be waited for, where enough have come.
    fn rest_is_late(&self) -> bool {
        let late = self.since.is_some_and(|since| since.elapsed() >= self.timeout);
        late || self.watch.workers().is_some_and(|job| job.is_over() || job.is_waiting())
    }

    /// What makes waiting useless.
    fn look_for_faults(&mut self, has_scheduler: bool, connected: u32) -> Result<()> {
        let (expected, _) = self.wanted;
        let missing = match has_scheduler {
            false => "the scheduler is not there".to_owned(),
            true => format!("{connected} of {expected} workers are connected"),
        };
        let needed = self.watch.jobs.iter().filter(|job| !(job.is_scheduler && has_scheduler));
        let mut needed = needed.peekable();
        if let Some(job) = needed.clone().find(|job| job.is_over()) {
            let what = format!("{missing}, and {}{}", job.text(), gather::logged(&job.log()));
            return Err(Error::new(Kind::Launch, what));
        }
        // What waits in the queue may wait: nobody knows how long that is.
        let begun = needed.peek().is_none() || needed.all(|job| !job.is_waiting());
        match (begun, self.since) {
            (true, None) => self.since = Some(Instant::now()),
            (true, Some(since)) if since.elapsed() >= self.timeout => {
                let logged: Vec<String> = self.watch.jobs.iter().map(|j| gather::logged(&j.log())).collect();
                let timeout = Span(self.timeout);
                let what = format!("{missing} {timeout} after the jobs have begun{}", logged.concat());
                return Err(Error::new(Kind::Timeout, what));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A job that is watched.
struct Job {
    record: Record,
    is_scheduler: bool,
    /// What the batch system said last.
    statuses: Option<Vec<JobStatus>>,
}

impl Job {
    fn state(&self) -> Option<JobState> {
        self.statuses.as_deref().map(launched::summary)
    }

    fn is_over(&self) -> bool {
        self.state().is_some_and(JobState::is_over)
    }

    /// Nothing known counts as waiting.
    fn is_waiting(&self) -> bool {
        let waits =
            |s: &JobStatus| matches!(s.state, JobState::Pending | JobState::Held | JobState::Starting);
        self.statuses.as_ref().is_none_or(|all| all.iter().any(waits))
    }

    /// Where its script's output goes.
    fn log(&self) -> PathBuf {
        PathBuf::from(self.record.log.replace("%j", &self.record.id).replace("$JOB_ID", &self.record.id))
    }

    /// `job 12 is pending (Resources), starts 2026-11-21T06:01:21`
    fn text(&self) -> String {
        let what = if self.is_scheduler { "scheduler's job" } else { "job" };
        let id = &self.record.id;
        let Some(state) = self.state() else { return format!("{what} {id} is submitted") };
        let status = self.statuses.iter().flatten().find(|s| s.state == state);
        let mut text = format!("{what} {id} is {}", state.words());
        if let Some(reason) = status.and_then(|s| s.reason.as_ref()) {
            text.push_str(&format!(" ({})", output::harmless(reason)));
        }
        if let Some(start) = status.and_then(|s| s.start_estimate.as_ref()) {
            text.push_str(&format!(", starts {}", output::harmless(start)));
        }
        text
    }
}

/// Jobs, and questions about them, less often as long as nothing changes.
struct Watch {
    jobs: Vec<Job>,
    next: Instant,
    asked: usize,
    interval: Duration,
    usual: Duration,
}

impl Watch {
    fn new(scheduler: Option<&Record>, workers: Option<&Record>, usual: Duration) -> Watch {
        let job =
            |record: &Record, is_scheduler| Job { record: record.clone(), is_scheduler, statuses: None };
        let scheduler = scheduler.map(|record| job(record, true));
        let jobs: Vec<Job> = scheduler.into_iter().chain(workers.map(|record| job(record, false))).collect();
        Watch { jobs, next: Instant::now() + FIRST_QUESTIONS[0], asked: 0, interval: usual, usual }
    }

    fn workers(&self) -> Option<&Job> {
        self.jobs.iter().find(|job| !job.is_scheduler)
    }

    /// Asks if it is time to. A batch system that does not answer is asked again.
    async fn ask(&mut self) {
        if Instant::now() < self.next {
            return;
        }
        let records: Vec<Record> = self.jobs.iter().map(|job| job.record.clone()).collect();
        let asked = tokio::task::spawn_blocking(move || launched::status(&records)).await;
        let mut has_changed = false;
        match asked {
            Ok(Ok(statuses)) => {
                for (job, statuses) in self.jobs.iter_mut().zip(statuses) {
                    let before = job.state();
                    job.statuses = Some(statuses);
                    has_changed |= before != job.state();
                }
            }
            Ok(Err(error)) => tracing::warn!("{}", error.message),
            Err(error) => tracing::warn!("asking the batch system was given up: {error}"),
        }
        self.asked += 1;
        self.interval =
            if has_changed { self.usual } else { (self.interval * 2).min(INTERVAL_MAX.max(self.usual)) };
        let pause = match FIRST_QUESTIONS.get(self.asked) {
            Some(soon) => *soon,
            None => self.interval,
        };
        self.next = Instant::now() + pause;
    }

    fn text(&self) -> String {
        self.jobs.iter().map(Job::text).collect::<Vec<_>>().join("; ")
    }
}

/// The line about where things stand: rewritten on a terminal, else written when it changes.
struct Line {
    bar: Option<indicatif::ProgressBar>,
    is_quiet: bool,
    last: String,
}

impl Line {
    fn new(is_quiet: bool) -> Line {
        use std::io::IsTerminal;
        let bar = (!is_quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.set_style(
                indicatif::ProgressStyle::with_template("{spinner} {msg}, {elapsed}")
                    .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
            );
            output::make_room_for(Some(bar.clone()));
            bar
        });
        Line { bar, is_quiet, last: String::new() }
    }

    fn show(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        } else if !self.is_quiet && self.last != text {
            output::say(text);
        }
        self.last = text.to_owned();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            output::make_room_for(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: JobState, reason: Option<&str>) -> Job {
        let record = Record {
            system: System::Slurm,
            id: "12".into(),
            name: "n".into(),
            nodes: 2,
            jobs: 1,
            submitted: String::new(),
            script: "s".into(),
            log: "/l/w-%j.log".into(),
            pool: None,
            scaled: false,
            ended: None,
        };
        let status = JobStatus {
            state,
            reason: reason.map(str::to_owned),
            start_estimate: reason.map(|_| "2026-11-21T06:01:21".into()),
            ..JobStatus::gone("12")
        };
        Job { record, is_scheduler: false, statuses: Some(vec![status]) }
    }

    #[test]
    fn a_job_in_the_queue_is_told_with_its_reason_and_start() {
        let waiting = job(JobState::Pending, Some("Resources"));
        assert_eq!(waiting.text(), "job 12 is pending (Resources), starts 2026-11-21T06:01:21");
        assert!(waiting.is_waiting() && !waiting.is_over());
        assert_eq!(waiting.log(), Path::new("/l/w-12.log"));
        let failed = job(JobState::Failed, None);
        assert_eq!(failed.text(), "job 12 is failed");
        assert!(failed.is_over() && !failed.is_waiting());
        let unasked = Job { statuses: None, ..job(JobState::Pending, None) };
        assert_eq!(unasked.text(), "job 12 is submitted");
        assert!(unasked.is_waiting());
    }
}
