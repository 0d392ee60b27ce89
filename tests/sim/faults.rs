//! What goes wrong in a simulation: how often, drawn from the seed. When it happens and to whom is decided
//! in `cluster`; what memory does is in `memory`.

use crate::graphs::size_of;
use crate::memory::Memory;
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Workers to begin with.
    pub workers: u32,
    /// Workers killed in the middle; each is replaced a while later.
    pub losses: u32,
    /// Whether a loss takes all workers.
    pub all_at_once: bool,
    /// Losses that take the worker with the most results that nobody else has.
    pub holders_lost: u32,
    /// Connections that end while a fresh worker with the same name comes at once, from the same host.
    pub flaps: u32,
    /// Workers that say and do nothing for a while, some for longer than the scheduler waits.
    pub freezes: u32,
    /// Workers that pause and go on.
    pub pauses: u32,
    /// Workers that leave in order.
    pub retirements: u32,
    /// Workers that join in the middle.
    pub late_joiners: u32,
    /// Probability that a worker is 10 to 100 times slower than others.
    pub stragglers: f64,
    /// Probability that one of the first workers ends with its batch job.
    pub walltimes: f64,
    /// Probability that a message takes up to a hundred times as long.
    pub slow_links: f64,
    /// Probability that a fetch breaks off.
    pub fetch_failures: f64,
    /// Probability that an attempt fails.
    pub task_failures: f64,
    /// Probability that a task fails however often it is tried.
    pub hopeless: f64,
    /// Runs cancelled at any moment.
    pub cancels: u32,
    /// Clients that go away, some of them for ever.
    pub vanishings: u32,
    /// Probability that a run goes on without its client.
    pub detached: f64,
    /// Probability that a run is cancelled after one failed task.
    pub max_fails: f64,
    /// Tasks of each run that are handed out at a time.
    pub max_processing: Option<u32>,
    /// Mean execution time, microseconds.
    pub mean_us: u64,
    /// Threads of each worker; up to three, by chance, if `None`.
    pub threads: Option<u32>,
    /// Bytes up to which each worker takes work that only adds results.
    pub memory_target: Option<u64>,
    /// Size of every result; by chance if `None`.
    pub result_bytes: Option<u64>,
    /// Memory that runs out, instead of these two.
    pub memory: Option<Memory>,
    /// How long a client may be away.
    pub lease: Duration,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            workers: 3,
            losses: 0,
            all_at_once: false,
            holders_lost: 0,
            flaps: 0,
            freezes: 0,
            pauses: 0,
            retirements: 0,
            late_joiners: 0,
            stragglers: 0.0,
            walltimes: 0.0,
            slow_links: 0.0,
            fetch_failures: 0.0,
            task_failures: 0.0,
            hopeless: 0.0,
            cancels: 0,
            vanishings: 0,
            detached: 0.0,
            max_fails: 0.0,
            max_processing: None,
            mean_us: 5_000,
            threads: None,
            memory_target: None,
            result_bytes: None,
            memory: None,
            lease: Duration::from_secs(60),
        }
    }
}

impl Faults {
    /// Few workers and long tasks.
    pub fn slow(workers: u32) -> Faults {
        Faults { workers, mean_us: 1_000_000, ..Faults::default() }
    }

    /// A mixture in which each kind of fault is there with its own weight.
    pub fn generate(seed: u64) -> Faults {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x000f_a017);
        let mut often = |chance: f64, most: u32| if rng.f64() < chance { rng.u32(1..=most) } else { 0 };
        let (losses, holders_lost, flaps) = (often(0.5, 4), often(0.3, 2), often(0.3, 3));
        let (freezes, pauses, retirements) = (often(0.25, 2), often(0.3, 6), often(0.35, 3));
        let (cancels, vanishings) = (often(0.25, 2), often(0.25, 2));
        let from_none = often(0.1, 1) > 0;
        let late_joiners = often(0.4, 3).max(u32::from(from_none));
        let mut part = |chance: f64, most: f64| if rng.f64() < chance { most * rng.f64() } else { 0.0 };
        let (stragglers, walltimes, slow_links) = (part(0.3, 0.7), part(0.25, 1.0), part(0.4, 0.3));
        let (fetch_failures, hopeless) = (part(0.4, 0.1), part(0.2, 0.06));
        let (task_failures, detached) = (part(0.4, 0.1), part(0.7, 1.0));
        let max_fails = part(0.2, 1.0);
        Faults {
            workers: if from_none { 0 } else { rng.u32(1..=4) },
            losses,
            all_at_once: rng.u32(0..4) == 0,
            holders_lost,
            flaps,
            freezes,
            pauses,
            retirements,
            late_joiners,
            stragglers,
            walltimes,
            slow_links,
            fetch_failures,
            task_failures: if hopeless > 0.0 { 0.0 } else { task_failures },
            hopeless,
            cancels,
            vanishings,
            detached,
            max_fails,
            max_processing: (rng.u32(0..5) == 0).then(|| rng.u32(1..6)),
            mean_us: [200, 2_000, 5_000, 20_000][rng.usize(0..4)],
            memory_target: (rng.u32(0..4) == 0).then(|| rng.u64(0..12_000)),
            lease: Duration::from_millis(rng.u64(1..80)),
            ..Faults::default()
        }
    }

    pub fn size_of(&self, family: u32, element: u32) -> u64 {
        if let Some(memory) = &self.memory {
            return memory.result(family, element);
        }
        self.result_bytes.unwrap_or_else(|| size_of(family, element))
    }

    /// Whether nothing at all goes wrong, so that every task runs exactly once.
    pub fn are_none(&self) -> bool {
        let counts = [
            self.losses,
            self.holders_lost,
            self.flaps,
            self.freezes,
            self.retirements,
            self.cancels,
            self.vanishings,
        ];
        let parts = [self.walltimes, self.fetch_failures, self.task_failures, self.hopeless];
        counts.iter().all(|n| *n == 0) && parts.iter().all(|p| *p == 0.0) && self.memory.is_none()
    }

    /// The longest that a task may take, microseconds.
    pub fn longest_us(&self) -> u64 {
        self.mean_us * 2 * if self.stragglers > 0.0 { 100 } else { 1 }
    }
}
