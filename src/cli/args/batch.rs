//! Arguments of `hpcdag run` and `hpcdag resume`, and the options of a whole run as one job of a batch
//! system, which `submit` has too.

use super::value::positive;
use super::{JobOptions, JsonOption, SchedulerOptions, Setting, UpArgs};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteSize, parse_walltime};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A batch system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BatchName {
    /// Slurm
    Slurm,
    /// OpenPBS, PBS Pro
    Pbs,
    /// Grid Engine
    Sge,
}

/// A whole run as one job. Letters mean what they mean in sbatch.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "As one job of a batch system")]
pub struct BatchOptions {
    /// Submit a job that holds the whole cluster, runs this on it and ends
    #[arg(long, value_name = "SYSTEM", value_enum)]
    pub batch: Option<BatchName>,
    /// How many nodes, with one worker on each
    #[arg(short = 'N', long, value_name = "N", value_parser = positive())]
    pub nodes: Option<u32>,
    /// How long the job may run, with a unit: 90m, 1h30m, HH:MM:SS, D-HH
    #[arg(short = 't', long, value_name = "TIME", visible_alias = "time", value_parser = walltime)]
    pub walltime: Option<Duration>,
    /// Partition, or queue
    #[arg(short = 'p', long, value_name = "NAME", visible_alias = "queue")]
    pub partition: Option<String>,
    /// Account to charge
    #[arg(short = 'A', long, value_name = "NAME")]
    pub account: Option<String>,
    /// Quality of service
    #[arg(short = 'q', long, value_name = "NAME")]
    pub qos: Option<String>,
    /// Features that the nodes must have
    #[arg(short = 'C', long, value_name = "FEATURES")]
    pub constraint: Option<String>,
    /// Memory of each node, e.g. 64G
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<ByteSize>,
    /// GPUs of each node
    #[arg(long, value_name = "N", value_parser = positive())]
    pub gpus: Option<u32>,
    /// Name of the job
    #[arg(short = 'J', long, value_name = "NAME")]
    pub job_name: Option<String>,
    /// An option for the batch system's own command, as it is; may be given again
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub native: Vec<String>,
    /// Directory for progress, summary, manifest and logs; without it NAME-runs/TIME-ID beside the graph
    #[arg(long, value_name = "DIR")]
    pub run_directory: Option<PathBuf>,
    /// Submit so many jobs, each of which goes on where the one before it had to end
    #[arg(long, value_name = "N", value_parser = positive())]
    pub chain: Option<u32>,
    /// Follow the run until it ends, and end with its exit code
    #[arg(long)]
    pub wait: bool,
    /// Print what would be submitted, and submit nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl BatchOptions {
    /// Refuses options that only a job has where there is none.
    ///
    /// # Errors
    /// `Usage`, with the option.
    pub fn refuse_without_batch(&self) -> Result<()> {
        let given = [
            ("-N", self.nodes.is_some()),
            ("--walltime", self.walltime.is_some()),
            ("--partition", self.partition.is_some()),
            ("--account", self.account.is_some()),
            ("--qos", self.qos.is_some()),
            ("--constraint", self.constraint.is_some()),
            ("--mem", self.mem.is_some()),
            ("--gpus", self.gpus.is_some()),
            ("--job-name", self.job_name.is_some()),
            ("--native", !self.native.is_empty()),
            ("--run-directory", self.run_directory.is_some()),
            ("--chain", self.chain.is_some()),
            ("--wait", self.wait),
            ("--dry-run", self.dry_run),
        ];
        match given.into_iter().find(|(_, given)| *given && self.batch.is_none()) {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                Kind::Usage,
                format!("{name} is for a whole run as one job of a batch system"),
            )
            .hint("add --batch slurm, pbs or sge")),
        }
    }

    /// The same as options of jobs.
    pub fn to_jobs(&self) -> JobOptions {
        JobOptions {
            nodes: self.nodes,
            per_job: None,
            walltime: self.walltime,
            partition: self.partition.clone(),
            account: self.account.clone(),
            qos: self.qos.clone(),
            constraint: self.constraint.clone(),
            mem: self.mem,
            gpus: self.gpus,
            job_name: self.job_name.clone(),
            output: None,
            dry_run: self.dry_run,
            check: false,
            native: self.native.clone(),
        }
    }
}

fn walltime(text: &str) -> std::result::Result<Duration, String> {
    parse_walltime(text).map_err(|e| e.0)
}

/// `hpcdag run`
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "hpcdag run [OPTIONS] -- COMMAND [ARGUMENT]...",
    after_help = "Examples:
  hpcdag run -n 4 -- ./analysis.sh           a cluster of four workers here, while it runs
  salloc -N 4 hpcdag run -- ./analysis.sh    a worker on each node of the allocation
  hpcdag run --batch slurm -N 16 --walltime 2h --wait -- ./analysis.sh

The command finds the cluster by itself: HPCDAG_SCHEDULER_FILE is set for it. When it ends, or when this is \
told to end, the cluster is taken down. The exit code is the command's.

With HPCDAG_COMPAT=1 a Python script that was written for dask.distributed finds this cluster unchanged; its \
environment must have the package hpcdag."
)]
pub struct RunArgs {
    /// The client program and its arguments, run without a shell
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<OsString>,
    /// The cluster around it.
    #[command(flatten)]
    pub up: UpArgs,
    /// Ask the batch system whether it would take the job, and submit nothing (with --batch)
    #[arg(long, conflicts_with = "dry_run", help_heading = "As one job of a batch system")]
    pub check: bool,
    /// Whether and how it is a job.
    #[command(flatten)]
    pub batch: BatchOptions,
}

impl RunArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        self.up.settings()
    }
}

/// `hpcdag resume`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag resume graph-runs/20261121T061200-1f3a --wait
  salloc -N 4 hpcdag run -- hpcdag resume graph-runs/20261121T061200-1f3a --here

Tasks whose outputs were written and are as they were, made from inputs that are as they were, do not run \
again; everything else does.")]
pub struct ResumeArgs {
    /// The run's directory, as it was printed when the run was submitted
    #[arg(value_name = "RUN DIRECTORY")]
    pub directory: PathBuf,
    /// Run it on a cluster that is there, instead of submitting the job again
    #[arg(long, conflicts_with = "wait")]
    pub here: bool,
    /// Submit so many jobs one after the other, if not as many as the first time
    #[arg(long, value_name = "N", value_parser = positive(), conflicts_with = "here")]
    pub chain: Option<u32>,
    /// Follow the run until it ends, and end with its exit code
    #[arg(long)]
    pub wait: bool,
    /// On which cluster, with --here.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag relay`: nothing that people type.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// Scheduler file of the cluster
    #[arg(long, value_name = "FILE")]
    pub scheduler_file: PathBuf,
}
