//! Layers: how the elements of one family depend on the elements of others, as patterns instead of lists.
//! Pure index arithmetic, shared by the client (which checks sizes) and the scheduler core (which walks edges
//! in both directions). Owns no names, no commands and no state of tasks.

use crate::base::ids::FamilyIx;
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// CPU slots in 1/10,000: fractions of a thread are exact.
pub const SLOT: u32 = 10_000;

/// The scheduling half of a family: how many elements, what they depend on, what each of them occupies.
/// What they *do* is the family's `TaskSpec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// How many elements it has.
    pub size: Size,
    /// What its elements depend on; the order is that of the inputs on stdin.
    pub edges: Vec<Edge>,
    /// The user's priority; larger runs sooner.
    pub priority: i32,
    /// CPU slots that an element occupies, in 1/10,000 (`SLOT` = one thread).
    pub slots: u32,
    /// Named resources that an element occupies, in 1/10,000; `gpus` is one of them.
    pub resources: BTreeMap<String, u64>,
    /// Whole workers that an element takes, on different hosts; 1 for one that takes slots of a worker.
    pub nodes: u32,
    /// Expected peak private memory of an element, bytes (a list: by attempt); empty when not declared.
    pub memory: Vec<u64>,
    /// Expected size of a result, bytes, when declared.
    pub output_size: Option<u64>,
    /// How often a failing element is tried again.
    pub retries: u32,
    /// Longest time an element may run, in milliseconds.
    pub time_limit_ms: Option<u64>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer {
            size: Size::Fixed(1),
            edges: Vec::new(),
            priority: 0,
            slots: SLOT,
            resources: BTreeMap::new(),
            nodes: 1,
            memory: Vec::new(),
            output_size: None,
            retries: 0,
            time_limit_ms: None,
        }
    }
}

/// How many elements a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Size {
    /// So many, known at submission.
    Fixed(u32),
    /// As many as its shaping edge gives, known once that edge's producer is complete (groups by bytes, and
    /// whatever follows them).
    Follows,
}

/// A dependency of every element of one family on elements of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The family depended on; always an earlier one, so graphs are acyclic by construction.
    pub producer: FamilyIx,
    /// Which elements.
    pub pattern: Pattern,
    /// Whether the elements receive the results (`from`) or only wait for them (`after`).
    pub data: bool,
}

/// Which elements of the producer an element of the consumer depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pattern {
    /// Element i on element i.
    Each,
    /// Every element on all elements (a broadcast is this with a producer of one element).
    All,
    /// Element i on its neighbourhood, from `i + low` to `i + high`, both included.
    Window {
        /// First offset, not above `high`.
        low: i32,
        /// Last offset.
        high: i32,
        /// What happens at the borders.
        edge: Border,
    },
    /// A reduction in levels: the consumer's first elements each take `fan_in` of the producer's, the next
    /// level takes those, down to one. Only that last element is visible to later families.
    Tree {
        /// Inputs of each element, at least 2.
        fan_in: u32,
    },
    /// Element j on the j-th run of `size` consecutive elements; the last may be shorter.
    Group {
        /// Elements in a group, at least 1.
        size: u32,
    },
    /// Consecutive elements whose results together reach about so many bytes; formed as sizes become known.
    GroupBytes {
        /// Bytes aimed at, at least 1.
        bytes: u64,
    },
    /// Listed one by one.
    Explicit(Arc<Csr>),
}

/// What a window does where it would reach over the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Border {
    /// The parts outside are left out.
    Clip,
    /// It goes on at the other end.
    Wrap,
    /// Elements whose window is not whole do not exist; the family is that much smaller.
    Drop,
}

/// Edges listed one by one, compressed by row: element i depends on `targets[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csr {
    /// One more than there are elements, ascending, first 0.
    pub offsets: Vec<u32>,
    /// Indices of producer elements.
    pub targets: Vec<u32>,
}

impl Csr {
    /// The targets of row `i`.
    pub fn row(&self, i: u32) -> &[u32] {
        &self.targets[self.offsets[i as usize] as usize..self.offsets[i as usize + 1] as usize]
    }

    /// The same edges by target: row j lists the elements that depend on j. `n` is the number of targets.
    pub fn inverse(&self, n: u32) -> Csr {
        let mut offsets = vec![0u32; n as usize + 1];
        for &t in &self.targets {
            offsets[t as usize + 1] += 1;
        }
        for i in 0..n as usize {
            offsets[i + 1] += offsets[i];
        }
        let mut next = offsets.clone();
        let mut targets = vec![0u32; self.targets.len()];
        for i in 0..self.offsets.len().saturating_sub(1) as u32 {
            for &t in self.row(i) {
                targets[next[t as usize] as usize] = i;
                next[t as usize] += 1;
            }
        }
        Csr { offsets, targets }
    }

    /// Whether offsets ascend from 0 to the number of targets and every target is below `n`.
    pub fn is_valid(&self, rows: u32, n: u32) -> bool {
        self.offsets.len() == rows as usize + 1
            && self.offsets.first() == Some(&0)
            && self.offsets.last().copied() == u32::try_from(self.targets.len()).ok()
            && self.offsets.windows(2).all(|w| w[0] <= w[1])
            && self.targets.iter().all(|&t| t < n)
    }
}

/// A layer's elements once its size is known: all of them, and those that later families see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Number of elements.
    pub total: u32,
    /// First element that later families see; they see all from there on.
    pub first_export: u32,
}

impl Shape {
    /// How many elements later families see.
    pub fn exports(&self) -> u32 {
        self.total - self.first_export
    }
}

/// Consecutive elements, of the producer or (in trees) of the consumer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whether the indices are the consumer's own.
    pub own: bool,
    /// The indices; of the producer they count from its first exported element.
    pub range: Range<u32>,
}

fn foreign(range: Range<u32>) -> Span {
    Span { own: false, range }
}

/// A few spans.
pub type Spans = SmallVec<[Span; 2]>;

/// The first element of each level of a tree over `n` inputs, then the total. A tree over nothing is one
/// element without inputs.
pub fn tree_levels(n: u32, fan_in: u32) -> SmallVec<[u32; 36]> {
    // As many as there can be: every look at an element makes such a list.
    let mut starts: SmallVec<[u32; 36]> = smallvec![0];
    let mut width = n.div_ceil(fan_in).max(1);
    let mut total = width;
    while width > 1 {
        starts.push(total);
        width = width.div_ceil(fan_in);
        total += width;
    }
    starts.push(total);
    starts
}

impl Pattern {
    /// The shape of a family whose size this edge gives, over `n` exported elements of the producer; `None`
    /// where the pattern gives none (`All`, `Explicit`) or not yet (`GroupBytes`).
    pub fn shape(&self, n: u32) -> Option<Shape> {
        let total = match self {
            Pattern::Each => n,
            Pattern::Window { edge: Border::Drop, low, high } => n.saturating_sub(high.abs_diff(*low)),
            Pattern::Window { .. } => n,
            Pattern::Group { size } => n.div_ceil(*size),
            Pattern::Tree { fan_in } => {
                let levels = tree_levels(n, *fan_in);
                let total = levels[levels.len() - 1];
                return Some(Shape { total, first_export: total - 1 });
            }
            Pattern::All | Pattern::Explicit(_) | Pattern::GroupBytes { .. } => return None,
        };
        Some(Shape { total, first_export: 0 })
    }

    /// What element `i` depends on, as spans in input order. `n` is the producer's number of exported
    /// elements. Not for `Explicit` (a list) and `GroupBytes` (formed while running).
    pub fn inputs(&self, i: u32, n: u32) -> Spans {
        match self {
            Pattern::Each => smallvec![foreign(i..i + 1)],
            Pattern::All => smallvec![foreign(0..n)],
            Pattern::Group { size } => smallvec![foreign(i * size..(i * size).saturating_add(*size).min(n))],
            Pattern::Window { low, high, edge } => window(i, n, *low, *high, *edge),
            Pattern::Tree { fan_in } => {
                if i < n.div_ceil(*fan_in).max(1) {
                    let start = (i * fan_in).min(n);
                    return smallvec![foreign(start..start.saturating_add(*fan_in).min(n))];
                }
                let levels = tree_levels(n, *fan_in);
                let level = levels.iter().rposition(|&s| s <= i).unwrap_or(0);
                let start = levels[level - 1] + (i - levels[level]) * fan_in;
                smallvec![Span { own: true, range: start..(start + fan_in).min(levels[level]) }]
            }
            Pattern::Explicit(_) | Pattern::GroupBytes { .. } => Spans::new(),
        }
    }

    /// Which elements of the consumer depend on exported element `j` of the producer. Not for `All`
    /// (everyone), `Explicit` and `GroupBytes`. `consumers` is the consumer's number of elements.
    pub fn dependents(&self, j: u32, n: u32, consumers: u32) -> SmallVec<[Range<u32>; 2]> {
        match self {
            Pattern::Each if j < consumers => smallvec![j..j + 1],
            Pattern::Group { size } => smallvec![j / size..j / size + 1],
            Pattern::Tree { fan_in } => smallvec![j / fan_in..j / fan_in + 1],
            Pattern::Window { low, high, edge } => match edge {
                Border::Clip => {
                    clipped(i64::from(j) - i64::from(*high), i64::from(j) - i64::from(*low), consumers)
                }
                Border::Drop => {
                    clipped(i64::from(j) - i64::from(high.abs_diff(*low)), i64::from(j), consumers)
                }
                Border::Wrap => {
                    window(j, n, -*high, -*low, Border::Wrap).into_iter().map(|s| s.range).collect()
                }
            },
            _ => SmallVec::new(),
        }
    }

    /// The element of the same family that element `i` of a tree feeds; `None` for the last and other
    /// patterns.
    pub fn parent(&self, i: u32, n: u32) -> Option<u32> {
        let Pattern::Tree { fan_in } = self else { return None };
        let levels = tree_levels(n, *fan_in);
        let level = levels[..levels.len() - 1].iter().rposition(|&s| s <= i)?;
        if level + 2 >= levels.len() {
            return None;
        }
        Some(levels[level + 1] + (i - levels[level]) / fan_in)
    }
}

fn clipped(first: i64, last: i64, n: u32) -> SmallVec<[Range<u32>; 2]> {
    let first = first.clamp(0, i64::from(n)) as u32;
    let end = (last + 1).clamp(0, i64::from(n)) as u32;
    if first < end { smallvec![first..end] } else { SmallVec::new() }
}

fn window(i: u32, n: u32, low: i32, high: i32, edge: Border) -> Spans {
    let (first, last) = (i64::from(i) + i64::from(low), i64::from(i) + i64::from(high));
    match edge {
        Border::Clip => clipped(first, last, n).into_iter().map(foreign).collect(),
        Border::Drop => smallvec![foreign(i..i + high.abs_diff(low) + 1)],
        Border::Wrap if n == 0 => Spans::new(),
        Border::Wrap if last - first + 1 >= i64::from(n) => smallvec![foreign(0..n)],
        Border::Wrap => {
            let start = first.rem_euclid(i64::from(n)) as u32;
            let width = (last - first + 1) as u32;
            if start + width <= n {
                smallvec![foreign(start..start + width)]
            } else {
                smallvec![foreign(start..n), foreign(0..start + width - n)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_inputs(p: &Pattern, i: u32, n: u32) -> Vec<(bool, u32)> {
        p.inputs(i, n).into_iter().flat_map(|s| s.range.map(move |x| (s.own, x))).collect()
    }

    /// Walking edges forwards and backwards must give the same set.
    fn check_inverse(p: Pattern, n: u32) {
        let Some(shape) = p.shape(n) else { return };
        let mut forward = std::collections::BTreeSet::new();
        for i in 0..shape.total {
            for (own, j) in all_inputs(&p, i, n) {
                assert!(j < if own { shape.total } else { n }, "{p:?} n={n} i={i} -> {j}");
                assert!(forward.insert((own, j, i)), "{p:?} n={n}: {i} takes {j} twice");
            }
        }
        let mut backward = std::collections::BTreeSet::new();
        for j in 0..n {
            for r in p.dependents(j, n, shape.total) {
                backward.extend(r.map(|i| (false, j, i)));
            }
        }
        for j in 0..shape.total {
            backward.extend(p.parent(j, n).map(|i| (true, j, i)));
        }
        assert_eq!(forward, backward, "{p:?} n={n}");
    }

    #[test]
    fn edges_agree_in_both_directions() {
        for n in 0..40 {
            check_inverse(Pattern::Each, n);
            for size in 1..6 {
                check_inverse(Pattern::Group { size }, n);
            }
            for fan_in in 2..6 {
                check_inverse(Pattern::Tree { fan_in }, n);
            }
            for (low, high) in [(-1, 1), (0, 2), (-3, 0), (1, 2), (-2, -1), (0, 0)] {
                for edge in [Border::Clip, Border::Wrap, Border::Drop] {
                    check_inverse(Pattern::Window { low, high, edge }, n);
                }
            }
        }
    }

    #[test]
    fn a_tree_narrows_to_one() {
        assert_eq!(tree_levels(17, 4).as_slice(), [0, 5, 7, 8]);
        assert_eq!(tree_levels(1, 4).as_slice(), [0, 1]);
        assert_eq!(tree_levels(0, 4).as_slice(), [0, 1]);
        assert_eq!(Pattern::Tree { fan_in: 4 }.shape(17), Some(Shape { total: 8, first_export: 7 }));
    }

    #[test]
    fn an_explicit_list_inverts() {
        let csr = Csr { offsets: vec![0, 2, 2, 3], targets: vec![1, 0, 1] };
        assert!(csr.is_valid(3, 2));
        assert!(!csr.is_valid(3, 1));
        assert_eq!(csr.inverse(2), Csr { offsets: vec![0, 1, 3], targets: vec![0, 0, 2] });
    }
}
