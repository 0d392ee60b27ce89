//! What the scheduler knows about each worker: what it offers, what it has been given, what it holds. Owns
//! these tables and the measure of a worker's load; who gets a task is decided in `place`.

use super::event::{MemoryUse, WorkerSpec};
use super::ready::Entry;
use crate::base::ids::{TaskRef, WorkerId};
use crate::base::time::Time;
use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Work a worker may hold beyond its slots, measured in time: enough that it never waits for the scheduler.
pub(super) const HORIZON_NS: u64 = 20_000_000;
/// The part of a worker's target that is left free at most for work that frees.
const MARGIN_SHARE: u64 = 8;
/// Tasks a worker may hold for each of its slots, however short they are.
const DEPTH_MAX: u64 = 8192;
/// Tasks queue beyond the slots while what they add is at most this part of the target: one of so many.
const LIGHT_PART: u64 = 16;
/// Assumed execution time of a task about which nothing is known.
pub(super) const UNKNOWN_DURATION_NS: u64 = 500_000_000;

/// Whether a worker gets work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It does.
    Running,
    /// It asked for none: its memory is short.
    Paused,
    /// It is leaving.
    Retiring,
}

impl Status {
    /// The word for it in every output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Retiring => "retiring",
        }
    }
}

/// A task that a worker was given and has not finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHand {
    pub(super) slots: u32,
    /// Expected execution time when it was given.
    pub(super) expected_ns: u64,
    pub(super) class: u32,
    /// When it began to execute, if it did.
    pub(super) started: Option<Time>,
    /// A steal request for it is under way.
    pub(super) stealing: bool,
    /// A worker was lost before while it executed this task.
    pub(super) suspect: bool,
    /// It was told to keep the result.
    pub(super) keep: bool,
    /// Bytes set aside for its inputs, its result and the memory it declared.
    pub(super) reserved: u64,
    /// Of these, for the result.
    pub(super) result: u64,
    /// It waits for other tasks, and its slots are free meanwhile.
    pub(super) away: bool,
}

/// A worker.
pub(super) struct Worker {
    pub(super) spec: WorkerSpec,
    pub(super) status: Status,
    pub(super) last_seen: Time,
    pub(super) processing: IndexMap<TaskRef, InHand, FxBuildHasher>,
    pub(super) has: IndexSet<TaskRef, FxBuildHasher>,
    /// Bytes of results it holds; wraps, should a worker claim sizes that no machine has.
    pub(super) nbytes: u64,
    /// Slots of all tasks in hand, started or not.
    pub(super) slots_in_hand: u64,
    /// Expected execution time of all tasks in hand, times their slots, in nanoseconds of one slot.
    pub(super) occupancy: u128,
    pub(super) started: u32,
    /// Attempts that have succeeded there.
    pub(super) done: u64,
    /// Tasks in hand under which a worker was lost before.
    pub(super) suspects: u32,
    /// Tasks in hand whose execution time was a guess when they were given.
    pub(super) guessed: Vec<TaskRef>,
    /// Named resources of the tasks in hand.
    pub(super) booked: BTreeMap<String, u64>,
    /// Ready tasks that are better off waiting for this worker than moving their inputs elsewhere.
    pub(super) local: BTreeSet<Entry>,
    /// A steal request to it has not been answered.
    pub(super) robbed: bool,
    /// Nothing is stolen from it before.
    pub(super) steal_after: Time,
    /// When it last began a task or was done with one.
    pub(super) progress: Time,
    /// When it became a worker that leaves, and why.
    pub(super) retiring: Option<String>,
    /// Copies of its results that were asked of others and have not arrived, and of whom.
    pub(super) moving: IndexMap<TaskRef, WorkerId, FxBuildHasher>,
    /// What it was told to save.
    pub(super) saved: IndexSet<TaskRef, FxBuildHasher>,
    pub(super) dismissed: bool,
    /// It gets nothing but this task, which is to be alone there, or has it as one of several workers.
    pub(super) kept_for: Option<TaskRef>,
    /// Bytes set aside for tasks in hand.
    pub(super) reserved: u64,
    /// What it said last about its memory.
    pub(super) memory: MemoryUse,
    /// Since when it has nothing in hand though tasks are held back for memory.
    pub(super) idle_since: Option<Time>,
    /// It was given such a task all the same, and none since that fitted.
    pub(super) is_fed: bool,
}

impl Worker {
    pub(super) fn new(spec: WorkerSpec, now: Time) -> Worker {
        Worker {
            spec,
            status: Status::Running,
            last_seen: now,
            processing: IndexMap::default(),
            has: IndexSet::default(),
            nbytes: 0,
            slots_in_hand: 0,
            occupancy: 0,
            started: 0,
            done: 0,
            suspects: 0,
            guessed: Vec::new(),
            booked: BTreeMap::new(),
            local: BTreeSet::new(),
            robbed: false,
            steal_after: Time::ZERO,
            progress: now,
            retiring: None,
            moving: IndexMap::default(),
            saved: IndexSet::default(),
            dismissed: false,
            kept_for: None,
            reserved: 0,
            memory: MemoryUse::default(),
            idle_since: None,
            is_fed: false,
        }
    }

    pub(super) fn give(&mut self, task: TaskRef, hand: InHand, resources: &BTreeMap<String, u64>) {
        self.idle_since = None;
        self.suspects += u32::from(hand.suspect);
        self.slots_in_hand += u64::from(hand.slots);
        self.occupancy += cost(&hand);
        self.reserved += hand.reserved;
        for (name, amount) in resources {
            *self.booked.entry(name.clone()).or_default() += amount;
        }
        self.processing.insert(task, hand);
    }

    /// The task is in hand no more.
    pub(super) fn take(&mut self, task: TaskRef, resources: &BTreeMap<String, u64>) -> Option<InHand> {
        let hand = self.processing.swap_remove(&task)?;
        self.suspects -= u32::from(hand.suspect);
        if !hand.away {
            self.slots_in_hand -= u64::from(hand.slots);
            self.occupancy -= cost(&hand);
        }
        self.reserved -= hand.reserved;
        self.started -= u32::from(hand.started.is_some());
        for (name, amount) in resources {
            if let Some(booked) = self.booked.get_mut(name) {
                *booked = booked.saturating_sub(*amount);
            }
        }
        Some(hand)
    }

    /// A task begins to wait for others, or goes on.
    pub(super) fn set_away(&mut self, task: TaskRef, away: bool) {
        let Some(hand) = self.processing.get_mut(&task).filter(|hand| hand.away != away) else { return };
        hand.away = away;
        let (slots, cost) = (u64::from(hand.slots), cost(hand));
        if away {
            self.slots_in_hand -= slots;
            self.occupancy -= cost;
        } else {
            self.slots_in_hand += slots;
            self.occupancy += cost;
        }
    }

    /// Replaces the guesses about tasks in hand, as far as `estimate` knows better by now.
    /// An estimate is the execution time in nanoseconds and the size of the result in bytes.
    pub(super) fn estimate_anew(&mut self, estimate: impl Fn(TaskRef) -> Option<(u64, u64)>) {
        let mut guessed = std::mem::take(&mut self.guessed);
        guessed.retain(|task| {
            let Some(hand) = self.processing.get_mut(task) else { return false };
            let Some((expected_ns, result)) = estimate(*task) else { return true };
            self.reserved = self.reserved - hand.result + result;
            hand.reserved = hand.reserved - hand.result + result;
            hand.result = result;
            let before = cost(hand);
            hand.expected_ns = expected_ns;
            if !hand.away {
                self.occupancy = self.occupancy - before + cost(hand);
            }
            false
        });
        self.guessed = guessed;
    }

    /// Tasks that have executed for longer than was expected of them, and for how long. From now on twice
    /// that is.
    pub(super) fn overdue(&mut self, now: Time) -> Vec<(TaskRef, u64)> {
        let mut overdue = Vec::new();
        let mut more = 0;
        for (task, hand) in &mut self.processing {
            let Some(started) = hand.started else { continue };
            let ns = now.0.saturating_sub(started.0);
            if ns > hand.expected_ns {
                overdue.push((*task, ns));
                more += raise(hand, ns.saturating_mul(2));
            }
        }
        self.occupancy += more;
        overdue
    }

    /// Tasks that have not started take no less than `least` says, nanoseconds.
    pub(super) fn expect_at_least(&mut self, least: impl Fn(TaskRef) -> Option<u64>) {
        let waiting = self.processing.iter_mut().filter(|(_, hand)| hand.started.is_none());
        let more: u128 = waiting.map(|(task, hand)| least(*task).map_or(0, |ns| raise(hand, ns))).sum();
        self.occupancy += more;
    }

    /// Expected execution time of a task in hand, on the average over the slots in hand, nanoseconds.
    pub(super) fn mean_ns(&self) -> u64 {
        u64::try_from(self.occupancy / u128::from(self.slots_in_hand.max(1))).unwrap_or(u64::MAX)
    }

    /// Bytes that work which only adds results may still take; `None` if nothing bounds it.
    pub(super) fn headroom(&self) -> Option<u64> {
        let used = self.nbytes.saturating_sub(self.memory.spilled) + self.memory.unmanaged + self.reserved;
        Some(self.spec.memory_target?.saturating_sub(used))
    }

    /// What is left free by work that only adds results: a task that frees more than it makes still makes
    /// first, every slot may be at one, and what it freed is gone from the worker only a message later.
    pub(super) fn margin(&self, result: u64) -> u64 {
        let slots = u64::from(self.spec.slots.div_ceil(crate::graph::layer::SLOT));
        (2 * slots * result).min(self.spec.memory_target.unwrap_or(0) / MARGIN_SHARE)
    }

    /// Tasks in hand that have not started.
    pub(super) fn backlog(&self) -> u32 {
        self.processing.len() as u32 - self.started
    }

    /// How long the work in hand will take, spread over its slots.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_nanos(self.each_slot())
    }

    /// Load for comparing workers: expected microseconds of work a slot.
    pub(super) fn load(&self) -> u64 {
        self.each_slot() / 1000
    }

    /// Slots for which it has no task.
    pub(super) fn free_slots(&self) -> u64 {
        u64::from(self.spec.slots).saturating_sub(self.slots_in_hand)
    }

    /// Where it comes among those with room for a task: first those that could begin it at once, then by
    /// load.
    pub(super) fn rank(&self, slots: u32) -> u64 {
        let must_wait = self.free_slots() < u64::from(slots);
        self.load().min(u64::MAX >> 1) | u64::from(must_wait) << 63
    }

    fn each_slot(&self) -> u64 {
        u64::try_from(self.occupancy / u128::from(self.spec.slots.max(1))).unwrap_or(u64::MAX)
    }

    /// Whether it may be given one more task of a class. `saturation` widens the slots.
    pub(super) fn is_open(&self, slots: u32, resources: &BTreeMap<String, u64>, saturation: f64) -> bool {
        if self.status != Status::Running || self.kept_for.is_some() || slots > self.spec.slots {
            return false;
        }
        let width = u64::from(self.spec.slots);
        let wide = (width as f64 * saturation) as u64;
        let wide = wide.checked_next_multiple_of(u64::from(crate::graph::layer::SLOT)).unwrap_or(u64::MAX);
        let fits_slots = self.slots_in_hand + u64::from(slots) <= wide.max(width);
        let short = self.occupancy < u128::from(HORIZON_NS) * u128::from(width)
            && (self.processing.len() as u64)
                < DEPTH_MAX * width / u64::from(crate::graph::layer::SLOT).max(1);
        // Many short tasks may queue, but not many bytes: what uses those up would come behind them.
        let light = self.spec.memory_target.is_none_or(|t| self.reserved <= t / LIGHT_PART);
        // Named resources are booked from the first moment: nothing queues for them on a worker.
        (fits_slots || (short && light)) && self.has_resources(resources)
    }

    fn has_resources(&self, resources: &BTreeMap<String, u64>) -> bool {
        resources.iter().all(|(name, amount)| {
            let Some(&total) = self.spec.resources.get(name) else { return false };
            self.booked.get(name).copied().unwrap_or(0).saturating_add(*amount) <= total
        })
    }

    /// Whether it could ever run a task of a class.
    pub(super) fn could_run(&self, slots: u32, resources: &BTreeMap<String, u64>) -> bool {
        slots <= self.spec.slots
            && resources.iter().all(|(name, n)| self.spec.resources.get(name).is_some_and(|total| n <= total))
    }
}

/// Expects at least so many nanoseconds of a task; returns what that adds to the work in hand.
fn raise(hand: &mut InHand, ns: u64) -> u128 {
    let before = cost(hand);
    hand.expected_ns = hand.expected_ns.max(ns);
    if hand.away { 0 } else { cost(hand) - before }
}

fn cost(hand: &InHand) -> u128 {
    u128::from(hand.expected_ns) * u128::from(hand.slots.max(1))
}

/// A worker as shown to people.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its id.
    pub worker: WorkerId,
    /// What it offers.
    pub spec: WorkerSpec,
    /// Whether it gets work.
    pub status: Status,
    /// Why it leaves, if it does.
    pub retiring: Option<String>,
    /// Tasks executing.
    pub executing: u32,
    /// Tasks given and not started.
    pub queued: u32,
    /// Attempts that have succeeded there.
    pub done: u64,
    /// Slots of what is in its hands (1/10,000), no more than it has.
    pub slots_in_hand: u64,
    /// Results it holds.
    pub results: usize,
    /// Their bytes.
    pub nbytes: u64,
    /// When it was last heard of.
    pub last_seen: Time,
}
