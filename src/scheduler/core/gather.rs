//! For which tasks inputs are gathered that do nothing but lie in memory until their time has come: at each
//! worker for as many at a time as it has threads, the first ones first. Once it is a task's turn at one
//! worker, its inputs wait nowhere: two never wait for each other. Owns whose turn it is; which tasks wait
//! for that is `early`'s.

use super::cx::Cx;
use super::run::Run;
use super::state::State;
use crate::base::ids::WorkerId;
use crate::base::priority::Priority;
use crate::graph::layer::SLOT;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// A task for which inputs are gathered; first ones first.
type Place = (Priority, u32);

/// What goes on at one worker.
#[derive(Default)]
struct Gather {
    /// Tasks whose turn it is here. Some are complete.
    active: BTreeSet<Place>,
    /// Those whose turn comes later, with the inputs that wait for it. Some do not wait any more.
    later: BTreeMap<Place, SmallVec<[u32; 2]>>,
}

/// What goes on at all workers.
#[derive(Default)]
pub(super) struct Gathers {
    of: FxHashMap<WorkerId, Gather>,
    /// Where it is a task's turn.
    turns: FxHashMap<u32, WorkerId>,
    /// Where inputs of a task wait for that.
    waits: FxHashMap<u32, SmallVec<[WorkerId; 2]>>,
}

impl Run {
    /// Whether an input of `user` has to wait because inputs of as many earlier tasks are gathered where it
    /// would go as there are threads. If not, it is the turn of `user`, wherever its other inputs are made.
    pub(super) fn waits_its_turn(&mut self, cx: &mut Cx, i: u32, user: u32) -> bool {
        if self.gathers.turns.contains_key(&user) {
            return false;
        }
        let (f, element) = self.place_of(i);
        let (held, total) = self.bytes_by_worker(f, element);
        let Some(&(holder, _)) = held.iter().max_by_key(|(_, bytes)| *bytes) else { return false };
        let w = self.meeting_place(cx, i, (&held, total), holder).unwrap_or(holder);
        let place = (self.entry_of(user).priority, user);
        let mut gather = self.gathers.of.remove(&w).unwrap_or_default();
        self.forget_ended(&mut gather);
        let waits = gather.active.range(..place).count() >= threads_of(cx, w);
        if waits {
            gather.later.entry(place).or_default().push(i);
            let at = self.gathers.waits.entry(user).or_default();
            if !at.contains(&w) {
                at.push(w);
            }
        } else {
            gather.active.insert(place);
        }
        self.gathers.of.insert(w, gather);
        if !waits {
            self.begin_turn(cx, place, w);
        }
        waits
    }

    /// It is a task's turn: its inputs wait nowhere any more.
    fn begin_turn(&mut self, cx: &mut Cx, place: Place, w: WorkerId) {
        let user = place.1;
        self.gathers.turns.insert(user, w);
        for w in self.gathers.waits.remove(&user).unwrap_or_default() {
            let later = self.gathers.of.get_mut(&w).and_then(|gather| gather.later.remove(&place));
            later.unwrap_or_default().into_iter().for_each(|i| self.hurry(cx, i));
        }
    }

    fn forget_ended(&mut self, gather: &mut Gather) {
        gather.active.retain(|(_, user)| {
            let goes_on = self.state_of(*user) == State::Waiting;
            if !goes_on {
                self.gathers.turns.remove(user);
            }
            goes_on
        });
    }

    /// A task has all its inputs, or does not need them any more: it is the next one's turn.
    pub(super) fn end_turn(&mut self, cx: &mut Cx, user: u32) {
        if self.state_of(user) == State::Waiting {
            return;
        }
        let Some(w) = self.gathers.turns.remove(&user) else { return };
        loop {
            let Some(mut gather) = self.gathers.of.remove(&w) else { return };
            self.forget_ended(&mut gather);
            let has_room = gather.active.len() < threads_of(cx, w);
            let next = gather.later.first_key_value().map(|(place, _)| *place).filter(|_| has_room);
            let waits = next.filter(|place| self.state_of(place.1) == State::Waiting);
            gather.active.extend(waits);
            self.gathers.of.insert(w, gather);
            let Some(place) = next else { return };
            cx.early_burst = 1;
            self.begin_turn(cx, place, w);
            if waits.is_none() {
                self.gathers.turns.remove(&place.1);
            }
        }
    }
}

impl Run {
    /// Checks that somebody's turn ends before those who wait for theirs; `waits` says which tasks do.
    pub(super) fn check_turns(&self, waits: impl Fn(u32) -> bool) -> Result<(), String> {
        for (w, gather) in &self.gathers.of {
            let goes_on = gather.active.iter().any(|(_, user)| self.state_of(*user) == State::Waiting);
            let waiting = gather.later.values().flatten().find(|i| waits(**i)).filter(|_| !goes_on);
            if let Some(i) = waiting {
                return Err(format!("task {i} waits for its turn at worker {}, and it is nobody's", w.0));
            }
        }
        Ok(())
    }
}

fn threads_of(cx: &Cx, w: WorkerId) -> usize {
    cx.worker(w).map_or(1, |worker| (worker.spec.slots / SLOT).max(1)) as usize
}
