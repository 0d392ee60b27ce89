//! When all runs are over and forgotten nothing is left: no results and no tasks on workers, no entry in
//! the scheduler's tables, nobody who was asked to leave.

use crate::cluster::Sim;
use hpcdag::base::ids::WorkerId;
use hpcdag::scheduler::core as sched;
use std::time::Duration;

/// By then everything that is due once is over: pauses before retries, leases.
const LATER: Duration = Duration::from_secs(50);

impl Sim {
    /// Forgets all runs, lets what is on its way arrive, and looks at what is left.
    pub fn check_nothing_left(&mut self) {
        for view in self.scheduler.workers() {
            let left = (view.results, view.nbytes);
            assert_eq!(left, (0, 0), "leftovers: worker {} counts results", view.worker);
        }
        self.forget_all();
        self.checks.progress.faults_went_on(self.now, self.steps);
        self.settle();
        for w in self.nodes.keys().copied().collect::<Vec<WorkerId>>() {
            let alive = sched::event::Event::Heartbeat { worker: w, memory: None };
            self.tell_scheduler(alive);
        }
        self.now = self.now.after(LATER);
        self.tell_scheduler(sched::event::Event::Tick);
        for (w, node) in self.nodes.iter().filter(|(_, n)| !n.ghost) {
            let core = &node.core;
            let busy = (core.in_hand(), core.executing(), node.running.len());
            assert_eq!(busy, (0, 0, 0), "leftovers: worker {w} has tasks");
            let results: Vec<_> = core.results().map(|(task, _)| task).collect();
            assert!(results.is_empty(), "leftovers: worker {w} counts {results:?}");
            assert!(node.store.is_empty(), "leftovers: worker {w} holds {:?}", node.store.keys());
            assert_eq!(core.expected_bytes(), (0, 0), "leftovers: worker {w} sets bytes aside");
            assert!(!node.retiring, "leftovers: worker {w} was never let go");
        }
        for view in self.scheduler.workers() {
            let node = self.nodes.get(&view.worker).filter(|n| !n.ghost && n.memory.is_none());
            let agrees = node.is_none_or(|n| n.paused == (view.status == sched::Status::Paused));
            assert!(agrees, "leftovers: worker {} counts as {}", view.worker, view.status.name());
        }
        if let Err(left) = self.scheduler.check_empty() {
            panic!("leftovers: the scheduler has {left}");
        }
    }
}
