//! The most memory that a worker has held, and how long it was paused, over its whole life. Owns the
//! bookkeeping only: the loop says what it holds whenever it handles anything, before anything is let go, so
//! that no peak of results falls between two looks; memory that is no result is as fresh as the monitor's.

use std::time::{Duration, Instant};

/// Peaks so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks {
    /// Bytes of results in memory.
    managed: u64,
    /// Bytes of results and everything else.
    total: u64,
    paused: Duration,
    paused_since: Option<Instant>,
}

impl Peaks {
    /// What is held now, bytes.
    pub(super) fn note(&mut self, managed: u64, unmanaged: u64) {
        self.managed = self.managed.max(managed);
        self.total = self.total.max(managed.saturating_add(unmanaged));
    }

    /// Whether tasks may start, at this time.
    pub(super) fn note_paused(&mut self, paused: bool, now: Instant) {
        match (paused, self.paused_since) {
            (true, None) => self.paused_since = Some(now),
            (false, Some(since)) => {
                self.paused += now.saturating_duration_since(since);
                self.paused_since = None;
            }
            _ => {}
        }
    }

    /// The largest sum of results in memory, bytes.
    pub(super) fn managed(&self) -> u64 {
        self.managed
    }

    /// The largest sum of everything, bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How long no task could start.
    pub(super) fn paused(&self, now: Instant) -> Duration {
        self.paused + self.paused_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_stays() {
        let mut peaks = Peaks::default();
        for (managed, unmanaged) in [(10, 1), (4, 90), (12, 2)] {
            peaks.note(managed, unmanaged);
        }
        assert_eq!((peaks.managed(), peaks.total()), (12, 94));
    }

    #[test]
    fn pauses_add_up() {
        let (mut peaks, begin) = (Peaks::default(), Instant::now());
        let at = |s| begin + Duration::from_secs(s);
        for (paused, s) in [(false, 0), (true, 1), (true, 2), (false, 4), (false, 5), (true, 10)] {
            peaks.note_paused(paused, at(s));
        }
        assert_eq!(peaks.paused(at(11)), Duration::from_secs(4));
    }
}
