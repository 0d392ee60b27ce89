//! The scheduler: `core` decides, the shells around it talk to clients and workers.

pub mod core;
