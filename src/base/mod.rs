//! Vocabulary that every other module shares: identifiers, time, units, priorities, user-facing errors.
//! Owns no behaviour beyond these values and opens nothing.

pub mod error;
pub mod failure;
pub mod ids;
pub mod own_log;
pub mod priority;
pub mod time;
pub mod units;
