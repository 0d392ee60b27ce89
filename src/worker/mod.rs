//! The worker: `core` decides, executors run tasks, the store holds results, the shells around them talk to the
//! scheduler and to other workers.

pub mod core;
pub mod nanny;
pub mod process;
mod signal_pipe;
pub mod supervision;
