//! Tasks in a worker's hands: waiting for inputs, ready, executing, handed back. Owns their states and the
//! slots.

use super::Core;
use super::data::Datum;
use super::event::{Action, Assigned, Done, Kin, Start};
use crate::base::failure::FailureKind;
use crate::base::ids::{Attempt, FamilyIx, TaskRef};
use crate::base::priority::Priority;

/// A task in hand.
pub(super) struct Hand {
    pub(super) attempt: Attempt,
    pub(super) tries: u32,
    pub(super) family: FamilyIx,
    pub(super) element: u32,
    pub(super) kin: Kin,
    pub(super) priority: Priority,
    pub(super) slots: u32,
    pub(super) keep: bool,
    /// Inputs: data edge and task.
    pub(super) inputs: Vec<(u32, TaskRef)>,
    /// Inputs that are not here.
    pub(super) missing: u32,
    pub(super) executing: bool,
    /// Bytes it is expected to add, while it executes.
    pub(super) expected: i64,
    /// How long it will take, nanoseconds, while it waits in line; else 0.
    pub(super) line_ns: u64,
    /// It waits for other tasks, and occupies nothing.
    pub(super) away: bool,
    /// It has done so before.
    pub(super) was_away: bool,
}

/// A cancelled attempt that still executes.
pub(super) struct Zombie {
    /// Slots that it occupies.
    pub(super) slots: u32,
    /// Bytes it was expected to add.
    pub(super) expected: i64,
}

/// A ready task in the queue.
#[derive(PartialEq, Eq)]
pub(super) struct Ranked(pub(super) Priority, pub(super) TaskRef, pub(super) u32);

// The heap gives its greatest first; the smallest priority is to come first.
impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        (other.0, other.1, other.2).cmp(&(self.0, self.1, self.2))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Core {
    pub(super) fn on_assigned(&mut self, task: Assigned) {
        if let Some(old) = self.hands.get(&task.task) {
            if old.attempt >= task.attempt {
                return;
            }
            self.on_cancel(task.task, old.attempt);
        }
        let mut missing = 0;
        for input in &task.inputs {
            let datum = self.data.entry(input.task).or_insert_with(|| Datum::wanted(input.nbytes));
            datum.users += 1;
            self.room.unspare(&mut datum.spare);
            if datum.here.is_none() {
                missing += 1;
                datum.waiters.push(task.task);
                self.want(input.task, &input.holders);
            }
        }
        let hand = Hand {
            attempt: task.attempt,
            tries: task.tries,
            family: task.family,
            element: task.element,
            kin: task.kin,
            priority: task.priority,
            slots: task.slots,
            keep: task.keep,
            inputs: task.inputs.iter().map(|i| (i.edge, i.task)).collect(),
            missing,
            executing: false,
            expected: 0,
            line_ns: 0,
            away: false,
            was_away: false,
        };
        self.line.note_slots(hand.slots);
        if missing == 0 {
            self.ready.push(Ranked(hand.priority, task.task, hand.attempt.n));
        }
        self.hands.insert(task.task, hand);
    }

    /// An input of this task is here now.
    pub(super) fn on_input(&mut self, task: TaskRef) {
        let Some(hand) = self.hands.get_mut(&task) else { return };
        hand.missing -= 1;
        if hand.missing == 0 {
            self.ready.push(Ranked(hand.priority, task, hand.attempt.n));
        }
    }

    /// Starts ready tasks while there are slots.
    pub(super) fn start_ready(&mut self) {
        while !self.paused && self.start_next(false) {}
    }

    /// Starts the first ready task if there are slots for it; whether it did. A wide one at the head waits
    /// for its slots, so that narrow ones behind it cannot starve it. One whose result has no room yet is
    /// passed over, unless it is to be `forced`.
    pub(super) fn start_next(&mut self, forced: bool) -> bool {
        while let Some(Ranked(_, task, n)) = self.ready.peek() {
            let (task, n) = (*task, *n);
            let Some(hand) = self.hands.get(&task).filter(|h| h.attempt.n == n && !h.executing) else {
                self.ready.pop();
                continue;
            };
            let has_slots = self.busy == 0 || self.busy + hand.slots <= self.slots;
            let (kin, slots) = (hand.kin, hand.slots);
            if !has_slots && (forced || !self.may_line_up(kin, slots)) {
                return false;
            }
            let demand = self.demand(hand);
            let expected = match self.room.take(demand, forced) {
                Some(expected) => expected,
                None if self.room.is_crowded() => return false,
                None => {
                    self.room.held.extend(self.ready.pop());
                    continue;
                }
            };
            self.ready.pop();
            let line_ns = if has_slots { 0 } else { self.line_up(kin, task, n) };
            let Some(hand) = self.hands.get_mut(&task) else { continue };
            hand.executing = true;
            hand.expected = expected;
            hand.line_ns = line_ns;
            if has_slots {
                self.busy += hand.slots;
                self.report.started.push((task, hand.attempt));
            }
            self.actions.push(Action::Start(Start {
                in_line: !has_slots,
                task,
                attempt: hand.attempt,
                tries: hand.tries,
                family: hand.family,
                element: hand.element,
                keep: hand.keep,
                inputs: hand.inputs.clone(),
            }));
            return true;
        }
        false
    }

    pub(super) fn on_done(&mut self, done: Done) {
        let Done { task, attempt, outcome, memory, duration } = done;
        let current = self.hands.get(&task).is_some_and(|h| h.attempt == attempt && h.executing);
        if !current {
            if let Some(zombie) = self.zombies.swap_remove(&(task, attempt.n)) {
                self.busy -= zombie.slots;
                self.room.give_back(zombie.expected);
                self.move_up();
            }
            self.actions.push(Action::Discard { task, attempt });
            return;
        }
        let Some(hand) = self.hands.swap_remove(&task) else { return };
        match hand.line_ns {
            0 if hand.away => {}
            0 => self.busy -= hand.slots,
            ns => self.leave_line(ns),
        }
        self.move_up();
        self.room.give_back(hand.expected);
        if outcome.is_ok() {
            self.line.learn(hand.kin, duration);
            self.note_last_uses(&hand);
        }
        self.let_go(&hand);
        match outcome {
            Ok(nbytes) => {
                self.room.learn(hand.kin, memory);
                if hand.keep {
                    let datum = self.data.entry(task).or_insert_with(|| Datum::wanted(nbytes));
                    datum.here = Some(nbytes);
                    (datum.replica, datum.on_disk, datum.last_user) = (false, false, None);
                    (datum.made_by, datum.memory) = (Some(hand.kin), memory);
                    self.room.hold(hand.kin, memory);
                    self.room.unspare(&mut datum.spare);
                    let passing = self.room.is_passing(hand.kin);
                    self.actions.push(Action::Publish { task, attempt, passing });
                    self.wake(task);
                } else {
                    self.actions.push(Action::Discard { task, attempt });
                }
                self.report.finished.push((task, attempt, nbytes, duration));
            }
            // Nobody asked for its end: the worker is leaving, and another may run it.
            Err(failure) if failure.kind == FailureKind::Cancelled => {
                self.report.returned.push((task, attempt));
            }
            Err(failure) => self.report.failed.push((task, attempt, failure)),
        }
    }

    pub(super) fn on_cancel(&mut self, task: TaskRef, attempt: Attempt) {
        let Some(hand) = self.remove_hand(task, attempt) else { return };
        if hand.executing {
            // One in line occupies nothing yet.
            let slots = if hand.line_ns > 0 || hand.away { 0 } else { hand.slots };
            if hand.line_ns > 0 {
                self.leave_line(hand.line_ns);
            }
            let zombie = Zombie { slots, expected: hand.expected };
            self.zombies.insert((task, attempt.n), zombie);
            self.actions.push(Action::Kill { task, attempt });
        }
    }

    pub(super) fn on_steal(&mut self, task: TaskRef, attempt: Attempt) {
        let waits = self.hands.get(&task).is_some_and(|h| h.attempt == attempt && !h.executing);
        if waits && self.remove_hand(task, attempt).is_some() {
            self.report.returned.push((task, attempt));
        } else {
            self.report.kept.push((task, attempt));
        }
    }

    /// Takes an attempt out of the hands and lets go of its inputs.
    pub(super) fn remove_hand(&mut self, task: TaskRef, attempt: Attempt) -> Option<Hand> {
        if self.hands.get(&task)?.attempt != attempt {
            return None;
        }
        let hand = self.hands.swap_remove(&task)?;
        if hand.missing > 0 {
            for (_, input) in &hand.inputs {
                if let Some(datum) = self.data.get_mut(input) {
                    datum.waiters.retain(|w| *w != task);
                }
            }
        }
        self.let_go(&hand);
        Some(hand)
    }

    fn let_go(&mut self, hand: &Hand) {
        for (_, input) in &hand.inputs {
            if let Some(datum) = self.data.get_mut(input) {
                datum.users -= 1;
            }
            self.tidy(*input);
        }
    }
}
