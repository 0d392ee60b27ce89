//! A cluster to be measured: the scheduler in this process, each worker in one of its own as on a node. Owns
//! their start, their end, and what the workers are told to do about memory.

use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteSize, Span};
use crate::client::{Client, ConnectOptions};
use crate::config::{Config, Ports};
use crate::net::scheduler_file;
use crate::protocol::messages::client::Question;
use crate::scheduler::{self, Scheduler};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Between two reports of a worker: its last one is at most so old when the figures are read.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// How long workers may take to come and to leave.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What the workers are like.
#[derive(Clone, Debug)]
pub struct WorkerKind {
    /// How many.
    pub nworkers: u32,
    /// Threads of each.
    pub nthreads: u32,
    /// Memory of each, bytes.
    pub memory_limit: u64,
    /// Whether they heed it.
    pub limited: bool,
    /// Where they spill.
    pub local_directory: Option<PathBuf>,
}

/// A running cluster. Dropping it kills the workers.
pub struct BenchCluster {
    workers: Workers,
    scheduler: Scheduler,
    /// A session with the scheduler.
    pub client: Client,
    directory: TempDir,
}

/// The worker processes.
struct Workers {
    kind: WorkerKind,
    file: PathBuf,
    directory: PathBuf,
    children: Vec<Child>,
    started: u32,
    lost: u32,
}

impl BenchCluster {
    /// Starts it; all workers have registered when this returns.
    ///
    /// # Errors
    /// What starting a part finds; `Timeout` when a worker does not come.
    pub async fn start(config: &Config, kind: WorkerKind) -> Result<BenchCluster> {
        let fault = |e: std::io::Error| Error::os("cannot make a directory for the cluster", e);
        let directory = tempfile::Builder::new().prefix("hpcdag-bench-").tempdir().map_err(fault)?;
        let config = Arc::new(on_loopback(config));
        let scheduler = Scheduler::start(scheduler::Options {
            config: Arc::clone(&config),
            scheduler_file: Some(directory.path().join("scheduler.json")),
            cluster: None,
            job_id: None,
            dashboard: None,
            embedded: true,
        })
        .await?;
        let file = scheduler.file.clone();
        let client = Client::connect(scheduler_file::read(&file)?, ConnectOptions::of(&config)).await?;
        let nworkers = kind.nworkers;
        let at = directory.path().to_owned();
        let mut workers = Workers { kind, file, directory: at, children: Vec::new(), started: 0, lost: 0 };
        for _ in 0..nworkers {
            workers.start()?;
        }
        let timeout_ms = u64::try_from(WORKERS_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        client.ask(Question::WaitWorkers { workers: nworkers, timeout_ms }).await?;
        Ok(BenchCluster { workers, scheduler, client, directory })
    }

    /// Starts workers again that have ended; returns how many have in all.
    ///
    /// # Errors
    /// `Launch` when that is not possible.
    pub fn mend(&mut self) -> Result<u32> {
        self.workers.mend()
    }

    /// What `hpcdag status --json` says, with figures of the workers that are younger than this call.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn figures(&self) -> Result<Value> {
        tokio::time::sleep(HEARTBEAT * 2).await;
        self.client.ask(Question::Status).await
    }

    /// The worker processes' ids.
    pub fn workers(&self) -> Vec<u32> {
        self.workers.children.iter().map(Child::id).collect()
    }

    /// Ends it and waits for that.
    ///
    /// # Errors
    /// What the scheduler could not clean up.
    pub async fn stop(self) -> Result<()> {
        let BenchCluster { mut workers, mut scheduler, client, directory } = self;
        client.close().await;
        scheduler.stop();
        let ended = match tokio::time::timeout(STOP_TIMEOUT, scheduler.wait()).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::new(Kind::Timeout, "the scheduler did not end in time")),
        };
        workers.wait(STOP_TIMEOUT).await;
        drop(workers);
        directory.close().map_err(|e| Error::os("cannot remove the cluster's directory", e))?;
        ended
    }
}

impl Workers {
    fn start(&mut self) -> Result<()> {
        let name = format!("bench-{}", self.started);
        let spill = self.kind.local_directory.clone().unwrap_or_else(|| self.directory.clone());
        let log = crate::cli::output::open_log(&self.directory.join(format!("{name}.log")))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["worker", "--no-nanny", "--host", "127.0.0.1", "--name", &name]);
        command.arg("--scheduler-file").arg(&self.file).arg("--local-directory").arg(spill);
        command.args(["--nthreads", &self.kind.nthreads.to_string()]);
        command.args(["--memory-limit", &ByteSize(self.kind.memory_limit).exact()]);
        if !self.kind.limited {
            for threshold in ["TARGET", "SPILL", "PAUSE", "TERMINATE"] {
                command.env(format!("HPCDAG_WORKER__MEMORY__{threshold}"), "false");
            }
        }
        command.env("XDG_STATE_HOME", &self.directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn();
        let child =
            child.map_err(|e| Error::new(Kind::Launch, format!("cannot start a worker process: {e}")))?;
        self.children.push(child);
        self.started += 1;
        Ok(())
    }

    fn mend(&mut self) -> Result<u32> {
        let before = self.children.len();
        // One that cannot be asked is not there any more either.
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        for _ in self.children.len()..before {
            self.lost += 1;
            self.start()?;
        }
        Ok(self.lost)
    }

    async fn wait(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if self.children.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The configuration for a scheduler that only this machine reaches and that hears of its workers often.
fn on_loopback(config: &Config) -> Config {
    let mut config = config.clone();
    config.scheduler.host = Some("127.0.0.1".into());
    config.scheduler.interface = vec!["auto".into()];
    config.scheduler.port = Ports { first: 0, last: 0 };
    config.scheduler.idle_timeout = None;
    config.scheduler.heartbeat_interval = Span(HEARTBEAT);
    config
}
