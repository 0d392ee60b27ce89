//! Who gets which ready task. Owns the decision and the hand-over to a worker; the queues are in `ready`,
//! taking work back is `steal`'s.

use super::Core;
use super::action::{Assigned, Input};
use super::admit::WORKERS_LOOKED_AT;
use super::cx::Cx;
use super::pinned::Pin;
use super::ready::{Entry, Pile};
use super::run::{Run, Trouble};
use super::state::State;
use super::workers::{InHand, Status, UNKNOWN_DURATION_NS, Worker};
use crate::base::failure::Failure;
use crate::base::ids::{Attempt, FamilyIx, TaskRef, WorkerId};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Assumed speed of moving results between workers, bytes a second.
const BANDWIDTH: u64 = 500_000_000;
/// Assumed cost of a transfer however small.
const LATENCY: Duration = Duration::from_micros(500);
/// How often what is ready is looked through at once, at most.
const ROUNDS_MAX: usize = 16;
/// Inputs looked at when choosing a worker; of more, an even sample.
const INPUTS_LOOKED_AT: usize = 32;
/// How long, and how often, a task waits for a host other than the one it failed on.
const AVOID_DELAY: Duration = Duration::from_millis(200);
const AVOID_MAX: u32 = 50;

/// How long a worker has nothing to do before it takes what waits for one whose results go to disk.
const SHARE_PATIENCE: Duration = Duration::from_millis(30);

/// What takes longer to move waits for its holder as long as others have work of their own.
pub(super) const BULKY: Duration = Duration::from_millis(2);

/// How long moving so many bytes between two workers takes.
pub(super) fn moving(bytes: u64) -> Duration {
    LATENCY + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / BANDWIDTH)
}

enum Place {
    Here(WorkerId),
    /// Wait for this worker.
    Local(WorkerId),
    /// Look again later.
    Later,
    /// Nobody has the memory, or the time.
    Stays(Pile),
    /// Its result would be of no use yet.
    Early,
    /// It can never run.
    Never(Arc<Failure>),
}

impl Core {
    /// Hands out work until no worker has room or nothing is ready.
    pub(super) fn schedule(&mut self) {
        self.serve_alone();
        self.serve_gangs();
        for _ in 0..ROUNDS_MAX {
            let changed = self.cx.refresh();
            changed.iter().for_each(|w| self.serve_local(*w, true));
            self.hand_out();
            self.cx.again = false;
            changed.iter().for_each(|w| self.serve_local(*w, false));
            self.share_local();
            self.retry_held();
            self.feed_idle();
            if self.cx.in_hand == 0 {
                // They let others go before, and there was nothing.
                self.serve_gangs();
            }
            // What waited for one of those that were just given out may go on, or be shared.
            if !self.cx.again {
                break;
            }
        }
        self.steal();
    }

    fn hand_out(&mut self) {
        while let Some(class) = self.cx.ready.next_class() {
            let Some(entry) = self.cx.ready.classes[class].heap.pop() else { break };
            self.dispatch(class, entry);
        }
    }

    /// Gives a worker its own waiting tasks; `urgent` ones are those that come before all that wait for any
    /// worker.
    fn serve_local(&mut self, w: WorkerId, urgent: bool) {
        while let Some(entry) = self.cx.worker(w).and_then(|x| x.local.last().copied()) {
            let Some((run, class)) = self.queued(entry.task) else {
                self.drop_local(w, entry);
                continue;
            };
            let first = self.cx.ready.classes[class as usize].heap.peek();
            if !self.cx.ready.is_open(w, class) || (urgent && first.is_some_and(|f| *f > entry)) {
                break;
            }
            self.drop_local(w, entry);
            self.place_local(run, class, entry, w);
        }
    }

    /// Gives a task to this worker, which has room, or to another that also has the memory.
    fn place_local(&mut self, run: usize, class: u32, entry: Entry, w: WorkerId) {
        let Some(run) = self.runs[run].as_mut() else { return };
        if run.is_full() {
            run.parked.entry(class).or_default().push(entry);
            return;
        }
        match run.admitted(&self.cx, class as usize, entry.task.index, w) {
            Ok(w) => run.assign(&mut self.cx, entry.task.index, w),
            Err(pile) => self.cx.ready.classes[class as usize].pile(pile).push(entry),
        }
    }

    fn drop_local(&mut self, w: WorkerId, entry: Entry) {
        self.change_local(w, |local| {
            local.remove(&entry);
        });
    }

    fn push_local(&mut self, w: WorkerId, entry: Entry) {
        self.cx.again = true;
        self.change_local(w, |local| {
            local.insert(entry);
        });
    }

    /// Changes a worker's own queue and lists it by its length.
    fn change_local(&mut self, w: WorkerId, change: impl FnOnce(&mut BTreeSet<Entry>)) {
        let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) else { return };
        self.cx.ready.local.remove(&(worker.local.len(), w));
        change(&mut worker.local);
        if !worker.local.is_empty() {
            self.cx.ready.local.insert((worker.local.len(), w));
        }
    }

    /// The run's position and the class of a task, if it is queued.
    fn queued(&self, task: TaskRef) -> Option<(usize, u32)> {
        let run = self.run(task.run)?;
        if !run.has(task.index) || run.state_of(task.index) != State::Queued {
            return None;
        }
        Some((task.run.index(), run.families[run.place_of(task.index).0.index()].class))
    }

    /// Places the first task of an entry and puts the rest of the stretch back; returns the pile to which it
    /// was added instead, if it was.
    pub(super) fn dispatch(&mut self, class: usize, entry: Entry) -> Option<Pile> {
        let run = self.runs.get_mut(entry.task.run.index()).and_then(|r| r.as_mut())?;
        if let Some(pool) = entry.as_pool() {
            return run.dispatch_root(&mut self.cx, class, pool);
        }
        let i = entry.task.index;
        let queued = run.state_of(i) == State::Queued;
        if queued && run.is_full() {
            run.parked.entry(class as u32).or_default().push(entry);
            return None;
        }
        let place = match queued {
            true if run.put_off(&mut self.cx, i) => Place::Early,
            true => run.choose(&mut self.cx, class, i),
            false => Place::Later,
        };
        if !matches!(place, Place::Here(_)) {
            // It was let through because the run may hand out one more: another may take that place.
            run.unpark(&mut self.cx);
        }
        if queued && let Place::Stays(pile) = place {
            self.cx.ready.classes[class].pile(pile).push(entry);
            return Some(pile);
        }
        if entry.end > i + 1 && run.cancelled.is_none() {
            let next = i + 1;
            let (f, element) = run.place_of(next);
            let rest = Entry { priority: run.priority(f, element), task: run.task(next), end: entry.end };
            self.cx.ready.push(class as u32, rest);
        }
        if !queued {
            return None;
        }
        match place {
            Place::Here(w) => run.assign(&mut self.cx, i, w),
            Place::Local(w) => self.push_local(w, Entry { end: i + 1, ..entry }),
            Place::Later => {
                run.set_state(&mut self.cx, i, State::Delayed);
                let until = self.cx.now.after(AVOID_DELAY);
                self.cx.delayed.insert((until, entry.task));
            }
            Place::Never(failure) => run.give_up(&mut self.cx, i, failure),
            Place::Stays(_) | Place::Early => {}
        }
        None
    }

    /// Workers with nothing to do take what waits for others, where that is worth moving its inputs.
    fn share_local(&mut self) {
        self.share_at = None;
        while let Some(&(_, from)) = self.cx.ready.local.last() {
            // The last of them: the first ones will soon run where their inputs are.
            let Some(entry) = self.cx.worker(from).and_then(|x| x.local.first().copied()) else { break };
            let Some((run, class)) = self.queued(entry.task) else {
                self.drop_local(from, entry);
                continue;
            };
            let idle = self.cx.ready.classes[class as usize].open.first().copied();
            let Some((_, to)) = idle.filter(|(_, to)| self.cx.worker(*to).is_some_and(|w| w.backlog() == 0))
            else {
                break;
            };
            let fits = |run: &Run| run.fits(&self.cx, entry.task.index, to);
            if !self.runs[run].as_deref().is_some_and(fits)
                || !self.is_worth_moving(run, entry.task.index, from, to)
                || !self.has_waited(from, to)
            {
                break;
            }
            self.drop_local(from, entry);
            self.place_local(run, class, entry, to);
        }
    }

    /// Whether a worker is to take what waits for another. Where results go to disk, what moves makes others
    /// leave: not before the worker has had nothing at all to do for a while.
    fn has_waited(&mut self, from: WorkerId, to: WorkerId) -> bool {
        let is_spilling = self.cx.worker(from).is_some_and(|w| w.memory.spilled > 0);
        if !is_spilling {
            return true;
        }
        let Some(worker) = self.cx.worker(to).filter(|w| w.processing.is_empty()) else { return false };
        let at = worker.progress.after(SHARE_PATIENCE);
        if at > self.cx.now {
            self.share_at = Some(self.share_at.map_or(at, |before| before.min(at)));
        }
        at <= self.cx.now
    }

    /// Whether a task that waits for one worker would be done sooner by another, its inputs moved there.
    fn is_worth_moving(&self, run: usize, i: u32, from: WorkerId, to: WorkerId) -> bool {
        let Some(run) = self.runs[run].as_deref() else { return true };
        if !matches!(run.pin_of(&self.cx, i), Pin::Free) {
            return false;
        }
        let Some(worker) = self.cx.worker(from).filter(|w| w.status == Status::Running) else { return true };
        let (f, element) = run.place_of(i);
        let (held, total) = run.bytes_by_worker(f, element);
        let there = held.iter().find(|(w, _)| *w == to).map_or(0, |(_, b)| *b);
        let each = run.expected_ns(f).unwrap_or(UNKNOWN_DURATION_NS);
        let slots = u64::from(worker.spec.slots / crate::graph::layer::SLOT).max(1);
        let queue = Duration::from_nanos(each.saturating_mul(worker.local.len() as u64) / slots);
        worker.wait() + queue > moving(total - there)
    }
}

impl Run {
    /// The worker for a queued task of a class that has at least one open worker.
    fn choose(&mut self, cx: &mut Cx, class: usize, i: u32) -> Place {
        match self.pin_of(cx, i) {
            Pin::Free => {}
            Pin::Nowhere(why) => return Place::Never(why),
            Pin::To(w) if Run::must_wait_for(cx, w) => return Place::Later,
            Pin::To(w) if cx.ready.is_open(w, class as u32) || cx.in_hand == 0 => {
                return if self.fits(cx, i, w) { Place::Here(w) } else { Place::Stays(Pile::Held) };
            }
            Pin::To(w) => return Place::Local(w),
        }
        match self.prefer(cx, class, i) {
            Place::Here(w) => self.admitted(cx, class, i, w).map_or_else(Place::Stays, Place::Here),
            place => place,
        }
    }

    /// Gives the next root of a pool to a worker that has room, memory and time; returns the pile to which
    /// the pool was added instead, if it was.
    fn dispatch_root(&mut self, cx: &mut Cx, class: usize, pool: u32) -> Option<Pile> {
        if self.cancelled.is_some() {
            return None;
        }
        let open: SmallVec<[WorkerId; WORKERS_LOOKED_AT]> =
            cx.ready.classes[class].open.iter().map(|(_, w)| *w).take(WORKERS_LOOKED_AT).collect();
        let entry = Entry::pool(self.id, pool, self.pool_priority(pool));
        let mut pile = Pile::Late;
        for w in open {
            let i = self.next_root(pool, w, cx)?;
            if self.fits(cx, i, w) {
                let priority = self.pool_after(pool, i);
                cx.ready.push(class as u32, Entry { priority, ..entry });
                self.assign(cx, i, w);
                return None;
            }
            if !self.is_late(cx, class, i) {
                pile = Pile::Held;
            }
        }
        cx.ready.classes[class].pile(pile).push(entry);
        Some(pile)
    }

    /// The worker that is best for a task, memory apart.
    fn prefer(&mut self, cx: &mut Cx, class: usize, i: u32) -> Place {
        let Some(&(_, idlest)) = cx.ready.classes[class].open.first() else { return Place::Later };
        if self.trouble.get(&i).is_some_and(|t| !t.lost.is_empty()) {
            return self.choose_apart(cx, class);
        }
        if self.trouble.get(&i).is_some_and(|t| !t.hosts.is_empty()) {
            return self.choose_avoiding(cx, class, i);
        }
        let (f, element) = self.place_of(i);
        if self.edges.of(f).iter().all(|e| !e.data) {
            return Place::Here(idlest);
        }
        let (held, total) = self.bytes_by_worker(f, element);
        let Some(&(holder, there)) = held.iter().max_by_key(|(_, bytes)| *bytes) else {
            return Place::Here(idlest);
        };
        if let Some(met) = self.meeting_place(cx, i, (&held, total), holder) {
            return if cx.ready.is_open(met, class as u32) { Place::Here(met) } else { Place::Local(met) };
        }
        let away = |x| moving(total - held.iter().find(|(w, _)| *w == x).map_or(0, |(_, b)| *b));
        if cx.ready.is_open(holder, class as u32) && !cx.is_better_off(idlest, holder, || away(idlest)) {
            if held.len() == 1 {
                return Place::Here(holder);
            }
            // Between holders of about as much, the one with less to do.
            let close = held.iter().filter(|(_, b)| b.saturating_add(there / 8) >= there);
            let open = close.filter(|(w, _)| cx.ready.is_open(*w, class as u32));
            let best = open.min_by_key(|(w, b)| (cx.worker(*w).map_or(u64::MAX, |x| x.load()), total - b));
            return Place::Here(best.map_or(holder, |(w, _)| *w));
        }
        let moving = away(idlest);
        let layer = &self.families[f.index()].layer;
        let able = |w: &&Worker| w.status == Status::Running && w.could_run(layer.slots, &layer.resources);
        match cx.worker(holder).filter(able) {
            Some(w) if moving > BULKY || w.wait() + LATENCY < moving => Place::Local(holder),
            _ => Place::Here(idlest),
        }
    }

    /// How many bytes of an element's inputs each worker holds, and all of them. Large numbers are sampled.
    pub(super) fn bytes_by_worker(&self, f: FamilyIx, element: u32) -> (SmallVec<[(WorkerId, u64); 8]>, u64) {
        let mut held: SmallVec<[(WorkerId, u64); 8]> = SmallVec::new();
        let mut total = 0u64;
        for (e, edge) in (0..).zip(self.edges.of(f)) {
            if !edge.data {
                continue;
            }
            let n = match edge.gate() {
                Some(_) => self.exports(edge.producer) as usize,
                None => self.input_count(f, element, e),
            };
            let step = n.div_ceil(INPUTS_LOOKED_AT).max(1);
            let mut look = |j: u32| {
                // Even an empty result is worth being near to.
                let bytes = self.nbytes[j as usize].saturating_add(1).saturating_mul(step as u64);
                total = bytes.saturating_add(total);
                for w in self.holders(j) {
                    match held.iter_mut().find(|(x, _)| *x == w) {
                        Some((_, sum)) => *sum = sum.saturating_add(bytes),
                        None => held.push((w, bytes)),
                    }
                }
            };
            if edge.gate().is_some() {
                (0..n as u32).step_by(step).for_each(|j| look(self.export(edge.producer, j)));
            } else {
                let mut k = 0;
                self.each_input(f, element, e, |j| {
                    if k % step == 0 {
                        look(j);
                    }
                    k += 1;
                });
            }
        }
        (held, total)
    }

    /// Tasks under which a worker was lost run one to a worker, so that the next loss tells which of them it
    /// was.
    fn choose_apart(&self, cx: &Cx, class: usize) -> Place {
        let apart = |w: WorkerId| cx.worker(w).is_some_and(|x| x.suspects == 0);
        let open = &cx.ready.classes[class].open;
        open.iter().find(|&&(_, w)| apart(w)).map_or(Place::Later, |&(_, w)| Place::Here(w))
    }

    /// A task that failed goes to another host if there is one, waiting a little for it.
    fn choose_avoiding(&mut self, cx: &mut Cx, class: usize, i: u32) -> Place {
        let Some(trouble) = self.trouble.get_mut(&i) else { return Place::Later };
        let avoided = |w: WorkerId| cx.worker(w).is_some_and(|x| trouble.hosts.contains(&x.spec.host));
        let open = &cx.ready.classes[class].open;
        if let Some(&(_, w)) = open.iter().find(|&&(_, w)| !avoided(w)) {
            return Place::Here(w);
        }
        let class = &cx.ready.classes[class];
        let elsewhere = cx.workers.iter().flatten().any(|w| {
            w.status == Status::Running
                && w.could_run(class.slots, &class.resources)
                && !trouble.hosts.contains(&w.spec.host)
        });
        if elsewhere && trouble.deferred < AVOID_MAX {
            trouble.deferred += 1;
            return Place::Later;
        }
        open.first().map_or(Place::Later, |&(_, w)| Place::Here(w))
    }

    /// How long an element of a family executes, as far as is known.
    pub(super) fn expected_ns(&self, f: FamilyIx) -> Option<u64> {
        self.known_ns(f).or_else(|| self.stats.duration_ns.max(self.overdue_ns(f)))
    }

    /// Hands a queued task to a worker.
    pub(super) fn assign(&mut self, cx: &mut Cx, i: u32, w: WorkerId) {
        let (f, element) = self.place_of(i);
        let task = self.task(i);
        self.attempt[i as usize] += 1;
        self.worker[i as usize] = w.0;
        self.set_state(cx, i, State::Processing);
        let family = &self.families[f.index()];
        let known_ns = self.expected_ns(f);
        let demand = self.demand(f, element, w);
        let members = cx.members_of(task);
        let pinned = matches!(self.pin_of(cx, i), Pin::To(_));
        // A task with several workers has each of them whole.
        let slots = members.first().map_or(family.layer.slots, |first| first.slots);
        cx.in_hand += 1;
        let hand = InHand {
            slots,
            expected_ns: known_ns.unwrap_or(UNKNOWN_DURATION_NS),
            class: family.class,
            started: None,
            // What has workers to itself stays where that was arranged, as does what can run nowhere else.
            stealing: self.must_be_alone(i) || !members.is_empty() || pinned,
            suspect: self.trouble.get(&i).is_some_and(|t| !t.lost.is_empty()),
            keep: self.refs[i as usize] > 0,
            reserved: demand.adds,
            result: demand.result,
            away: false,
        };
        if let Some(worker) = cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) {
            worker.give(task, hand, &family.layer.resources);
            worker.is_fed &= demand.adds <= demand.frees;
            if known_ns.is_none() {
                worker.guessed.push(task);
            }
        }
        let tries = self.trouble.get(&i).map_or(0, Trouble::tries);
        let attempt = Attempt { epoch: cx.epoch, n: self.attempt[i as usize] };
        let priority = self.priority(f, element);
        let batch = cx.batch(w);
        let edges = (0..).zip(self.edges.of(f)).filter(|(_, e)| e.data);
        for (ordinal, (e, edge)) in (0..).zip(edges) {
            let mut add = |j: u32| {
                batch.holders.extend(self.holders(j));
                batch.inputs.push(Input {
                    task: self.origin(j),
                    nbytes: self.nbytes[j as usize],
                    edge: ordinal,
                    holders_end: batch.holders.len() as u32,
                });
            };
            if edge.gate().is_some() {
                (0..self.exports(edge.producer)).for_each(|j| add(self.export(edge.producer, j)));
            } else {
                self.each_input(f, element, e, add);
            }
        }
        if !members.is_empty() {
            batch.gangs.push((batch.tasks.len() as u32, members));
        }
        batch.tasks.push(Assigned {
            task,
            attempt,
            tries,
            family: f,
            element,
            priority,
            slots,
            keep: self.refs[i as usize] > 0,
            inputs_end: batch.inputs.len() as u32,
        });
        cx.relist(w);
    }
}
