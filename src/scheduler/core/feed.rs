//! Work for workers that have nothing to do while everything that waits would only add to memory. Waiting is
//! right as long as somebody's work may free some; but where results go to disk anyhow, a worker that waits
//! for another one's work loses more time than it saves bytes. Owns how long a worker waits and what it gets
//! then; the rule for when nobody has anything in hand is `admit`'s.

use super::Core;
use super::ready::Entry;
use super::run::Run;
use super::state::State;
use super::workers::{Status, Worker};
use crate::base::ids::WorkerId;
use crate::base::time::Time;
use smallvec::SmallVec;
use std::time::Duration;

/// How long a worker has nothing in hand before it gets what lies best with it.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long before it gets also what lies better with others, its inputs moved.
const MOVE_PATIENCE: Duration = Duration::from_secs(1);

/// Open workers and held tasks that are looked at.
const WORKERS_LOOKED_AT: usize = 8;
const HELD_LOOKED_AT: usize = 64;

/// What came of offering a held entry to a worker.
enum Offer {
    /// The worker has it.
    Taken,
    /// It is nothing for this worker.
    Refused,
    /// There is nothing in it any more.
    Empty,
}

impl Worker {
    /// Whether a task that adds so many bytes fits once all results there have gone to disk.
    fn fits_without_results(&self, adds: u64) -> bool {
        let used = self.memory.unmanaged.saturating_add(self.reserved).saturating_add(adds);
        self.spec.memory_target.is_none_or(|target| used <= target)
    }
}

impl Core {
    /// Looks after idle workers; notes when it has to be called again.
    pub(super) fn feed_idle(&mut self) {
        self.feed_at = None;
        if !self.cx.spills {
            return;
        }
        for class in 0..self.cx.ready.classes.len() {
            if self.cx.ready.classes[class].held.is_empty() {
                continue;
            }
            let open = self.cx.ready.classes[class].open.iter().map(|(_, w)| *w).take(WORKERS_LOOKED_AT);
            for w in open.collect::<SmallVec<[WorkerId; WORKERS_LOOKED_AT]>>() {
                while let Some(anywhere) = self.is_hungry(w)
                    && self.cx.ready.is_open(w, class as u32)
                    && self.feed(class, w, anywhere)
                {}
            }
        }
        if self.cx.early > 0 {
            self.feed_starving();
        }
    }

    /// Gives idle workers what waits for better times, once they have waited for long.
    fn feed_starving(&mut self) {
        if self.cx.now < self.cx.early_at {
            self.feed_at = Some(self.feed_at.map_or(self.cx.early_at, |at| at.min(self.cx.early_at)));
            return;
        }
        let open = self.cx.ready.classes.iter().flat_map(|class| class.open.first());
        let open: SmallVec<[WorkerId; WORKERS_LOOKED_AT]> = open.map(|(_, w)| *w).collect();
        for w in open {
            let is_idle = self.cx.worker(w).is_some_and(|x| x.processing.is_empty());
            if is_idle && self.is_hungry(w) == Some(true) && !self.waste_no_time(w) {
                // Nothing suits it: not to be looked for at every event.
                self.cx.early_at = self.cx.now.after(PATIENCE);
                self.feed_at = Some(self.feed_at.map_or(self.cx.early_at, |at| at.min(self.cx.early_at)));
            }
        }
    }

    /// Whether a worker has waited long enough, and if so whether for tasks with inputs elsewhere too. One
    /// that was fed before goes on until something fits again.
    fn is_hungry(&mut self, w: WorkerId) -> Option<bool> {
        let now = self.cx.now;
        let worker = self.cx.workers.get_mut(w.index())?.as_mut().filter(|x| x.status == Status::Running)?;
        if !worker.processing.is_empty() {
            return worker.is_fed.then_some(false);
        }
        let since = *worker.idle_since.get_or_insert(now);
        let (first, last) = (since.after(PATIENCE), since.after(MOVE_PATIENCE));
        let next: Option<Time> = [first, last].into_iter().find(|at| *at > now);
        self.feed_at = [self.feed_at, next].into_iter().flatten().min();
        (worker.is_fed || first <= now).then_some(last <= now)
    }

    /// Gives a worker the first held task that suits it; whether there was one.
    fn feed(&mut self, class: usize, w: WorkerId, anywhere: bool) -> bool {
        let (mut refused, mut fed) = (Vec::new(), false);
        while refused.len() < HELD_LOOKED_AT && !fed {
            let Some(entry) = self.cx.ready.classes[class].held.pop() else { break };
            match self.offer(class, entry, w, anywhere) {
                Offer::Taken => fed = true,
                Offer::Refused => refused.push(entry),
                Offer::Empty => {}
            }
        }
        self.cx.ready.classes[class].held.extend(refused);
        fed
    }

    fn offer(&mut self, class: usize, entry: Entry, w: WorkerId, anywhere: bool) -> Offer {
        let run = self.runs.get_mut(entry.task.run.index()).and_then(|r| r.as_mut());
        let Some(run) = run.filter(|run| run.cancelled.is_none()) else { return Offer::Refused };
        let i = match entry.as_pool() {
            Some(pool) => match run.urgent_root(pool, w, &self.cx) {
                Some(i) => i,
                None => return Offer::Refused,
            },
            None => entry.task.index,
        };
        let queued = run.state_of(i) == State::Queued;
        let Some(worker) = self.cx.worker(w) else { return Offer::Refused };
        if queued && !run.suits(worker, w, i, anywhere, self.cx.now) {
            return Offer::Refused;
        }
        let held = &mut self.cx.ready.classes[class].held;
        if let Some(pool) = entry.as_pool() {
            held.push(Entry { priority: run.pool_after(pool, i), ..entry });
        } else if entry.end > i + 1 {
            let (f, element) = run.place_of(i + 1);
            held.push(Entry { priority: run.priority(f, element), task: run.task(i + 1), end: entry.end });
        }
        if !queued {
            return Offer::Empty;
        }
        run.assign(&mut self.cx, i, w);
        if let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) {
            worker.is_fed = true;
        }
        Offer::Taken
    }
}

impl Run {
    /// Whether a held task may go to an idle worker although it does not fit there yet.
    pub(super) fn suits(&self, worker: &Worker, w: WorkerId, i: u32, anywhere: bool, now: Time) -> bool {
        let (f, element) = self.place_of(i);
        if self.is_full()
            // These have rules of their own.
            || self.trouble.contains_key(&i)
            || !worker.has_time(now, self.time_needed(f), self.families[f.index()].layer.slots)
            || !worker.fits_without_results(self.demand(f, element, w).adds)
        {
            return false;
        }
        let (held, _) = self.bytes_by_worker(f, element);
        let here = held.iter().find(|(x, _)| *x == w).map_or(0, |(_, bytes)| *bytes);
        anywhere || held.iter().all(|(_, bytes)| *bytes <= here)
    }
}
