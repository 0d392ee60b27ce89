//! The thread that looks at memory: one in a process, however many workers it holds. Owns the rhythm, and
//! what part of the process's memory is whose; what is done about it is decided elsewhere.

use super::sampler::{Sample, Sampler};
use crate::worker::store::pool;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// How often memory is looked at.
pub(in crate::worker) const LOOKS_PER_SECOND: u32 = 10;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(1000 / LOOKS_PER_SECOND as u64);

/// The gauges of this process, and whether a thread reads them: it lives while there are any.
static GAUGES: Mutex<Gauges> = Mutex::new(Gauges { all: Vec::new(), read: false });

struct Gauges {
    all: Vec<Weak<Gauge>>,
    read: bool,
}

impl Gauges {
    fn living(&mut self) -> Vec<Arc<Gauge>> {
        self.all.retain(|g| g.strong_count() > 0);
        self.all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What a worker knows of its memory.
#[derive(Debug)]
pub(in crate::worker) struct Gauge {
    latest: Mutex<Reading>,
    exact_above: AtomicU64,
    /// Processes that with those below them may have so many bytes.
    bounds: Mutex<Vec<(i32, u64)>>,
    /// Whether memory that processes share counts in each of them.
    every_mapping: AtomicBool,
    changed: Notify,
}

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub(in crate::worker) struct Reading {
    /// The processes.
    pub sample: Arc<Sample>,
    /// How many workers share this process.
    pub sharers: u64,
}

impl Reading {
    /// Bytes that are no results, of one worker whose tasks have these main processes: the whole tree for
    /// the only worker of a process; else its tasks' and an equal part of the process's own.
    pub fn unmanaged(&self, tasks: impl Iterator<Item = i32>) -> u64 {
        match self.sharers {
            0 | 1 => self.sample.total(),
            n => self.sample.own / n + tasks.map(|pid| self.sample.below(pid)).sum::<u64>(),
        }
    }
}

impl Gauge {
    /// A gauge that has been read once; a thread keeps reading it for as long as it lives.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> io::Result<Arc<Gauge>> {
        let gauge = Arc::new(Gauge {
            latest: Mutex::default(),
            exact_above: AtomicU64::new(u64::MAX),
            bounds: Mutex::default(),
            every_mapping: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let mut gauges = lock(&GAUGES);
        if !gauges.read {
            std::thread::Builder::new().name("memory".into()).spawn(watch)?;
            gauges.read = true;
        }
        gauges.all.push(Arc::downgrade(&gauge));
        drop(gauges);
        gauge.take(Reading { sample: Arc::new(Sampler::default().sample(u64::MAX)), sharers: 1 });
        Ok(gauge)
    }

    /// What was seen last.
    pub fn read(&self) -> Reading {
        lock(&self.latest).clone()
    }

    /// Waits for the next look.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Wakes whoever waits for the next look, without one.
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    /// Beyond so many bytes that are no results, forked processes are to be counted exactly.
    pub fn be_exact_above(&self, bytes: u64) {
        self.exact_above.store(bytes, Ordering::Relaxed);
    }

    /// From now on shared memory counts in each process that maps it, results included.
    pub fn count_every_mapping(&self) {
        self.every_mapping.store(true, Ordering::Relaxed);
    }

    /// Where a process with those below it has more than so many bytes, they are to be counted exactly.
    pub fn be_exact_beyond(&self, bounds: Vec<(i32, u64)>) {
        *lock(&self.bounds) = bounds;
    }

    fn take(&self, reading: Reading) {
        *lock(&self.latest) = reading;
        self.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    let mut sampler = Sampler::default();
    loop {
        std::thread::sleep(INTERVAL);
        pool::tend();
        let gauges = lock(&GAUGES).living();
        let bounds = gauges.iter().map(|g| g.exact_above.load(Ordering::Relaxed));
        sampler.every_mapping = gauges.iter().any(|g| g.every_mapping.load(Ordering::Relaxed));
        let mut sample = sampler.sample(bounds.fold(0, u64::saturating_add));
        gauges.iter().for_each(|g| sample.be_exact_beyond(&lock(&g.bounds)));
        let sample = Arc::new(sample);
        let sharers = gauges.len() as u64;
        gauges.iter().for_each(|g| g.take(Reading { sample: sample.clone(), sharers }));
        drop(gauges);
        let mut left = lock(&GAUGES);
        if left.living().is_empty() {
            left.read = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::memory::sampler::Process;

    #[test]
    fn workers_of_one_process_share_what_is_its_own() {
        let process = |pid, parent, bytes| Process { pid, parent, bytes };
        let processes = vec![process(2, 1, 10), process(3, 2, 5), process(4, 1, 7)];
        let sample = Arc::new(Sample::of(100, processes));
        let alone = Reading { sample: sample.clone(), sharers: 1 };
        assert_eq!(alone.unmanaged(std::iter::empty()), 122);
        assert_eq!(Reading { sample, sharers: 2 }.unmanaged([2].into_iter()), 50 + 15);
    }

    #[tokio::test]
    async fn gauges_are_read_again_and_again() {
        let gauge = Gauge::start().unwrap();
        assert!(gauge.read().sample.own > 0);
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_secs(20), gauge.changed()).await.unwrap();
        }
    }
}
