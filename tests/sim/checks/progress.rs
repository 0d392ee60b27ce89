//! Every run ends: within bounded virtual time and a bounded number of events once nothing new goes wrong.

use crate::cluster::Sim;
use hpcdag::base::time::Time;
use std::time::Duration;

/// What has nothing to do with the number of tasks: silence that has to be noticed, pauses between attempts.
const PATIENCE: Duration = Duration::from_secs(200);
/// Events for each task, and besides.
const STEPS_EACH: u64 = 400;
const STEPS: u64 = 20_000;

/// When something went wrong for the last time.
#[derive(Default)]
pub struct Progress {
    at: Time,
    steps: u64,
}

impl Progress {
    /// Something goes wrong now.
    pub fn faults_went_on(&mut self, now: Time, steps: u64) {
        (self.at, self.steps) = (now, steps);
    }
}

impl Sim {
    pub fn check_progress(&mut self) {
        let tasks: u64 = self.jobs.iter().map(|job| u64::from(job.graph.tasks())).sum();
        let each = Duration::from_micros(self.faults.longest_us());
        let bound =
            PATIENCE + each * (tasks as u32 + 1) * if self.faults.task_failures > 0.0 { 3 } else { 1 };
        let waited = self.now.since(self.checks.progress.at);
        assert!(waited < bound, "progress: nothing went wrong for {waited:?}; {}", self.describe());
        let memory = self.faults.memory.is_some();
        let steps = self.steps - self.checks.progress.steps;
        let busy = steps < STEPS + STEPS_EACH * tasks;
        assert!(busy || memory, "progress: {steps} events and no end; {}", self.describe());
    }
}
