//! Arguments of `hpcdag up`: a cluster whose scheduler is here, on the first node of an allocation or in a
//! job of its own, and whose workers are here, on nodes of the allocation, or in jobs.

use super::{BatchName, JobOptions, LauncherName, Setting, UpArgs};
use clap::{Args, ValueEnum};

/// Where the scheduler of `up` runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchedulerPlace {
    /// On the first node of the allocation, or here outside of one
    #[default]
    Auto,
    /// On the host that this command runs on
    Here,
    /// On the first node of the allocation, as a step of the job
    FirstNode,
}

/// `hpcdag up`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag up                                  inside a job: a worker on each of its nodes
  hpcdag up -N 16 --walltime 2h              on a login node: the scheduler here, 16 workers in a job
  hpcdag up --batch -N 16 --walltime 2h      the scheduler in a job of its own too
  hpcdag up --hosts a,b,n[1-8]               a worker on each of these hosts, by ssh
  hpcdag up --launcher local -n 4            four workers on this machine
  hpcdag up --nthreads 8 --memory-limit 16GiB
  hpcdag down                                ends what `up` started

It returns when the workers are connected; the time that jobs wait in the queue is not part of --timeout. \
Ctrl-C takes everything back, jobs included. Without --nthreads the workers of a node share its processors \
among them.")]
pub struct UpCommandArgs {
    /// The cluster.
    #[command(flatten)]
    pub up: UpArgs,
    /// Where the scheduler runs
    #[arg(long = "scheduler", value_name = "WHERE", value_enum, default_value = "auto")]
    pub scheduler_place: SchedulerPlace,
    /// Run the scheduler as a small job of its own: slurm, pbs or sge; without a name that which is there
    #[arg(long, value_name = "SYSTEM", value_enum, num_args = 0..=1)]
    #[arg(conflicts_with_all = ["scheduler_place", "hosts", "hostfile"])]
    pub batch: Option<Option<BatchName>>,
    /// Return as soon as the jobs are submitted
    #[arg(long)]
    pub no_wait: bool,
    /// What jobs the workers are in.
    #[command(flatten)]
    pub jobs: JobOptions,
}

impl UpCommandArgs {
    /// The settings among these flags.
    pub fn settings(&self) -> Vec<Setting> {
        self.up.settings()
    }

    /// Whether the launcher that was named submits jobs.
    pub fn launches_jobs(&self) -> bool {
        use LauncherName::{Local, Srun, Ssh};
        !matches!(self.up.placement.launcher, None | Some(Local | Srun | Ssh))
    }
}
