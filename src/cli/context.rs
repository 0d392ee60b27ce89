//! What every command begins with: configuration, log, runtime, and the cluster that is meant. Owns the order
//! of these; each command says what it needs.

use super::args::{LogOptions, SchedulerOptions, Setting, Verbosity};
use super::output::{self, LogForm, LogSetup};
use crate::base::error::{Error, Kind, Result};
use crate::client::Client;
use crate::config::{Config, Loaded, LogFormat, Override, PathTemplate, Sources};
use crate::net::discovery::Wish;
use crate::net::state_dir;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What commands that are done soon log: only what is wrong, and what they wait for.
const SHORT_FILTER: &str = "warn,hpcdag::net::scheduler_file=info";

/// Threads for commands that only talk to a scheduler.
const SHORT_THREADS: usize = 2;

/// Threads for schedulers, workers and clusters inside of this process, beside those that tasks run on.
const LONG_THREADS_MAX: usize = 8;

/// A command's surroundings.
pub struct Context {
    /// The settings.
    pub loaded: Loaded,
    /// How much is said.
    pub verbosity: Verbosity,
}

/// Who logs.
pub enum Logger<'a> {
    /// A command that is done soon.
    Short,
    /// A process that runs for long, with its flags.
    Long(&'a LogOptions),
}

impl Context {
    /// Loads the configuration with what flags say.
    ///
    /// # Errors
    /// `Config`, with where the fault is.
    pub fn load(verbosity: Verbosity, settings: Vec<Setting>) -> Result<Context> {
        let overrides: Vec<Override> = settings.into_iter().map(flag).collect();
        let loaded = Config::load(&Sources::from_process(), &overrides)?;
        Ok(Context { loaded, verbosity })
    }

    /// The settings, to be shared.
    pub fn config(&self) -> Arc<Config> {
        Arc::new(self.loaded.config.clone())
    }

    /// Starts this process's log.
    ///
    /// # Errors
    /// `Config` when the filter is none; `File` when the log cannot be opened.
    pub fn start_log(&self, logger: &Logger) -> Result<()> {
        let log = &self.loaded.config.log;
        let (usual, file) = match logger {
            Logger::Short => (SHORT_FILTER, None),
            Logger::Long(options) => (log.level.as_str(), options.log_file.clone()),
        };
        let variable = std::env::var("HPCDAG_LOG").ok();
        let form = match log.format {
            LogFormat::Text => LogForm::Text,
            LogFormat::Json => LogForm::Json,
        };
        let filter = output::log_filter(usual, self.verbosity, variable.as_deref());
        output::start_log(&LogSetup { filter, form, file })
    }

    /// Which cluster is meant.
    ///
    /// # Errors
    /// `Usage` when the address is none; `Config` when there is no place for state, or a path has unknown
    /// parts.
    pub fn wish(&self, options: &SchedulerOptions) -> Result<Wish> {
        let configured = match &self.loaded.config.network.scheduler_file {
            Some(template) => Some(expand(template)?),
            None => None,
        };
        let address = options.address.as_deref().map(str::parse).transpose()?;
        Ok(Wish { option: options.scheduler_file.clone(), address, configured, ..Wish::of_process()? })
    }

    /// Connects to the cluster that is meant.
    ///
    /// # Errors
    /// As [`Client::find`].
    pub async fn client(&self, options: &SchedulerOptions) -> Result<Client> {
        Client::find(&self.wish(options)?, &self.loaded.config).await
    }
}

/// A flag's setting, with the flag's name where that is not the key's.
fn flag((key, value): Setting) -> Override {
    let set = Override::new(key, value);
    match key {
        "worker.nanny" => set.flag("--no-nanny"),
        _ => set,
    }
}

/// A path of the configuration, on this host and in this job.
///
/// # Errors
/// `Config` when a part of it is unknown here.
pub fn expand(template: &PathTemplate) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok();
    let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    template.expand(&variable, state_dir::batch_job_id().as_deref(), &host)
}

/// A path that means the same in every directory.
///
/// # Errors
/// `File` when this process's directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::file("cannot find", path, &e))
}

/// A run's id as people type it.
///
/// # Errors
/// `Usage` when it is none.
pub fn run_id(text: &str) -> Result<uuid::Uuid> {
    text.trim().parse().map_err(|_| {
        Error::new(Kind::Usage, format!("{text:?} is not the id of a run"))
            .hint("`submit --detach` prints it, `hpcdag status` lists all")
    })
}

/// Runs a command that only talks to a scheduler.
///
/// # Errors
/// What the command returns.
pub fn run_short<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    run_on(SHORT_THREADS, work)
}

/// Runs a scheduler, a worker or a cluster.
///
/// # Errors
/// What the work returns.
pub fn run_long<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    run_on(processors.clamp(2, LONG_THREADS_MAX), work)
}

fn run_on<T>(threads: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Error::os("cannot start the runtime", e))?;
    let result = runtime.block_on(work);
    // A thread that hangs in a file system must not keep the process.
    runtime.shutdown_background();
    result
}
