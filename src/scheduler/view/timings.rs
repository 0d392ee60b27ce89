//! The scheduler's own time by kind of event. Owns the sums, and how the time of a batch is shared out among
//! the kinds in it.

use crate::scheduler::core::event::Event;
use crate::scheduler::driver::Driver;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What the driver spends its time on: first the core's events, then what is done around it.
const KINDS: [&str; 15] = [
    "client",
    "run-submitted",
    "run-ended",
    "outputs",
    "calls",
    "worker-joined",
    "worker-left",
    "worker-report",
    "heartbeat",
    "tick",
    "worker-retiring",
    "inputs",
    "orders",
    "questions",
    "housekeeping",
];

/// The first that is no event of the core.
const AROUND: usize = 11;

/// What is done around the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) enum Phase {
    /// What sessions said is looked at.
    Inputs = AROUND as isize,
    /// What the core decided is carried out.
    Orders,
    /// Questions are answered.
    Questions,
    /// Progress is told, what has expired is looked for, figures are taken.
    Housekeeping,
}

/// How many of each kind.
pub(in crate::scheduler) type Counts = [u32; AROUND];

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    count: u64,
    time: Duration,
    longest: Duration,
    /// What one takes, nanoseconds, as batches without others have shown.
    alone_ns: f64,
}

/// The sums.
#[derive(Debug)]
pub(in crate::scheduler) struct Timings {
    began: Instant,
    last: Instant,
    kinds: [Kind; KINDS.len()],
}

impl Default for Timings {
    fn default() -> Timings {
        let now = Instant::now();
        Timings { began: now, last: now, kinds: Default::default() }
    }
}

/// The place of its kind.
fn kind(event: &Event) -> usize {
    match event {
        Event::ClientArrived { .. } | Event::ClientLeft { .. } | Event::ClientEnded { .. } => 0,
        Event::RunSubmitted { .. } | Event::RunWatched { .. } => 1,
        Event::RunCancelled { .. } | Event::RunForgotten { .. } => 2,
        Event::OutputsTaken { .. } | Event::OutputMissing { .. } => 3,
        Event::CallsWanted { .. }
        | Event::CallsReleased { .. }
        | Event::CallsCancelled { .. }
        | Event::CallsRetried { .. } => 4,
        Event::WorkerRegistered { .. } => 5,
        Event::WorkerDisconnected { .. } => 6,
        Event::WorkerReport { .. } => 7,
        Event::Heartbeat { .. } => 8,
        Event::Tick => 9,
        Event::WorkerRetiring { .. } => 10,
    }
}

/// Counts a batch.
pub(in crate::scheduler) fn count(events: &[Event]) -> Counts {
    let mut counts = [0; AROUND];
    events.iter().for_each(|event| counts[kind(event)] += 1);
    counts
}

impl Timings {
    /// The driver wakes up.
    pub(in crate::scheduler) fn begin(&mut self) {
        self.last = Instant::now();
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(std::mem::replace(&mut self.last, now))
    }

    /// The time since the last call went into this.
    pub(in crate::scheduler) fn spent(&mut self, phase: Phase, count: usize) {
        let time = self.lap();
        self.kinds[phase as usize].add(count as u64, time);
    }

    /// The time since the last call went into a batch of events.
    pub(in crate::scheduler) fn spent_on(&mut self, counts: &Counts) {
        let time = self.lap();
        self.share_out(counts, time);
    }

    fn share_out(&mut self, counts: &Counts, time: Duration) {
        let there = || counts.iter().enumerate().filter(|(_, n)| **n > 0);
        let weight = |kinds: &[Kind], k: usize, n: u32| kinds[k].alone_ns.max(1.0) * f64::from(n);
        let all: f64 = there().map(|(k, n)| weight(&self.kinds, k, *n)).sum();
        let is_pure = there().count() == 1;
        for (k, n) in there() {
            let part = time.mul_f64(weight(&self.kinds, k, *n) / all);
            let kind = &mut self.kinds[k];
            kind.add(u64::from(*n), part);
            if is_pure {
                let each = time.as_nanos() as f64 / f64::from(*n);
                kind.alone_ns = if kind.alone_ns == 0.0 { each } else { kind.alone_ns * 0.9 + each * 0.1 };
            }
        }
    }

    fn json(&self) -> Value {
        let row = |(name, kind): (&&str, &Kind)| {
            let (seconds, longest) = (kind.time.as_secs_f64(), kind.longest.as_secs_f64());
            json!({ "kind": name, "count": kind.count, "seconds": seconds, "longest": longest })
        };
        let seen = KINDS.iter().zip(&self.kinds).filter(|(_, kind)| kind.count > 0);
        json!({
            "seconds": self.began.elapsed().as_secs_f64(),
            "busy": self.kinds.iter().map(|kind| kind.time).sum::<Duration>().as_secs_f64(),
            "kinds": seen.map(row).collect::<Vec<_>>(),
        })
    }
}

impl Kind {
    fn add(&mut self, count: u64, time: Duration) {
        self.count += count;
        self.time += time;
        if count > 0 {
            self.longest = self.longest.max(time);
        }
    }
}

impl Driver {
    /// The scheduler's own time.
    pub(super) fn timings_view(&self) -> Value {
        self.views.timings.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::WorkerId;

    #[test]
    fn a_batch_is_shared_out_by_what_each_kind_takes() {
        let mut timings = Timings::default();
        let beat = Event::Heartbeat { worker: WorkerId(1), memory: None };
        let (ticks, beats) = (count(&[Event::Tick]), count(&[beat.clone(), beat.clone()]));
        timings.share_out(&ticks, Duration::from_micros(30));
        timings.share_out(&beats, Duration::from_micros(20));
        timings.share_out(&count(&[Event::Tick, beat]), Duration::from_micros(400));
        let (tick, beat) = (timings.kinds[9], timings.kinds[8]);
        assert_eq!((tick.count, tick.time.as_micros(), tick.longest.as_micros()), (2, 330, 300));
        assert_eq!((beat.count, beat.time.as_micros(), beat.longest.as_micros()), (3, 120, 100));
        timings.spent(Phase::Housekeeping, 1);
        timings.spent(Phase::Inputs, 0);
        let json = timings.json();
        let names: Vec<&str> =
            json["kinds"].as_array().unwrap().iter().map(|k| k["kind"].as_str().unwrap()).collect();
        assert_eq!(names, ["heartbeat", "tick", "housekeeping"]);
        assert!(json["busy"].as_f64().unwrap() >= 0.00045);
        timings.share_out(&[0; AROUND], Duration::from_secs(1));
        assert!(timings.json()["busy"].as_f64().unwrap() < 1.0);
    }

    #[test]
    fn phases_have_their_names() {
        let names =
            [Phase::Inputs, Phase::Orders, Phase::Questions, Phase::Housekeeping].map(|p| KINDS[p as usize]);
        assert_eq!(names, ["inputs", "orders", "questions", "housekeeping"]);
    }
}
