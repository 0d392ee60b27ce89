//! The commands and options of `hpcdag`, as clap reads them. Owns names, help and what may be combined;
//! values that are settings stay text and go to `config` as they are, so that flags, files and variables are
//! read by one parser.

mod adapt;
mod batch;
mod bench;
mod bench_commands;
mod cluster;
mod doctor;
mod jobs;
mod look;
mod placement;
mod submit;
mod up;
mod value;

pub use adapt::{PoolOptions, WorkersAdaptArgs, WorkersScaleArgs};
pub use batch::{BatchName, BatchOptions, RelayArgs, ResumeArgs, RunArgs};
pub use bench::*;
pub use bench_commands::*;
pub use cluster::{
    ClustersArgs, DownArgs, ListenOptions, LogOptions, SchedulerArgs, StopArgs, UpArgs, WorkerArgs,
    WorkerOptions, WorkersArgs, WorkersCommand, WorkersListArgs, WorkersStartArgs, WorkersStopArgs,
    WorkersWaitArgs,
};
pub use doctor::DoctorArgs;
pub use jobs::JobOptions;
pub use look::{
    CancelArgs, CompletionsArgs, ConfigArgs, ConfigCommand, ConfigImportArgs, ConfigShowArgs, DashboardArgs,
    ExplainArgs, FetchArgs, LogsArgs, ReportArgs, StatusArgs, StoryArgs, TopArgs, WaitArgs,
};
pub use placement::{LauncherName, Per, PlacementOptions};
pub use submit::{Stdout, SubmitArgs};
pub use up::{SchedulerPlace, UpCommandArgs};
pub use value::{Array, ArrayPart, Assignment};

use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;

/// A setting given by a flag: its key in the configuration and its value as written.
pub type Setting = (&'static str, String);

/// Adds a setting for each flag that was given.
fn collect<const N: usize>(flags: [(&'static str, &Option<String>); N]) -> Vec<Setting> {
    flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
}

#[derive(Clone, Debug, Parser)]
#[command(
    name = "hpcdag",
    version,
    max_term_width = 100,
    after_help = "Examples:
  hpcdag submit graph.toml --local           run a graph on this machine
  hpcdag up -n 4                             start a cluster of four workers
  hpcdag submit -- gzip -k data.txt          run one command on it
  hpcdag down                                end it"
)]
/// Run graphs of tasks on a cluster of your own.
///
/// hpcdag starts a scheduler and workers inside an allocation or on this machine, runs commands and their
/// dependencies on them, and keeps what one task hands to the next in the workers' memory.
pub struct Cli {
    /// What is said besides the output.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How much is said. Counted: `-vv` says more than `-v`. (`-q` is left to what it means in sbatch.)
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Verbosity {
    /// Say more; twice for even more
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 900)]
    #[arg(conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say less; twice for errors only
    #[arg(short = 'Q', long, action = ArgAction::Count, global = true, display_order = 901)]
    pub quiet: u8,
}

impl Verbosity {
    /// Steps above (positive) or below the usual level.
    pub fn steps(self) -> i8 {
        self.verbose.min(9) as i8 - self.quiet.min(9) as i8
    }
}

/// Which cluster a command is about.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which cluster")]
pub struct SchedulerOptions {
    /// Scheduler file of the cluster
    ///
    /// Without it: $HPCDAG_SCHEDULER_FILE, the configuration's, or the one cluster of yours that is alive.
    #[arg(long, value_name = "FILE")]
    pub scheduler_file: Option<PathBuf>,
    /// Address to reach the scheduler at, instead of the one in the scheduler file
    ///
    /// For tunnels. The credentials still come from the file. Example: tls://localhost:40123
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct JsonOption {
    /// Print JSON, for scripts
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// One command for each thing that hpcdag does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the scheduler of a new cluster
    Scheduler(SchedulerArgs),
    /// Run one worker on this node
    Worker(WorkerArgs),
    /// Start, list, stop or wait for workers
    Workers(WorkersArgs),
    /// Start a cluster: scheduler and workers
    Up(Box<UpCommandArgs>),
    /// End a cluster that `up` started
    Down(DownArgs),
    /// List your clusters
    Clusters(ClustersArgs),
    /// Run a client program with a cluster of its own around it
    Run(Box<RunArgs>),
    /// Run a graph, or a command
    Submit(Box<SubmitArgs>),
    /// Go on with a run that was one job, from what it has written
    Resume(ResumeArgs),
    /// Wait for detached runs to end
    Wait(WaitArgs),
    /// Show what the cluster is doing
    Status(StatusArgs),
    /// Show the cluster in your browser
    Dashboard(DashboardArgs),
    /// Show what the cluster is doing, live
    Top(TopArgs),
    /// Write what happened in a run as a page that opens from disk, as a trace, or as raw events
    Report(ReportArgs),
    /// Say why a task is not running
    Explain(ExplainArgs),
    /// Tell what happened to a task
    Story(StoryArgs),
    /// Print what a task, a worker or the scheduler has printed
    Logs(LogsArgs),
    /// Cancel runs
    Cancel(CancelArgs),
    /// Get the result of a task
    Fetch(FetchArgs),
    /// Stop a whole cluster
    Stop(StopArgs),
    /// Look at the configuration
    Config(ConfigArgs),
    /// Say what hpcdag sees here, and what to change
    Doctor(DoctorArgs),
    /// Measure hpcdag on this machine
    Bench(BenchArgs),
    /// Print a completion script for your shell
    Completions(CompletionsArgs),
    /// Run native functions for the worker that starts this
    #[command(hide = true)]
    Executor,
    /// Pump bytes between stdin, stdout and a scheduler, for a login node that cannot reach it
    #[command(hide = true)]
    Relay(RelayArgs),
}

#[cfg(test)]
mod tests;
