//! Every invariant of every core after each event; and that both cores have done at once whatever could be
//! done: asked again, they have nothing to add.

use crate::cluster::Sim;
use hpcdag::scheduler::core as sched;
use hpcdag::worker::core as work;
use sched::action::Action;

/// Checking costs as much as there are tasks: of larger graphs a part of the steps will do.
const TASKS_EACH_STEP: u64 = 40;

impl Sim {
    pub fn check_invariants(&mut self) {
        for node in self.nodes.values() {
            self.peak = self.peak.max(node.core.results().map(|(_, bytes)| bytes).sum());
        }
        let tasks: u64 = self.jobs.iter().map(|job| u64::from(job.graph.tasks())).sum();
        if !self.steps.is_multiple_of(tasks.div_ceil(TASKS_EACH_STEP).max(1)) {
            return;
        }
        if let Err(wrong) = self.scheduler.check() {
            panic!("invariants of the scheduler: {wrong}; {}", self.describe());
        }
        for (w, node) in &self.nodes {
            if let Err(wrong) = node.core.check() {
                panic!("invariants of worker {w}: {wrong}; {}", self.describe());
            }
        }
        self.check_nothing_forgotten();
    }

    /// A core that finds something to do when it is asked again has missed it before: a lost wake-up that the
    /// next event would hide.
    fn check_nothing_forgotten(&mut self) {
        if self.scheduler.next_deadline().is_some_and(|at| at <= self.now) {
            return;
        }
        // Tasks on several workers are looked at with the next event on purpose.
        let late = if self.has_wide_tasks { Vec::new() } else { self.scheduler.handle_all([], self.now) };
        assert!(late.is_empty(), "invariants: the scheduler had not done {late:?}; {}", self.describe());
        for (w, node) in &mut self.nodes {
            let late = node.core.handle(work::event::Event::Done(Vec::new()));
            assert!(late.is_empty(), "invariants: worker {w} had not done {late:?}");
        }
    }

    /// A look at the clock while nothing is due changes nothing.
    pub fn check_idle(&self, due: bool, actions: &[Action]) {
        let gives_work = actions.iter().any(|a| matches!(a, Action::Compute { .. } | Action::Steal { .. }));
        assert!(due || !gives_work, "invariants: work was handed out only when the clock was looked at");
    }
}
