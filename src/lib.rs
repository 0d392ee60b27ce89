//! hpcdag: one binary that launches its own cluster inside a batch system and runs graphs of tasks on it,
//! keeping results in the workers' memory.
//!
//! The modules are declared in the order in which data flows through them. `tests/tidy` holds the table
//! of who may use whom.

pub mod base;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod dashboard;
pub mod graph;
pub mod launch;
pub mod net;
pub mod protocol;
pub mod scheduler;
pub mod worker;
