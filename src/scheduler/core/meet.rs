//! Where a task's result will be needed: results that are used together should come into being together. Owns
//! that look ahead; what is made of it is `place`'s.

use super::cx::Cx;
use super::run::Run;
use super::state::State;
use super::workers::{Status, Worker};
use crate::base::ids::{FamilyIx, WorkerId};
use smallvec::SmallVec;

/// Smaller results move for nothing to speak of, bytes.
const SIZE_MIN: u64 = 256 << 10;

/// Tasks that need a result, and other inputs of these, that are looked at.
const USERS_LOOKED_AT: usize = 2;
const INPUTS_LOOKED_AT: usize = 8;

/// With more inputs than that none of them tells where a task runs.
const INPUTS_MAX: usize = 64;

/// Bytes by worker.
pub(super) type Held = SmallVec<[(WorkerId, u64); 8]>;

fn at(held: &[(WorkerId, u64)], w: WorkerId) -> u64 {
    held.iter().find(|(x, _)| *x == w).map_or(0, |(_, bytes)| *bytes)
}

fn add(held: &mut Held, w: WorkerId, bytes: u64) {
    match held.iter_mut().find(|(x, _)| *x == w) {
        Some((_, sum)) => *sum = sum.saturating_add(bytes),
        None => held.push((w, bytes)),
    }
}

impl Run {
    /// The worker at which a task's result meets what it is used with, if less moves when the task runs
    /// there: of its inputs (`held` says who has them, `total` what they are) and of its result. What others
    /// need as well moves once for all of them, so that counts for the meeting place.
    pub(super) fn meeting_place(
        &self,
        cx: &Cx,
        i: u32,
        (held, total): (&Held, u64),
        holder: WorkerId,
    ) -> Option<WorkerId> {
        let (f, element) = self.place_of(i);
        let (w, result) = self.meets_at(cx, i)?;
        let needs = &self.families[f.index()].layer;
        let able = |x: &Worker| x.status == Status::Running && x.could_run(needs.slots, &needs.resources);
        if !cx.worker(w).is_some_and(able) {
            return None;
        }
        if at(held, w) >= at(held, holder) {
            // Others that hold as much are no better.
            let has_peers = held.iter().any(|(x, bytes)| *x != w && *bytes >= at(held, w));
            return has_peers.then_some(w);
        }
        let (here, away) = (total - at(held, holder) + result, total - at(held, w));
        let is_shared = || {
            let mut shared = true;
            for (e, _) in (0..).zip(self.edges.of(f)).filter(|(_, edge)| edge.data) {
                self.each_input(f, element, e, |j| shared &= self.refs[j as usize] > 1);
            }
            shared
        };
        (away < here || (away <= here + here / 8 && is_shared())).then_some(w)
    }

    /// The worker at which most of what a task's result is used with is, or will be made, if that is more
    /// than anywhere else; and how large that result will be, bytes.
    fn meets_at(&self, cx: &Cx, i: u32) -> Option<(WorkerId, u64)> {
        let (f, element) = self.place_of(i);
        let result = self.expected_bytes(f).filter(|bytes| *bytes >= SIZE_MIN)?;
        if cx.workers.len() < 2 {
            return None;
        }
        let mut there = Held::new();
        for user in self.some_users(f, element)? {
            self.add_others(user, i, &mut there);
        }
        let &(w, most) = there.iter().max_by_key(|(_, bytes)| *bytes)?;
        let next = there.iter().filter(|(x, _)| *x != w).map(|(_, bytes)| *bytes).max().unwrap_or(0);
        (most >= next + SIZE_MIN).then_some((w, result))
    }

    /// The first tasks that need an element's result; nothing if all elements of a family do.
    fn some_users(&self, f: FamilyIx, element: u32) -> Option<Vec<u32>> {
        let mut users = Vec::new();
        for &(c, e) in self.edges.behind(f).iter().take(USERS_LOOKED_AT) {
            let edge = self.edges.get(c, e);
            if edge.gate().is_some() {
                return None;
            }
            if edge.data {
                self.dependents(f, element, (c, e), &mut users);
            }
        }
        users.truncate(USERS_LOOKED_AT);
        Some(users)
    }

    /// Adds where other inputs of a task are, or will probably be made.
    fn add_others(&self, user: u32, i: u32, there: &mut Held) {
        let (f, element) = self.place_of(user);
        if self.needs_more_than(f, element, INPUTS_MAX) {
            return;
        }
        let mut others: SmallVec<[u32; INPUTS_LOOKED_AT]> = SmallVec::new();
        for (e, edge) in (0..).zip(self.edges.of(f)).filter(|(_, edge)| edge.data) {
            if edge.gate().is_some() || others.len() >= INPUTS_LOOKED_AT {
                continue;
            }
            self.each_input(f, element, e, |j| {
                if j != i && others.len() < INPUTS_LOOKED_AT {
                    others.push(j);
                }
            });
        }
        for j in others {
            let (g, element) = self.place_of(j);
            match self.state_of(j) {
                State::Memory => {
                    let bytes = self.nbytes[j as usize];
                    self.holders(j).into_iter().for_each(|w| add(there, w, bytes));
                }
                State::Processing => {
                    let w = WorkerId(self.worker[j as usize]);
                    add(there, w, self.expected_bytes(g).unwrap_or(0));
                }
                State::Queued | State::Waiting => {
                    let (held, total) = self.bytes_by_worker(g, element);
                    // Where most of what it needs is.
                    let most =
                        held.iter().max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > total / 2);
                    if let Some(&(w, _)) = most {
                        add(there, w, self.expected_bytes(g).unwrap_or(0));
                    }
                }
                _ => {}
            }
        }
    }
}
