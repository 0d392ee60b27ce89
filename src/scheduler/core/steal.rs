//! Taking work back from workers that have too much while others have threads free, and noticing that tasks
//! take longer than was thought: what waits behind those would wait for no reason. Owns from whom, how much
//! and when to look again; who gets it then is `place`'s.

use super::Core;
use super::action::Action;
use super::cx::Cx;
use super::place::{BULKY, moving};
use super::run::Run;
use super::workers::{HORIZON_NS, Status, Worker};
use crate::base::ids::{Attempt, FamilyIx, WorkerId};
use crate::base::time::Time;
use smallvec::SmallVec;
use std::time::Duration;

/// Tasks asked back in one steal request.
const STEAL_MAX: u32 = 1024;
/// Workers looked at for work to take, those with the most first.
const VICTIMS_LOOKED_AT: usize = 8;
/// Workers with room looked at for a thread that is free; those that have one come first.
const THIEVES_LOOKED_AT: usize = 8;
/// Tasks looked at whose inputs move easily.
const TASKS_LOOKED_AT: usize = 256;
/// Work below which a worker's queue is not worth stealing from.
const STEAL_WAIT: Duration = Duration::from_millis(10);
/// Work beyond which a worker's queue is not added to if another would be through sooner. Well below what is
/// stolen from, or what was stolen came back.
const LEAVE_WAIT: Duration = Duration::from_micros(2500);

/// What of a class could begin at once.
#[derive(Clone, Copy, Default)]
struct Free {
    /// A worker has nothing at all: it takes half of what another has, whatever has to move for it.
    worker: bool,
    /// So many tasks could beside others, on those that have work of their own too.
    tasks: u64,
}

impl Core {
    /// Asks a worker with a long queue for some of it when another has a thread free.
    pub(super) fn steal(&mut self) {
        if !self.cx.settings.stealing {
            return;
        }
        self.steal_at = None;
        if self.cx.backlog.is_empty() {
            return;
        }
        let free: SmallVec<[Free; 8]> = (0..self.cx.ready.classes.len()).map(|c| self.free(c)).collect();
        if !free.iter().any(|free| free.worker || free.tasks > 0) {
            return;
        }
        let longest = self.cx.backlog.iter().rev().map(|(_, w)| *w).take(VICTIMS_LOOKED_AT);
        for w in longest.collect::<SmallVec<[WorkerId; VICTIMS_LOOKED_AT]>>() {
            match self.victim(w) {
                Victim::Not => {}
                Victim::Asked => return,
                Victim::Later(at) => {
                    self.steal_at = Some(at);
                    return;
                }
                Victim::Now => {
                    self.steal_at = self.rob(w, &free);
                    return;
                }
            }
        }
    }

    /// What of a class could begin at once.
    fn free(&self, class: usize) -> Free {
        let class = &self.cx.ready.classes[class];
        let mut free = Free::default();
        for worker in class.open.iter().take(THIEVES_LOOKED_AT).filter_map(|&(_, w)| self.cx.worker(w)) {
            free.worker |= worker.processing.is_empty();
            free.tasks += worker.free_slots() / u64::from(class.slots.max(1));
        }
        free
    }

    /// Whether work can be taken from this worker.
    fn victim(&mut self, w: WorkerId) -> Victim {
        let now = self.cx.now;
        let Some(worker) = self.cx.worker(w) else { return Victim::Not };
        // What fits into a worker's slots is about to start, as soon as its inputs are there: taken away
        // again and again it never would. On a paused one nothing is about to start.
        let has_more = worker.slots_in_hand > u64::from(worker.spec.slots) || worker.status == Status::Paused;
        if !has_more || worker.status == Status::Retiring {
            return Victim::Not;
        }
        if worker.robbed {
            return Victim::Asked;
        }
        if worker.wait() < STEAL_WAIT {
            // That it should be through with it soon counts for as long as it gets on with it.
            let at = worker.progress.after(STEAL_WAIT).max(worker.steal_after);
            if at > now {
                return Victim::Later(at);
            }
            let stuck = now.since(worker.progress);
            if !self.expect_more(w) {
                let at = now.after(stuck.max(STEAL_WAIT));
                self.cx.workers[w.index()].as_mut().into_iter().for_each(|x| x.steal_after = at);
                return Victim::Later(at);
            }
        }
        match self.cx.worker(w).map(|worker| worker.steal_after) {
            Some(at) if at > now => Victim::Later(at),
            _ => Victim::Now,
        }
    }

    /// Corrects what is expected of tasks in a worker's hands by those that have taken longer already.
    /// Returns whether its queue is worth stealing from by that.
    fn expect_more(&mut self, w: WorkerId) -> bool {
        let now = self.cx.now;
        let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) else { return false };
        for (task, ns) in worker.overdue(now) {
            if let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) {
                run.take_longer(task.index, ns);
            }
        }
        let runs = &self.runs;
        worker.expect_at_least(|task| {
            let run = runs.get(task.run.index())?.as_deref().filter(|run| run.has(task.index))?;
            run.overdue_ns(run.place_of(task.index).0)
        });
        let is_long = worker.wait() >= STEAL_WAIT;
        self.cx.relist(w);
        is_long
    }

    /// Asks a worker for what it has not started: half of it, or as much as keeps free threads busy. If
    /// nothing is to be had, returns when to look again.
    fn rob(&mut self, w: WorkerId, free: &[Free]) -> Option<Time> {
        let now = self.cx.now;
        let worker = self.cx.workers.get_mut(w.index()).and_then(|w| w.as_mut())?;
        if worker.bulky_until > now && !free.iter().any(|free| free.worker) {
            return Some(worker.bulky_until);
        }
        let half = worker.backlog().div_ceil(2).min(STEAL_MAX);
        let each = (HORIZON_NS / worker.mean_ns().max(1)).max(1);
        let mut left: SmallVec<[u64; 8]> = free.iter().map(|free| free.tasks.saturating_mul(each)).collect();
        let (mut attempts, mut looked_at) = (Vec::new(), 0);
        for (task, hand) in worker.processing.iter_mut().rev() {
            if attempts.len() as u32 == half || looked_at == TASKS_LOOKED_AT {
                break;
            }
            if hand.started.is_some() || hand.stealing {
                continue;
            }
            let Some(run) = self.runs.get(task.run.index()).and_then(|r| r.as_deref()) else { continue };
            if !free[hand.class as usize].worker {
                let left = &mut left[hand.class as usize];
                if *left == 0 {
                    continue;
                }
                looked_at += 1;
                if run.is_bulky(task.index) {
                    continue;
                }
                *left -= 1;
            }
            hand.stealing = true;
            attempts.push((*task, Attempt { epoch: self.cx.epoch, n: run.attempt[task.index as usize] }));
        }
        let later = now.after(STEAL_WAIT.max(worker.wait() / 8));
        if attempts.is_empty() {
            worker.bulky_until = later;
            return Some(later);
        }
        worker.robbed = true;
        worker.steal_after = later;
        self.cx.actions.push(Action::Steal { worker: w, attempts });
        None
    }
}

impl Cx {
    /// Whether a task is to go to another worker than the one that holds its inputs, which has no thread free
    /// and from which it would be taken again. `moving` is how long it takes to move them.
    pub(super) fn is_better_off(
        &self,
        other: WorkerId,
        holder: WorkerId,
        moving: impl Fn() -> Duration,
    ) -> bool {
        let is_busy = |x: &&Worker| x.wait() >= LEAVE_WAIT && x.free_slots() == 0;
        let (Some(busy), Some(other)) = (self.worker(holder).filter(is_busy), self.worker(other)) else {
            return false;
        };
        let there = if other.free_slots() > 0 { Duration::ZERO } else { other.wait() };
        let moving = moving();
        moving <= BULKY && there.saturating_add(moving) < busy.wait()
    }
}

/// Whether work can be taken from a worker.
enum Victim {
    /// It has nothing to spare.
    Not,
    /// It was asked, and has not answered.
    Asked,
    /// Not before.
    Later(Time),
    /// At once.
    Now,
}

impl Run {
    /// Whether the inputs of a task take long to move.
    fn is_bulky(&self, i: u32) -> bool {
        let (f, element) = self.place_of(i);
        moving(self.bytes_by_worker(f, element).1) > BULKY
    }

    /// A task has executed for so long and is not done: as long as nobody knows how long its like take, they
    /// take no less.
    fn take_longer(&mut self, i: u32, ns: u64) {
        let (f, _) = self.place_of(i);
        if self.known_ns(f).is_none() {
            let longest = self.overdue.entry(self.families[f.index()].group).or_default();
            *longest = ns.max(*longest);
        }
    }

    /// How long tasks like an element of a family, of which none has ended, have executed so far.
    pub(super) fn overdue_ns(&self, f: FamilyIx) -> Option<u64> {
        if self.overdue.is_empty() || self.known_ns(f).is_some() {
            return None;
        }
        self.overdue.get(&self.families[f.index()].group).copied()
    }
}
