//! Integer identifiers used inside the cores and on the wire, and the stable ones that outlive a scheduler.
//! Owns no tables: whoever hands out an id keeps the table.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into the table of whoever handed it out.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A run (one submitted graph), interned by the scheduler for as long as it knows the run.
    RunId
);
id!(
    /// A worker registration. A worker process that registers anew gets a new one.
    WorkerId
);
id!(
    /// A client session.
    ClientId
);
id!(
    /// A family of a run: an index into its list of families.
    FamilyIx
);

/// A task: a run and the task's index in that run's columns. Valid for one epoch of one scheduler.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct TaskRef {
    /// The run it belongs to.
    pub run: RunId,
    /// Its index in the run's columns.
    pub index: u32,
}

/// One assignment of a task to a worker: the scheduler's epoch and a number that grows with each assignment
/// of that task. Every message about the task's execution carries it, so late ones are recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Attempt {
    /// How often the scheduler of this cluster had been started when it made the assignment.
    pub epoch: u32,
    /// Counts the assignments of this task, from 1.
    pub n: u32,
}

/// Identifies a submission for ever: chosen by the client, so that submitting twice is recognised.
pub type RunUuid = uuid::Uuid;

/// Identifies one life of one worker process: chosen by the worker at its start.
pub type Incarnation = uuid::Uuid;
