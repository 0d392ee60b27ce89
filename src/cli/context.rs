//! What every command begins with: configuration, log, runtime, and the cluster that is meant. Owns the order
//! of these; each command says what it needs.

use super::args::{LogOptions, SchedulerOptions, Setting, Verbosity};
use super::jobs;
use super::output::{self, LogForm, LogSetup};
use crate::base::error::{Error, Kind, Result};
use crate::client::{Client, ConnectOptions};
use crate::config::{Config, Loaded, LogFormat, Nthreads, Override, PathTemplate, Sources};
use crate::net::discovery::{self, Wish};
use crate::net::scheduler_file;
use crate::net::state_dir;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What commands that are done soon log: only what is wrong, and what they wait for.
const SHORT_FILTER: &str = "warn,hpcdag::net::scheduler_file=info";

/// Threads for commands that only talk to a scheduler.
const SHORT_THREADS: usize = 2;

/// Threads for schedulers, workers and clusters inside of this process, beside those that tasks run on.
const LONG_THREADS_MAX: usize = 8;

/// Threads for schedulers and clients on a login node.
const LOGIN_THREADS: usize = 2;

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

    /// How many threads a process of this kind runs on, and whether it would be more elsewhere.
    fn threads(&self, role: Role) -> (usize, bool) {
        let config = &self.loaded.config;
        let setting = match role {
            Role::Scheduler => config.scheduler.threads,
            Role::Client => config.client.threads,
        };
        threads(setting, is_login_node(&|name| std::env::var(name).ok(), jobs::has_commands()), processors())
    }

    /// Says so if a process of this kind is kept small because others work on this host too.
    pub fn tell_threads(&self, role: Role) {
        if let (threads, true) = self.threads(role)
            && self.verbosity.quiet == 0
        {
            let part = role.table();
            output::say(&format!(
                "on a login node: {threads} threads; --threads N or [{part}] threads changes it"
            ));
        }
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

    /// Connects to the cluster that is meant only to look at it.
    ///
    /// # Errors
    /// As [`Client::find`].
    pub async fn looker(&self, options: &SchedulerOptions) -> Result<Client> {
        let wish = self.wish(options)?;
        self.look_at(&discovery::find(&wish).await?.path, &wish).await
    }

    /// Connects to the scheduler of a file only to look. Of `wish` only the address counts.
    ///
    /// # Errors
    /// As [`Client::find`].
    pub async fn look_at(&self, path: &Path, wish: &Wish) -> Result<Client> {
        let options = ConnectOptions { looks_only: true, ..ConnectOptions::of(&self.loaded.config) };
        let address = wish.address.as_ref();
        let file = scheduler_file::wait_for(path, address, options.timeout, scheduler_file::probe).await?;
        Client::connect(file, options).await
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

/// Runs a worker or a cluster.
///
/// # Errors
/// What the work returns.
pub fn run_long<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    run_on(usual_threads(processors()), work)
}

/// What a process is, for the threads that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A scheduler.
    Scheduler,
    /// A client that follows a run.
    Client,
}

impl Role {
    /// The table of its settings.
    fn table(self) -> &'static str {
        match self {
            Role::Scheduler => "scheduler",
            Role::Client => "client",
        }
    }
}

/// Runs a scheduler or a client, on few threads where others work too.
///
/// # Errors
/// What the work returns.
pub fn run_as<T>(context: &Context, role: Role, work: impl Future<Output = Result<T>>) -> Result<T> {
    run_on(context.threads(role).0, work)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn usual_threads(processors: usize) -> usize {
    processors.clamp(2, LONG_THREADS_MAX)
}

/// Threads as the setting says, and whether being on a login node has made them fewer.
fn threads(setting: Nthreads, is_login_node: bool, processors: usize) -> (usize, bool) {
    let usual = usual_threads(processors);
    match setting {
        Nthreads::Count(n) => (n.get() as usize, false),
        Nthreads::Auto if is_login_node => (usual.min(LOGIN_THREADS), usual > LOGIN_THREADS),
        Nthreads::Auto => (usual, false),
    }
}

/// Whether this is a login node: a batch system's commands are there, and this process is not on a node of a
/// job. The shell of `salloc` may be in a job and here all the same.
fn is_login_node(variable: &dyn Fn(&str) -> Option<String>, has_commands: bool) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let on_node = match is_set("SLURM_JOB_ID") {
        true => is_set("SLURMD_NODENAME"),
        false => is_set("PBS_JOBID") || is_set("JOB_ID"),
    };
    has_commands && !on_node
}

fn run_on<T>(threads: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Error::os("cannot start the runtime", e))?;
    let result = runtime.block_on(work);
    // A thread that hangs in a file system must not keep the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn login_nodes_are_spared() {
        let auto = Nthreads::Auto;
        assert_eq!(threads(auto, false, 64), (8, false));
        assert_eq!(threads(auto, true, 64), (2, true));
        assert_eq!(threads(auto, true, 2), (2, false), "nothing to be told of");
        assert_eq!(threads(auto, false, 1), (2, false));
        let four = Nthreads::Count(NonZeroU32::new(4).unwrap());
        assert_eq!([threads(four, true, 64), threads(four, false, 1)], [(4, false); 2]);
    }

    #[test]
    fn login_nodes_are_told_by_commands_and_the_lack_of_a_job() {
        let with = |set: &'static [&str]| move |name: &str| set.contains(&name).then(|| "7".to_owned());
        assert!(is_login_node(&with(&[]), true));
        assert!(!is_login_node(&with(&[]), false), "a workstation");
        assert!(!is_login_node(&with(&["SLURM_JOB_ID", "SLURMD_NODENAME"]), true), "a node");
        assert!(is_login_node(&with(&["SLURM_JOB_ID"]), true), "the shell of salloc");
        assert!(!is_login_node(&with(&["PBS_JOBID"]), true) && !is_login_node(&with(&["JOB_ID"]), true));
    }
}
