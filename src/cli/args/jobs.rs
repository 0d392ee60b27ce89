//! Options of `workers start` about the jobs that a batch system is asked for.

use super::value::positive;
use crate::base::units::{ByteSize, parse_walltime};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// What the jobs are like. Letters mean what they mean in sbatch.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Jobs (--launcher sbatch, qsub or sge)")]
pub struct JobOptions {
    /// How many nodes, with one worker on each
    #[arg(short = 'N', long, value_name = "N", value_parser = positive())]
    pub nodes: Option<u32>,
    /// Nodes of each job: --per-job 1 asks for an array of jobs with one node each, instead of one job
    #[arg(long, value_name = "N", value_parser = positive())]
    pub per_job: Option<u32>,
    /// How long the jobs may run, with a unit: 90m, 1h30m, HH:MM:SS, D-HH
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
    /// Name of the jobs
    #[arg(short = 'J', long, value_name = "NAME")]
    pub job_name: Option<String>,
    /// File for the jobs' output, with the batch system's placeholders
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print what would be submitted, and submit nothing
    #[arg(long, conflicts_with = "check")]
    pub dry_run: bool,
    /// Ask the batch system whether it would take the jobs, and submit nothing
    #[arg(long)]
    pub check: bool,
    /// Options for the batch system's own command, as they are
    #[arg(last = true, value_name = "NATIVE OPTIONS")]
    pub native: Vec<String>,
}

impl JobOptions {
    /// An option that only jobs have, if one was given.
    pub fn given(&self) -> Option<&'static str> {
        [
            ("-N", self.nodes.is_some()),
            ("--per-job", self.per_job.is_some()),
            ("--walltime", self.walltime.is_some()),
            ("--partition", self.partition.is_some()),
            ("--account", self.account.is_some()),
            ("--qos", self.qos.is_some()),
            ("--constraint", self.constraint.is_some()),
            ("--mem", self.mem.is_some()),
            ("--gpus", self.gpus.is_some()),
            ("--job-name", self.job_name.is_some()),
            ("--output", self.output.is_some()),
            ("--dry-run", self.dry_run),
            ("--check", self.check),
            ("--", !self.native.is_empty()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

fn walltime(text: &str) -> Result<Duration, String> {
    parse_walltime(text).map_err(|e| e.0)
}
