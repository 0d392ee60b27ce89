//! Tasks that could run, whose results would do nothing but lie in memory for now. Where results go to disk
//! such a result goes there too, beside what it was made of, to be read again when its time has come. So it
//! waits: until all that is needed together with it can be made; and then until the worker where that is
//! needed has no earlier task to gather inputs for. Of those whose inputs can all be made the earliest never
//! waits for another, so something always goes on. Owns which tasks wait so, and for what; queues are in
//! `ready`.

use super::Core;
use super::cx::Cx;
use super::gather::Gathers;
use super::pinned::Pin;
use super::ready::Entry;
use super::run::Run;
use super::state::State;
use super::workers::Worker;
use crate::base::ids::WorkerId;
use crate::base::priority::Priority;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// Smaller results do not matter, bytes.
const SIZE_MIN: u64 = 256 << 10;

/// Tasks whose results more others need do not wait: it would be looked at each of these.
const USERS_MAX: usize = 4;

/// Nor do those that are needed together with more than so many.
const INPUTS_MAX: usize = 64;

/// A result is worth having at once if it leads to that of so many times as much being dropped.
const WORTH: u64 = 8;

/// Tasks that a worker gets at once that has had nothing else to do for long, and that are looked at for it.
const BURST_MAX: usize = 64;
const LOOKED_AT: usize = 256;

/// The inputs of a task.
pub(super) type Inputs = SmallVec<[u32; INPUTS_MAX]>;

/// What has to be ready before a task's result is of use: for each task that needs it, one of its other
/// inputs that cannot be made yet.
type Before = SmallVec<[u32; USERS_MAX]>;

/// What a result is good for.
enum Use {
    /// It is of use at once, or nothing is known against it.
    Now,
    /// It is of use to this task, the earliest whose other inputs can all be made.
    For(u32),
    /// It is of use to nobody before something happens to one of these.
    After(Before),
}

/// The same for one task that needs it.
enum Outlook {
    /// It has all else, or what the result costs is little beside what the task drops.
    Now,
    /// All else can be made.
    Open,
    /// It waits for one of these, which cannot be made yet.
    Before(Before),
}

/// The tasks of a run that wait.
#[derive(Default)]
pub(super) struct Early {
    /// All of them.
    waiting: BTreeSet<Entry>,
    /// Those that may have waited long enough once something happens to this task. Some do not wait any more.
    behind: FxHashMap<u32, SmallVec<[u32; 4]>>,
}

impl Early {
    /// All that wait.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.iter()
    }
}

impl Run {
    /// Lets a ready task wait if its result would be of no use yet. Whether it does.
    pub(super) fn put_off(&mut self, cx: &mut Cx, i: u32) -> bool {
        if !cx.spills {
            return false;
        }
        let before = match self.use_of(cx, i) {
            Use::Now => return false,
            Use::For(user) if !self.waits_its_turn(cx, i, user) => return false,
            Use::For(_) => Before::new(),
            Use::After(before) => before,
        };
        let entry = self.entry_of(i);
        cx.early += usize::from(self.early.waiting.insert(entry));
        before.into_iter().for_each(|j| self.early.behind.entry(j).or_default().push(i));
        true
    }

    pub(super) fn entry_of(&self, i: u32) -> Entry {
        let (f, element) = self.place_of(i);
        Entry { priority: self.priority(f, element), task: self.task(i), end: i + 1 }
    }

    fn use_of(&self, cx: &Cx, i: u32) -> Use {
        let (f, _) = self.place_of(i);
        let packed = self.state[i as usize];
        if packed.wanted() || packed.imported() || self.trouble.contains_key(&i) {
            return Use::Now;
        }
        let Some(size) = self.known_bytes(f).filter(|bytes| *bytes >= SIZE_MIN) else { return Use::Now };
        if !self.only_adds(cx, i, size) {
            return Use::Now;
        }
        let Some(users) = self.users_of(i) else { return Use::Now };
        let mut next: Option<(Priority, u32)> = None;
        let mut before = Before::new();
        for user in users {
            match self.outlook(user, i, size) {
                Outlook::Now => return Use::Now,
                Outlook::Before(first) => before.extend(first),
                Outlook::Open if self.has_turn(user) => return Use::Now,
                Outlook::Open => {
                    let place = (self.entry_of(user).priority, user);
                    next = Some(next.map_or(place, |first| first.min(place)));
                }
            }
        }
        match next {
            Some((_, user)) => Use::For(user),
            None if before.is_empty() => Use::Now,
            None => Use::After(before),
        }
    }

    /// The waiting tasks that need a result, if they are few.
    fn users_of(&self, i: u32) -> Option<Vec<u32>> {
        let (f, element) = self.place_of(i);
        let behind = self.edges.behind(f);
        if behind.len() > USERS_MAX {
            return None;
        }
        let mut users: Vec<u32> = Vec::new();
        for &(c, e) in behind {
            let edge = self.edges.get(c, e);
            if edge.gate().is_some() {
                return None;
            }
            if edge.data {
                self.dependents(f, element, (c, e), &mut users);
            }
        }
        users.extend(self.tree_parent(f, element));
        users.retain(|user| self.state_of(*user) == State::Waiting);
        users.sort_unstable();
        users.dedup();
        Some(users).filter(|users| users.len() <= USERS_MAX)
    }

    /// Whether a task frees less than it makes, where results go to disk. Tasks without inputs, and those
    /// that all elements of a family feed, do not count.
    fn only_adds(&self, cx: &Cx, i: u32, size: u64) -> bool {
        let (f, element) = self.place_of(i);
        let (mut frees, mut holder) = (0u64, None);
        for (e, edge) in (0..).zip(self.edges.of(f)).filter(|(_, e)| e.data) {
            if edge.gate().is_some() {
                return false;
            }
            self.each_input(f, element, e, |j| {
                holder = holder.or_else(|| self.holders(j).first().copied());
                if self.refs[j as usize] == 1 && self.stands_for(j).is_none() {
                    frees = frees.saturating_add(self.nbytes[j as usize]);
                }
            });
        }
        let holder = holder.and_then(|w| cx.worker(w));
        frees < size && holder.is_some_and(|worker| worker.memory.spilled > 0)
    }

    /// How far a waiting task is, one of whose inputs is task `i` with a result of `size` bytes.
    fn outlook(&self, user: u32, i: u32, size: u64) -> Outlook {
        let (f, element) = self.place_of(user);
        if self.needs_more_than(f, element, INPUTS_MAX) {
            return Outlook::Now;
        }
        let (g, part) = self.place_of(i);
        let mut own: SmallVec<[u32; USERS_MAX]> = SmallVec::new();
        (0..self.edges.count(g)).for_each(|e| self.each_input(g, part, e, |j| own.push(j)));
        // What only these two need.
        let is_last = |j: u32| self.refs[j as usize] <= 1 + u32::from(own.contains(&j));
        let (mut first, mut unmade, mut frees) = (None, 0u64, 0u64);
        for (e, edge) in (0..).zip(self.edges.of(f)) {
            if edge.gate().is_some() {
                return Outlook::Now;
            }
            self.each_input(f, element, e, |j| {
                match self.state_of(j) {
                    State::Waiting => first = first.or(Some(j)),
                    State::Memory if edge.data && is_last(j) => {
                        frees = frees.saturating_add(self.nbytes[j as usize]);
                    }
                    _ => {}
                }
                unmade += u64::from(j != i && self.state_of(j) != State::Memory);
            });
        }
        match first {
            // What it costs is less than what it sets free.
            _ if frees / WORTH >= size => Outlook::Now,
            Some(j) => Outlook::Before([j].into_iter().collect()),
            None => match self.before_result(user, frees, size.saturating_mul(unmade)) {
                before if !before.is_empty() => Outlook::Before(before),
                _ if unmade == 0 => Outlook::Now,
                _ => Outlook::Open,
            },
        }
    }

    /// What has to be there before the result of a waiting task is of use, if that has all its inputs soon:
    /// it sets `frees` bytes free, and `costs` bytes are still to be made for it. Nothing if it is at once.
    fn before_result(&self, user: u32, frees: u64, costs: u64) -> Before {
        let (f, _) = self.place_of(user);
        let packed = self.state[user as usize];
        let size = self.known_bytes(f).filter(|bytes| *bytes >= SIZE_MIN);
        let is_wanted = packed.wanted() || packed.imported() || self.trouble.contains_key(&user);
        // Not in any doubt.
        let adds = size.filter(|size| !is_wanted && frees < size.saturating_add(costs) / 2);
        let next = adds.and_then(|_| self.users_of(user)).unwrap_or_default();
        let firsts: Option<Before> = next.into_iter().map(|next| self.far_from(next, user)).collect();
        firsts.unwrap_or_default()
    }

    /// A task that has to be ready before all inputs of task `next` but one can be made, if there is any.
    fn far_from(&self, next: u32, but: u32) -> Option<u32> {
        let mut inputs = Inputs::new();
        self.few_inputs(next, &mut inputs)?;
        inputs.retain(|j| *j != but && self.state_of(*j) == State::Waiting);
        let mut behind = Inputs::new();
        for j in inputs {
            behind.clear();
            self.few_inputs(j, &mut behind)?;
            let far = behind.iter().find(|k| self.state_of(**k) == State::Waiting);
            if far.is_some() {
                return far.copied();
            }
        }
        None
    }

    /// The inputs of a task, if they are few.
    pub(super) fn few_inputs(&self, i: u32, inputs: &mut Inputs) -> Option<()> {
        let (f, element) = self.place_of(i);
        let is_gated = || self.edges.of(f).iter().any(|edge| edge.gate().is_some());
        if self.needs_more_than(f, element, INPUTS_MAX) || is_gated() {
            return None;
        }
        (0..self.edges.count(f)).for_each(|e| self.each_input(f, element, e, |j| inputs.push(j)));
        Some(())
    }

    /// Something has happened to a task: those that waited for it are looked at again.
    pub(super) fn look_behind(&mut self, cx: &mut Cx, j: u32) {
        self.end_turn(cx, j);
        let Some(waiting) = self.early.behind.remove(&j) else { return };
        cx.early_burst = 1;
        waiting.into_iter().for_each(|i| self.hurry(cx, i));
    }

    /// Somebody wants a task's result: it waits no more.
    pub(super) fn hurry(&mut self, cx: &mut Cx, i: u32) {
        let entry = self.entry_of(i);
        if self.early.waiting.remove(&entry) {
            cx.early -= 1;
            cx.again = true;
            cx.ready.push(self.families[self.place_of(i).0.index()].class, entry);
        }
    }

    /// Nothing waits any more: all are ready as others are.
    pub(super) fn end_waiting(&mut self, cx: &mut Cx) {
        self.gathers = Gathers::default();
        for entry in std::mem::take(&mut self.early).waiting {
            cx.early -= 1;
            let (f, _) = self.place_of(entry.task.index);
            cx.ready.push(self.families[f.index()].class, entry);
        }
    }
}

impl Core {
    /// A worker has had nothing to do for long: it gets some of what waits for better times and lies there,
    /// each time more if nothing else comes up. Whether anything suits it.
    pub(super) fn waste_no_time(&mut self, w: WorkerId) -> bool {
        let most = self.cx.early_burst.max(1);
        let mut given = 0;
        for run in self.runs.iter_mut().flatten() {
            let first: Vec<Entry> = run.early.waiting.iter().rev().take(LOOKED_AT).copied().collect();
            for entry in first {
                let i = entry.task.index;
                let queued = run.state_of(i) == State::Queued;
                let class = run.families[run.place_of(i).0.index()].class;
                let is_free = self.cx.ready.is_open(w, class) && matches!(run.pin_of(&self.cx, i), Pin::Free);
                let suits = |worker: &Worker| is_free && run.suits(worker, w, i, false, self.cx.now);
                if given == most || (queued && !self.cx.worker(w).is_some_and(suits)) {
                    continue;
                }
                run.early.waiting.remove(&entry);
                self.cx.early -= 1;
                if queued {
                    given += 1;
                    run.assign(&mut self.cx, i, w);
                }
            }
        }
        if given > 0 {
            self.cx.early_burst = (2 * most).min(BURST_MAX);
        }
        given > 0
    }

    /// Nobody has anything in hand. If nothing else is ready either, one task that waits for better times is
    /// held for want of memory from now on: for that there are rules. Whether there was one.
    pub(super) fn push_early(&mut self) -> bool {
        let classes = &self.cx.ready.classes;
        if self.cx.early == 0 || classes.iter().any(|class| !class.heap.is_empty() || !class.held.is_empty())
        {
            return false;
        }
        for run in self.runs.iter_mut().flatten() {
            let Some(entry) = run.early.waiting.pop_last() else { continue };
            self.cx.early -= 1;
            let class = run.families[run.place_of(entry.task.index).0.index()].class;
            self.cx.ready.classes[class as usize].held.push(entry);
            return true;
        }
        false
    }
}
