//! Nothing is computed more often than losses justify. A task may execute once; once more for each attempt
//! that failed or was called back; and once more each time that its result, or one that was made of it, may
//! have been lost. Without faults every task executes exactly once.

use crate::cluster::Sim;
use hpcdag::base::ids::{Attempt, TaskRef, WorkerId};
use hpcdag::worker::core::event::Assigned;
use std::collections::{BTreeMap, BTreeSet};

/// What was executed, and what may have been.
#[derive(Default)]
pub struct Ledger {
    /// Inputs of every task that was ever handed out.
    inputs: BTreeMap<TaskRef, Vec<TaskRef>>,
    executions: BTreeMap<TaskRef, u32>,
    /// Executions beyond the first that there is a reason for.
    reasons: BTreeMap<TaskRef, u32>,
    /// Workers that were let go, and whether nobody could take their results.
    dismissed: BTreeMap<WorkerId, bool>,
}

impl Ledger {
    pub fn assigned(&mut self, tasks: &[Assigned]) {
        for task in tasks {
            self.inputs.entry(task.task).or_insert_with(|| task.inputs.iter().map(|i| i.task).collect());
        }
    }

    pub fn executes(&mut self, task: TaskRef) {
        *self.executions.entry(task).or_default() += 1;
    }

    pub fn failed(&mut self, task: TaskRef) {
        *self.reasons.entry(task).or_default() += 1;
    }

    pub fn recalled(&mut self, attempts: &[(TaskRef, Attempt)]) {
        attempts.iter().for_each(|(task, _)| self.failed(*task));
    }

    /// Results are lost, all by one event: they and whatever they were made of may be computed once more.
    pub fn lost(&mut self, tasks: impl IntoIterator<Item = TaskRef>) {
        let mut stack: Vec<TaskRef> = tasks.into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(task) = stack.pop() {
            if seen.insert(task) {
                self.failed(task);
                stack.extend(self.inputs.get(&task).into_iter().flatten());
            }
        }
    }

    pub fn dismissed(&mut self, w: WorkerId, alone: bool) {
        self.dismissed.insert(w, alone);
    }

    pub fn was_alone(&self, w: WorkerId) -> bool {
        self.dismissed.get(&w).copied().unwrap_or(false)
    }
}

impl Sim {
    pub fn check_recomputation(&self) {
        let ledger = &self.checks.ledger;
        for (task, n) in &ledger.executions {
            let most = 1 + ledger.reasons.get(task).copied().unwrap_or(0);
            let story = || self.scheduler.story(*task).iter().map(|r| format!("\n{r:?}")).collect::<String>();
            assert!(*n <= most, "recomputation: {task:?} executed {n} times, {most} at most{}", story());
            assert!(*n == 1 || !self.faults.are_none(), "recomputation: {task:?} executed {n} times, why?");
        }
    }
}
