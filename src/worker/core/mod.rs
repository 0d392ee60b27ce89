//! The worker's core: which tasks are in hand, which inputs are here or on their way, what executes. A state
//! machine without clock, sockets or threads: `Core::handle(event)` changes it and says what to do; what the
//! scheduler is to know gathers in a report. Owns no data: results lie in the shell's store.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod ahead;
mod away;
mod data;
pub mod event;
mod invariants;
mod line;
pub mod pressure;
mod room;
mod tasks;

#[cfg(test)]
mod tests;

use crate::base::ids::{TaskRef, WorkerId};
use data::{Datum, Peer};
use event::{Action, Event, Report};
use indexmap::IndexMap;
use line::Line;
use room::Room;
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeMap, BinaryHeap};
use tasks::{Hand, Ranked, Zombie};

/// The worker's state.
pub struct Core {
    /// Slots of the worker, 1/10,000.
    slots: u32,
    /// Slots occupied by what executes, without those in line.
    busy: u32,
    /// Tasks in hand.
    hands: IndexMap<TaskRef, Hand, FxBuildHasher>,
    /// Cancelled attempts that still execute.
    zombies: IndexMap<(TaskRef, u32), Zombie, FxBuildHasher>,
    /// Tasks whose inputs are all here.
    ready: BinaryHeap<Ranked>,
    data: IndexMap<TaskRef, Datum, FxBuildHasher>,
    peers: BTreeMap<WorkerId, Peer>,
    report: Report,
    actions: Vec<Action>,
    /// No task starts and nothing is fetched.
    paused: bool,
    room: Room,
    line: Line,
    /// The attempt of which it was looked last which inputs on disk are to be read before it starts.
    ahead: Option<(TaskRef, u32)>,
}

/// With so many tasks ready to start, a worker has enough to do for a moment.
const READY_MIN: usize = 16;

impl Core {
    /// A worker with so many CPU slots (1/10,000).
    pub fn new(slots: u32) -> Core {
        Core {
            slots,
            busy: 0,
            hands: IndexMap::default(),
            zombies: IndexMap::default(),
            ready: BinaryHeap::new(),
            data: IndexMap::default(),
            peers: BTreeMap::new(),
            report: Report::default(),
            actions: Vec::new(),
            paused: false,
            room: Room::default(),
            line: Line::default(),
            ahead: None,
        }
    }

    /// Takes note of an event and returns what is to be done about it.
    #[must_use]
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Compute(tasks) => tasks.into_iter().for_each(|t| self.on_assigned(t)),
            Event::Free(tasks) => self.on_free(&tasks),
            Event::Cancel(attempts) => attempts.iter().for_each(|&(t, a)| self.on_cancel(t, a)),
            Event::Steal(attempts) => attempts.iter().for_each(|&(t, a)| self.on_steal(t, a)),
            Event::Replicate { tasks, from } => self.on_replicate(&tasks, from),
            Event::Fetched { peer, outcomes } => self.on_fetched(peer, outcomes),
            Event::Lost { tasks, here } => self.on_lost(&tasks, here),
            Event::Shed { bytes, here } => self.on_shed(bytes, here),
            Event::Stored { task, nbytes } => self.on_stored(task, nbytes),
            Event::Away { task, attempt, away } => self.on_away(task, attempt, away),
            Event::Done(done) => done.into_iter().for_each(|d| self.on_done(d)),
            Event::TakenBack(attempts) => self.on_taken_back(&attempts),
        }
        self.start_ready();
        self.look_ahead();
        self.fetch_wanted();
        std::mem::take(&mut self.actions)
    }

    /// Stops or resumes starting tasks and fetching their inputs.
    #[must_use]
    pub fn set_paused(&mut self, paused: bool) -> Vec<Action> {
        self.paused = paused;
        self.start_ready();
        self.fetch_wanted();
        std::mem::take(&mut self.actions)
    }

    /// Starts one ready task although it is paused, if none executes: what holds the memory may be what
    /// that task would free. If none is ready, fetches some of what one waits for, if nothing is on its way.
    #[must_use]
    pub fn start_one(&mut self) -> Vec<Action> {
        if self.paused && self.busy == 0 {
            self.ready.extend(self.room.held.drain(..));
            if !self.start_next(true) && !self.is_fetching() {
                self.fetch(1);
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Whether what there is to tell is plain, and this worker goes on for a while without an answer.
    pub fn may_tell_later(&self) -> bool {
        self.report.is_plain() && self.ready.len() >= READY_MIN && !self.paused
    }

    /// What the scheduler is to be told. Attempts that began and ended since the last time are only told as
    /// ended.
    pub fn take_report(&mut self) -> Report {
        let mut report = std::mem::take(&mut self.report);
        report.started.retain(|(t, a)| self.hands.get(t).is_some_and(|h| h.attempt == *a && h.executing));
        report
    }

    /// Tasks that execute, cancelled ones that have not ended included.
    pub fn executing(&self) -> usize {
        self.hands.values().filter(|h| h.executing).count() + self.zombies.len()
    }

    fn is_fetching(&self) -> bool {
        self.peers.values().any(|p| p.in_flight > 0)
    }

    /// Slots that no task occupies, 1/10,000.
    pub fn idle_slots(&self) -> u32 {
        self.slots.saturating_sub(self.busy)
    }

    /// Tasks in hand.
    pub fn in_hand(&self) -> usize {
        self.hands.len()
    }

    /// Results that are here: task and size.
    pub fn results(&self) -> impl Iterator<Item = (TaskRef, u64)> + '_ {
        self.data.iter().filter_map(|(t, d)| Some((*t, d.here?)))
    }

    /// Ends everything in hand; results stay. For a worker that stops.
    #[must_use]
    pub fn abort(&mut self) -> Vec<Action> {
        let hands: Vec<_> = self.hands.iter().map(|(t, h)| (*t, h.attempt)).collect();
        hands.into_iter().for_each(|(t, a)| self.on_cancel(t, a));
        std::mem::take(&mut self.actions)
    }
}
