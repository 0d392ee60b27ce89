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
use std::collections::BTreeSet;

/// A task for which inputs are gathered; first ones first.
type Place = (Priority, u32);

/// What goes on at one worker.
#[derive(Default)]
struct Gather {
    /// Tasks whose turn it is here. Some are complete.
    active: BTreeSet<Place>,
    /// Those whose turn comes later. Some do not wait any more, or began elsewhere.
    later: BTreeSet<Place>,
}

/// What goes on at all workers.
#[derive(Default)]
pub(super) struct Gathers {
    of: FxHashMap<WorkerId, Gather>,
    /// Where it is a task's turn.
    turns: FxHashMap<u32, WorkerId>,
}

impl Run {
    /// Whether an input of `user` has to wait because inputs of as many earlier tasks are gathered where it
    /// would go as there are threads. If not, it is the turn of `user`, wherever its other inputs are made.
    pub(super) fn waits_its_turn(&mut self, cx: &mut Cx, i: u32, user: u32) -> bool {
        let (f, element) = self.place_of(i);
        let (held, total) = self.bytes_by_worker(f, element);
        let Some(&(holder, _)) = held.iter().max_by_key(|(_, bytes)| *bytes) else { return false };
        let w = self.meeting_place(cx, i, (&held, total), holder).unwrap_or(holder);
        let place = (self.entry_of(user).priority, user);
        let mut gather = self.gathers.of.remove(&w).unwrap_or_default();
        self.forget_ended(&mut gather);
        let waits = gather.active.range(..place).count() >= threads_of(cx, w);
        if waits {
            gather.later.insert(place);
        } else {
            gather.active.insert(place);
        }
        self.gathers.of.insert(w, gather);
        if !waits {
            self.begin_turn(cx, user, w);
        }
        waits
    }

    /// Whether it is a waiting task's turn.
    pub(super) fn has_turn(&self, user: u32) -> bool {
        self.gathers.turns.contains_key(&user)
    }

    fn begin_turn(&mut self, cx: &mut Cx, user: u32, w: WorkerId) {
        self.gathers.turns.insert(user, w);
        self.hurry_inputs(cx, user);
    }

    /// The inputs of a task do not wait any more, for whatever they did.
    pub(super) fn hurry_inputs(&mut self, cx: &mut Cx, user: u32) {
        let mut inputs = SmallVec::new();
        if self.few_inputs(user, &mut inputs).is_some() {
            inputs.into_iter().for_each(|i| self.hurry(cx, i));
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
            if gather.active.len() >= threads_of(cx, w) {
                self.gathers.of.insert(w, gather);
                return;
            }
            let next = gather.later.pop_first();
            let begins = |place: &Place| self.state_of(place.1) == State::Waiting && !self.has_turn(place.1);
            let place = next.filter(begins);
            gather.active.extend(place);
            self.gathers.of.insert(w, gather);
            if let Some((_, user)) = place {
                cx.early_burst = 1;
                self.begin_turn(cx, user, w);
            } else if next.is_none() {
                return;
            }
        }
    }

    /// Checks that somebody's turn ends before those who wait for theirs; `waits` says which tasks wait.
    pub(super) fn check_turns(&self, waits: impl Fn(u32) -> bool) -> Result<(), String> {
        let needs_waiting = |user: u32| {
            let mut inputs = SmallVec::new();
            self.few_inputs(user, &mut inputs).is_some() && inputs.into_iter().any(&waits)
        };
        let is_waiting = |place: &&Place| self.state_of(place.1) == State::Waiting;
        for (w, gather) in self.gathers.of.iter().filter(|(_, g)| !g.active.iter().any(|p| is_waiting(&p))) {
            let mut later = gather.later.iter().filter(is_waiting).filter(|place| !self.has_turn(place.1));
            if let Some((_, user)) = later.find(|(_, user)| needs_waiting(*user)) {
                return Err(format!("{user} waits for its turn at worker {}, and it is nobody's", w.0));
            }
        }
        Ok(())
    }
}

fn threads_of(cx: &Cx, w: WorkerId) -> usize {
    cx.worker(w).map_or(1, |worker| (worker.spec.slots / SLOT).max(1)) as usize
}
