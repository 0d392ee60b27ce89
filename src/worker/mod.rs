//! worker

pub mod executor;
pub mod store;
