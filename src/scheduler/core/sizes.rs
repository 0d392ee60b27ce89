//! What a run came to, family by family, for a record of its shape. Owns which tasks are looked at where a
//! family is too large to name each.

use super::Core;
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, RunId};

/// Into how many parts quantiles divide: eleven values are said, from the smallest to the largest.
const PARTS: usize = 10;

/// Tasks looked at for quantiles, beside the largest.
const SAMPLE_MAX: u32 = 10_000;

/// What the elements of one family came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Number of elements; 0 while it is not known.
    pub elements: u32,
    /// Of them, those that succeeded.
    pub done: u32,
    /// Smoothed execution time, nanoseconds; unknown before the first success.
    pub duration_ns: Option<u64>,
    /// Bytes of the results: of each element in order, or eleven quantiles.
    pub bytes: Vec<u64>,
    /// Whether `bytes` are quantiles.
    pub quantiles: bool,
}

impl Core {
    /// What a family came to: the size of each result if it has at most `each_max` elements, else quantiles.
    /// Elements that are not done count as large as the family's others are thought to be. `None` for
    /// families and runs that are not known.
    pub fn sizes(&self, run: RunId, family: FamilyIx, each_max: u32) -> Option<Sizes> {
        let run = self.run(run)?;
        let f = run.families.get(family.index())?;
        let elements = f.shape.map_or(0, |s| s.total);
        let of = |element: u32| run.result_bytes_of(family, element);
        let quantiles = elements > each_max;
        let bytes = match quantiles {
            false => (0..elements).map(of).collect(),
            true => spread(elements, of),
        };
        Some(Sizes { elements, done: f.done, duration_ns: f.duration_ns, bytes, quantiles })
    }

    /// How many families a run has.
    pub fn family_count(&self, run: RunId) -> Option<usize> {
        Some(self.run(run)?.families.len())
    }
}

impl Run {
    fn result_bytes_of(&self, f: FamilyIx, element: u32) -> u64 {
        let i = self.index_of(f, element);
        match self.state_of(i) {
            State::Memory | State::Released => self.nbytes[i as usize],
            _ => self.families[f.index()].result_bytes.unwrap_or(0),
        }
    }
}

/// Quantiles of a sample at even distances; the last is the largest of all.
fn spread(n: u32, of: impl Fn(u32) -> u64) -> Vec<u64> {
    let step = n.div_ceil(SAMPLE_MAX).max(1);
    let mut sample: Vec<u64> = (0..n).step_by(step as usize).map(&of).collect();
    sample.sort_unstable();
    let Some(last) = sample.len().checked_sub(1) else { return Vec::new() };
    let mut values: Vec<u64> = (0..PARTS).map(|k| sample[last * k / PARTS]).collect();
    values.push((0..n).map(of).max().unwrap_or(0));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_go_from_the_smallest_to_the_largest() {
        // The largest lies between the elements that are looked at.
        let of = |i: u32| if i == 33_331 { 1_000_000 } else { u64::from(i % 1000) };
        let values = spread(100_000, of);
        assert_eq!(values.len(), PARTS + 1);
        assert_eq!((values[0], values[PARTS]), (0, 1_000_000));
        assert!(values.is_sorted());
        assert!(values[5].abs_diff(500) < 20, "{values:?}");
    }
}
