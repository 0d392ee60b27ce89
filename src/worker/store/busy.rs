//! How much was done and when, where several threads do it at once. Owns nothing else.

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
    /// Periods that nobody has taken yet.
    periods: Vec<Period>,
    /// Since when the present one was not taken, and the bytes until then.
    untaken: Option<Instant>,
    told: u64,
}

/// A time in which at least one thread was at work.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// From when.
    pub since: Instant,
    /// How long.
    pub time: Duration,
    /// What was done.
    pub bytes: u64,
}

/// Periods that are kept until they are taken. What comes then becomes part of the last one.
const PERIODS_MAX: usize = 1000;

/// A thread at work, until it is dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a Busy);

impl Busy {
    /// A thread begins.
    pub fn begin(&self) -> Working<'_> {
        let mut state = self.state();
        state.threads += 1;
        let since = *state.since.get_or_insert_with(Instant::now);
        state.untaken.get_or_insert(since);
        Working(self)
    }

    /// The periods since the last call; one that has not ended is cut.
    pub fn take_periods(&self) -> Vec<Period> {
        let mut state = self.state();
        if state.untaken.is_some() {
            let now = Instant::now();
            state.note_period(now, self.bytes());
            state.untaken = state.since.map(|_| now);
        }
        std::mem::take(&mut state.periods)
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

impl State {
    /// What was not taken yet lasts until now.
    fn note_period(&mut self, now: Instant, bytes: u64) {
        let Some(since) = self.untaken.take() else { return };
        let bytes = bytes - std::mem::replace(&mut self.told, bytes);
        let is_full = self.periods.len() >= PERIODS_MAX;
        match self.periods.last_mut() {
            Some(last) if is_full => {
                last.time = now.saturating_duration_since(last.since);
                last.bytes += bytes;
            }
            _ => self.periods.push(Period { since, time: now.saturating_duration_since(since), bytes }),
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.threads -= 1;
        if state.threads == 0
            && let Some(since) = state.since.take()
        {
            let now = Instant::now();
            state.time += now.saturating_duration_since(since);
            state.note_period(now, self.0.bytes());
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

    #[test]
    fn periods_are_taken_once_and_bounded() {
        let busy = Busy::default();
        let first = busy.begin();
        busy.count(3);
        let cut = busy.take_periods();
        assert_eq!(cut.iter().map(|p| p.bytes).collect::<Vec<_>>(), [3]);
        busy.count(4);
        drop(first);
        drop(busy.begin());
        let rest = busy.take_periods();
        assert_eq!(rest.iter().map(|p| p.bytes).collect::<Vec<_>>(), [4, 0]);
        assert!(cut[0].since + cut[0].time <= rest[0].since);
        assert!(busy.take_periods().is_empty());
        for _ in 0..2 * PERIODS_MAX {
            let _busy = busy.begin();
            busy.count(1);
        }
        let many = busy.take_periods();
        assert_eq!((many.len(), many.iter().map(|p| p.bytes).sum::<u64>()), (PERIODS_MAX, 2000));
    }
}
