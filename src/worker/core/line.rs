//! Tasks lined up behind busy slots: so short that to hand each over only when a slot is free would cost more
//! than they do. Owns which tasks are that short and how many wait so; the pool runs them in the same order.

use super::Core;
use super::event::Kin;
use super::tasks::Ranked;
use crate::base::ids::{Attempt, RunId, TaskRef};
use crate::graph::layer::SLOT;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// Tasks up to this are lined up by the dozen: to hand one over by itself costs 10 µs where that is a
/// function of ours, and 300 µs of all processors where it is a call in another process.
const SHORT_NS: u64 = 1_000_000;

/// Of those, what waits behind each slot at most, nanoseconds: nobody else gets it meanwhile.
const WAIT_NS: u64 = 4_000_000;

/// The same in tasks.
const WAIT_TASKS: usize = 32;

/// Families and names of calls that are remembered when a run is over.
const KNOWN_MAX: usize = 10_000;

/// Of tasks up to this one waits behind each slot, so that it need not wait for the worker's loop. Short
/// commands are of this kind.
const BRIEF_NS: u64 = 5_000_000;

/// A task counts as so many times as long as was known of its family at most, or as this.
const GROWTH_MAX: u64 = 4;
const GROWTH_NS_MIN: u64 = SHORT_NS / 4;

/// The line.
#[derive(Default)]
pub(super) struct Line {
    /// How long the tasks of families take, nanoseconds. One that had to wait for a processor says little
    /// of the others: a single long one never makes a family of short ones long.
    durations: FxHashMap<Kin, u64>,
    /// Who waits, in order; those that do not any more are passed over.
    waiting: VecDeque<(TaskRef, u32)>,
    /// How many of them there are, and how long they will take, nanoseconds.
    tasks: usize,
    ns: u64,
    /// Tasks that take a part of a slot have been seen: how many threads are free does not follow from the
    /// slots any more.
    divided: bool,
}

impl Line {
    /// Takes note of how long a task took.
    pub(super) fn learn(&mut self, kin: Kin, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let known = self.durations.entry(kin).or_insert(ns);
        let credible = known.saturating_mul(GROWTH_MAX).max(GROWTH_NS_MIN);
        let more = ns.min(credible).saturating_sub(*known) / 2;
        *known = *known + more - known.saturating_sub(ns) / 4;
    }

    /// Forgets the families of a run that is over.
    pub(super) fn forget(&mut self, run: RunId) {
        self.durations.retain(|kin, _| !kin.is_of(run));
        if self.durations.len() > KNOWN_MAX {
            self.durations.clear();
        }
    }

    /// Takes note of what a task occupies.
    pub(super) fn note_slots(&mut self, slots: u32) {
        self.divided |= !slots.is_multiple_of(SLOT);
    }

    /// How long a task will take, nanoseconds, never 0.
    fn expected_ns(&self, kin: Kin) -> Option<u64> {
        Some((*self.durations.get(&kin)?).max(1))
    }

    /// Whether a task that finds no slot may wait behind those that are busy.
    fn admits(&self, kin: Kin, slots: u32, all: u32) -> bool {
        let Some(ns) = self.expected_ns(kin) else { return false };
        let threads = (all / SLOT) as usize;
        let has_room = if ns <= SHORT_NS {
            self.tasks < WAIT_TASKS * threads && self.ns + ns <= WAIT_NS * threads as u64
        } else {
            ns <= BRIEF_NS && self.tasks < threads
        };
        has_room && slots == SLOT && !self.divided
    }

    fn leave(&mut self, ns: u64) {
        self.tasks -= 1;
        self.ns -= ns;
    }

    /// Checks the sums against the tasks that wait: how long each will take.
    pub(super) fn check(&self, waiting: impl Iterator<Item = u64>) -> Result<(), String> {
        let (tasks, ns) = waiting.fold((0, 0), |(tasks, sum), ns| (tasks + 1, sum + ns));
        if (tasks, ns) != (self.tasks, self.ns) {
            return Err(format!("{} tasks in line for {} ns, should be {tasks}, {ns}", self.tasks, self.ns));
        }
        Ok(())
    }
}

impl Core {
    /// Tasks that were started and wait behind busy slots.
    pub fn in_line(&self) -> usize {
        self.line.tasks
    }

    /// Whether a task that finds no slot may wait behind those that are busy.
    pub(super) fn may_line_up(&self, kin: Kin, slots: u32) -> bool {
        self.line.admits(kin, slots, self.slots)
    }

    /// It does; returns how long it will take, nanoseconds, never 0.
    pub(super) fn line_up(&mut self, kin: Kin, task: TaskRef, n: u32) -> u64 {
        let ns = self.line.expected_ns(kin).unwrap_or(1);
        self.line.waiting.push_back((task, n));
        self.line.tasks += 1;
        self.line.ns += ns;
        ns
    }

    /// A task does not wait any more: it has ended, or was cancelled.
    pub(super) fn leave_line(&mut self, ns: u64) {
        self.line.leave(ns);
    }

    /// Slots have become free: the first in line have them.
    pub(super) fn move_up(&mut self) {
        while self.busy + SLOT <= self.slots
            && let Some((task, n)) = self.line.waiting.pop_front()
        {
            let hand = self.hands.get_mut(&task).filter(|h| h.attempt.n == n && h.line_ns > 0);
            let Some(hand) = hand else { continue };
            self.line.leave(std::mem::take(&mut hand.line_ns));
            self.busy += hand.slots;
            self.report.started.push((task, hand.attempt));
        }
    }

    /// Attempts that were started have not begun: what runs takes longer than was thought. They are ready
    /// again.
    pub(super) fn on_taken_back(&mut self, attempts: &[(TaskRef, Attempt)]) {
        for &(task, attempt) in attempts {
            let Some(hand) = self.hands.get_mut(&task).filter(|h| h.attempt == attempt && h.executing) else {
                if let Some(zombie) = self.zombies.swap_remove(&(task, attempt.n)) {
                    self.busy -= zombie.slots;
                    self.room.give_back(zombie.expected);
                }
                continue;
            };
            hand.executing = false;
            match std::mem::take(&mut hand.line_ns) {
                0 => self.busy -= hand.slots,
                ns => self.line.leave(ns),
            }
            self.room.give_back(std::mem::take(&mut hand.expected));
            self.ready.push(Ranked(hand.priority, task, attempt.n));
            // Until something of the family has been seen to be short again.
            self.line.durations.remove(&hand.kin);
        }
        self.move_up();
    }
}
