//! A pool's width, divided into domains, and who walks which. Owns the division and which domain is given out
//! next; what lies along the width, and how much of it a worker gets at a time, is in `domains`.
//!
//! A choice looks at a few domains, however many workers walk: they are listed by what choices go by. Walking
//! does not change the lists. Along a single row it leaves the order of the domains as it is; with several
//! rows only domains that nobody walks are asked for where they begin. A length is at most the listed one, so
//! the longest is found by listing the first of the list again until it stays there; each such look is paid
//! for by an element that was walked.

use crate::base::ids::WorkerId;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::ops::{Index, IndexMut, Range};

/// A part of a pool's width.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Domain {
    owner: Option<WorkerId>,
    /// From the end to the beginning.
    pub(super) backwards: bool,
    /// Elements that are left, by row.
    pub(super) left: Vec<Range<u32>>,
}

impl Domain {
    fn len(&self) -> u64 {
        self.left.iter().map(|r| u64::from(r.end - r.start)).sum()
    }

    /// Where it begins in the first row.
    fn start(&self) -> u32 {
        self.left.first().map_or(0, |r| r.start)
    }

    /// The far half, to be walked the other way.
    fn split(&mut self, totals: &[u32]) -> Domain {
        let position = |k: usize, element: u32| (u64::from(element) << 32) / u64::from(totals[k].max(1));
        // In the middle of the longest, so that both halves have something.
        let longest = (0..self.left.len()).max_by_key(|&k| self.left[k].len()).unwrap_or(0);
        let middle = self.left[longest].start + self.left[longest].len() as u32 / 2;
        let at = position(longest, middle);
        let halves = |k: usize, range: &Range<u32>| {
            let total = u64::from(totals[k].max(1));
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

    /// What is more than a stretch of a single row.
    fn cut(&mut self, stretch: u32) -> Option<Domain> {
        let [range] = &mut self.left[..] else { return None };
        if range.len() <= stretch as usize {
            return None;
        }
        let rest = range.start + stretch..range.end;
        range.end = rest.start;
        Some(Domain { owner: None, backwards: false, left: vec![rest] })
    }
}

/// The domains of a pool. A number of one holds until the next is removed.
#[derive(Default)]
pub(super) struct Division {
    /// How many elements each row has.
    totals: Vec<u32>,
    domains: Domains,
    /// What each domain is listed under: where it begins, and how much is left of it.
    keys: Vec<(u32, u64)>,
    /// Which domain a worker walks.
    of: FxHashMap<WorkerId, usize>,
    /// All by where they begin.
    line: BTreeSet<(u32, usize)>,
    /// Those that nobody walks, the same way.
    free: BTreeSet<(u32, usize)>,
    /// All by how much is left of them.
    lengths: BTreeSet<(u64, usize)>,
}

impl Division {
    /// One domain that nobody walks, of rows that have so many elements.
    pub(super) fn whole(totals: &[u32]) -> Division {
        let mut division = Division { totals: totals.to_vec(), ..Division::default() };
        let left = totals.iter().map(|total| 0..*total).collect();
        division.push(Domain { left, ..Domain::default() });
        division
    }

    /// Adds a row to a width that nobody walks yet.
    pub(super) fn add(&mut self, total: u32) {
        self.totals.push(total);
        self.change(0, |first| first.left.push(0..total));
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.of.is_empty() && self.domains.0.len() == 1
    }

    /// What is left, by row and domain.
    pub(super) fn left(&self) -> impl Iterator<Item = (usize, Range<u32>)> + '_ {
        self.domains.0.iter().flat_map(|d| d.left.iter().cloned().enumerate())
    }

    /// How many elements each row has, and a domain to take elements from, at the ends of what is left. With
    /// several rows somebody must walk that domain.
    pub(super) fn walk(&mut self, at: usize) -> (&[u32], &mut Domain) {
        (&self.totals, &mut self.domains[at])
    }

    /// The domain that a worker walks, or a new one; `None` if nothing is left. Of one that nobody walks it
    /// gets no more than a stretch, if there is such a limit.
    pub(super) fn domain(
        &mut self,
        w: WorkerId,
        stretch: impl FnOnce(&Domain) -> Option<u32>,
    ) -> Option<usize> {
        if let Some(&at) = self.of.get(&w) {
            return Some(at);
        }
        let at = match self.free.first() {
            Some(&(_, at)) => {
                if let Some(stretch) = stretch(&self.domains[at])
                    && let Some(rest) = self.change(at, |d| d.cut(stretch))
                {
                    self.push(rest);
                }
                at
            }
            None => self.part_of_largest()?,
        };
        self.change(at, |d| d.owner = Some(w));
        self.of.insert(w, at);
        Some(at)
    }

    /// The far half of the largest domain. What cannot be divided goes to whoever can make it.
    fn part_of_largest(&mut self) -> Option<usize> {
        let largest = self.largest()?;
        if self.domains[largest].left.iter().all(|r| r.len() < 2) {
            self.domains[largest].owner.map(|owner| self.of.remove(&owner));
            return Some(largest);
        }
        let totals = std::mem::take(&mut self.totals);
        let half = self.change(largest, |d| d.split(&totals));
        self.totals = totals;
        Some(self.push(half))
    }

    fn largest(&mut self) -> Option<usize> {
        loop {
            let &(listed, at) = self.lengths.last()?;
            if self.domains[at].len() == listed {
                return Some(at);
            }
            self.change(at, |_| {});
        }
    }

    /// The first domain of a single row. It stays the first one until nothing is left of it.
    pub(super) fn front(&self) -> Option<usize> {
        self.line.first().map(|(_, at)| *at)
    }

    /// Removes a domain of which nothing is left. The last one gets its number.
    pub(super) fn remove(&mut self, at: usize) {
        let last = self.domains.0.len() - 1;
        self.unlist(at);
        if last != at {
            self.unlist(last);
        }
        let gone = self.domains.0.swap_remove(at);
        self.keys.swap_remove(at);
        gone.owner.map(|w| self.of.remove(&w));
        if last != at {
            self.list(at);
            self.domains[at].owner.map(|owner| self.of.insert(owner, at));
        }
    }

    /// A worker is gone; somebody else goes on where it was.
    pub(super) fn disown(&mut self, w: WorkerId) {
        if let Some(at) = self.of.remove(&w) {
            self.change(at, |d| d.owner = None);
        }
    }

    fn push(&mut self, domain: Domain) -> usize {
        self.domains.0.push(domain);
        self.keys.push((0, 0));
        let at = self.domains.0.len() - 1;
        self.list(at);
        at
    }

    fn change<T>(&mut self, at: usize, change: impl FnOnce(&mut Domain) -> T) -> T {
        self.unlist(at);
        let result = change(&mut self.domains[at]);
        self.list(at);
        result
    }

    fn list(&mut self, at: usize) {
        let domain = &self.domains[at];
        let (start, len) = (domain.start(), domain.len());
        self.keys[at] = (start, len);
        self.line.insert((start, at));
        self.lengths.insert((len, at));
        if domain.owner.is_none() {
            self.free.insert((start, at));
        }
    }

    fn unlist(&mut self, at: usize) {
        let (start, len) = self.keys[at];
        self.line.remove(&(start, at));
        self.lengths.remove(&(len, at));
        self.free.remove(&(start, at));
    }

    /// Whether the lists tell what looking at all domains would; of a single row the first one, too.
    pub(super) fn check(&self) -> Result<(), String> {
        let domains = &self.domains.0;
        let free: BTreeSet<usize> = (0..domains.len()).filter(|&d| domains[d].owner.is_none()).collect();
        if free != self.free.iter().map(|(_, d)| *d).collect() {
            return Err(format!("domains {free:?} are free, listed are {:?}", self.free));
        }
        let first = free.into_iter().min_by_key(|&d| domains[d].start());
        if first != self.free.first().map(|(_, d)| *d) {
            return Err(format!("free domain {first:?} comes first, listed are {:?}", self.free));
        }
        let front = (0..domains.len()).min_by_key(|&d| domains[d].left.first().map(|r| (r.start, r.end)));
        if self.totals.len() == 1 && front != self.front() {
            return Err(format!("domain {front:?} comes first, listed are {:?}", self.line));
        }
        let shorter = |d: &usize| self.keys[*d].1 < domains[*d].len();
        if let Some(d) = (0..domains.len()).find(shorter) {
            return Err(format!("{:?} is listed as shorter: {:?}", domains[d], self.keys[d]));
        }
        let listed = |d: usize| {
            let (start, len) = self.keys[d];
            self.line.contains(&(start, d)) && self.lengths.contains(&(len, d))
        };
        if self.line.len().max(self.lengths.len()) > domains.len() || !(0..domains.len()).all(listed) {
            return Err(format!("of {} domains listed: {:?} {:?}", domains.len(), self.line, self.lengths));
        }
        let owned = domains.iter().enumerate().filter_map(|(d, domain)| Some((domain.owner?, d)));
        if owned.collect::<FxHashMap<_, _>>() != self.of {
            return Err(format!("{:?} do not walk {domains:?}", self.of));
        }
        Ok(())
    }
}

/// Domains, one at a time. In tests it counts how many were looked at.
#[derive(Default)]
struct Domains(Vec<Domain>, #[cfg(test)] std::cell::Cell<u64>);

impl Domains {
    fn looked(&self) {
        #[cfg(test)]
        self.1.set(self.1.get() + 1);
    }
}

impl Index<usize> for Domains {
    type Output = Domain;

    fn index(&self, at: usize) -> &Domain {
        self.looked();
        &self.0[at]
    }
}

impl IndexMut<usize> for Domains {
    fn index_mut(&mut self, at: usize) -> &mut Domain {
        self.looked();
        &mut self.0[at]
    }
}

/// The element of a range that comes next.
pub(super) fn edge_of(range: &Range<u32>, backwards: bool) -> Option<u32> {
    (!range.is_empty()).then(|| if backwards { range.end - 1 } else { range.start })
}

/// Takes that element away.
pub(super) fn narrow(range: &mut Range<u32>, backwards: bool) {
    if backwards {
        range.end -= 1;
    } else {
        range.start += 1;
    }
}

#[cfg(test)]
#[path = "division_tests.rs"]
mod tests;
