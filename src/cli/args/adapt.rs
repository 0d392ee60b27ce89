//! Arguments of `workers scale` and `workers adapt`.

use super::cluster::{ListenOptions, WorkerOptions, WorkersStartArgs};
use super::jobs::JobOptions;
use super::placement::{LauncherName, PlacementOptions};
use super::value::positive;
use super::{JsonOption, SchedulerOptions};
use crate::base::units::Span;
use clap::Args;
use std::time::Duration;

/// What the jobs are like that come and go.
#[derive(Clone, Debug, Args)]
pub struct PoolOptions {
    /// Where jobs are submitted: sbatch, qsub, pbs or sge
    ///
    /// Without it: where the cluster's last job was.
    #[arg(long, value_name = "NAME", value_enum)]
    pub launcher: Option<LauncherName>,
    /// Jobs as [launch.pool.NAME] of the configuration describes them; options win
    ///
    /// Only jobs of this pool count then. `workers adapt` takes several: the first is filled first.
    #[arg(long, value_name = "NAME")]
    pub pool: Vec<String>,
    /// What each job is like; -N are the nodes of each.
    #[command(flatten)]
    pub jobs: JobOptions,
    /// What the workers are like.
    #[command(flatten)]
    pub worker: WorkerOptions,
    /// Where they listen.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Whose workers they are.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
}

impl PoolOptions {
    /// The arguments of `workers start` for one of the jobs, of a pool if that is named.
    pub fn start_args(&self, pool: Option<&str>, json: JsonOption) -> WorkersStartArgs {
        WorkersStartArgs {
            placement: PlacementOptions { launcher: self.launcher, ..PlacementOptions::default() },
            start_timeout: Span(Duration::ZERO),
            pool: pool.map(str::to_owned),
            jobs: self.jobs.clone(),
            worker: self.worker.clone(),
            listen: self.listen.clone(),
            scheduler: self.scheduler.clone(),
            json,
        }
    }
}

/// `hpcdag workers scale`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag workers scale 8 --launcher sbatch --walltime 2h -c 16
  hpcdag workers scale 0

Only jobs that `workers scale` and `workers adapt` have submitted count and are ended again. Those that \
wait go first, then idle ones; workers hand over their work and results before their job is cancelled.")]
pub struct WorkersScaleArgs {
    /// How many jobs there are to be
    #[arg(value_name = "JOBS")]
    pub count: u32,
    /// What they are like.
    #[command(flatten)]
    pub pool: PoolOptions,
    /// How the answer is printed.
    #[command(flatten)]
    pub json: JsonOption,
}

/// `hpcdag workers adapt`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag workers adapt --launcher sbatch --max 32 --walltime 2h -c 16
  hpcdag workers adapt --launcher sbatch --min 2 --max 8 -N 2 --walltime 1h -- --reservation=x
  hpcdag workers adapt --pool stable --pool spot
  hpcdag workers adapt --in-scheduler --launcher sbatch --max 32 --walltime 2h -c 16
  hpcdag workers adapt --stop

It runs until it is interrupted, or until the cluster ends; --in-scheduler until --stop or `workers scale`. \
Without it jobs and workers stay as they are.")]
pub struct WorkersAdaptArgs {
    /// Jobs that there are even when there is nothing to do; without it the pool's, or none
    #[arg(long, value_name = "JOBS")]
    pub min: Option<u32>,
    /// Jobs that there are at most, waiting ones included; needed if the pool does not say it
    #[arg(long, value_name = "JOBS", value_parser = positive())]
    pub max: Option<u32>,
    /// Let the scheduler's host do it, and return: it goes on when this login session ends
    #[arg(long)]
    pub in_scheduler: bool,
    /// End what --in-scheduler began; jobs and workers stay as they are
    #[arg(long, conflicts_with = "in_scheduler")]
    pub stop: bool,
    /// Started by the scheduler's process, which has this order.
    #[arg(long, hide = true, value_name = "ORDER")]
    pub by_scheduler: Option<String>,
    /// How often to ask the scheduler what there is to do
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub interval: Span,
    /// How long a job has had nothing to do, or is not needed any more, before it goes
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub shrink_after: Span,
    /// Work for less time than this, for each thread, is not worth a job
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub min_work: Span,
    /// What they are like.
    #[command(flatten)]
    pub pool: PoolOptions,
}
