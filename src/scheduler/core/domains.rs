//! Which worker makes which of a run's first tasks: results that are needed together should come into being
//! together. Owns the division of roots into stretches, one for each worker; whether a worker may take one
//! more is decided in `place` and `admit`.
//!
//! A run's root families (no inputs, results that others join) share a *pool*. The pool's width, positions 0
//! to 2^32 along every family, is divided into domains. A worker that wants a root takes the next one of its
//! own domain: of all families the one whose position comes first, so that what is joined elementwise stays
//! near. A worker without a domain gets half of the largest: the far half, to be walked the other way. So
//! neighbours on both sides of every boundary are made at about the same time, and nothing has to wait in
//! memory for the other side of it. A window over n elements moves inputs only at the boundaries, of which
//! there are about as many as workers.

use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::base::priority::Priority;
use crate::graph::layer::Pattern;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// Roots of a run that are given out by domain.
#[derive(Default)]
pub(super) struct Pool {
    /// What the elements occupy.
    pub(super) class: u32,
    /// The user's priority for them, negated.
    user: i32,
    /// The families, and how many elements each has.
    families: Vec<(FamilyIx, u32)>,
    domains: Vec<Domain>,
    /// Which domain a worker walks.
    of: FxHashMap<WorkerId, usize>,
}

/// A part of a pool's width.
struct Domain {
    owner: Option<WorkerId>,
    /// From the end to the beginning.
    backwards: bool,
    /// Elements that are left, by family.
    left: Vec<Range<u32>>,
}

impl Domain {
    fn len(&self) -> u64 {
        self.left.iter().map(|r| u64::from(r.end - r.start)).sum()
    }

    /// The far half, to be walked the other way.
    fn split(&mut self, totals: &[(FamilyIx, u32)]) -> Domain {
        let position = |k: usize, element: u32| (u64::from(element) << 32) / u64::from(totals[k].1.max(1));
        // In the middle of the longest, so that both halves have something.
        let longest = (0..self.left.len()).max_by_key(|&k| self.left[k].len()).unwrap_or(0);
        let middle = self.left[longest].start + self.left[longest].len() as u32 / 2;
        let at = position(longest, middle);
        let halves = |k: usize, range: &Range<u32>| {
            let total = u64::from(totals[k].1.max(1));
            // The first element at or behind the place of division.
            let cut = u32::try_from((at * total).div_ceil(1 << 32)).unwrap_or(u32::MAX);
            let cut = if k == longest { middle } else { cut }.clamp(range.start, range.end);
            (range.start..cut, cut..range.end)
        };
        let both = self.left.iter().enumerate().map(|(k, range)| halves(k, range));
        let (low, high): (Vec<_>, Vec<_>) = both.unzip();
        let (near, far) = if self.backwards { (high, low) } else { (low, high) };
        self.left = near;
        Domain { owner: None, backwards: !self.backwards, left: far }
    }
}

impl Pool {
    fn is_untouched(&self) -> bool {
        self.of.is_empty() && self.domains.len() == 1
    }

    fn add(&mut self, family: FamilyIx, total: u32) {
        self.families.push((family, total));
        self.domains[0].left.push(0..total);
    }

    /// The domain that a worker walks, or a new one; `None` if nothing is left.
    fn domain(&mut self, w: WorkerId) -> Option<usize> {
        if let Some(&at) = self.of.get(&w) {
            return Some(at);
        }
        let free = self.domains.iter().position(|d| d.owner.is_none());
        let at = match free {
            Some(at) => at,
            None => {
                let largest = (0..self.domains.len()).max_by_key(|&d| self.domains[d].len())?;
                if self.domains[largest].left.iter().all(|r| r.len() < 2) {
                    // What cannot be divided goes to whoever can make it.
                    self.domains[largest].owner.map(|owner| self.of.remove(&owner));
                    largest
                } else {
                    let half = self.domains[largest].split(&self.families);
                    self.domains.push(half);
                    self.domains.len() - 1
                }
            }
        };
        self.domains[at].owner = Some(w);
        self.of.insert(w, at);
        Some(at)
    }

    fn remove(&mut self, at: usize) {
        let gone = self.domains.swap_remove(at);
        gone.owner.map(|w| self.of.remove(&w));
        if let Some(owner) = self.domains.get(at).and_then(|d| d.owner) {
            self.of.insert(owner, at);
        }
    }

    /// A worker is gone; somebody else goes on where it was.
    fn disown(&mut self, w: WorkerId) {
        if let Some(at) = self.of.remove(&w) {
            self.domains[at].owner = None;
        }
    }
}

impl Run {
    /// Whether a family's elements go into a pool: they come from nowhere, and somewhere results of several
    /// of them meet.
    pub(super) fn is_pooled(&self, f: FamilyIx) -> bool {
        let family = &self.families[f.index()];
        self.edges.of(f).is_empty()
            && family.shape.is_some_and(|s| s.total > 1)
            && self.max_processing_is_off()
            && self.meets(f)
    }

    fn meets(&self, f: FamilyIx) -> bool {
        let (mut stack, mut seen) = (vec![f], vec![f]);
        while let Some(f) = stack.pop() {
            for &(c, e) in self.edges.behind(f) {
                let edges = self.edges.of(c);
                let edge = &edges[e as usize];
                if !edge.data || *edge.pattern() == Pattern::All {
                    continue;
                }
                let beside = |e: &&super::edges::Edge| e.data && *e.pattern() != Pattern::All;
                if *edge.pattern() != Pattern::Each || edges.iter().filter(beside).count() > 1 {
                    return true;
                }
                if !seen.contains(&c) {
                    seen.push(c);
                    stack.push(c);
                }
            }
        }
        false
    }

    /// Puts a family into a pool. Returns the pool's number if it is new: it wants an entry in its class's
    /// queue.
    pub(super) fn pool(&mut self, f: FamilyIx) -> Option<u32> {
        let family = &self.families[f.index()];
        let (class, user) = (family.class, family.layer.priority.saturating_neg());
        let total = family.shape.map_or(0, |s| s.total);
        let same = |p: &Pool| p.class == class && p.user == user && p.is_untouched();
        if let Some(pool) = self.pools.iter_mut().find(|p| same(p)) {
            pool.add(f, total);
            return None;
        }
        let whole = Domain { owner: None, backwards: false, left: Vec::new() };
        let mut pool = Pool { class, user, domains: vec![whole], ..Pool::default() };
        pool.add(f, total);
        self.pools.push(pool);
        Some(self.pools.len() as u32 - 1)
    }

    /// A pool's place in its class's queue: behind everything else of the run, for what can be finished is
    /// finished before more is begun.
    pub(super) fn pool_priority(&self, pool: u32) -> Priority {
        Priority { user: self.pools[pool as usize].user, generation: self.generation, rank: u64::MAX }
    }

    /// The next root that a worker should make: its index.
    pub(super) fn next_root(&mut self, pool: u32, w: WorkerId) -> Option<u32> {
        let mut taken = std::mem::take(&mut self.pools[pool as usize]);
        let next = self.look_for_root(&mut taken, w);
        self.pools[pool as usize] = taken;
        next
    }

    fn look_for_root(&self, pool: &mut Pool, w: WorkerId) -> Option<u32> {
        loop {
            let at = pool.domain(w)?;
            let Domain { backwards, left, .. } = &mut pool.domains[at];
            let mut best: Option<(u64, u32)> = None;
            for (k, range) in left.iter_mut().enumerate() {
                let (f, total) = pool.families[k];
                // Some may have been cancelled, or got another entry of their own.
                while let Some(element) = edge_of(range, *backwards) {
                    let i = self.index_of(f, element);
                    if self.state_of(i) != State::Queued {
                        narrow(range, *backwards);
                        continue;
                    }
                    let position = (u64::from(element) << 32) / u64::from(total.max(1));
                    let rank = if *backwards { u64::MAX - position } else { position };
                    if best.is_none_or(|(r, _)| rank < r) {
                        best = Some((rank, i));
                    }
                    break;
                }
            }
            match best {
                Some((_, i)) => return Some(i),
                None => pool.remove(at),
            }
        }
    }

    /// Tasks of a pool that have not been given out, by index.
    pub(super) fn pooled(&self, pool: u32) -> impl Iterator<Item = u32> + '_ {
        let pool = &self.pools[pool as usize];
        let ranges = pool.domains.iter().flat_map(|d| d.left.iter().enumerate());
        ranges.flat_map(move |(k, range)| range.clone().map(move |e| self.index_of(pool.families[k].0, e)))
    }

    /// A worker is gone: its domains are free.
    pub(super) fn disown(&mut self, w: WorkerId) {
        self.pools.iter_mut().for_each(|p| p.disown(w));
    }
}

fn edge_of(range: &Range<u32>, backwards: bool) -> Option<u32> {
    (!range.is_empty()).then(|| if backwards { range.end - 1 } else { range.start })
}

fn narrow(range: &mut Range<u32>, backwards: bool) {
    if backwards {
        range.end -= 1;
    } else {
        range.start += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(domain: &Domain) -> Vec<Range<u32>> {
        domain.left.clone()
    }

    #[test]
    fn a_worker_without_a_domain_gets_the_far_half_of_the_largest() {
        let mut pool = Pool::default();
        pool.domains.push(Domain { owner: None, backwards: false, left: Vec::new() });
        pool.add(FamilyIx(0), 16);
        pool.add(FamilyIx(1), 8);
        assert_eq!(pool.domain(WorkerId(0)), Some(0));
        assert_eq!(pool.domain(WorkerId(1)), Some(1));
        assert_eq!(ranges(&pool.domains[0]), [0..8, 0..4]);
        assert_eq!((ranges(&pool.domains[1]), pool.domains[1].backwards), (vec![8..16, 4..8], true));
        // The second walks down; what is far from it is where it would end, beside the first one's end.
        pool.domains[0].left = vec![6..8, 3..4];
        assert_eq!(pool.domain(WorkerId(2)), Some(2));
        assert_eq!((ranges(&pool.domains[2]), pool.domains[2].backwards), (vec![8..12, 4..6], false));
        assert_eq!(ranges(&pool.domains[1]), [12..16, 6..8]);
    }

    #[test]
    fn what_is_left_behind_is_taken_over() {
        let mut pool = Pool::default();
        pool.domains.push(Domain { owner: None, backwards: false, left: Vec::new() });
        pool.add(FamilyIx(0), 1);
        assert_eq!(pool.domain(WorkerId(3)), Some(0));
        // A single element cannot be divided.
        assert_eq!(pool.domain(WorkerId(4)), Some(0));
        assert_eq!(pool.of.get(&WorkerId(3)), None);
        pool.disown(WorkerId(4));
        assert_eq!(pool.domain(WorkerId(5)), Some(0));
        pool.remove(0);
        assert_eq!((pool.domain(WorkerId(5)), pool.of.len()), (None, 0));
    }
}
