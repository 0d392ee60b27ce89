//! What happens to whole workers: they are killed, flap, freeze, pause, leave, end with their batch job.
//! Owns when that happens and to whom.

use crate::cluster::{Happening, Message, Party, Sim, Trouble};
use hpcdag::base::ids::{TaskRef, WorkerId};
use hpcdag::scheduler::core as sched;
use sched::event::Event;
use sched::state::State;
use std::time::Duration;

/// Longer than the scheduler waits for a silent worker.
const SILENCE: Duration = Duration::from_secs(70);
/// What becomes of a worker after the scheduler has lost sight of it takes so long.
const GHOST: Duration = Duration::from_millis(20);

impl Sim {
    pub fn plan_faults(&mut self) {
        let span = 10 * self.faults.mean_us;
        for _ in 0..self.faults.workers {
            let when = self.rng.u64(0..3000);
            self.at(Duration::from_micros(when), Happening::Trouble(Trouble::Join));
        }
        let kinds = [
            (self.faults.losses, Trouble::Kill),
            (self.faults.holders_lost, Trouble::KillHolder),
            (self.faults.flaps, Trouble::Flap),
            (self.faults.freezes, Trouble::Freeze),
            (self.faults.pauses, Trouble::Pause),
            (self.faults.retirements, Trouble::Retire),
            (self.faults.late_joiners, Trouble::Join),
            (self.faults.cancels, Trouble::Cancel),
            (self.faults.vanishings, Trouble::Vanish),
        ];
        for (n, trouble) in kinds {
            for _ in 0..n {
                let when = self.rng.u64(1000..span.max(2000));
                self.at(Duration::from_micros(when), Happening::Trouble(trouble));
            }
        }
    }

    pub fn trouble(&mut self, trouble: Trouble) {
        self.checks.progress.faults_went_on(self.now, self.steps);
        match trouble {
            Trouble::Kill => self.kill(),
            Trouble::KillHolder => self.kill_holder(),
            Trouble::Flap => self.flap(),
            Trouble::Freeze => self.freeze(),
            Trouble::Pause => self.pause(),
            Trouble::Unpause(w) => self.set_paused(w, false),
            Trouble::Retire => {
                if self.nodes.len() > 1
                    && let Some(w) = self.pick()
                {
                    self.retire(w);
                }
            }
            Trouble::Leave(w) => self.retire(w),
            Trouble::End(w) => self.end(w),
            Trouble::Join => self.first_join(),
            Trouble::Remove(w) => drop(self.nodes.remove(&w)),
            Trouble::Cancel => self.cancel(),
            Trouble::Vanish => self.vanish(),
            Trouble::Return(client) => self.come_back(client),
            Trouble::Successor => self.succeed(None),
        }
    }

    /// One of the workers that take part.
    fn pick(&mut self) -> Option<WorkerId> {
        let here: Vec<WorkerId> = self.nodes.iter().filter(|(_, n)| !n.ghost).map(|(w, _)| *w).collect();
        (!here.is_empty()).then(|| here[self.rng.usize(0..here.len())])
    }

    fn first_join(&mut self) {
        let ends = self.faults.walltimes > 0.0 && self.rng.f64() < self.faults.walltimes;
        // Those that come in the place of others stay: some worker does in the end.
        let ends = ends && self.next_worker < self.faults.workers;
        let leaves = Duration::from_micros(self.rng.u64(5_000..5_001 + 20 * self.faults.mean_us));
        self.join(None, ends.then_some(leaves));
    }

    fn rejoin(&mut self, within_us: u64) {
        let after = Duration::from_micros(self.rng.u64(0..within_us));
        self.at(after, Happening::Trouble(Trouble::Join));
    }

    fn kill(&mut self) {
        let mut victims: Vec<WorkerId> = self.nodes.keys().copied().collect();
        if !self.faults.all_at_once {
            victims = self.pick().into_iter().collect();
        }
        for w in victims {
            self.end(w);
        }
    }

    fn kill_holder(&mut self) {
        let mut sole: std::collections::BTreeMap<WorkerId, u32> = Default::default();
        for job in self.jobs.iter().filter(|job| !job.is_over()) {
            for index in 0..500 {
                let Some(why) = self.scheduler.explain(TaskRef { run: job.run, index }) else { break };
                if why.state == State::Memory && why.holders.len() == 1 {
                    *sole.entry(why.holders[0]).or_default() += 1;
                }
            }
        }
        match sole.into_iter().max_by_key(|(w, n)| (*n, *w)) {
            Some((w, _)) => self.end(w),
            None => self.kill(),
        }
    }

    /// A worker ends without a word; another one comes later.
    fn end(&mut self, w: WorkerId) {
        if self.nodes.get(&w).is_none_or(|n| n.ghost) {
            return;
        }
        self.checks.ledger.lost(self.kept_by(w));
        self.nodes.remove(&w);
        self.disconnects(w, false);
        self.rejoin(7000);
    }

    /// What a worker would take with it: results, what executes, and what it has said to nobody yet.
    fn kept_by(&self, w: WorkerId) -> Vec<TaskRef> {
        let Some(node) = self.nodes.get(&w) else { return Vec::new() };
        let running = node.running.keys().map(|(t, _)| *t);
        let said = self.on_its_way(Party::Worker(w)).filter_map(|message| match message {
            Message::ToScheduler(Event::WorkerReport { report, .. }) => Some(&report.finished),
            _ => None,
        });
        let said = said.flatten().map(|finished| finished.task);
        let unsaid = node.unreported.iter().copied();
        node.store.keys().copied().chain(running).chain(unsaid).chain(said).collect()
    }

    /// The scheduler learns of it a while later; what the worker has said arrives before.
    fn disconnects(&mut self, worker: WorkerId, expected: bool) {
        let event = Event::WorkerDisconnected { worker, reason: "gone".into(), expected };
        self.worker_says(worker, event);
    }

    /// A connection ends; a fresh worker of the same name comes at once. The old one may linger.
    fn flap(&mut self) {
        let Some(w) = self.pick() else { return };
        self.checks.ledger.lost(self.kept_by(w));
        let Some(node) = self.nodes.get_mut(&w) else { return };
        node.ghost = true;
        let name = node.name.clone();
        self.disconnects(w, false);
        let lingers = if self.rng.bool() { GHOST } else { Duration::ZERO };
        self.at(lingers, Happening::Trouble(Trouble::Remove(w)));
        self.join(Some(name), None);
    }

    fn freeze(&mut self) {
        let Some(w) = self.pick() else { return };
        let short = Duration::from_micros(self.rng.u64(100..50_000));
        let until = self.now.after(if self.rng.u32(0..4) == 0 { SILENCE } else { short });
        if let Some(node) = self.nodes.get_mut(&w) {
            node.frozen_until = Some(until);
        }
    }

    fn pause(&mut self) {
        let Some(w) = self.pick() else { return };
        let long = Duration::from_micros(self.rng.u64(100..20_000));
        self.set_paused(w, true);
        self.at(long, Happening::Trouble(Trouble::Unpause(w)));
    }

    fn retire(&mut self, w: WorkerId) {
        let Some(node) = self.nodes.get_mut(&w).filter(|n| !n.ghost && !n.retiring) else { return };
        node.retiring = true;
        self.worker_says(w, Event::WorkerRetiring { worker: w, reason: "test".into() });
    }

    /// The scheduler has said that a worker may stop: nothing is lost by that, unless nobody could take its
    /// results.
    pub fn dismissed(&mut self, w: WorkerId) {
        let Some(node) = self.nodes.get(&w) else { return };
        assert_eq!(node.core.in_hand(), 0, "dismissed with work in hand");
        let alone = self.checks.ledger.was_alone(w);
        if alone {
            self.checks.ledger.lost(self.kept_by(w));
        }
        self.nodes.remove(&w);
        self.disconnects(w, true);
        if self.nodes.values().all(|n| n.ghost || n.retiring) {
            self.rejoin(5000);
        }
    }

    /// The scheduler has given a worker up.
    pub fn dropped(&mut self, w: WorkerId) {
        if self.nodes.get(&w).is_none_or(|n| n.ghost) {
            return;
        }
        self.checks.ledger.lost(self.kept_by(w));
        self.nodes.remove(&w);
        self.closed.insert(Party::Worker(w));
        self.rejoin(5000);
    }

    /// A message to a worker that it may stop.
    pub fn dismiss(&mut self, w: WorkerId) {
        let takers = self.scheduler.workers();
        let takes = |v: &sched::WorkerView| v.worker != w && v.status == sched::Status::Running;
        self.checks.ledger.dismissed(w, !takers.iter().any(takes));
        self.send(Party::Scheduler, Party::Worker(w), Message::Dismiss);
    }
}
