//! A whole cluster inside one process: scheduler and workers as they are everywhere else, joined over
//! loopback with the same TLS. For `submit --local`, programs that embed hpcdag, and tests. Owns their start,
//! their end and the directory between; touches no signal and nothing else that belongs to the whole process.

mod viewer;

pub use viewer::Viewer;

use crate::base::error::{Error, Kind, Result};
use crate::base::units::ByteSize;
use crate::client::{Client, ConnectOptions};
use crate::config::{Config, DashboardAddress, Fraction, MemoryLimit, Nthreads, Ports};
use crate::dashboard::{Front, Serving};
use crate::net::scheduler_file;
use crate::scheduler::{self, DashboardPlace, Scheduler};
use crate::worker::executor::native::Registry;
use crate::worker::executor::processes::Program;
use crate::worker::{self, Worker};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How long the parts of a cluster have to leave in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long tasks that are killed are waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// What a cluster is like.
pub struct LocalOptions {
    /// How many workers.
    pub nworkers: u32,
    /// Threads of each worker. Without it: the configuration's, and where that says `auto` the processors are
    /// shared among the workers.
    pub nthreads: Option<u32>,
    /// The configuration. Where to listen is set to loopback.
    pub config: Arc<Config>,
    /// The native functions that tasks can name.
    pub natives: Registry,
    /// A program that calls [`crate::worker::executor::processes::serve`] with the same functions, for
    /// running them in processes of their own (`worker.native-isolation`).
    pub executor: Option<Program>,
    /// Where its dashboard is served; the configuration's address is for clusters of processes.
    pub dashboard: DashboardAddress,
}

impl Default for LocalOptions {
    /// One worker with all processors and the functions that come with hpcdag.
    fn default() -> LocalOptions {
        LocalOptions {
            nworkers: 1,
            nthreads: None,
            config: Arc::new(Config::defaults()),
            natives: Registry::default(),
            executor: None,
            dashboard: DashboardAddress::None,
        }
    }
}

/// A running cluster. Dropping it ends it without waiting for that; `stop` waits.
pub struct LocalCluster {
    // Dropped in this order: workers leave before their scheduler.
    workers: Vec<Worker>,
    dashboard: Option<(String, Serving)>,
    scheduler: Scheduler,
    connect: ConnectOptions,
    directory: TempDir,
}

impl LocalCluster {
    /// Starts a scheduler and its workers on the current tokio runtime, which must have several threads.
    ///
    /// # Errors
    /// What starting a scheduler or a worker finds; then nothing is left running.
    pub async fn start(options: LocalOptions) -> Result<LocalCluster> {
        if options.nworkers == 0 {
            return Err(Error::new(Kind::Usage, "a cluster without workers can do nothing"));
        }
        let fault = |e: std::io::Error| Error::os("cannot make a directory for the cluster", e);
        let directory = tempfile::Builder::new().prefix("hpcdag-").tempdir().map_err(fault)?;
        let nthreads = options.nthreads.or_else(|| share_of_processors(&options.config, options.nworkers));
        let config = Arc::new(on_loopback(&options));
        let file = directory.path().join("scheduler.json");
        let front = Front::bind(&options.dashboard).await?;
        let scheduler = Scheduler::start(scheduler::Options {
            config: Arc::clone(&config),
            scheduler_file: Some(file),
            cluster: None,
            job_id: None,
            dashboard: front.as_ref().map(place_of),
            embedded: true,
        })
        .await?;
        let connect = ConnectOptions::of(&config);
        let dashboard = front.map(|front| (front.url(), serve_dashboard(front, &scheduler, connect)));
        let mut cluster = LocalCluster { workers: Vec::new(), dashboard, scheduler, connect, directory };
        match cluster.start_workers(&options, &config, nthreads).await {
            Ok(()) => Ok(cluster),
            Err(e) => {
                cluster.kill().await;
                Err(e)
            }
        }
    }

    async fn start_workers(
        &mut self,
        options: &LocalOptions,
        config: &Arc<Config>,
        nthreads: Option<u32>,
    ) -> Result<()> {
        for at in 0..options.nworkers {
            let worker = Worker::start(worker::Options {
                config: Arc::clone(config),
                scheduler_file: self.scheduler.file.clone(),
                address: None,
                name: Some(format!("local-{at}")),
                nthreads,
                natives: same(&options.natives),
                executor: options.executor.clone(),
                embedded: true,
                supervision: None,
                job_id: None,
                job_end: None,
            });
            self.workers.push(worker.await?);
        }
        Ok(())
    }

    /// Its scheduler file: others of the same user can join with it.
    pub fn scheduler_file(&self) -> &Path {
        &self.scheduler.file
    }

    /// The address of its dashboard, with what opens it.
    pub fn dashboard(&self) -> Option<&str> {
        self.dashboard.as_ref().map(|(url, _)| url.as_str())
    }

    /// A session with its scheduler.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn client(&self) -> Result<Client> {
        Client::connect(scheduler_file::read(&self.scheduler.file)?, self.connect).await
    }

    /// Ends it in order and waits for that. Runs that have not ended are lost.
    ///
    /// # Errors
    /// `Timeout` when a part does not leave; what a part could not clean up.
    pub async fn stop(mut self) -> Result<()> {
        self.dashboard = None;
        self.scheduler.stop();
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.ended()).await;
        let result = match ended {
            Ok(result) => result,
            Err(_) => {
                self.kill_tasks().await;
                Err(Error::new(Kind::Timeout, "the cluster inside this process did not end in time"))
            }
        };
        self.remove_directory();
        result
    }

    /// Ends it at once: tasks are killed.
    pub async fn kill(mut self) {
        self.kill_tasks().await;
        self.scheduler.stop();
        self.remove_directory();
    }

    async fn ended(&mut self) -> Result<()> {
        let mut result = self.scheduler.wait().await;
        for worker in &mut self.workers {
            result = result.and(worker.wait().await.map(drop));
        }
        result
    }

    async fn kill_tasks(&mut self) {
        self.workers.iter().for_each(Worker::stop);
        let ended = async {
            for worker in &mut self.workers {
                // Its faults do not matter any more.
                let _ = worker.wait().await;
            }
        };
        if tokio::time::timeout(KILL_TIMEOUT, ended).await.is_err() {
            tracing::warn!("tasks do not end even when killed");
        }
    }

    fn remove_directory(self) {
        let LocalCluster { workers, scheduler, directory, .. } = self;
        drop(workers);
        drop(scheduler);
        if let Err(error) = directory.close() {
            tracing::warn!(%error, "the cluster's directory could not be removed");
        }
    }
}

/// What a scheduler tells of its dashboard.
pub fn place_of(front: &Front) -> DashboardPlace {
    DashboardPlace { port: front.port(), url: front.url() }
}

/// Lets a scheduler's dashboard answer, until what comes back is dropped.
pub fn serve_dashboard(front: Front, scheduler: &Scheduler, connect: ConnectOptions) -> Serving {
    let viewer = Viewer::of_file(scheduler.file.clone(), connect);
    front.serve(&scheduler.cluster, Arc::new(viewer))
}

/// Registries are each a worker's own.
fn same(natives: &Registry) -> Registry {
    let registry = Registry::default();
    for name in natives.names() {
        if let Ok(function) = natives.find(&name) {
            registry.register(&name, move |context| function(context));
        }
    }
    registry
}

/// The threads of each of `nworkers` workers on this machine: its part of the processors, where nobody said
/// otherwise.
pub fn share_of_processors(config: &Config, nworkers: u32) -> Option<u32> {
    if config.worker.nthreads != Nthreads::Auto {
        return None;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Some((u32::try_from(processors).unwrap_or(u32::MAX) / nworkers.max(1)).max(1))
}

/// The configuration for parts that listen on loopback only, and share one memory limit.
fn on_loopback(options: &LocalOptions) -> Config {
    let mut config = Config::clone(&options.config);
    let any = Ports { first: 0, last: 0 };
    let (host, interface) = (Some("127.0.0.1".to_owned()), vec!["auto".to_owned()]);
    config.scheduler.host.clone_from(&host);
    config.scheduler.interface.clone_from(&interface);
    config.scheduler.port = any;
    config.scheduler.idle_timeout = None;
    config.worker.host = host;
    config.worker.interface = interface;
    config.worker.port = any;
    config.worker.idle_timeout = None;
    config.worker.lifetime = None;
    let n = options.nworkers;
    config.worker.memory_limit = match config.worker.memory_limit {
        MemoryLimit::Size(ByteSize(all)) => MemoryLimit::Size(ByteSize(all / u64::from(n))),
        MemoryLimit::Fraction(Fraction(all)) => MemoryLimit::Fraction(Fraction(all / f64::from(n))),
        MemoryLimit::Auto if n > 1 => MemoryLimit::Fraction(Fraction(1.0 / f64::from(n))),
        same => same,
    };
    config
}
