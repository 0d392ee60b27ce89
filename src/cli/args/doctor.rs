//! Arguments of `doctor`.

use super::{JsonOption, SchedulerOptions};
use clap::Args;

/// `hpcdag doctor`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  hpcdag doctor                              on a login node
  srun -N 1 hpcdag doctor                    on a compute node
  hpcdag doctor --orphans                    what dead clusters of yours have left
  hpcdag doctor --orphans --end              ... and end it

Exit code 12 if there is a problem, 0 otherwise: warnings and notes do not count.")]
pub struct DoctorArgs {
    /// List what dead clusters of yours have left behind: processes of this host, jobs, directories
    #[arg(long, conflicts_with_all = ["scheduler_file", "address"])]
    pub orphans: bool,
    /// End what --orphans lists, and nothing else
    #[arg(long, requires = "orphans")]
    pub end: bool,
    /// Only these clusters; one whose scheduler does not answer counts as dead then, whatever became of it
    #[arg(long, value_name = "ID", requires = "orphans")]
    pub cluster: Vec<String>,
    /// Whose reachability is looked at.
    #[command(flatten)]
    pub scheduler: SchedulerOptions,
    /// How it is printed.
    #[command(flatten)]
    pub json: JsonOption,
}
