//! Tasks that ran out of memory: each is tried once more with a worker to itself, one whose limit is above
//! what the task had reached, or fails at once if there is none. Owns that rule and keeping workers free for
//! such tasks; what ends an attempt for memory is the worker's.

use super::Core;
use super::cx::Cx;
use super::run::Run;
use super::state::State;
use super::workers::{Status, Worker};
use crate::base::failure::{Failure, FailureKind, NoMoreRoom, Outgrown, OutgrownAttempt, Shortage};
use crate::base::ids::{TaskRef, WorkerId};
use std::cmp::Reverse;
use std::sync::Arc;

/// More room than a task had reached means so much more, as one of this many parts of it: it was ended while
/// it grew.
const MORE_PART: u64 = 8;
/// Of the workers, one in so many is kept free at a time (but always one), so that the others go on.
const KEPT_SHARE: usize = 2;
/// Tasks that wait to be alone, looked at each time.
const LOOKED_AT: usize = 64;

impl Run {
    /// Whether a task is to be alone on its worker when it is tried next.
    pub(super) fn must_be_alone(&self, i: u32) -> bool {
        self.trouble.get(&i).is_some_and(|t| !t.outgrown.is_empty())
    }

    /// An attempt was ended for memory: once more, alone, or no more. The user's retries are not for this.
    pub(super) fn on_outgrown(
        &mut self,
        cx: &mut Cx,
        i: u32,
        w: WorkerId,
        shortage: &Shortage,
        failure: &Failure,
    ) {
        let at = cx.worker(w).map(label).unwrap_or_default();
        let host = cx.worker(w).map(|x| x.spec.host.clone()).unwrap_or_default();
        let trouble = self.trouble.entry(i).or_default();
        let again = trouble.outgrown.is_empty();
        trouble.outgrown.push(OutgrownAttempt { at, alone: !again, shortage: shortage.clone() });
        // Shown with the failure; that other host is none to avoid.
        trouble.hosts.retain(|h| *h != host);
        trouble.hosts.push(host);
        let end = if again { self.no_more_room(cx, i) } else { Some(NoMoreRoom::Twice) };
        match end {
            Some(end) => self.give_up_outgrown(cx, i, end, failure),
            None => {
                self.stats.retried += 1;
                cx.tell_attempt(self, i, &Arc::new(failure.clone()), true);
                self.put_back(cx, i);
            }
        }
    }

    pub(super) fn give_up_outgrown(&mut self, cx: &mut Cx, i: u32, end: NoMoreRoom, last: &Failure) {
        let attempts = self.trouble.get(&i).map(|t| t.outgrown.clone()).unwrap_or_default();
        let kind = FailureKind::Outgrown(Box::new(Outgrown { attempts, end }));
        self.give_up(cx, i, Arc::new(Failure { kind, ..last.clone() }));
    }

    /// Bytes that a worker has to offer to a task that ran out of memory.
    fn need(&self, i: u32) -> u64 {
        let last = self.trouble.get(&i).and_then(|t| t.outgrown.last());
        let peak = last.map_or(0, |a| a.shortage.peak);
        peak.saturating_add(peak / MORE_PART)
    }

    /// Whether a worker could give a task more room than it had.
    pub(super) fn could_give_room(&self, worker: &Worker, i: u32) -> bool {
        let layer = &self.families[self.place_of(i).0.index()].layer;
        let last = self.trouble.get(&i).and_then(|t| t.outgrown.last());
        let had_all = last.is_some_and(|a| a.at == label(worker) && had_all(&a.shortage));
        worker.status != Status::Retiring
            && worker.could_run(layer.slots, &layer.resources)
            && worker.spec.memory_limit.is_none_or(|limit| limit >= self.need(i))
            && !had_all
    }

    /// Why no worker could give a task more room than it had; `None` if one could, or if there is no worker
    /// now that could run it at all.
    pub(super) fn no_more_room(&self, cx: &Cx, i: u32) -> Option<NoMoreRoom> {
        let layer = &self.families[self.place_of(i).0.index()].layer;
        let (mut largest, mut any) = (0, false);
        for worker in cx.workers.iter().flatten() {
            if self.could_give_room(worker, i) {
                return None;
            }
            if worker.could_run(layer.slots, &layer.resources) {
                any = true;
                largest = largest.max(worker.spec.memory_limit.unwrap_or(u64::MAX));
            }
        }
        let beyond = self.need(i) > largest;
        let why = if beyond { NoMoreRoom::BeyondAll { largest } } else { NoMoreRoom::WasAlone };
        any.then_some(why)
    }
}

impl Core {
    /// Gives tasks that are to be alone to workers that are empty, and keeps workers from getting anything
    /// else until they are.
    pub(super) fn serve_alone(&mut self) {
        for w in self.cx.ready.keepers.clone() {
            self.serve_keeper(w);
        }
        if self.cx.ready.alone.is_empty() {
            return;
        }
        let workers = self.cx.workers.iter().flatten().filter(|w| w.status != Status::Retiring).count();
        let most = (workers / KEPT_SHARE).max(1);
        if self.cx.ready.keepers.len() >= most {
            return;
        }
        let first: Vec<_> = self.cx.ready.alone.iter().take(LOOKED_AT).copied().collect();
        for (priority, task) in first {
            if self.cx.ready.keepers.len() >= most {
                break;
            }
            let kept = self.is_kept(task);
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                self.cx.ready.alone.remove(&(priority, task));
                continue;
            };
            if !run.has(task.index) || run.state_of(task.index) != State::Queued {
                self.cx.ready.alone.remove(&(priority, task));
                continue;
            }
            if run.is_full() || kept {
                continue;
            }
            if let Some(end) = run.no_more_room(&self.cx, task.index) {
                self.cx.ready.alone.remove(&(priority, task));
                let lost = Failure::of(FailureKind::Cancelled);
                run.give_up_outgrown(&mut self.cx, task.index, end, &lost);
                continue;
            }
            if let Some(w) = self.roomiest(task) {
                if let Some(worker) = self.cx.worker_mut(w) {
                    worker.kept_for = Some(task);
                }
                self.cx.ready.keepers.insert(w);
                self.serve_keeper(w);
                self.cx.relist(w);
            }
        }
    }

    fn is_kept(&self, task: TaskRef) -> bool {
        let kept_for = |w: &WorkerId| self.cx.worker(*w).and_then(|w| w.kept_for);
        self.cx.ready.keepers.iter().any(|w| kept_for(w) == Some(task))
    }

    /// A worker that is kept gets its task once it is empty, and is free again once that is over.
    fn serve_keeper(&mut self, w: WorkerId) {
        let kept = self.cx.worker(w).and_then(|x| Some((x, x.kept_for?)));
        let Some((worker, task)) = kept else {
            self.cx.ready.keepers.remove(&w);
            return;
        };
        if worker.processing.contains_key(&task) {
            return;
        }
        let status = worker.status;
        let is_empty = worker.processing.is_empty();
        let run = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut());
        let waits = |run: &&mut Run| run.has(task.index) && run.state_of(task.index) == State::Queued;
        let Some(run) = run.filter(waits).filter(|run| status != Status::Retiring && !run.is_full()) else {
            self.let_go(w);
            return;
        };
        if status == Status::Paused && self.cx.in_hand > 0 {
            // Another may be as good by now; if none is, this one is kept anew until its pause is over.
            self.let_go(w);
        } else if is_empty {
            let (f, element) = run.place_of(task.index);
            self.cx.ready.alone.remove(&(run.priority(f, element), task));
            run.assign(&mut self.cx, task.index, w);
        }
    }

    /// Keeps a worker no longer.
    fn let_go(&mut self, w: WorkerId) {
        self.cx.ready.keepers.remove(&w);
        self.cx.gangs.changed = true;
        if let Some(worker) = self.cx.worker_mut(w) {
            worker.kept_for = None;
        }
        self.cx.relist(w);
    }

    /// Of the workers that are not kept and could give a task room, the one that is best now: it has the
    /// room and the highest limit, is empty or will be soon.
    fn roomiest(&self, task: TaskRef) -> Option<WorkerId> {
        let run = self.run(task.run)?;
        let need = run.need(task.index);
        let all = self.cx.workers.iter().enumerate();
        let able = all
            .filter_map(|(k, x)| Some((WorkerId(k as u32), x.as_ref()?)))
            .filter(|(_, x)| x.kept_for.is_none() && run.could_give_room(x, task.index));
        let worth = |x: &Worker| {
            let results = x.nbytes.saturating_sub(x.memory.spilled);
            let free = x.spec.memory_limit.map_or(u64::MAX, |limit| limit.saturating_sub(results));
            let (running, limit) = (x.status == Status::Running, x.spec.memory_limit.unwrap_or(u64::MAX));
            // It has this one attempt: the largest is worth waiting for.
            (limit, running, free >= need, x.processing.is_empty(), Reverse(x.load()), free)
        };
        able.max_by_key(|(_, x)| worth(x)).map(|(w, _)| w)
    }
}

/// A worker as people know it.
fn label(worker: &Worker) -> String {
    format!("{} on {}", worker.spec.name, worker.spec.host)
}

/// Whether a task had all that its worker has: no task beside it, and next to no results that may be
/// elsewhere or on disk the next time.
fn had_all(shortage: &Shortage) -> bool {
    shortage.neighbours.is_empty() && shortage.results <= shortage.limit / MORE_PART
}
