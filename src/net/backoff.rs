//! Waiting between attempts, and saying only now and then what happens often. Owns no attempt.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Delays that double up to a limit, each with jitter so that a thousand workers do not return at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from about `first` to about `max`.
    pub fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max, next: first }
    }

    /// How long to wait before the next attempt: between a half and the whole of the current step.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.next.min(self.max);
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Lets one of many equal log lines through per interval and counts the others.
#[derive(Debug)]
pub struct LogLimit {
    interval: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    /// One line per `interval`.
    pub fn new(interval: Duration) -> LogLimit {
        LogLimit { interval, state: Mutex::new((None, 0)) }
    }

    /// `Some(n)` if a line may be written at `now`; `n` is how many were left out since the last.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let (last, omitted) = &mut *state;
        if last.is_some_and(|t| now.duration_since(t) < self.interval) {
            *omitted += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_up_to_the_limit() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        for step in [100, 200, 400, 500, 500, 500] {
            let d = b.next_delay().as_millis();
            assert!((step / 2..=step).contains(&d), "{d} {step}");
        }
        b.reset();
        assert!(b.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn lines_are_counted_while_they_are_left_out() {
        let limit = LogLimit::new(Duration::from_secs(10));
        let t = Instant::now();
        assert_eq!(limit.pass(t), Some(0));
        assert_eq!(limit.pass(t), None);
        assert_eq!(limit.pass(t + Duration::from_secs(9)), None);
        assert_eq!(limit.pass(t + Duration::from_secs(10)), Some(2));
        assert_eq!(limit.pass(t + Duration::from_secs(20)), Some(0));
    }
}
