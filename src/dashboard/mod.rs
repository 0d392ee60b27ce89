//! What is known of a cluster, for those who look: reports, traces. Owns the forms; what is known comes as
//! the JSON of `docs/api.md`.

pub mod advice;
pub mod assets;
pub mod raw;
pub mod report;
pub mod trace;
