//! The worker: `core` decides, executors run tasks, the store holds results, the shells around them talk to
//! the scheduler and to other workers.

mod answers;
mod checkpoint;
pub mod core;
mod cpu;
pub mod directory;
mod driver;
pub mod executor;
mod families;
mod finish;
mod kept;
mod last_words;
mod limits;
mod memory;
pub mod nanny;
mod origin;
mod peaks;
pub mod prepare;
mod printed;
pub mod process;
mod profile;
mod python;
mod scheduler_link;
mod server;
mod signal_pipe;
mod spans;
mod standalone;
pub mod store;
mod strays;
pub mod supervision;
mod transfer;
mod work;

pub use memory::Explanation;
pub use memory::enforcement::{Enforcement, Enforcer};
pub use server::{Ending, Options, Worker};
pub use standalone::run_worker_process;

/// How the memory of a worker with this configuration is found here, its thresholds, and who enforces the
/// limit. Inside a Slurm job this may ask Slurm's controller, for a few seconds at most.
pub fn explain_memory(config: &crate::config::Config) -> Explanation {
    Explanation::find(&config.worker)
}

#[cfg(test)]
mod tests;
