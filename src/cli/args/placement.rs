//! Options of `up` and `workers start` about where workers go: by which launcher, how many on a node, and how
//! long they may take.

use super::value::positive;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// A way of putting workers on nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LauncherName {
    /// Processes of this machine
    Local,
    /// Steps of srun on the nodes of this Slurm job
    Srun,
    /// ssh to the hosts of --hosts or --hostfile, or to those of this job of PBS or Grid Engine
    Ssh,
    /// A job of Slurm, submitted by sbatch
    Sbatch,
    /// A job of PBS or of Grid Engine, whichever qsub belongs to
    Qsub,
    /// A job of PBS
    Pbs,
    /// A job of Grid Engine
    Sge,
}

/// What a worker has for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Per {
    /// A whole node
    #[default]
    Node,
    /// A NUMA domain of a node, with its processors and its share of the memory
    Numa,
}

/// Where workers go.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Placement")]
pub struct PlacementOptions {
    /// How workers are started
    ///
    /// Without it: inside a job, the batch system's own means (srun, pbsdsh, qrsh -inherit); else local.
    #[arg(long, value_name = "NAME", value_enum)]
    pub launcher: Option<LauncherName>,
    /// Hosts for --launcher ssh, e.g. a,b,n[1-8]
    #[arg(long, value_name = "LIST", conflicts_with = "hostfile")]
    pub hosts: Option<String>,
    /// File with a host on each line, for --launcher ssh: `a`, `a slots=8` or `a:8`
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// How many workers; without it one for each node of the allocation, or one on this machine
    #[arg(short = 'n', long, value_name = "N", value_parser = positive())]
    pub nworkers: Option<u32>,
    /// What each worker has for itself, inside an allocation
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "nworkers")]
    pub per: Option<Per>,
    /// Go on with so many workers if the others do not come
    #[arg(long, value_name = "N", value_parser = positive())]
    pub min_workers: Option<u32>,
}
