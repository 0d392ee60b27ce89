//! Which worker makes which of a run's first tasks: results that are needed together should come into being
//! together. Owns the pools of roots and how much of one a worker gets at a time; how a pool is divided is in
//! `division`, whether a worker may take one more is decided in `place` and `admit`.
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
use super::division::{Division, Domain, edge_of, narrow};
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::base::priority::Priority;
use crate::graph::layer::Pattern;
use std::ops::Range;

/// Into how many stretches for each worker tasks of their own are divided at least: with fewer, some workers
/// would have nothing to do at the end.
const STRETCHES: u64 = 4;

/// A stretch makes such a part of what its worker may hold. With longer ones, more waits in memory for what
/// comes before; with shorter ones, more neighbours are apart. `tests/placement` measures both.
const AHEAD: u64 = 3;

/// Of sets of tasks whose results meet, at least so many for each worker: then a worker gets them whole.
const SETS: u64 = 2;

/// Tasks of a stretch while it is not known how large their results are.
const FIRST: u64 = 4;

/// Roots of a run that are given out by domain.
pub(super) struct Pool {
    /// What the elements occupy.
    pub(super) class: u32,
    /// The user's priority for them, negated.
    user: i32,
    rows: Vec<Row>,
    /// Of tasks of their own: the priority of the one that was given out last, at first of the first.
    place: Option<Priority>,
    /// Of tasks of their own: where the set ends of which each one is.
    ends: Vec<u32>,
    division: Division,
}

/// What lies along a pool's width.
enum Row {
    /// A family, element by element.
    Family(FamilyIx),
    /// Tasks of their own, by index, in the order of their places.
    Singles(Vec<u32>),
}

impl Pool {
    /// Whether the domains are listed as they are.
    pub(super) fn check(&self) -> Result<(), String> {
        self.division.check()
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
        let same =
            |p: &Pool| p.class == class && p.user == user && p.place.is_none() && p.division.is_untouched();
        if let Some(pool) = self.pools.iter_mut().find(|p| same(p)) {
            pool.rows.push(Row::Family(f));
            pool.division.add(total);
            return None;
        }
        let (rows, division) = (vec![Row::Family(f)], Division::whole(&[total]));
        self.pools.push(Pool { class, user, rows, place: None, ends: Vec::new(), division });
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
            let place = Some(self.priority(f, 0));
            let division = Division::whole(&[same.len() as u32]);
            let (same, ends) = self.in_sets(same);
            self.pools.push(Pool { class, user, rows: vec![Row::Singles(same)], place, ends, division });
        }
        first..self.pools.len() as u32
    }

    /// Puts those behind each other whose results meet soon, in sets; and says where the set of each ends.
    fn in_sets(&self, tasks: Vec<u32>) -> (Vec<u32>, Vec<u32>) {
        let families: Vec<FamilyIx> = tasks.iter().map(|&i| self.place_of(i).0).collect();
        let sets = super::singles::sets(&self.edges, &families);
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_by_key(|&at| (sets[at], at));
        let mut ends = vec![0; tasks.len()];
        let mut end = tasks.len();
        for at in (0..tasks.len()).rev() {
            if at + 1 < tasks.len() && sets[order[at]] != sets[order[at + 1]] {
                end = at + 1;
            }
            ends[at] = end as u32;
        }
        (order.into_iter().map(|at| tasks[at]).collect(), ends)
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
        let mut pools = std::mem::take(&mut self.pools);
        let next = self.look_for_root(&mut pools[pool as usize], w, cx);
        self.pools = pools;
        next
    }

    /// Of tasks of their own the first of all that are left.
    fn first_root(&mut self, pool: u32) -> Option<u32> {
        let pool = &mut self.pools[pool as usize];
        loop {
            let Some(Row::Singles(tasks)) = pool.rows.first() else { return None };
            let at = pool.division.front()?;
            let left = pool.division.walk(at).1.left.first_mut()?;
            while let Some(e) = edge_of(left, false) {
                let i = tasks[e as usize];
                if self.state[i as usize].state() == State::Queued {
                    return Some(i);
                }
                narrow(left, false);
            }
            pool.division.remove(at);
        }
    }

    /// The root that goes on where nothing else can, for want of memory. Of tasks of their own it is the
    /// first of all: what is held everywhere waits for it sooner than for any other.
    pub(super) fn urgent_root(&mut self, pool: u32, w: WorkerId, cx: &Cx) -> Option<u32> {
        // A set is made in one place even so: what it leads to needs all of it.
        if self.pools[pool as usize].ends.first().is_some_and(|end| *end > 1) {
            return self.next_root(pool, w, cx);
        }
        self.first_root(pool).or_else(|| self.next_root(pool, w, cx))
    }

    /// How many tasks of a domain a worker gets at a time.
    fn stretch(&self, row: &Row, ends: &[u32], domain: &Domain, w: WorkerId, cx: &Cx) -> u32 {
        let total = ends.len() as u64;
        let workers = cx.workers.len() as u64;
        let Some(left) = domain.left.first().filter(|left| !left.is_empty()) else { return 1 };
        let target = cx.worker(w).and_then(|w| w.spec.memory_target);
        let (f, _) = self.place_of(self.index_in(row, left.start));
        let most = match (target, self.expected_bytes(f)) {
            (Some(target), Some(size)) => target / AHEAD / size.max(1),
            (Some(_), None) => FIRST,
            (None, _) => u64::MAX,
        };
        let share = total / (STRETCHES * workers).max(1);
        let stretch = u32::try_from(share.min(most).max(1)).unwrap_or(u32::MAX);
        // Up to the end of a set, if it is not too large.
        let last = left.start.saturating_add(stretch - 1).min(left.end - 1);
        let whole = ends[last as usize].min(left.end) - left.start;
        if u64::from(whole - stretch.min(whole)) <= total / (SETS * workers).max(1) { whole } else { stretch }
    }

    fn look_for_root(&self, pool: &mut Pool, w: WorkerId, cx: &Cx) -> Option<u32> {
        let Pool { rows, division, ends, .. } = pool;
        let singles = rows.first().filter(|row| matches!(row, Row::Singles(_)));
        loop {
            let at = division.domain(w, |domain| Some(self.stretch(singles?, ends, domain, w, cx)))?;
            let (totals, Domain { backwards, left, .. }) = division.walk(at);
            let mut best: Option<(u64, u32)> = None;
            for (k, range) in left.iter_mut().enumerate() {
                // Some may have been cancelled, or got another entry of their own.
                while let Some(element) = edge_of(range, *backwards) {
                    let i = self.index_in(&rows[k], element);
                    if self.state_of(i) != State::Queued {
                        narrow(range, *backwards);
                        continue;
                    }
                    let position = (u64::from(element) << 32) / u64::from(totals[k].max(1));
                    let rank = if *backwards { u64::MAX - position } else { position };
                    if best.is_none_or(|(r, _)| rank < r) {
                        best = Some((rank, i));
                    }
                    break;
                }
            }
            match best {
                Some((_, i)) => return Some(i),
                None => division.remove(at),
            }
        }
    }

    /// Tasks of a pool that have not been given out, by index.
    pub(super) fn pooled(&self, pool: u32) -> impl Iterator<Item = u32> + '_ {
        let pool = &self.pools[pool as usize];
        let ranges = pool.division.left();
        ranges.flat_map(move |(k, range)| range.map(move |e| self.index_in(&pool.rows[k], e)))
    }

    /// A worker is gone: its domains are free.
    pub(super) fn disown(&mut self, w: WorkerId) {
        self.pools.iter_mut().for_each(|p| p.division.disown(w));
    }
}
