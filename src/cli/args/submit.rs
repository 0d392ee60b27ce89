//! Arguments of `hpcdag submit`.

use super::value::positive;
use super::{Array, Assignment, BatchOptions, JsonOption, SchedulerOptions, Setting, collect};
use crate::base::units::Span;
use clap::{ArgGroup, Args};
use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// What only makes sense with a cluster. (Said for each option that needs --local: clap takes a missing
/// `requires` for met when what is missing conflicts with something given.)
const NOT_LOCAL: [&str; 4] = ["scheduler_file", "address", "detach", "wait_workers"];

/// What becomes of the stdout of the tasks of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// It is thrown away.
    None,
    /// One file for each task in this directory.
    Directory(PathBuf),
}

impl FromStr for Stdout {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Stdout, Infallible> {
        Ok(if text == "none" { Stdout::None } else { Stdout::Directory(text.into()) })
    }
}

/// `hpcdag submit`
#[derive(Clone, Debug, Args)]
#[command(
    group(ArgGroup::new("what").required(true).args(["graph", "command"])),
    override_usage = "hpcdag submit [OPTIONS] GRAPH [TARGET]...
       hpcdag submit [OPTIONS] -- COMMAND [ARGUMENT]...",
    after_help = "Examples:
  hpcdag submit graph.toml --local                          on this machine, without a cluster
  hpcdag submit graph.toml --check                          is it right, and how large?
  hpcdag submit graph.toml report --set day=2026-11-19      what `report` needs, for that day
  hpcdag submit --each-line files.txt -- gzip -k {item}
  hpcdag submit --array 1-1000 -o 'out/{index}.txt' -- ./simulate --seed {item}
  run=$(hpcdag submit graph.toml --detach)                  goes on without this terminal
  hpcdag submit graph.toml --batch slurm -N 16 --walltime 2h --wait        as one job

Ctrl-C cancels the run; a second one leaves at once. If a task failed the exit code is 3; the items that \
failed are listed in a file that --each-line takes back."
)]
pub struct SubmitArgs {
    /// Graph file, TOML or JSON
    #[arg(value_name = "GRAPH")]
    pub graph: Option<PathBuf>,
    /// Tasks to run, with what they need; without any, all
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// A program and its arguments, run without a shell
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,

    /// Set a parameter of the graph file
    #[arg(long = "set", value_name = "NAME=VALUE", conflicts_with = "command")]
    pub params: Vec<Assignment>,
    /// Only check the graph, and print how many tasks it has
    ///
    /// With --batch: ask the batch system too whether it would take the job.
    #[arg(long, conflicts_with_all = ["command", "detach", "local", "wait_workers", "dry_run"])]
    pub check: bool,
    /// Return as soon as the scheduler has the graph, and print the run's id
    #[arg(long)]
    pub detach: bool,
    /// Start no further task once one has failed
    #[arg(long, conflicts_with = "max_fails")]
    pub fail_fast: bool,
    /// Start no further task once more than N have failed
    #[arg(long, value_name = "N")]
    pub max_fails: Option<u64>,
    /// Begin when there are so many workers
    #[arg(long, value_name = "N")]
    pub wait_workers: Option<u32>,
    /// Do not run again what is proved done, and take note of what is written now
    ///
    /// Give it from the first run on. A task is done if a line of the manifest says so, its output files are
    /// as they were written, and its command and input files are as they were.
    #[arg(long, conflicts_with_all = ["detach", "batch"])]
    pub resume: bool,
    /// File that notes what was written (with --resume), instead of .hpcdag/NAME.manifest.jsonl by the graph
    #[arg(long, value_name = "FILE", requires = "resume", conflicts_with_all = ["detach", "batch"])]
    pub manifest: Option<PathBuf>,
    /// Let nobody else run under this name, or with this file as lock, at the same time
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["detach", "batch", "check"])]
    pub lock: Option<String>,
    /// How long to wait for the lock; without it the command ends at once if somebody holds it
    #[arg(long, value_name = "TIME", requires = "lock", conflicts_with_all = ["detach", "batch", "check"])]
    pub lock_timeout: Option<Span>,
    /// Threads for this command itself; on a login node 2 unless this says otherwise
    #[arg(long, value_name = "N|auto")]
    pub threads: Option<String>,
    /// Write the run's shape to a file once it has ended: edges, sizes, durations, memory
    ///
    /// No data, code or names: for a bug report, and for `hpcdag bench replay`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detach", "check", "batch"])]
    pub record: Option<PathBuf>,
    /// Write a page about the run once it has ended: one HTML file, with advice
    #[arg(long, value_name = "FILE.html", conflicts_with_all = ["detach", "check", "batch"])]
    pub report: Option<PathBuf>,
    /// Write a trace of the run for Perfetto or Chrome
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["detach", "check", "batch"])]
    pub trace: Option<PathBuf>,
    /// Write what happened in the run: NDJSON, or columns if the name ends in .columns.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detach", "check", "batch"])]
    pub events: Option<PathBuf>,
    /// How the summary is printed.
    #[command(flatten)]
    pub json: JsonOption,

    /// Run the command once for each line of a file (- is stdin); {item} stands for the line
    #[arg(long, value_name = "FILE", conflicts_with = "graph", help_heading = "Many tasks from one command")]
    pub each_line: Option<PathBuf>,
    /// Run the command once for each number, e.g. 1-1000 or 1,5,10-50:10; {item} stands for it
    #[arg(
        long,
        value_name = "NUMBERS",
        conflicts_with_all = ["graph", "each_line"],
        help_heading = "Many tasks from one command"
    )]
    pub array: Option<Array>,
    /// Write each task's stdout to a file, e.g. out/{index}.txt, instead of to the terminal
    #[arg(
        short,
        long,
        value_name = "PATH",
        conflicts_with = "graph",
        help_heading = "Many tasks from one command"
    )]
    pub output: Option<String>,
    /// Directory for the tasks' stdout, one file each; none throws it away
    #[arg(
        long,
        value_name = "DIR|none",
        conflicts_with_all = ["graph", "output"],
        help_heading = "Many tasks from one command"
    )]
    pub stdout: Option<Stdout>,
    /// Run at most N of the tasks at once
    #[arg(short = 'j', long, value_name = "N", value_parser = positive())]
    pub jobs: Option<u32>,

    /// Run scheduler and workers inside this process; no cluster is needed
    #[arg(long, conflicts_with_all = NOT_LOCAL, help_heading = "On this machine")]
    pub local: bool,
    /// How many workers (with --local)
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        requires = "local", conflicts_with_all = NOT_LOCAL,
        value_parser = positive(),
        help_heading = "On this machine"
    )]
    pub nworkers: Option<u32>,
    /// How many tasks of one thread each worker runs at once (with --local)
    #[arg(
        long,
        value_name = "N",
        requires = "local",
        conflicts_with_all = NOT_LOCAL,
        help_heading = "On this machine"
    )]
    pub nthreads: Option<String>,
    /// Memory of all workers together (with --local), e.g. 8GiB
    #[arg(
        long,
        value_name = "SIZE",
        requires = "local",
        conflicts_with_all = NOT_LOCAL,
        help_heading = "On this machine"
    )]
    pub memory_limit: Option<String>,
    /// Serve the dashboard meanwhile: HOST:PORT, :PORT or auto (with --local)
    #[arg(
        long,
        value_name = "HOST:PORT",
        requires = "local",
        conflicts_with_all = NOT_LOCAL,
        help_heading = "On this machine"
    )]
    pub dashboard_address: Option<String>,

    /// Processors of each node, for tasks (with --batch); without it whole nodes
    #[arg(
        short = 'c',
        long,
        value_name = "N",
        value_parser = positive(),
        help_heading = "As one job of a batch system"
    )]
    pub cpus: Option<u32>,
    /// Whether and how it is a job.
    #[command(flatten)]
    pub batch: BatchOptions,

    /// On which cluster.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

impl SubmitArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        collect([
            ("worker.nthreads", &self.nthreads),
            ("worker.memory-limit", &self.memory_limit),
            ("client.threads", &self.threads),
            ("scheduler.dashboard-address", &self.dashboard_address),
        ])
    }

    /// After how many failed tasks no further one is started.
    pub fn failures_allowed(&self) -> Option<u64> {
        if self.fail_fast { Some(0) } else { self.max_fails }
    }
}
