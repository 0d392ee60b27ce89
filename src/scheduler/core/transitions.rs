//! The changes a task goes through, and what each means for the tasks around it. One function per transition;
//! chains of consequences run over explicit stacks, never by recursion. Owns counting what tasks wait for and
//! who still needs them; placement is in `place`, families coming into being in `families`.

use super::action::Output;
use super::cx::Cx;
use super::ready::Entry;
use super::run::{NOBODY, Run};
use super::state::State;
use crate::base::ids::{FamilyIx, TaskRef, WorkerId};

impl Run {
    /// Changes a task's state, its counts and its story.
    pub(super) fn set_state(&mut self, cx: &mut Cx, i: u32, to: State) {
        let from = self.state_of(i);
        debug_assert!(from.may_become(to), "{i}: {from:?} -> {to:?} ({})", cx.cause);
        self.count_change(&mut cx.groups, i, from, to);
        self.state[i as usize].set_state(to);
        cx.record(self, i, from, to);
        self.changed(cx, i);
        if cx.early > 0 {
            if from == State::Waiting && to != State::Queued {
                // What it does not need any more may be needed by others.
                self.hurry_inputs(cx, i);
            }
            self.look_behind(cx, i);
        }
        if to.is_final() {
            cx.ending.insert(self.id);
        }
        if from == State::Processing {
            // It may have been all that its run may have in hand.
            cx.gangs.changed |= !self.max_processing_is_off();
            self.unpark(cx);
        }
    }

    /// Lets tasks through that wait because as many as are allowed are handed out, if that is over: the
    /// first of each class, for there may be no worker for those of another.
    pub(super) fn unpark(&mut self, cx: &mut Cx) {
        if self.is_full() || self.parked.is_empty() {
            return;
        }
        self.parked.retain(|class, entries| {
            entries.pop().into_iter().for_each(|entry| cx.ready.push(*class, entry));
            !entries.is_empty()
        });
    }

    /// Puts a task whose inputs are all there into its queue.
    pub(super) fn enqueue(&mut self, cx: &mut Cx, i: u32) {
        self.set_state(cx, i, State::Queued);
        let (f, element) = self.place_of(i);
        if self.is_wide(f) {
            self.wait_for_workers(cx, i);
            return;
        }
        if self.must_be_alone(i) {
            cx.ready.alone.insert((self.priority(f, element), self.task(i)));
            return;
        }
        let entry = Entry { priority: self.priority(f, element), task: self.task(i), end: i + 1 };
        cx.ready.push(self.families[f.index()].class, entry);
    }

    /// What an element waits for: the number of inputs (gates count once) that are not there; `Err` names an
    /// input that failed.
    pub(super) fn unmet(&self, f: FamilyIx, element: u32) -> Result<u32, u32> {
        if self.calls.is_some() && self.is_passive(self.index_of(f, element)) {
            return Ok(1);
        }
        let mut unmet = 0;
        let mut failed = None;
        for (e, edge) in (0..).zip(self.edges.of(f)) {
            if let Some(gate) = edge.gate() {
                unmet += u32::from(gate.missing > 0);
                failed = failed.or(gate.failed);
                continue;
            }
            self.each_input(f, element, e, |j| {
                let packed = self.state[j as usize];
                let there = if edge.data { packed.state() == State::Memory } else { packed.done_once() };
                unmet += u32::from(!there);
                if matches!(packed.state(), State::Erred | State::Cancelled) {
                    failed = Some(j);
                }
            });
        }
        failed.map_or(Ok(unmet), Err)
    }

    /// Decides anew what a task does next that is neither done nor in anybody's hands.
    pub(super) fn settle(&mut self, cx: &mut Cx, i: u32) {
        let (f, element) = self.place_of(i);
        match self.unmet(f, element) {
            Ok(0) if self.state_of(i) == State::Queued => {}
            Ok(0) => self.enqueue(cx, i),
            Ok(unmet) => {
                self.waiting[i as usize] = unmet;
                if self.state_of(i) != State::Waiting {
                    self.set_state(cx, i, State::Waiting);
                }
            }
            Err(blame) => self.fail_dependents(cx, vec![(i, blame)]),
        }
    }

    /// An attempt succeeded on a worker: the task is done.
    pub(super) fn complete(&mut self, cx: &mut Cx, i: u32, worker: WorkerId, nbytes: u64) {
        let (f, element) = self.place_of(i);
        let first_time = !self.state[i as usize].done_once();
        let keep = self.refs[i as usize] > 0;
        self.nbytes[i as usize] = nbytes;
        self.state[i as usize].set_done_once();
        self.set_state(cx, i, if keep { State::Memory } else { State::Released });
        let task = self.task(i);
        if let Some(w) = cx.worker_mut(worker).filter(|_| keep) {
            w.has.insert(task);
            w.nbytes = w.nbytes.wrapping_add(nbytes);
        }
        if first_time {
            self.families[f.index()].done += 1;
            self.stats.done += 1;
            cx.groups.done(&self.groups, self.families[f.index()].group);
        }
        self.tell_dependents(cx, f, element, keep, first_time);
        self.drop_holds(cx, i);
        if keep && self.state[i as usize].wanted() {
            self.announce(cx, i);
        }
        if first_time {
            self.feed_formers(cx, f, element, nbytes);
        }
        if !keep {
            self.worker[i as usize] = NOBODY;
        }
        if self.state[i as usize].later() {
            self.forget_want(cx, i);
        }
    }

    /// Counts down what the dependents of a finished task wait for.
    pub(super) fn tell_dependents(
        &mut self,
        cx: &mut Cx,
        f: FamilyIx,
        element: u32,
        data: bool,
        order: bool,
    ) {
        let exported = self.families[f.index()].shape.is_some_and(|s| element >= s.first_export);
        let mut ready = std::mem::take(&mut cx.scratch);
        for k in 0..self.edges.behind(f).len() {
            let (c, e) = self.edges.behind(f)[k];
            let edge = self.edges.get_mut(c, e);
            let carries = edge.data;
            if !(if carries { data } else { order }) || !exported {
                continue;
            }
            match edge.gate_mut() {
                Some(gate) => {
                    gate.missing -= 1;
                    if gate.missing == 0 {
                        ready.extend(self.elements(c).map(|i| self.index_of(c, i)));
                    }
                }
                None => self.dependents(f, element, (c, e), &mut ready),
            }
        }
        if data {
            ready.extend(self.tree_parent(f, element));
        }
        for d in ready.drain(..) {
            if self.state_of(d) == State::Waiting {
                self.waiting[d as usize] -= 1;
                if self.waiting[d as usize] == 0 {
                    self.enqueue(cx, d);
                }
            }
        }
        cx.scratch = ready;
    }

    /// A finished (or failed) task needs its inputs no more.
    pub(super) fn drop_holds(&mut self, cx: &mut Cx, i: u32) {
        let mut stack = Vec::new();
        self.holds_of(i, -1, &mut stack);
        self.drop_refs(cx, stack);
    }

    /// Collects the tasks on which task `i` holds (or lets go of) a reference.
    pub(super) fn holds_of(&mut self, i: u32, change: i32, into: &mut Vec<u32>) {
        let (f, element) = self.place_of(i);
        for e in 0..self.edges.count(f) {
            let edge = self.edges.get_mut(f, e);
            let producer = edge.producer;
            if !edge.data {
                continue;
            }
            if let Some(gate) = edge.gate_mut() {
                let before = gate.unfinished;
                gate.unfinished = gate.unfinished.wrapping_add_signed(change);
                if (change > 0 && before == 0) || (change < 0 && gate.unfinished == 0) {
                    into.extend((0..self.exports(producer)).map(|j| self.export(producer, j)));
                }
                continue;
            }
            self.each_input(f, element, e, |j| into.push(j));
        }
    }

    /// Takes one reference from each task listed; what nobody refers to any more is dropped.
    pub(super) fn drop_refs(&mut self, cx: &mut Cx, mut stack: Vec<u32>) {
        while let Some(i) = stack.pop() {
            debug_assert!(self.refs[i as usize] > 0, "task {i} let go of once too often ({})", cx.cause);
            self.refs[i as usize] -= 1;
            if self.refs[i as usize] > 0 {
                continue;
            }
            match self.state_of(i) {
                State::Memory => self.release(cx, i),
                // It was being computed again for somebody who needs it no more.
                State::Waiting | State::Queued | State::Delayed if self.state[i as usize].done_once() => {
                    self.abandon(cx, i);
                    self.let_go(cx, i);
                    self.holds_of(i, -1, &mut stack);
                }
                State::Waiting | State::Queued | State::Delayed | State::Processing if self.is_lazy() => {
                    self.drop_call(cx, i, &mut stack);
                }
                _ => {}
            }
        }
    }

    fn abandon(&mut self, cx: &mut Cx, i: u32) {
        // The way back to `Released` leads through `Waiting`, from where nothing runs it.
        self.count_change(&mut cx.groups, i, self.state_of(i), State::Released);
        cx.record(self, i, self.state_of(i), State::Released);
        self.state[i as usize].set_state(State::Released);
        cx.ending.insert(self.id);
    }

    /// Drops a result that nobody needs, everywhere.
    fn release(&mut self, cx: &mut Cx, i: u32) {
        self.set_state_after_holders(cx, i, State::Released);
        self.count_behind_gates(i);
    }

    /// Frees all replicas and changes the state.
    fn set_state_after_holders(&mut self, cx: &mut Cx, i: u32, to: State) {
        let task = self.task(i);
        if self.stands_for(i).is_some() {
            self.let_go(cx, i);
        } else {
            for w in self.holders(i) {
                self.forget_replica(cx, w, task);
                cx.free(w, task);
            }
        }
        self.set_state(cx, i, to);
        self.set_pinned(i, false);
        self.replicas.remove(&i);
        self.worker[i as usize] = NOBODY;
    }

    fn forget_replica(&self, cx: &mut Cx, w: WorkerId, task: TaskRef) {
        let nbytes = self.nbytes[task.index as usize];
        if let Some(worker) = cx.worker_mut(w)
            && worker.has.swap_remove(&task)
        {
            worker.nbytes = worker.nbytes.wrapping_sub(nbytes);
            worker.moving.swap_remove(&task);
            cx.relief = true;
        }
    }

    /// Notes behind each gate that a result is not there any more; returns the gates that closed by it.
    fn count_behind_gates(&mut self, i: u32) -> Vec<FamilyIx> {
        let (f, element) = self.place_of(i);
        let mut closed = Vec::new();
        if self.families[f.index()].shape.is_none_or(|s| element < s.first_export) {
            return closed;
        }
        for k in 0..self.edges.behind(f).len() {
            let (c, e) = self.edges.behind(f)[k];
            let edge = self.edges.get_mut(c, e);
            if !edge.data {
                continue;
            }
            if let Some(gate) = edge.gate_mut() {
                gate.missing += 1;
                if gate.missing == 1 {
                    closed.push(c);
                }
            }
        }
        closed
    }

    /// A worker does not have this result any more. The last holder's loss means computing it again.
    pub(super) fn lose_replica(&mut self, cx: &mut Cx, i: u32, w: WorkerId) {
        let mut holders = self.holders(i);
        if !holders.contains(&w) {
            return;
        }
        self.forget_replica(cx, w, self.task(i));
        holders.retain(|h| *h != w);
        match holders.split_first() {
            Some((first, rest)) => {
                self.worker[i as usize] = first.0;
                cx.own(*first, self.task(i), self.nbytes[i as usize]);
                if rest.is_empty() {
                    self.replicas.remove(&i);
                } else {
                    self.replicas.insert(i, rest.iter().copied().collect());
                }
                self.changed(cx, i);
            }
            None => self.lost(cx, i),
        }
    }

    /// Another worker holds this result too.
    pub(super) fn add_replica(&mut self, cx: &mut Cx, i: u32, w: WorkerId) {
        let task = self.task(i);
        if self.state_of(i) != State::Memory {
            cx.free(w, task);
            return;
        }
        if self.holders(i).contains(&w) {
            return;
        }
        let nbytes = self.nbytes[i as usize];
        if let Some(worker) = cx.worker_mut(w) {
            worker.has.insert(task);
            worker.nbytes = worker.nbytes.wrapping_add(nbytes);
            self.replicas.entry(i).or_default().push(w);
            self.changed(cx, i);
        }
    }

    /// The last copy of a result is gone.
    fn lost(&mut self, cx: &mut Cx, i: u32) {
        self.tell_loss(cx, i);
        self.miss(cx, i);
        self.revive(cx, vec![i]);
    }

    /// A result is not there any more: what needs it waits again.
    pub(super) fn miss(&mut self, cx: &mut Cx, i: u32) {
        let (f, element) = self.place_of(i);
        self.set_pinned(i, false);
        self.replicas.remove(&i);
        self.worker[i as usize] = NOBODY;
        let mut affected = Vec::new();
        for c in self.count_behind_gates(i) {
            affected.extend(self.elements(c).map(|x| self.index_of(c, x)));
        }
        for k in 0..self.edges.behind(f).len() {
            let (c, e) = self.edges.behind(f)[k];
            if self.edges.get(c, e).data {
                self.dependents(f, element, (c, e), &mut affected);
            }
        }
        affected.extend(self.tree_parent(f, element));
        // Out of `Memory` first, so that whoever looks sees it missing.
        self.set_state(cx, i, State::Waiting);
        for d in affected {
            self.unready(cx, d);
        }
    }

    /// An input of this task is gone: it waits again, unless it is done, failed or already executing.
    fn unready(&mut self, cx: &mut Cx, d: u32) {
        match self.state_of(d) {
            State::Waiting => self.waiting[d as usize] += 1,
            State::Queued | State::Delayed => {
                self.waiting[d as usize] = 1;
                self.set_state(cx, d, State::Waiting);
            }
            State::Processing if !self.has_started(cx, d) => {
                self.recall(cx, d);
                self.waiting[d as usize] = 1;
                self.set_state(cx, d, State::Waiting);
            }
            _ => {}
        }
    }

    fn has_started(&self, cx: &Cx, i: u32) -> bool {
        let worker = cx.worker(WorkerId(self.worker[i as usize]));
        worker.and_then(|w| w.processing.get(&self.task(i))).is_some_and(|hand| hand.started.is_some())
    }

    /// Takes a task out of its worker's hands and tells the worker so.
    pub(super) fn recall(&mut self, cx: &mut Cx, i: u32) {
        let w = WorkerId(self.worker[i as usize]);
        self.take_back(cx, i);
        cx.cancel(w, self.task(i), self.attempt[i as usize]);
    }

    /// Takes a task out of its worker's hands; whether the worker was told to keep the result.
    pub(super) fn take_back(&mut self, cx: &mut Cx, i: u32) -> bool {
        let w = WorkerId(self.worker[i as usize]);
        let (f, _) = self.place_of(i);
        let resources = &self.families[f.index()].layer.resources;
        let task = self.task(i);
        let Some(hand) = cx.worker_mut(w).and_then(|worker| worker.take(task, resources)) else {
            return false;
        };
        cx.in_hand -= 1;
        cx.relief = true;
        hand.keep
    }

    /// Computes results again that are needed and gone, and before them what they need, as far back as it
    /// takes. The tasks are in `Waiting` (just lost) or `Released`.
    pub(super) fn revive(&mut self, cx: &mut Cx, mut stack: Vec<u32>) {
        let mut revived = Vec::new();
        while let Some(i) = stack.pop() {
            if self.refs[i as usize] == 0 && self.is_revivable(i) {
                continue;
            }
            let mut held = Vec::new();
            self.holds_of(i, 1, &mut held);
            if matches!(self.state_of(i), State::Released | State::Cancelled) {
                self.set_state(cx, i, State::Waiting);
            }
            for j in held {
                self.refs[j as usize] += 1;
                if self.refs[j as usize] == 1 && self.is_revivable(j) {
                    stack.push(j);
                }
            }
            revived.push(i);
        }
        // Inputs first: who waits for what is known once all of them wait. One that cannot be had may end
        // others on the way.
        for i in revived.into_iter().rev() {
            if self.state_of(i) != State::Waiting {
                continue;
            }
            if self.is_passive(i) {
                self.waiting[i as usize] = 1;
                self.fetch_again(cx, i);
            } else {
                self.settle(cx, i);
            }
        }
    }

    /// A task failed for good: it and everything that depends on it.
    pub(super) fn fail(&mut self, cx: &mut Cx, i: u32) {
        self.stats.failed += 1;
        cx.failing.insert(self.id);
        self.fail_dependents(cx, vec![(i, i)]);
    }

    /// Fails tasks, each because of another, and in turn what depends on them.
    pub(super) fn fail_dependents(&mut self, cx: &mut Cx, mut stack: Vec<(u32, u32)>) {
        while let Some((i, blame)) = stack.pop() {
            // What is done is not harmed, nor is what already executes with all of its inputs.
            if self.state_of(i).is_final() || (i != blame && self.is_executing(cx, i)) {
                continue;
            }
            if self.state_of(i) == State::Processing && i != blame {
                self.recall(cx, i);
            }
            self.set_state(cx, i, State::Erred);
            let root = self.trouble.get(&blame).and_then(|t| t.blame).unwrap_or(blame);
            self.trouble.entry(i).or_default().blame = Some(root);
            self.stats.skipped += u64::from(i != root);
            // A failed call stays wanted: who wants it may ask for another try.
            if self.is_lazy() {
                self.tell_failure(cx, i);
            } else if self.unwant(i) {
                self.refs[i as usize] -= 1;
            }
            self.worker[i as usize] = NOBODY;
            self.let_go(cx, i);
            self.drop_holds(cx, i);
            if self.state[i as usize].later() {
                self.forget_want(cx, i);
            }
            stack.extend(self.behind_failed(i).into_iter().map(|d| (d, root)));
            let (f, element) = self.place_of(i);
            self.feed_formers(cx, f, element, 1);
        }
    }

    /// Fails what depends on a task that will not be done.
    pub(super) fn fail_behind(&mut self, cx: &mut Cx, i: u32) {
        let behind = self.behind_failed(i);
        self.fail_dependents(cx, behind.into_iter().map(|d| (d, i)).collect());
    }

    /// What depends on a task that has failed, as far as it was not known to be in vain before.
    fn behind_failed(&mut self, i: u32) -> Vec<u32> {
        let (f, element) = self.place_of(i);
        let mut next = Vec::new();
        for k in 0..self.edges.behind(f).len() {
            let (c, e) = self.edges.behind(f)[k];
            match self.edges.get_mut(c, e).gate_mut() {
                Some(gate) if gate.failed.is_some() => {}
                Some(gate) => {
                    gate.failed = Some(i);
                    next.extend(self.elements(c).map(|x| self.index_of(c, x)));
                }
                None => self.dependents(f, element, (c, e), &mut next),
            }
        }
        next.extend(self.tree_parent(f, element));
        next
    }

    fn is_executing(&self, cx: &Cx, i: u32) -> bool {
        self.state_of(i) == State::Processing && self.has_started(cx, i)
    }

    /// The output will not be taken, or was.
    pub(super) fn unwant(&mut self, i: u32) -> bool {
        let was = self.state[i as usize].wanted();
        if was {
            self.state[i as usize].set_wanted(false);
            self.wanted -= 1;
        }
        was
    }

    /// Tells those who watch where an output is.
    pub(super) fn announce(&self, cx: &mut Cx, i: u32) {
        if self.is_lazy() {
            return self.tell_done(cx, i);
        }
        let (family, element) = self.place_of(i);
        // One taker is enough; the first who watches.
        if let Some(&client) = self.watchers.first() {
            let holders = self.holders(i).to_vec();
            let nbytes = self.nbytes[i as usize];
            cx.announce(client, Output { task: self.task(i), family, element, nbytes, holders });
        }
    }

    /// Cancels whatever is not finished and drops every result.
    pub(super) fn cancel(&mut self, cx: &mut Cx, reason: String) {
        if self.cancelled.is_some() {
            return;
        }
        self.cancelled = Some(reason);
        for i in 0..self.state.len() as u32 {
            match self.state_of(i) {
                State::Memory => self.set_state_after_holders(cx, i, State::Released),
                State::Processing => {
                    self.recall(cx, i);
                    self.set_state(cx, i, State::Cancelled);
                    self.worker[i as usize] = NOBODY;
                }
                state if !state.is_final() => self.set_state(cx, i, State::Cancelled),
                _ => {}
            }
            if self.is_lazy() {
                self.tell_failure(cx, i);
            }
            self.unwant(i);
        }
        self.unsized_families = 0;
        self.end_waiting(cx);
        self.let_all_go(cx);
        cx.ending.insert(self.id);
    }
}
