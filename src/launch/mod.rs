//! Putting workers on nodes. Owns the seam: what every way of starting workers is asked for and answers. The
//! way without a batch system, processes of this machine, is in `cli` beside the code that detaches
//! processes; what batch systems are like stands in modules of their own.

pub mod adapt;
pub mod dialect;
pub mod hosts;
pub mod jobs;
pub mod own_job;
pub mod pools;
pub mod relay;
pub mod scripts;
pub mod settings;
pub mod slurm;
pub mod template;

use crate::base::error::Result;
use std::ffi::OsString;
use std::path::PathBuf;

/// Workers that are to be started.
#[derive(Clone, Debug)]
pub struct Order {
    /// How many.
    pub nworkers: u32,
    /// The arguments of `hpcdag worker`; paths in them are absolute.
    pub args: Vec<OsString>,
    /// Directory for their logs.
    pub logs: PathBuf,
}

/// A worker that was started, or is going to be: it shows in the cluster once it has registered.
#[derive(Clone, Debug)]
pub struct Launched {
    /// What it is to whoever started it: a process, or a job of a batch system.
    pub id: String,
    /// Where it logs.
    pub log: PathBuf,
}

/// A way of putting workers on nodes.
pub trait Launcher {
    /// What the user calls it: the word after `--launcher`.
    fn name(&self) -> &'static str;

    /// Starts workers, or asks a batch system to. Those that were started before a fault are returned with
    /// it.
    fn start(&self, order: &Order) -> (Vec<Launched>, Result<()>);
}
