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
//!
//! Roots that are tasks of their own have a pool, too, along their order in the run (`singles`). What that
//! order leads to is not known: it may go on from one end to the other, and a domain in its middle would wait
//! for all before it. So a worker gets a short stretch at a time, the first that nobody has, and all workers
//! are about where the order is. A stretch is no more than a part of what its worker may hold.

use super::cx::Cx;
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::base::priority::Priority;
use crate::graph::layer::Pattern;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// Into how many stretches for each worker tasks of their own are divided at least: with fewer, some workers
/// would have nothing to do at the end.
const STRETCHES: u64 = 4;

/// A stretch makes such a part of what its worker may hold. With longer ones, more waits in memory for what
/// comes before; with shorter ones, more neighbours are apart. `tests/placement` measures both.
const AHEAD: u64 = 3;

/// Tasks of a stretch while it is not known how large their results are.
const FIRST: u64 = 4;

/// Roots of a run that are given out by domain.
#[derive(Default)]
pub(super) struct Pool {
    /// What the elements occupy.
    pub(super) class: u32,
    /// The user's priority for them, negated.
    user: i32,
    /// The rows, and how many elements each has.
    rows: Vec<(Row, u32)>,
    /// Of tasks of their own: the priority of the one that was given out last, at first of the first.
    place: Option<Priority>,
    /// Which domain of such a one comes first, if that is known.
    front: Option<usize>,
    domains: Vec<Domain>,
    /// Which domain a worker walks.
    of: FxHashMap<WorkerId, usize>,
}

/// What lies along a pool's width.
enum Row {
    /// A family, element by element.
    Family(FamilyIx),
    /// Tasks of their own, by index, in the order of their places.
    Singles(Vec<u32>),
}

/// A part of a pool's width.
struct Domain {
    owner: Option<WorkerId>,
    /// From the end to the beginning.
    backwards: bool,
    /// Elements that are left, by row.
    left: Vec<Range<u32>>,
}

impl Domain {
    fn len(&self) -> u64 {
        self.left.iter().map(|r| u64::from(r.end - r.start)).sum()
    }

    /// The far half, to be walked the other way.
    fn split(&mut self, totals: &[(Row, u32)]) -> Domain {
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

    fn add(&mut self, row: Row, total: u32) {
        self.rows.push((row, total));
        self.domains[0].left.push(0..total);
    }

    /// The domain that a worker walks, or a new one; `None` if nothing is left. Of tasks of their own it gets
    /// no more than a stretch of that domain.
    fn domain(&mut self, w: WorkerId, stretch: impl FnOnce(&Pool, usize) -> u32) -> Option<usize> {
        if let Some(&at) = self.of.get(&w) {
            return Some(at);
        }
        let free = (0..self.domains.len()).filter(|&d| self.domains[d].owner.is_none());
        let at = match free.min_by_key(|&d| self.domains[d].left.first().map_or(0, |r| r.start)) {
            Some(at) => {
                if self.place.is_some() {
                    self.shorten(at, stretch(self, at));
                }
                at
            }
            None => {
                let largest = (0..self.domains.len()).max_by_key(|&d| self.domains[d].len())?;
                if self.domains[largest].left.iter().all(|r| r.len() < 2) {
                    // What cannot be divided goes to whoever can make it.
                    self.domains[largest].owner.map(|owner| self.of.remove(&owner));
                    largest
                } else {
                    let half = self.domains[largest].split(&self.rows);
                    self.domains.push(half);
                    self.front = None;
                    self.domains.len() - 1
                }
            }
        };
        self.domains[at].owner = Some(w);
        self.of.insert(w, at);
        Some(at)
    }

    /// Leaves what is more than a stretch to others.
    fn shorten(&mut self, at: usize, stretch: u32) {
        let [range] = &mut self.domains[at].left[..] else { return };
        if range.len() <= stretch as usize {
            return;
        }
        let rest = range.start + stretch..range.end;
        range.end = rest.start;
        self.domains.push(Domain { owner: None, backwards: false, left: vec![rest] });
    }

    /// The domain that comes first. It stays the first one until nothing is left of it.
    fn front(&mut self) -> Option<usize> {
        let start = |d: &usize| self.domains[*d].left.first().map(|r| (r.start, r.end));
        self.front = self.front.or_else(|| (0..self.domains.len()).min_by_key(start));
        self.front
    }

    fn remove(&mut self, at: usize) {
        self.front = None;
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
        let same = |p: &Pool| p.class == class && p.user == user && p.place.is_none() && p.is_untouched();
        if let Some(pool) = self.pools.iter_mut().find(|p| same(p)) {
            pool.add(Row::Family(f), total);
            return None;
        }
        let whole = Domain { owner: None, backwards: false, left: Vec::new() };
        let mut pool = Pool { class, user, domains: vec![whole], ..Pool::default() };
        pool.add(Row::Family(f), total);
        self.pools.push(pool);
        Some(self.pools.len() as u32 - 1)
    }

    /// Puts tasks of their own into pools: those that occupy the same into one. Returns their numbers.
    pub(super) fn pool_singles(&mut self, mut tasks: Vec<u32>) -> Range<u32> {
        let first = self.pools.len() as u32;
        tasks.sort_by_key(|&i| {
            let family = &self.families[self.place_of(i).0.index()];
            (family.class, family.layer.priority, family.place)
        });
        let alike = |&a: &u32, &b: &u32| {
            let [a, b] = [a, b].map(|i| &self.families[self.place_of(i).0.index()]);
            (a.class, a.layer.priority) == (b.class, b.layer.priority)
        };
        let pools: Vec<Vec<u32>> = tasks.chunk_by(alike).map(<[u32]>::to_vec).collect();
        for same in pools {
            let f = self.place_of(same[0]).0;
            let family = &self.families[f.index()];
            let (class, user) = (family.class, family.layer.priority.saturating_neg());
            let whole = Domain { owner: None, backwards: false, left: Vec::new() };
            let place = Some(self.priority(f, 0));
            let mut pool = Pool { class, user, place, domains: vec![whole], ..Pool::default() };
            let total = same.len() as u32;
            pool.add(Row::Singles(same), total);
            self.pools.push(pool);
        }
        first..self.pools.len() as u32
    }

    fn index_in(&self, row: &Row, element: u32) -> u32 {
        match row {
            Row::Family(f) => self.index_of(*f, element),
            Row::Singles(tasks) => tasks[element as usize],
        }
    }

    /// A pool's place in its class's queue. One of families is behind everything else of the run, for what
    /// can be finished is finished before more is begun; one of tasks of their own is about where these are.
    pub(super) fn pool_priority(&self, pool: u32) -> Priority {
        let Pool { user, place, .. } = self.pools[pool as usize];
        place.unwrap_or(Priority { user, generation: self.generation, rank: u64::MAX })
    }

    /// The same when one of its tasks is given out. Other workers are not far from there, so theirs are about
    /// what comes next.
    pub(super) fn pool_after(&mut self, pool: u32, i: u32) -> Priority {
        if self.pools[pool as usize].place.is_some() {
            let (f, element) = self.place_of(i);
            self.pools[pool as usize].place = Some(self.priority(f, element));
        }
        self.pool_priority(pool)
    }

    /// The next root that a worker should make: its index.
    pub(super) fn next_root(&mut self, pool: u32, w: WorkerId, cx: &Cx) -> Option<u32> {
        let mut taken = std::mem::take(&mut self.pools[pool as usize]);
        let next = self.look_for_root(&mut taken, w, cx);
        self.pools[pool as usize] = taken;
        next
    }

    /// Of tasks of their own the first of all that are left.
    fn first_root(&mut self, pool: u32) -> Option<u32> {
        let pool = &mut self.pools[pool as usize];
        loop {
            let at = pool.place.and_then(|_| pool.front())?;
            let Some((Row::Singles(tasks), _)) = pool.rows.first() else { return None };
            let left = pool.domains[at].left.first_mut()?;
            while let Some(e) = edge_of(left, false) {
                let i = tasks[e as usize];
                if self.state[i as usize].state() == State::Queued {
                    return Some(i);
                }
                narrow(left, false);
            }
            pool.remove(at);
        }
    }

    /// The root that goes on where nothing else can, for want of memory. Of tasks of their own it is the
    /// first of all: what is held everywhere waits for it sooner than for any other.
    pub(super) fn urgent_root(&mut self, pool: u32, w: WorkerId, cx: &Cx) -> Option<u32> {
        self.first_root(pool).or_else(|| self.next_root(pool, w, cx))
    }

    /// How many tasks of a domain a worker gets at a time.
    fn stretch(&self, pool: &Pool, at: usize, w: WorkerId, cx: &Cx) -> u32 {
        let Some((row, total)) = pool.rows.first() else { return 0 };
        let share = u64::from(*total) / (STRETCHES * cx.workers.len() as u64).max(1);
        let target = cx.worker(w).and_then(|w| w.spec.memory_target);
        let first = pool.domains[at].left.first().filter(|left| !left.is_empty());
        let size = first.and_then(|left| {
            let (f, _) = self.place_of(self.index_in(row, left.start));
            self.expected_bytes(f)
        });
        let most = match (target, size) {
            (Some(target), Some(size)) => target / AHEAD / size.max(1),
            (Some(_), None) => FIRST,
            (None, _) => u64::MAX,
        };
        u32::try_from(share.min(most).max(1)).unwrap_or(u32::MAX)
    }

    fn look_for_root(&self, pool: &mut Pool, w: WorkerId, cx: &Cx) -> Option<u32> {
        loop {
            let at = pool.domain(w, |pool, at| self.stretch(pool, at, w, cx))?;
            let Domain { backwards, left, .. } = &mut pool.domains[at];
            let mut best: Option<(u64, u32)> = None;
            for (k, range) in left.iter_mut().enumerate() {
                let (row, total) = &pool.rows[k];
                // Some may have been cancelled, or got another entry of their own.
                while let Some(element) = edge_of(range, *backwards) {
                    let i = self.index_in(row, element);
                    if self.state_of(i) != State::Queued {
                        narrow(range, *backwards);
                        continue;
                    }
                    let position = (u64::from(element) << 32) / u64::from((*total).max(1));
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
        ranges.flat_map(move |(k, range)| range.clone().map(move |e| self.index_in(&pool.rows[k].0, e)))
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
        pool.add(Row::Family(FamilyIx(0)), 16);
        pool.add(Row::Family(FamilyIx(1)), 8);
        assert_eq!(pool.domain(WorkerId(0), |_, _| 1), Some(0));
        assert_eq!(pool.domain(WorkerId(1), |_, _| 1), Some(1));
        assert_eq!(ranges(&pool.domains[0]), [0..8, 0..4]);
        assert_eq!((ranges(&pool.domains[1]), pool.domains[1].backwards), (vec![8..16, 4..8], true));
        // The second walks down; what is far from it is where it would end, beside the first one's end.
        pool.domains[0].left = vec![6..8, 3..4];
        assert_eq!(pool.domain(WorkerId(2), |_, _| 1), Some(2));
        assert_eq!((ranges(&pool.domains[2]), pool.domains[2].backwards), (vec![8..12, 4..6], false));
        assert_eq!(ranges(&pool.domains[1]), [12..16, 6..8]);
    }

    #[test]
    fn what_is_left_behind_is_taken_over() {
        let mut pool = Pool::default();
        pool.domains.push(Domain { owner: None, backwards: false, left: Vec::new() });
        pool.add(Row::Family(FamilyIx(0)), 1);
        assert_eq!(pool.domain(WorkerId(3), |_, _| 1), Some(0));
        // A single element cannot be divided.
        assert_eq!(pool.domain(WorkerId(4), |_, _| 1), Some(0));
        assert_eq!(pool.of.get(&WorkerId(3)), None);
        pool.disown(WorkerId(4));
        assert_eq!(pool.domain(WorkerId(5), |_, _| 1), Some(0));
        pool.remove(0);
        assert_eq!((pool.domain(WorkerId(5), |_, _| 1), pool.of.len()), (None, 0));
    }

    #[test]
    fn tasks_of_their_own_are_given_out_in_stretches_and_the_last_one_is_divided() {
        let mut pool = Pool { place: Some(Priority::default()), ..Pool::default() };
        pool.domains.push(Domain { owner: None, backwards: false, left: Vec::new() });
        pool.add(Row::Singles((0..10).collect()), 10);
        let mut next = |w: u32| {
            let at = pool.domain(WorkerId(w), |_, _| 4).unwrap();
            let range = pool.domains[at].left[0].clone();
            pool.remove(at);
            (range, pool.front().map(|d| pool.domains[d].left[0].start))
        };
        assert_eq!(next(0), (0..4, Some(4)));
        assert_eq!(next(1), (4..8, Some(8)));
        assert_eq!(next(0), (8..10, None));
        let mut end = Domain { owner: None, backwards: false, left: Vec::new() };
        end.left.push(0..2);
        pool.domains.push(end);
        assert_eq!(pool.domain(WorkerId(0), |_, _| 4), Some(0));
        assert_eq!((pool.domain(WorkerId(1), |_, _| 4), pool.front()), (Some(1), Some(0)));
        let left = |d: usize| pool.domains[d].left[0].clone();
        assert_eq!((left(0), left(1)), (0..1, 1..2));
    }
}
