//! The worker: runs tasks, keeps their results and serves them to others.

pub mod nanny;
pub mod process;
mod signal_pipe;
pub mod supervision;
