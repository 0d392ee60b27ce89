//! Where tasks without inputs are made that come one by one (Dask's): near what their results will meet. Owns
//! the look ahead in the graph; families of more than one element are divided by `domains`.

use super::cx::Cx;
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::graph::layer::Size;
use smallvec::{SmallVec, smallvec};

/// Tasks behind one that are looked at, and of each of them dependents. What is further away says little.
const BEHIND_MAX: usize = 8;
const DEPENDENTS_MAX: usize = 4;

/// Where more than so many results meet, some come from elsewhere anyway.
const MEET_MAX: u32 = 8;

/// Steps back from what is met to what has begun.
const BACK_MAX: usize = 3;

impl Run {
    /// An open worker that has, or makes, what the result of a task will meet; the nearest meeting counts.
    pub(super) fn meets_at(&self, cx: &Cx, class: usize, f: FamilyIx) -> Option<WorkerId> {
        if !self.is_single(f) {
            return None;
        }
        let mut behind: SmallVec<[FamilyIx; BEHIND_MAX]> = smallvec![f];
        let mut next = 0;
        while let Some(&from) = behind.get(next) {
            next += 1;
            for &(c, _) in self.edges.behind(from).iter().take(DEPENDENTS_MAX) {
                if self.edges.count(c) > MEET_MAX || !self.is_single(c) {
                    continue;
                }
                let others = self.edges.of(c).iter().filter(|e| e.data && !behind.contains(&e.producer));
                let places = others.filter_map(|e| self.comes_from(e.producer));
                if let Some(w) = places.into_iter().find(|w| cx.ready.is_open(*w, class as u32)) {
                    return Some(w);
                }
                if behind.len() < BEHIND_MAX && !behind.contains(&c) {
                    behind.push(c);
                }
            }
        }
        None
    }

    fn is_single(&self, f: FamilyIx) -> bool {
        self.families[f.index()].layer.size == Size::Fixed(1)
    }

    /// The worker where a result is, or comes into being, or what it is made of.
    fn comes_from(&self, mut f: FamilyIx) -> Option<WorkerId> {
        for _ in 0..BACK_MAX {
            if !self.is_single(f) {
                return None;
            }
            let i = self.index_of(f, 0);
            match self.state_of(i) {
                State::Memory => return self.holders(i).first().copied(),
                State::Processing => return Some(WorkerId(self.worker[i as usize])),
                _ => f = self.edges.of(f).iter().find(|e| e.data)?.producer,
            }
        }
        None
    }
}
