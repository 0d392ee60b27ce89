//! How fast something goes at the moment, from figures that only grow. Owns the window over which that is
//! taken.

use crate::base::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// The window.
const WINDOW: Duration = Duration::from_secs(5);

/// Figures of the last seconds.
#[derive(Clone, Debug)]
pub(in crate::scheduler) struct Meter<const N: usize>(VecDeque<(Time, [f64; N])>);

impl<const N: usize> Default for Meter<N> {
    fn default() -> Meter<N> {
        Meter(VecDeque::new())
    }
}

impl<const N: usize> Meter<N> {
    /// Takes figures in.
    pub(in crate::scheduler) fn add(&mut self, now: Time, figures: [f64; N]) {
        // What begins the window is older than that, or it would shrink to nothing between rare figures.
        while self.0.len() >= 2 && self.0[1].0.after(WINDOW) <= now {
            self.0.pop_front();
        }
        self.0.push_back((now, figures));
    }

    /// How much each grows in a second. What has shrunk began anew.
    pub(in crate::scheduler) fn rates(&self) -> [f64; N] {
        let Some(((from, first), (to, last))) = self.0.front().zip(self.0.back()) else { return [0.0; N] };
        let seconds = to.since(*from).as_secs_f64();
        std::array::from_fn(|k| match seconds > 0.0 {
            true => (last[k] - first[k]).max(0.0) / seconds,
            false => 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds() {
        let at = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), [0.0]);
        meter.add(at(10), [100.0]);
        assert_eq!(meter.rates(), [0.0], "one figure says nothing");
        meter.add(at(11), [110.0]);
        assert_eq!(meter.rates(), [10.0]);
        (12..=30).for_each(|n| meter.add(at(n), [110.0]));
        assert_eq!(meter.rates(), [0.0], "it has stood still for long");
        meter.add(at(60), [410.0]);
        assert_eq!(meter.rates(), [300.0 / 30.0], "rare figures have a wider window");
        meter.add(at(61), [0.0]);
        assert_eq!(meter.rates(), [0.0]);
        assert!(meter.0.len() <= 7);
    }
}
