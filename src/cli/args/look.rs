//! Arguments of the commands that look at, steer and fetch from a running cluster, and of those about hpcdag
//! itself.

use super::{JsonOption, SchedulerOptions};
use crate::base::units::{ByteSize, Span};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `hpcdag wait`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  run=$(hpcdag submit graph.toml --detach) && hpcdag wait \"$run\"

Exits like `submit` without --detach: non-zero if a task failed.")]
pub struct WaitArgs {
    /// Runs, by the id that `submit --detach` printed; without any, all that are there now
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// Give up after this long; the runs go on
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the summary is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag status`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag status
  hpcdag status --json | jq .tasks")]
pub struct StatusArgs {
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag dashboard`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag dashboard                           opens it in your browser
  hpcdag dashboard --no-open --port 9000     for `ssh -L 9000:localhost:9000 login-node`

It is served by this command, on this machine only, until Ctrl-C; what it shows comes from the scheduler \
through the connection that other commands use.")]
pub struct DashboardArgs {
    /// Port to listen on, or a range such as 9000-9010; 0 takes any; without it 8787 if that is free
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Do not open a browser, only print the address
    #[arg(long)]
    pub no_open: bool,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the address is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag top`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag top                                 keys 1 to 5 turn the pages, ? shows all keys, q ends it

Needs a terminal; hpcdag status prints one screen of text.")]
pub struct TopArgs {
    /// How often the scheduler is asked
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: Span,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

/// `hpcdag report`
#[derive(Clone, Debug, Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).multiple(true).args(["file", "trace", "events"])),
    after_help = "Examples:
  hpcdag report run.html                     the newest run: one file, for a browser or a mail
  hpcdag report run.html --run 2c5e6d0a-4f0e-4b43-9d0f-6f1f5a1d7c11
  hpcdag report --trace run.json             for ui.perfetto.dev or chrome://tracing
  hpcdag report --events run.ndjson          a line of JSON for each thing that happened

The scheduler has to be there still; for one that ends with the run there is `submit --report`."
)]
pub struct ReportArgs {
    /// Page to write: HTML with everything in it, which asks nobody for anything
    #[arg(value_name = "FILE.html")]
    pub file: Option<PathBuf>,
    /// The run, instead of the newest
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// All that the scheduler remembers, instead of one run
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// Write a trace for Perfetto or Chrome
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Write what happened: NDJSON, or columns if the name ends in .columns.json
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

/// `hpcdag explain`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag explain 'filter[17]'                for each worker, why it does not run there")]
pub struct ExplainArgs {
    /// Key of the task
    #[arg(value_name = "KEY")]
    pub key: String,
    /// The run, where several have a task of that key
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag story`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag story 'filter[17]'                  where it ran, when, and how that ended")]
pub struct StoryArgs {
    /// Key of the task
    #[arg(value_name = "KEY")]
    pub key: String,
    /// The run, where several have a task of that key
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag logs`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag logs 'filter[17]'                   what a task prints: its stderr, and stdout if it failed
  hpcdag logs node7-1a2b3c4d                 a worker's own log, also if it is gone
  hpcdag logs scheduler --follow

Of a task that was tried several times it is the last attempt that printed anything.")]
pub struct LogsArgs {
    /// Key of a task, name of a worker, or `scheduler`
    #[arg(value_name = "KEY|WORKER|scheduler")]
    pub of: String,
    /// The run, where several have a task of that key
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only the last so many bytes of each stream, at most 1 MiB
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    pub bytes: ByteSize,
    /// Go on with what comes, until interrupted
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag cancel`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag cancel 2c5e6d0a-4f0e-4b43-9d0f-6f1f5a1d7c11
  hpcdag cancel --all
  hpcdag cancel graph-runs/20261121T061200-1f3a")]
pub struct CancelArgs {
    /// Runs, by the id that `submit --detach` and `status` show; or the directory of a run that is a job, all
    /// jobs of its chain included
    #[arg(value_name = "RUN", required_unless_present = "all")]
    pub runs: Vec<String>,
    /// All runs of the cluster, also those of other clients
    #[arg(long, conflicts_with = "runs")]
    pub all: bool,
    /// Of which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag fetch`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag fetch merge > merged.txt
  hpcdag fetch 'solve[3]' --part field -o field3.h5")]
pub struct FetchArgs {
    /// Key of the task
    #[arg(value_name = "KEY")]
    pub key: String,
    /// File to write, instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A named output, instead of the task's stdout
    #[arg(long, value_name = "NAME")]
    pub part: Option<String>,
    /// The run, where several have a task of that key
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// From which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is said what was fetched.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag config`
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do with the configuration.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings in effect
    Show(ConfigShowArgs),
    /// Print what files of Dask and dask-jobqueue say as our configuration
    Import(ConfigImportArgs),
}

/// `hpcdag config import`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag config import ~/.config/dask/*.yaml
  hpcdag config import ~/.config/dask/jobqueue.yaml > ~/.config/hpcdag/config.toml

Batch systems become [launch.slurm], [launch.pbs] and [launch.sge], sections under other names pools, \
[launch.pool.NAME]. What has no equivalent is listed as comments at the end.")]
pub struct ConfigImportArgs {
    /// Files such as distributed.yaml and jobqueue.yaml; of two values for a setting the later one counts
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// How it is printed: `toml`, the configuration, and `absent`, what has no equivalent.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag config show`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag config show --origin
  HPCDAG_WORKER__NTHREADS=4 hpcdag config show worker --origin")]
pub struct ConfigShowArgs {
    /// Only this setting or section, e.g. worker or worker.memory.target
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Say where each value comes from
    #[arg(long)]
    pub origin: bool,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag completions`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  hpcdag completions bash > ~/.local/share/bash-completion/completions/hpcdag")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}
