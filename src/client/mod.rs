//! The client: finds a scheduler, submits graphs and follows them to their end.

pub mod summary;
