//! Workers that leave in order: no new work, what has not started comes back, results that somebody still
//! needs are copied to others, then they are dismissed. Owns that sequence; losing a worker is in `reports`.

use super::Core;
use super::action::{Action, Saved};
use super::run::Run;
use super::state::State;
use super::workers::{Status, UNKNOWN_DURATION_NS};
use crate::base::ids::{Attempt, TaskRef, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// So many tasks are looked at, at most, to find out what a result has cost.
const ANCESTORS_MAX: usize = 64;

impl Core {
    pub(super) fn on_worker_retiring(&mut self, w: WorkerId, reason: String) {
        let Some(worker) = self.cx.worker_mut(w) else { return };
        if worker.retiring.is_some() {
            return;
        }
        worker.retiring = Some(reason);
        worker.status = Status::Retiring;
        self.leaving.insert(w);
        self.cx.gangs.changed = true;
        self.ask_others(w);
        self.drain_local(w);
        self.ask_all_back(w);
        self.check_retiring();
    }

    /// Asks a worker for everything that it has not started.
    pub(super) fn ask_all_back(&mut self, w: WorkerId) {
        let mut attempts = Vec::new();
        let epoch = self.cx.epoch;
        if let Some(worker) = self.cx.worker_mut(w) {
            for (task, hand) in worker.processing.iter_mut().filter(|(_, hand)| hand.started.is_none()) {
                hand.stealing = true;
                if let Some(run) = self.runs.get(task.run.index()).and_then(|r| r.as_deref()) {
                    attempts.push((*task, Attempt { epoch, n: run.attempt[task.index as usize] }));
                }
            }
        }
        if !attempts.is_empty() {
            self.cx.actions.push(Action::Steal { worker: w, attempts });
        }
    }

    /// Moves the results of leaving workers and dismisses those that hold nothing any more.
    pub(super) fn check_retiring(&mut self) {
        for w in self.leaving.clone() {
            self.evacuate(w);
        }
    }

    /// Copies that were asked of a worker which leaves or is gone are to be asked of others.
    pub(super) fn ask_others(&mut self, instead_of: WorkerId) {
        for w in self.leaving.clone() {
            if let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) {
                worker.moving.retain(|_, to| *to != instead_of);
            }
        }
    }

    fn evacuate(&mut self, w: WorkerId) {
        let Some(worker) = self.cx.worker(w).filter(|x| !x.dismissed) else { return };
        let idle = worker.processing.is_empty() && !self.is_in_use(w);
        // What no worker that stays has, and has not been asked of another yet.
        let sole = |task: &&TaskRef| {
            self.run(task.run).is_some_and(|run| {
                run.state_of(task.index) == State::Memory
                    && !run.is_pinned(task.index)
                    && run.holders(task.index).iter().all(|holder| self.leaving.contains(holder))
            })
        };
        let held: Vec<TaskRef> = worker.has.iter().filter(sole).copied().collect();
        let fresh: Vec<TaskRef> = held.iter().filter(|t| !worker.moving.contains_key(*t)).copied().collect();
        let to: Vec<WorkerId> = self.recipients(w);
        if held.is_empty() || to.is_empty() {
            self.save(w, &held);
            if idle {
                if let Some(worker) = self.cx.worker_mut(w) {
                    worker.dismissed = true;
                }
                self.cx.dismissed.push(w);
            }
            return;
        }
        let mut orders: BTreeMap<WorkerId, Vec<(TaskRef, u64)>> = BTreeMap::new();
        for (k, task) in fresh.iter().enumerate() {
            let nbytes = self.run(task.run).map_or(0, |run| run.nbytes[task.index as usize]);
            let recipient = to[k % to.len()];
            orders.entry(recipient).or_default().push((*task, nbytes));
            if let Some(worker) = self.cx.workers[w.index()].as_mut() {
                worker.moving.insert(*task, recipient);
            }
        }
        for (worker, tasks) in orders {
            self.cx.actions.push(Action::Replicate { worker, tasks, from: w });
        }
    }

    /// Lets a worker write what nobody can take over. Of several that hold a result, one does.
    fn save(&mut self, w: WorkerId, held: &[TaskRef]) {
        let Some(worker) = self.cx.worker(w) else { return };
        let mut tasks = Vec::new();
        for task in held.iter().filter(|task| !worker.saved.contains(*task)) {
            let Some(run) = self.run(task.run) else { continue };
            if run.holders(task.index).first() != Some(&w) {
                continue;
            }
            let (family, element) = run.place_of(task.index);
            tasks.push(Saved { task: *task, family, element, cost_ns: recomputing(run, task.index) });
        }
        if tasks.is_empty() {
            return;
        }
        if let Some(worker) = self.cx.worker_mut(w) {
            worker.saved.extend(tasks.iter().map(|saved| saved.task));
        }
        self.cx.actions.push(Action::Save { worker: w, tasks });
    }

    /// Workers that can take results, emptiest first; those that may be taken away at any time only if there
    /// is no other.
    fn recipients(&self, except: WorkerId) -> Vec<WorkerId> {
        let staying = self.cx.workers.iter().enumerate().filter_map(|(i, x)| {
            let x = x.as_ref()?;
            let w = WorkerId(i as u32);
            (w != except && x.status == Status::Running).then_some((x.spec.preemptible, x.nbytes, w))
        });
        let mut staying: Vec<_> = staying.collect();
        staying.sort_unstable();
        let safest = staying.first().map(|(preemptible, ..)| *preemptible);
        staying.retain(|(preemptible, ..)| Some(*preemptible) == safest);
        staying.into_iter().map(|(.., w)| w).collect()
    }
}

/// How long it would take to make a result again, nanoseconds: its task, those inputs that were dropped, and
/// theirs. If there are many of them, it is more.
fn recomputing(run: &Run, index: u32) -> u64 {
    let mut seen = BTreeSet::from([index]);
    let mut next = vec![index];
    let mut cost = 0u64;
    while let Some(i) = next.pop() {
        let (f, element) = run.place_of(i);
        let family = &run.families[f.index()];
        let duration = family.duration_ns.or(run.stats.duration_ns).unwrap_or(UNKNOWN_DURATION_NS);
        cost = cost.saturating_add(duration);
        for (e, _) in (0..).zip(run.edges.of(f)).filter(|(_, e)| e.data) {
            run.each_input(f, element, e, |input| {
                let is_dropped = run.state_of(input) == State::Released;
                if is_dropped && seen.len() < ANCESTORS_MAX && seen.insert(input) {
                    next.push(input);
                }
            });
        }
    }
    cost
}
