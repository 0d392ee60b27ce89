//! The order in which ready tasks run. Owns the tuple and its comparison, not who computes the rank.

use serde::{Deserialize, Serialize};

/// A task's place in the queue. Users' priorities grow with urgency (larger runs sooner, as in Dask);
/// this internal tuple sorts the other way: the *smallest* runs first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Priority {
    /// The user's priority, negated.
    pub user: i32,
    /// Counts submissions: earlier ones run first.
    pub generation: u32,
    /// Position in the run's static order: depth-first, so that what is begun is finished first.
    pub rank: u64,
}
