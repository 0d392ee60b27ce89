//! Room for results: what tasks are expected to make, which of them wait until there is room for it, and
//! which copies of others' results could go. Owns these figures; how much room there is it is told.

use super::Core;
use super::data::Datum;
use super::event::{Action, Kin};
use super::tasks::{Hand, Ranked};
use crate::base::ids::{Attempt, RunId, TaskRef, WorkerId};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeMap;

/// Tasks whose results are expected to be smaller start without asking for room.
const SMALL_BYTES: u64 = 256 << 10;

/// Tasks that are passed over for want of room while one is looked for that needs none.
const HELD_MAX: usize = 64;

/// More than any task needs: sums stay far from overflowing, whatever is claimed.
const BYTES_MAX: u64 = 1 << 44;

/// Beyond so many bytes what was seen of a family is slowly forgotten.
const MEMORY_BYTES: u64 = 1 << 34;

/// Families and names of calls that are remembered when a run is over.
const HABITS_MAX: usize = 10_000;

/// What a task is expected to do to memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// It makes so much; 0 as long as nothing is known.
    makes: u64,
    /// The same without those inputs in memory that are dropped after it.
    adds: i64,
}

/// What is known of a family, bytes.
#[derive(Clone, Copy, Default)]
struct Habits {
    /// What its tasks make: the most, slowly forgotten.
    makes: u64,
    /// Inputs that nobody here used any more after its tasks.
    left: u64,
    /// Those of them that were dropped then: nobody anywhere needed them.
    freed: u64,
    /// Results of its tasks so far.
    made: u64,
    /// Those that were dropped without ever leaving memory.
    brief: u64,
    /// Those that were dropped at all.
    dropped: u64,
    /// Those that are in memory.
    held: u64,
}

impl Habits {
    /// Whether its tasks usually are the last to need their inputs.
    fn frees(&self) -> bool {
        self.freed > self.left / 2
    }

    /// Whether its tasks' results usually are dropped soon.
    fn is_brief(&self) -> bool {
        self.brief > self.made / 2
    }
}

/// The figures.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that tasks which start may still add; `None` if nothing bounds it.
    left: Option<i64>,
    /// Ready tasks that wait for room.
    pub(super) held: Vec<Ranked>,
    habits: IndexMap<Kin, Habits, FxBuildHasher>,
    /// What the executing tasks are expected to add, bytes.
    executing: i64,
    /// What fetches under way are to bring, bytes.
    coming: IndexMap<TaskRef, u64, FxBuildHasher>,
    coming_bytes: u64,
    /// Copies of results that no task in hand needs, the longest unneeded first.
    spare: BTreeMap<u64, TaskRef>,
    spares: u64,
}

impl Room {
    /// Takes note of what a task has made.
    pub(super) fn learn(&mut self, kin: Kin, bytes: u64) {
        let habits = self.habits.entry(kin).or_default();
        if habits.made > MEMORY_BYTES {
            (habits.made, habits.brief) = (habits.made / 2, habits.brief / 2);
            habits.dropped /= 2;
        }
        habits.made += bytes.min(BYTES_MAX);
        let makes = &mut habits.makes;
        *makes = bytes.min(BYTES_MAX).max(*makes - makes.saturating_sub(bytes) / 4);
    }

    /// A result is in memory.
    pub(super) fn hold(&mut self, kin: Kin, bytes: u64) {
        let habits = self.habits.entry(kin).or_default();
        habits.held += bytes;
    }

    /// A result is not in memory any more; `dropped` if nobody needs it.
    pub(super) fn let_go(&mut self, kin: Option<Kin>, bytes: u64, dropped: bool) {
        if let Some(habits) = kin.and_then(|kin| self.habits.get_mut(&kin)) {
            habits.held = habits.held.saturating_sub(bytes);
            habits.brief += if dropped { bytes } else { 0 };
        }
    }

    /// A result was dropped, wherever it was.
    pub(super) fn learn_dropped(&mut self, kin: Option<Kin>, bytes: u64) {
        if let Some(habits) = kin.and_then(|kin| self.habits.get_mut(&kin)) {
            habits.dropped += bytes.min(BYTES_MAX);
        }
    }

    /// Whether most results of a family are dropped by the time that others of it are made.
    pub(super) fn is_passing(&self, kin: Kin) -> bool {
        self.habits.get(&kin).is_some_and(|habits| habits.dropped > habits.made / 2)
    }

    /// Takes note that nobody here uses a result any more after a task of this family.
    fn learn_left(&mut self, kin: Kin, bytes: u64) {
        let habits = self.habits.entry(kin).or_default();
        if habits.left > MEMORY_BYTES {
            (habits.left, habits.freed) = (habits.left / 2, habits.freed / 2);
        }
        habits.left += bytes.min(BYTES_MAX);
    }

    /// Takes note that such a result was dropped.
    pub(super) fn learn_freed(&mut self, kin: Option<Kin>, bytes: u64) {
        if let Some(habits) = kin.and_then(|kin| self.habits.get_mut(&kin)) {
            habits.freed += bytes.min(BYTES_MAX);
        }
    }

    /// Takes what a task is expected to make and to add, if there is room for it or it is `forced`. Returns
    /// what it adds.
    pub(super) fn take(&mut self, demand: Demand, forced: bool) -> Option<i64> {
        if let Some(left) = &mut self.left {
            if demand.adds > *left && demand.adds >= 0 && demand.makes >= SMALL_BYTES && !forced {
                return None;
            }
            *left -= demand.adds;
        }
        self.executing += demand.adds;
        Some(demand.adds)
    }

    /// A task does not execute any more.
    pub(super) fn give_back(&mut self, adds: i64) {
        self.executing -= adds;
    }

    /// Whether no further task should be passed over.
    pub(super) fn is_crowded(&self) -> bool {
        self.held.len() >= HELD_MAX
    }

    pub(super) fn fetch_begins(&mut self, task: TaskRef, bytes: u64) {
        self.coming_bytes += bytes;
        self.coming_bytes -= self.coming.insert(task, bytes).unwrap_or(0);
    }

    pub(super) fn fetch_ends(&mut self, task: TaskRef) {
        self.coming_bytes -= self.coming.swap_remove(&task).unwrap_or(0);
    }

    fn spare(&mut self, task: TaskRef) -> u64 {
        self.spares += 1;
        self.spare.insert(self.spares, task);
        self.spares
    }

    /// A copy is needed, or gone.
    pub(super) fn unspare(&mut self, at: &mut Option<u64>) {
        if let Some(at) = at.take() {
            self.spare.remove(&at);
        }
    }

    /// Checks the sums.
    pub(super) fn check(&self, executing: i64) -> Result<(), String> {
        if self.executing != executing {
            return Err(format!("{} bytes expected, should be {executing}", self.executing));
        }
        let coming: u64 = self.coming.values().sum();
        if self.coming_bytes != coming {
            return Err(format!("{} bytes coming, should be {coming}", self.coming_bytes));
        }
        Ok(())
    }
}

impl Core {
    /// Says how many bytes tasks that start from now on may add; `None` if nothing bounds it. Those that wait
    /// for room are looked at again.
    #[must_use]
    pub fn set_room(&mut self, bytes: Option<i64>) -> Vec<Action> {
        self.room.left = bytes;
        self.ready.extend(self.room.held.drain(..));
        self.start_ready();
        std::mem::take(&mut self.actions)
    }

    /// Whether tasks wait for room.
    pub fn is_holding(&self) -> bool {
        !self.room.held.is_empty()
    }

    /// Bytes that executing tasks are expected to add in all (below zero if they free more than they make),
    /// and that fetches under way bring.
    pub fn expected_bytes(&self) -> (i64, u64) {
        (self.room.executing, self.room.coming_bytes)
    }

    /// Bytes that the task which should start next is expected to add.
    pub fn next_bytes(&self) -> i64 {
        let first = self.room.held.iter().max().into_iter().chain(self.ready.peek()).max();
        let hand = first.and_then(|ranked| self.hands.get(&ranked.1));
        hand.filter(|hand| !hand.executing).map_or(0, |hand| self.demand(hand).adds)
    }

    /// Bytes of results in memory of families whose results usually are dropped soon.
    pub fn brief_bytes(&self) -> u64 {
        self.room.habits.values().filter(|habits| habits.is_brief()).map(|habits| habits.held).sum()
    }

    /// What a task in hand is expected to do to memory.
    pub(super) fn demand(&self, hand: &Hand) -> Demand {
        let Some(habits) = self.room.habits.get(&hand.kin) else { return Demand::default() };
        let makes = habits.makes;
        let mut frees = 0;
        if habits.frees() {
            let alone = |d: &&Datum| d.users == 1 && !d.on_disk;
            let inputs = hand.inputs.iter().filter_map(|(_, input)| self.data.get(input).filter(alone));
            frees = inputs.filter_map(|d| d.here).fold(0u64, u64::saturating_add).min(BYTES_MAX);
        }
        Demand { makes, adds: makes as i64 - frees as i64 }
    }

    /// A task has ended well: what it was the last to use here may be dropped for that.
    pub(super) fn note_last_uses(&mut self, hand: &Hand) {
        for (_, input) in &hand.inputs {
            let Some(datum) = self.data.get_mut(input).filter(|d| d.users == 1) else { continue };
            datum.last_user = Some(hand.kin);
            self.room.learn_left(hand.kin, datum.here.unwrap_or(0));
        }
    }

    /// Results have gone to disk, or come back into memory.
    pub fn set_on_disk(&mut self, tasks: &[(TaskRef, bool)]) {
        for (task, on_disk) in tasks {
            let Some(datum) = self.data.get_mut(task).filter(|d| d.on_disk != *on_disk) else { continue };
            datum.on_disk = *on_disk;
            if *on_disk {
                // It may be an input of the next task.
                self.ahead = None;
                self.room.let_go(datum.made_by, datum.memory, false);
            } else if let Some(kin) = datum.made_by {
                self.room.hold(kin, datum.memory);
            }
        }
    }

    /// Forgets what was learned of a run.
    pub fn forget_run(&mut self, run: RunId) {
        self.room.habits.retain(|kin, _| !kin.is_of(run));
        if self.room.habits.len() > HABITS_MAX {
            // Calls belong to no run: what is in memory has to be remembered, the rest is learned again.
            self.room.habits.retain(|_, habits| habits.held > 0);
        }
        self.line.forget(run);
    }

    /// Lets at least so many bytes of copies go that no task in hand needs, as far as there are any. The
    /// scheduler, which knows this worker as `here`, hears of it.
    pub(super) fn on_shed(&mut self, bytes: u64, here: WorkerId) {
        let (mut gone, mut dropped) = (0, Vec::new());
        while gone < bytes {
            let Some((_, task)) = self.room.spare.pop_first() else { break };
            let Some(datum) = self.data.swap_remove(&task) else { continue };
            gone += datum.here.unwrap_or(0);
            // No attempt has this number: only the hole counts.
            self.report.missing.push((task, Attempt::default(), vec![(task, here)]));
            dropped.push(task);
        }
        if !dropped.is_empty() {
            self.actions.push(Action::Drop(dropped));
        }
    }

    /// Notes a copy that no task in hand needs.
    pub(super) fn note_spare(&mut self, task: TaskRef) {
        let Some(datum) = self.data.get_mut(&task) else { return };
        if datum.replica && datum.here.is_some() && datum.users == 0 && datum.spare.is_none() {
            datum.spare = Some(self.room.spare(task));
        }
    }
}
