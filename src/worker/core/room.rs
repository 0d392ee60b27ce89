//! Room for results: what tasks are expected to make, which of them wait until there is room for it, and
//! which copies of others' results could go. Owns these figures; how much room there is it is told.

use super::Core;
use super::event::Action;
use super::tasks::Ranked;
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use std::collections::BTreeMap;

/// Tasks whose results are expected to be smaller start without asking for room.
const SMALL_BYTES: u64 = 256 << 10;

/// Tasks that are passed over for want of room while one is looked for that needs none.
const HELD_MAX: usize = 64;

/// The figures.
#[derive(Default)]
pub(super) struct Room {
    /// Bytes that tasks which start may still add; `None` if nothing bounds it.
    left: Option<u64>,
    /// Ready tasks that wait for room.
    pub(super) held: Vec<Ranked>,
    /// What a family's tasks make, bytes: the most, slowly forgotten.
    makes: IndexMap<(RunId, FamilyIx), u64, FxBuildHasher>,
    /// What the executing tasks are expected to make, bytes.
    executing: u64,
    /// What fetches under way are to bring, bytes.
    coming: IndexMap<TaskRef, u64, FxBuildHasher>,
    coming_bytes: u64,
    /// Copies of results that no task in hand needs, the longest unneeded first.
    spare: BTreeMap<u64, TaskRef>,
    spares: u64,
}

impl Room {
    /// What a task of this family is expected to make, bytes; 0 as long as nothing is known.
    fn expected(&self, run: RunId, family: FamilyIx) -> u64 {
        self.makes.get(&(run, family)).copied().unwrap_or(0)
    }

    /// Takes note of what a task has made.
    pub(super) fn learn(&mut self, run: RunId, family: FamilyIx, bytes: u64) {
        let known = self.makes.entry((run, family)).or_default();
        *known = bytes.max(*known - known.saturating_sub(bytes) / 4);
    }

    /// Takes what a task is expected to make, if there is room for it or it is `forced`: how much that is.
    pub(super) fn take(&mut self, run: RunId, family: FamilyIx, forced: bool) -> Option<u64> {
        let expected = self.expected(run, family);
        if let Some(left) = &mut self.left {
            if expected > *left && expected >= SMALL_BYTES && !forced {
                return None;
            }
            *left = left.saturating_sub(expected);
        }
        self.executing += expected;
        Some(expected)
    }

    /// A task does not execute any more.
    pub(super) fn give_back(&mut self, expected: u64) {
        self.executing -= expected;
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
    pub(super) fn check(&self, executing: u64) -> Result<(), String> {
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
    pub fn set_room(&mut self, bytes: Option<u64>) -> Vec<Action> {
        self.room.left = bytes;
        self.ready.extend(self.room.held.drain(..));
        self.start_ready();
        std::mem::take(&mut self.actions)
    }

    /// Whether tasks wait for room.
    pub fn is_holding(&self) -> bool {
        !self.room.held.is_empty()
    }

    /// Bytes of results that executing tasks are expected to make in all, and that fetches under way bring.
    pub fn expected_bytes(&self) -> (u64, u64) {
        (self.room.executing, self.room.coming_bytes)
    }

    /// Bytes that the task which should start next is expected to make.
    pub fn next_bytes(&self) -> u64 {
        let first = self.room.held.iter().max().into_iter().chain(self.ready.peek()).max();
        let hand = first.and_then(|ranked| Some((ranked.1, self.hands.get(&ranked.1)?)));
        hand.filter(|(_, hand)| !hand.executing)
            .map_or(0, |(task, hand)| self.room.expected(task.run, hand.family))
    }

    /// Forgets what was learned of a run.
    pub fn forget_run(&mut self, run: RunId) {
        self.room.makes.retain(|(r, _), _| *r != run);
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
