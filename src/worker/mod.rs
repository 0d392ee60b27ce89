//! The worker: `core` decides, executors run tasks, the store holds results, the shells around them talk to the
//! scheduler and to other workers.

pub mod core;
pub mod executor;
pub mod nanny;
pub mod prepare;
pub mod process;
mod signal_pipe;
pub mod store;
pub mod supervision;
