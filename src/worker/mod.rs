//! The worker: `core` decides, executors run tasks, the store holds results, the shells around them talk to
//! the scheduler and to other workers.

pub mod core;
pub mod directory;
mod driver;
pub mod executor;
mod families;
mod finish;
mod limits;
mod memory;
pub mod nanny;
mod peaks;
pub mod prepare;
pub mod process;
mod scheduler_link;
mod server;
mod signal_pipe;
mod standalone;
pub mod store;
mod strays;
pub mod supervision;
mod transfer;
mod work;

pub use server::{Ending, Options, Worker};
pub use standalone::run_worker_process;

/// How the memory of a worker with this configuration is found here, and its thresholds: lines for people.
pub fn explain_memory(config: &crate::config::Config) -> Vec<String> {
    memory::explain(&config.worker)
}

#[cfg(test)]
mod tests;
