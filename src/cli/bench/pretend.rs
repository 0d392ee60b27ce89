//! A worker that executes nothing: whatever it is given has succeeded at once, and every input is there. Owns
//! what it has to remember to answer as a real one would.

use crate::base::ids::{Attempt, TaskRef, WorkerId};
use rustc_hash::FxHashSet;

/// Size of each result, bytes.
pub const RESULT_BYTES: u64 = 8;

/// Time that each task took, nanoseconds.
pub const DURATION_NS: u64 = 1_000;

/// What is left of a worker when it does nothing.
#[derive(Debug, Default)]
pub struct Pretended {
    /// Results of others that it has copies of.
    copies: FxHashSet<TaskRef>,
}

/// What has come of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Attempts that succeeded.
    pub finished: Vec<(TaskRef, Attempt)>,
    /// Results of others that are here now too.
    pub replicas: Vec<TaskRef>,
    /// Attempts that cannot be handed back: they are done.
    pub kept: Vec<(TaskRef, Attempt)>,
}

impl Outcome {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.replicas.is_empty() && self.kept.is_empty()
    }
}

impl Pretended {
    /// An input of a task, and whether it has been here all the time.
    pub fn input(&mut self, task: TaskRef, holders: &[WorkerId], me: WorkerId, outcome: &mut Outcome) {
        if !holders.contains(&me) && self.copies.insert(task) {
            outcome.replicas.push(task);
        }
    }

    /// Results that nobody needs any more.
    pub fn free(&mut self, tasks: &[TaskRef]) {
        for task in tasks {
            self.copies.remove(task);
        }
    }
}
