//! worker

pub mod executor;
pub mod prepare;
pub mod store;
