//! worker

pub mod store;
