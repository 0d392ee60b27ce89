//! Admission by bytes: work that only adds results is given to a worker while what it holds, what is on its
//! way to it and what it is expected to make stay under its target; work that frees more than it makes always
//! is. Admission by time: no work is given to a worker that leaves before it would be done. Owns these rules
//! and the one that keeps memory from stopping everything; who is asked first is in `place`.

use super::Core;
use super::cx::Cx;
use super::pinned::Pin;
use super::ready::{Class, Entry, Pile};
use super::run::{Run, Usual};
use super::state::State;
use super::workers::{Status, Worker};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{FamilyIx, WorkerId};
use crate::base::time::Time;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// Open workers looked at, besides the preferred one, for one that has the memory.
pub(super) const WORKERS_LOOKED_AT: usize = 8;
/// Held tasks looked at when memory may have become free.
const HELD_LOOKED_AT: usize = 4;

/// So many bytes of inputs may move for the sake of memory, however small the result.
const MOVED_MIN: u64 = 1 << 20;

/// More than any task needs: sums of what is set aside stay far from overflowing, whatever workers claim.
const DEMAND_MAX: u64 = 1 << 44;

/// What a task does to the memory of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Bytes it adds: inputs that have to come, its result, memory it declared.
    pub(super) adds: u64,
    /// Of these, its result.
    pub(super) result: u64,
    /// Bytes there that nobody needs any more once it is done.
    pub(super) frees: u64,
}

impl Run {
    /// Size of an element's result, as far as is known or declared.
    pub(super) fn expected_bytes(&self, f: FamilyIx) -> Option<u64> {
        self.known_bytes(f).or(self.stats.result_bytes)
    }

    /// The same, as far as it is declared or its like have been seen.
    pub(super) fn known_bytes(&self, f: FamilyIx) -> Option<u64> {
        let family = &self.families[f.index()];
        let usual = || self.usual(f).map(|usual| usual.result_bytes);
        family.result_bytes.or(family.layer.output_size).or_else(usual)
    }

    /// What others of its group came to, for a task that is a family by itself.
    fn usual(&self, f: FamilyIx) -> Option<&Usual> {
        self.usual.get(&self.families[f.index()].group)
    }

    /// How long an element of a family executes, as far as its like have been seen.
    pub(super) fn known_ns(&self, f: FamilyIx) -> Option<u64> {
        let usual = || self.usual(f).map(|usual| usual.duration_ns);
        self.families[f.index()].duration_ns.or_else(usual)
    }

    /// What element `element` does to the memory of worker `w`.
    pub(super) fn demand(&self, f: FamilyIx, element: u32, w: WorkerId) -> Demand {
        let i = self.index_of(f, element);
        let declared = self.declared_memory(i);
        let result = self.expected_bytes(f).unwrap_or(0).min(DEMAND_MAX);
        let mut demand = Demand { adds: result.saturating_add(declared).min(DEMAND_MAX), result, frees: 0 };
        for (e, edge) in (0..).zip(self.edges.of(f)).filter(|(_, e)| e.data) {
            let last = edge.gate().is_none_or(|gate| gate.unfinished == 1);
            let mut look = |j: u32| {
                let nbytes = self.nbytes[j as usize];
                if !self.is_held_by(j, w) {
                    demand.adds = demand.adds.saturating_add(nbytes).min(DEMAND_MAX);
                } else if last && self.refs[j as usize] == 1 && self.stands_for(j).is_none() {
                    demand.frees = demand.frees.saturating_add(nbytes);
                }
            };
            if edge.gate().is_some() {
                (0..self.exports(edge.producer)).for_each(|j| look(self.export(edge.producer, j)));
            } else {
                self.each_input(f, element, e, look);
            }
        }
        demand
    }

    /// Memory that a task says it needs while it executes, bytes; the list goes by attempt.
    pub(super) fn declared_memory(&self, i: u32) -> u64 {
        let declared = &self.families[self.place_of(i).0.index()].layer.memory;
        let tries = self.trouble.get(&i).map_or(0, |t| t.tries() as usize);
        declared.get(tries).or(declared.last()).copied().unwrap_or(0)
    }

    fn is_held_by(&self, j: u32, w: WorkerId) -> bool {
        self.worker[j as usize] == w.0
            || (!self.replicas.is_empty() && self.replicas.get(&j).is_some_and(|r| r.contains(&w)))
    }

    /// The preferred worker if it has the memory and the time for a task, else another open one that has.
    pub(super) fn admitted(&self, cx: &Cx, class: usize, i: u32, w: WorkerId) -> Result<WorkerId, Pile> {
        match self.pin_of(cx, i) {
            Pin::Free => {}
            Pin::To(pin) if pin == w && self.fits(cx, i, w) => return Ok(w),
            _ => return Err(Pile::Held),
        }
        if self.is_late(cx, class, i) {
            return Err(Pile::Late);
        }
        if self.fits(cx, i, w) {
            return Ok(w);
        }
        let (f, element) = self.place_of(i);
        let demand = self.demand(f, element, w);
        let bound = demand.adds.saturating_add(demand.result.max(MOVED_MIN));
        // Inputs that move fill memory there and are still here: no more of them than the result.
        let is_near = |x: &WorkerId| self.demand(f, element, *x).adds <= bound;
        let others = cx.ready.classes[class].open.iter().map(|(_, w)| *w).filter(|x| *x != w);
        others.take(WORKERS_LOOKED_AT).find(|x| self.fits(cx, i, *x) && is_near(x)).ok_or(Pile::Held)
    }

    /// Whether every worker that has room leaves before a task would be done.
    pub(super) fn is_late(&self, cx: &Cx, class: usize, i: u32) -> bool {
        let open = &cx.ready.classes[class].open;
        let stays = |w: WorkerId| cx.worker(w).is_some_and(|w| w.spec.leaves.is_none());
        if open.first().is_some_and(|(_, w)| stays(*w)) {
            return false;
        }
        let (f, _) = self.place_of(i);
        let need = self.time_needed(f);
        let in_time = |w: WorkerId| cx.worker(w).is_some_and(|w| w.has_time(cx.now, need, self.slots(f)));
        need.is_some() && !open.iter().any(|(_, w)| in_time(*w))
    }

    /// Whether a worker has the memory and the time for a task.
    pub(super) fn fits(&self, cx: &Cx, i: u32, w: WorkerId) -> bool {
        let Some(worker) = cx.worker(w) else { return false };
        let (f, element) = self.place_of(i);
        if worker.spec.leaves.is_some() && !worker.has_time(cx.now, self.time_needed(f), self.slots(f)) {
            return false;
        }
        let Some(headroom) = worker.headroom() else { return true };
        let demand = self.demand(f, element, w);
        demand.adds <= demand.frees || demand.adds + worker.margin(demand.result) <= headroom
    }

    fn slots(&self, f: FamilyIx) -> u32 {
        self.families[f.index()].layer.slots
    }

    /// How long an element of a family may take: its time limit, and where others of the family have ended
    /// twice as long as they took, if that is less. `None` if nothing is known.
    pub(super) fn time_needed(&self, f: FamilyIx) -> Option<Duration> {
        let family = &self.families[f.index()];
        let usual = self.known_ns(f).map(|ns| Duration::from_nanos(ns.saturating_mul(2)));
        let limit = family.layer.time_limit_ms.map(Duration::from_millis);
        usual.into_iter().chain(limit).min()
    }
}

impl Worker {
    /// Whether a task that takes this long would be done before the worker leaves.
    pub(super) fn has_time(&self, now: Time, need: Option<Duration>, slots: u32) -> bool {
        let (Some(leaves), Some(need)) = (self.spec.leaves, need) else { return true };
        let at_once = self.slots_in_hand + u64::from(slots) <= u64::from(self.spec.slots);
        let begin = if at_once { now } else { now.after(self.wait()) };
        begin.after(need) <= leaves
    }
}

impl Core {
    /// Looks again at tasks that were held back for memory, the first ones first; and if nothing at all is in
    /// anybody's hands, lets one of them go ahead whatever it takes.
    pub(super) fn retry_held(&mut self) {
        if std::mem::take(&mut self.cx.relief) {
            for class in 0..self.cx.ready.classes.len() {
                self.retry_class(class, Pile::Late);
                self.retry_class(class, Pile::Held);
            }
        }
        while self.cx.in_hand == 0 && (self.push_one() || self.push_early()) {}
    }

    fn retry_class(&mut self, class: usize, pile: Pile) {
        let (mut failed, mut moved) = (Vec::new(), 0);
        while failed.len() + moved < HELD_LOOKED_AT && !self.cx.ready.classes[class].open.is_empty() {
            let Some(entry) = self.cx.ready.classes[class].pile(pile).pop() else { break };
            match self.dispatch(class, entry) {
                // It went back to where it was taken from: out of the way until the others were looked at.
                Some(to) if to == pile => failed.extend(self.cx.ready.classes[class].pile(pile).pop()),
                Some(_) => moved += 1,
                None => self.place_rest(class),
            }
        }
        self.cx.ready.classes[class].pile(pile).extend(failed);
    }

    /// The rest of a stretch whose first element has just been placed waits in the heap.
    fn place_rest(&mut self, class: usize) {
        while !self.cx.ready.classes[class].open.is_empty() {
            let Some(entry) = self.cx.ready.classes[class].heap.pop() else { return };
            self.dispatch(class, entry);
        }
    }

    /// How many bytes of the inputs of an entry's first task each worker holds.
    fn inputs_of(&self, entry: &Entry) -> SmallVec<[(WorkerId, u64); 8]> {
        let run = self.run(entry.task.run).filter(|_| entry.as_pool().is_none());
        run.map_or_else(SmallVec::new, |run| {
            let (f, element) = run.place_of(entry.task.index);
            run.bytes_by_worker(f, element).0
        })
    }

    /// Lets the first held task run alone above every threshold. Returns whether there is reason to look
    /// again.
    fn push_one(&mut self) -> bool {
        let able_for = |w: &Worker, class: &Class| {
            w.status != Status::Retiring && w.could_run(class.slots, &class.resources)
        };
        let runs = |class: &Class| self.cx.workers.iter().flatten().any(|w| able_for(w, class));
        let classes = self.cx.ready.classes.iter().enumerate();
        // With every worker paused nobody has looked at what is ready.
        let ready = |class: &Class| class.held.peek().max(class.heap.peek()).copied();
        let heads = classes.filter_map(|(c, class)| Some((ready(class).filter(|_| runs(class))?, c)));
        let Some((entry, class)) = heads.max() else { return false };
        let now = self.cx.now;
        let need = self.run(entry.task.run).and_then(|r| r.time_needed(r.family_of(&entry)?));
        let able = |w: &&Worker| {
            let class = &self.cx.ready.classes[class];
            able_for(w, class) && w.has_time(now, need, class.slots)
        };
        // A paused worker is as good as none, but better than waiting for ever.
        let inputs = self.inputs_of(&entry);
        let worth = |w: &Worker, id: WorkerId| {
            let here = inputs.iter().find(|(x, _)| *x == id).map_or(0, |(_, bytes)| *bytes);
            (w.status == Status::Running, here, w.headroom().unwrap_or(u64::MAX))
        };
        let all = self.cx.workers.iter().enumerate();
        let able_ones = all.filter_map(|(k, w)| Some((w.as_ref().filter(able)?, WorkerId(k as u32))));
        let Some((_, w)) = able_ones.max_by_key(|(w, id)| worth(w, *id)) else { return false };
        let limits =
            self.cx.workers.iter().flatten().filter(able).map(|w| w.spec.memory_limit.unwrap_or(u64::MAX));
        let limit = limits.max().unwrap_or(u64::MAX);
        let queues = &mut self.cx.ready.classes[class];
        let was_held = queues.held.peek() == Some(&entry);
        if was_held {
            queues.held.pop()
        } else {
            queues.heap.pop()
        };
        let Some(run) = self.runs.get_mut(entry.task.run.index()).and_then(|r| r.as_mut()) else {
            return true;
        };
        let i = match entry.as_pool() {
            Some(_) if run.cancelled.is_some() => return true,
            Some(pool) => {
                let Some(i) = run.urgent_root(pool, w, &self.cx) else { return true };
                let priority = run.pool_after(pool, i);
                self.cx.ready.classes[class].held.push(Entry { priority, ..entry });
                i
            }
            None => entry.task.index,
        };
        if entry.end > i + 1 && run.cancelled.is_none() {
            let (f, element) = run.place_of(i + 1);
            let rest = Entry { priority: run.priority(f, element), task: run.task(i + 1), end: entry.end };
            self.cx.ready.classes[class].held.push(rest);
        }
        if run.state_of(i) != State::Queued {
            return true;
        }
        let declared = run.declared_memory(i);
        if declared > limit {
            let words =
                format!("it declares {declared} bytes of memory, the largest worker's limit is {limit}");
            run.give_up(&mut self.cx, i, Arc::new(Failure::of(FailureKind::Impossible(words))));
            return true;
        }
        let w = match run.pin_of(&self.cx, i) {
            Pin::Free => w,
            Pin::To(pin) => pin,
            Pin::Nowhere(why) => {
                run.give_up(&mut self.cx, i, why);
                return true;
            }
        };
        run.assign(&mut self.cx, i, w);
        false
    }
}
