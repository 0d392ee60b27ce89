//! A worker's memory: what it occupies, and what is done when it is too much. `sampler` reads, `monitor` does
//! so at intervals. Results themselves are the store's.

pub(super) mod monitor;
pub(super) mod sampler;
