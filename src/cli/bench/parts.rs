//! A cluster whose parts are processes of their own, so that what each of them costs can be told apart: the
//! scheduler, workers (real or pretended), and this process as the client. Owns their start, their end, and
//! the measuring of one run.

use super::usage;
use crate::base::error::{Error, Kind, Result};
use crate::cli::output;
use crate::cli::signals::Requests;
use crate::client::summary::RunSummary;
use crate::client::{Client, ConnectOptions, SubmitOptions, Update};
use crate::config::Config;
use crate::graph::Graph;
use crate::net::scheduler_file;
use crate::protocol::messages::client::Question;
use crate::worker::process::send_signal;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long parts have to come up, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks whether the scheduler is up.
const START_LOOK: Duration = Duration::from_millis(2);

/// Between two looks at the scheduler's memory.
const LOOK: Duration = Duration::from_millis(10);

/// The processes.
pub struct Parts {
    // Dropped in this order: workers before their scheduler.
    workers: Vec<Part>,
    scheduler: Part,
    client: Client,
    requests: Requests,
    file: PathBuf,
    directory: TempDir,
}

/// One process. Killed when dropped.
struct Part {
    child: Child,
}

/// What one run took.
#[derive(Clone, Debug)]
pub struct Run {
    /// From before the graph is sent until the client knows of its end.
    pub wall: Duration,
    /// Until the client knows that the scheduler has all of it.
    pub submit: Duration,
    /// Processor time of each kind of part.
    pub cpu: Cpu,
    /// By how much the scheduler's anonymous memory grew at most, bytes.
    pub scheduler_bytes: Option<u64>,
    /// What the scheduler says of it.
    pub summary: RunSummary,
}

/// Processor time by kind of part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// This process.
    pub client: Duration,
    /// The scheduler.
    pub scheduler: Duration,
    /// All workers.
    pub workers: Duration,
}

impl Cpu {
    /// Of all together.
    pub fn sum(&self) -> Duration {
        self.client + self.scheduler + self.workers
    }
}

/// What a process of pretended workers says once all of them are let in.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// From the first attempt to connect until the last was welcomed.
    pub seconds: f64,
    /// How many files the process may have open.
    pub open_files: u64,
    /// How often a connection was lost before it was let in, and tried again.
    pub retries: u32,
}

impl Parts {
    /// Starts a scheduler and connects to it.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(config: &Config) -> Result<Parts> {
        let fault = |e: std::io::Error| Error::os("cannot make a directory for the cluster", e);
        let directory = tempfile::Builder::new().prefix("hpcdag-bench-").tempdir().map_err(fault)?;
        let file = directory.path().join("scheduler.json");
        let mut command = itself(&["scheduler", "--host", "127.0.0.1", "--port", "0"]);
        command.arg("--scheduler-file").arg(&file);
        let mut scheduler = Part::start(command, "scheduler", &directory)?;
        while !file.exists() && matches!(scheduler.child.try_wait(), Ok(None)) {
            tokio::time::sleep(START_LOOK).await;
        }
        let found = scheduler_file::wait_for(&file, None, STOP_TIMEOUT, scheduler_file::probe).await?;
        let client = Client::connect(found, ConnectOptions::of(config)).await?;
        let requests = Requests::listen()?;
        Ok(Parts { workers: Vec::new(), scheduler, client, requests, file, directory })
    }

    /// How the scheduler is reached.
    pub fn scheduler(&self) -> &scheduler_file::SchedulerFile {
        self.client.scheduler()
    }

    /// Starts worker processes; all have registered when this returns.
    ///
    /// # Errors
    /// What keeps them from starting; `Timeout` when one does not come.
    pub async fn start_workers(&mut self, nworkers: u32, nthreads: u32) -> Result<()> {
        self.start_workers_with(nworkers, nthreads, &[]).await
    }

    /// The same with more options of `hpcdag worker`.
    ///
    /// # Errors
    /// As [`Parts::start_workers`].
    pub async fn start_workers_with(
        &mut self,
        nworkers: u32,
        nthreads: u32,
        options: &[String],
    ) -> Result<()> {
        for n in 0..nworkers {
            let name = format!("bench-{n}");
            let mut command = itself(&["worker", "--no-nanny", "--host", "127.0.0.1", "--name", &name]);
            command.args(["--nthreads", &nthreads.to_string()]).args(options);
            command.arg("--scheduler-file").arg(&self.file);
            command.arg("--local-directory").arg(self.directory.path());
            self.workers.push(Part::start(command, &name, &self.directory)?);
        }
        let timeout_ms = u64::try_from(START_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        self.client.ask(Question::WaitWorkers { workers: nworkers, timeout_ms }).await?;
        Ok(())
    }

    /// Starts a process of pretended workers, which connect all at once; returns what it says when all are
    /// let in.
    ///
    /// # Errors
    /// What keeps them from that.
    pub async fn start_sessions(&mut self, nworkers: u32) -> Result<Registered> {
        let mut command = itself(&["bench", "sessions", "--nworkers", &nworkers.to_string()]);
        command.arg("--scheduler-file").arg(&self.file).stdout(Stdio::piped());
        let mut part = Part::start(command, "sessions", &self.directory)?;
        let stdout = part.child.stdout.take();
        self.workers.push(part);
        let line = tokio::task::spawn_blocking(move || first_line(stdout));
        let line = match tokio::time::timeout(START_TIMEOUT, line).await {
            Ok(line) => line.map_err(|e| Error::os("cannot listen to the pretended workers", e))?,
            Err(_) => return Err(Error::new(Kind::Timeout, "the pretended workers do not come")),
        };
        serde_json::from_str(&line).map_err(|_| {
            let log = std::fs::read_to_string(self.directory.path().join("sessions.log"));
            let last = log.unwrap_or_default().lines().last().unwrap_or("they said nothing").to_owned();
            Error::new(Kind::Launch, format!("the pretended workers failed: {last}"))
        })
    }

    /// Runs a graph and measures that.
    ///
    /// # Errors
    /// `TasksFailed` when not all of it succeeds; a part that ends.
    pub async fn run(&mut self, graph: Graph) -> Result<Run> {
        let memory = self.scheduler.anonymous_bytes();
        let mut peak = memory;
        let before = self.cpu();
        let begin = Instant::now();
        let mut handle = self.client.submit(graph, SubmitOptions::default()).await?;
        let mut submit = Duration::ZERO;
        let mut look = tokio::time::interval(LOOK);
        let summary = loop {
            tokio::select! {
                update = handle.next() => match update? {
                    Update::Accepted { .. } => submit = begin.elapsed(),
                    Update::Progress(_) | Update::Outputs(_) => {}
                    Update::Done(summary) => break summary,
                },
                _ = look.tick() => peak = peak.max(self.scheduler.anonymous_bytes()),
                signal = self.requests.next() => {
                    return Err(Error::new(Kind::Cancelled, format!("ended by {signal}")));
                }
            }
            self.check()?;
        };
        let wall = begin.elapsed();
        let after = self.cpu();
        peak = peak.max(self.scheduler.anonymous_bytes());
        if summary.succeeded != summary.tasks {
            let why = summary.failures.first().map_or_else(String::new, |f| format!(": {}", f.reason));
            let what = format!("{} of {} tasks succeeded{why}", summary.succeeded, summary.tasks);
            return Err(Error::new(Kind::TasksFailed, what));
        }
        let cpu = Cpu {
            client: after.client.saturating_sub(before.client),
            scheduler: after.scheduler.saturating_sub(before.scheduler),
            workers: after.workers.saturating_sub(before.workers),
        };
        let scheduler_bytes = peak.zip(memory).map(|(peak, memory)| peak.saturating_sub(memory));
        Ok(Run { wall, submit, cpu, scheduler_bytes, summary })
    }

    /// Ends it and waits for that.
    ///
    /// # Errors
    /// A part that does not end, or a directory that stays.
    pub async fn stop(self) -> Result<()> {
        let Parts { mut workers, mut scheduler, client, directory, .. } = self;
        client.close().await;
        scheduler.signal(Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        let late = |e: Error| output::say(&format!("killed a part of the cluster: {}", e.message));
        for part in workers.iter_mut().chain([&mut scheduler]) {
            part.ended(deadline).await.unwrap_or_else(late);
        }
        drop((workers, scheduler));
        directory.close().map_err(|e| Error::os("cannot remove the cluster's directory", e))
    }

    fn cpu(&self) -> Cpu {
        Cpu {
            client: usage::cpu(),
            scheduler: usage::cpu_of(self.scheduler.child.id()).unwrap_or_default(),
            workers: self.workers.iter().filter_map(|w| usage::cpu_of(w.child.id())).sum(),
        }
    }

    /// Says so if a part has ended.
    fn check(&mut self) -> Result<()> {
        for part in self.workers.iter_mut().chain([&mut self.scheduler]) {
            if let Ok(Some(status)) = part.child.try_wait() {
                return Err(Error::new(Kind::Launch, format!("a part of the cluster has ended: {status}")));
            }
        }
        Ok(())
    }
}

/// This program with these arguments.
fn itself(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The first line that a process prints; empty when it prints none.
fn first_line(stdout: Option<ChildStdout>) -> String {
    let mut line = String::new();
    if let Some(stdout) = stdout {
        // Without a line there is a log.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    line
}

impl Part {
    fn start(mut command: Command, name: &str, directory: &TempDir) -> Result<Part> {
        let log = output::open_log(&directory.path().join(format!("{name}.log")))?;
        // No state of this user's other clusters, and none left behind.
        let child = command.env("XDG_STATE_HOME", directory.path()).stderr(log).spawn();
        let child = child
            .map_err(|e| Error::new(Kind::Launch, format!("cannot start a part of the cluster: {e}")))?;
        Ok(Part { child })
    }

    fn anonymous_bytes(&self) -> Option<u64> {
        usage::anonymous_bytes(self.child.id())
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may be gone, which is what is wanted.
            let _ = send_signal(pid, signal);
        }
    }

    async fn ended(&mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(5)).await,
                Ok(None) => return Err(Error::new(Kind::Timeout, "it did not end in time")),
                Err(e) => return Err(Error::os("cannot wait for it", e)),
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
