//! How much was done and in what time, where several threads do it at once. Owns nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes, and the time in which at least one thread was at work.
#[derive(Debug, Default)]
pub struct Busy {
    bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    threads: u32,
    since: Option<Instant>,
    time: Duration,
}

/// A thread at work, until it is dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a Busy);

impl Busy {
    /// A thread begins.
    pub fn begin(&self) -> Working<'_> {
        let mut state = self.state();
        state.threads += 1;
        state.since.get_or_insert_with(Instant::now);
        Working(self)
    }

    /// So many bytes are done.
    pub fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time so far.
    pub fn time(&self) -> Duration {
        let state = self.state();
        state.time + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.threads -= 1;
        if state.threads == 0
            && let Some(since) = state.since.take()
        {
            state.time += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_several_counts_once() {
        let (busy, nap) = (Busy::default(), Duration::from_millis(20));
        assert_eq!((busy.time(), busy.bytes()), (Duration::ZERO, 0));
        let begin = Instant::now();
        let first = busy.begin();
        let second = busy.begin();
        std::thread::sleep(nap);
        drop(first);
        std::thread::sleep(nap);
        drop(second);
        let (time, wall) = (busy.time(), begin.elapsed());
        assert!(time >= 2 * nap && time <= wall, "{time:?} of {wall:?}");
        assert_eq!(busy.time(), time);
        busy.count(3);
        busy.count(4);
        assert_eq!(busy.bytes(), 7);
    }
}
