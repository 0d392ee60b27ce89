//! Runs of calls, whose results clients want one by one: who wants which, what nobody wants any more, and
//! what a client brings instead of having it computed. Owns these tables and their consequences; a task's own
//! changes are `transitions`', what stands for tasks of other runs is in `imports`.

use super::action::{Action, Output};
use super::cx::Cx;
use super::imports::{Import, News};
use super::run::{NOBODY, Run, Trouble};
use super::state::State;
use super::{Core, event::CallSpec};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{ClientId, RunId, TaskRef, WorkerId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a run of calls has besides.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// What its first tasks stand for.
    pub(super) imports: Vec<Import>,
    /// Tasks whose results clients bring.
    brought: BTreeSet<u32>,
    /// Wanted tasks that others than the run's owner want, and all who do.
    wanters: BTreeMap<u32, SmallVec<[ClientId; 2]>>,
    /// References that stand-ins in other runs hold.
    pub(super) lent: BTreeMap<u32, u32>,
    /// Stand-ins in runs that are still known.
    pub(super) importers: u32,
    /// Tasks whose results cannot leave their worker.
    pub(super) pinned: BTreeSet<u32>,
    /// The driver has been told that nobody needs it.
    spent: bool,
}

impl Calls {
    pub(super) fn new(spec: &CallSpec) -> Calls {
        let import = |of: &TaskRef| Import { of: *of, held: false, counted: false };
        Calls {
            imports: spec.imports.iter().map(import).collect(),
            brought: spec.brought.iter().copied().collect(),
            ..Calls::default()
        }
    }
}

impl Run {
    /// Whether nobody executes a task: it stands for another, or its result is brought.
    pub(super) fn is_passive(&self, i: u32) -> bool {
        let Some(calls) = &self.calls else { return false };
        (i as usize) < calls.imports.len() || calls.brought.contains(&i)
    }

    /// Whether what is unwanted need not be done.
    pub(super) fn is_lazy(&self) -> bool {
        self.calls.is_some()
    }

    /// A passive task is needed again.
    pub(super) fn fetch_again(&mut self, cx: &mut Cx, i: u32) {
        if self.stands_for(i).is_some() {
            cx.imports.news.push_back(News::Again(self.task(i)));
            return;
        }
        let why = "its data was brought by a client, and let go of or lost; bring it again";
        self.lose_for_good(cx, i, Failure::of(FailureKind::Inputs(why.into())));
    }

    /// Fails a passive task, and with it what depends on it.
    fn lose_for_good(&mut self, cx: &mut Cx, i: u32, failure: Failure) {
        self.trouble.entry(i).or_default().failure = Some(Arc::new(failure));
        self.fail(cx, i);
    }

    /// Whether a task would be computed (again) if somebody needed it: it is done and dropped, or was dropped
    /// before it was done.
    pub(super) fn is_revivable(&self, i: u32) -> bool {
        match self.state_of(i) {
            State::Released => true,
            State::Cancelled => {
                self.cancelled.is_none() && self.trouble.get(&i).is_none_or(|t| t.failure.is_none())
            }
            _ => false,
        }
    }

    fn wanters_of(&self, i: u32) -> SmallVec<[ClientId; 2]> {
        match self.calls.as_ref().and_then(|c| c.wanters.get(&i)) {
            Some(wanters) => wanters.clone(),
            None => self.owner.into_iter().collect(),
        }
    }

    /// A client wants a result.
    fn want(&mut self, cx: &mut Cx, i: u32, client: ClientId) {
        let owner = self.owner;
        let wanted = self.state[i as usize].wanted();
        self.state[i as usize].set_later(false);
        if let Some(calls) = &mut self.calls {
            match calls.wanters.get_mut(&i) {
                Some(wanters) if wanters.contains(&client) => {}
                Some(wanters) => wanters.push(client),
                None if wanted && owner == Some(client) => {}
                None if wanted => drop(calls.wanters.insert(i, owner.into_iter().chain([client]).collect())),
                None if owner == Some(client) => {}
                None => drop(calls.wanters.insert(i, [client].into_iter().collect())),
            }
        }
        if !wanted {
            self.state[i as usize].set_wanted(true);
            self.wanted += 1;
            self.refs[i as usize] += 1;
            if cx.early > 0 {
                self.hurry(cx, i);
            }
            if self.refs[i as usize] == 1 && self.is_revivable(i) {
                self.revive(cx, vec![i]);
            }
        }
        self.tell(cx, i, client);
    }

    /// Tells a client what has become of a task that it wants, if anything has.
    fn tell(&self, cx: &mut Cx, i: u32, client: ClientId) {
        match self.state_of(i) {
            State::Memory => self.announce_to(cx, i, client),
            State::Erred | State::Cancelled => cx.failed_calls.entry(client).or_default().push(self.task(i)),
            _ => {}
        }
    }

    /// Tells everybody who wants a task that it failed.
    pub(super) fn tell_failure(&self, cx: &mut Cx, i: u32) {
        if self.state[i as usize].wanted() {
            for client in self.wanters_of(i) {
                cx.failed_calls.entry(client).or_default().push(self.task(i));
            }
        }
    }

    /// Tells everybody who wants a result that it is gone for now.
    pub(super) fn tell_loss(&self, cx: &mut Cx, i: u32) {
        if self.is_lazy() && self.state[i as usize].wanted() {
            for client in self.wanters_of(i) {
                cx.lost_calls.entry(client).or_default().push(self.task(i));
            }
        }
    }

    /// Tells everybody who wants a result where it is.
    pub(super) fn tell_done(&self, cx: &mut Cx, i: u32) {
        for client in self.wanters_of(i) {
            self.announce_to(cx, i, client);
        }
    }

    fn announce_to(&self, cx: &mut Cx, i: u32, client: ClientId) {
        let (family, element) = self.place_of(i);
        let (holders, nbytes) = (self.holders(i).to_vec(), self.nbytes[i as usize]);
        cx.announce(client, Output { task: self.task(i), family, element, nbytes, holders });
    }

    /// Tells a client that is back about everything that it wants.
    pub(super) fn tell_all(&self, cx: &mut Cx, client: ClientId) {
        for i in 0..self.state.len() as u32 {
            if self.state[i as usize].wanted() && self.wanters_of(i).contains(&client) {
                self.tell(cx, i, client);
            }
        }
    }

    /// A client does not want a result any more, or will not once it is there (`later`).
    fn unwant_by(&mut self, cx: &mut Cx, i: u32, client: ClientId, later: bool) {
        if !self.state[i as usize].wanted() {
            return;
        }
        let owner = self.owner;
        let Some(calls) = &mut self.calls else { return };
        match calls.wanters.get_mut(&i) {
            Some(wanters) if wanters.len() > 1 => return wanters.retain(|c| *c != client),
            Some(wanters) if !wanters.contains(&client) => return,
            None if owner != Some(client) => return,
            _ => {}
        }
        if later && !self.state_of(i).is_final() {
            self.state[i as usize].set_later(true);
            return;
        }
        self.forget_want(cx, i);
    }

    /// Nobody wants a result any more.
    pub(super) fn forget_want(&mut self, cx: &mut Cx, i: u32) {
        if let Some(calls) = &mut self.calls {
            calls.wanters.remove(&i);
        }
        self.state[i as usize].set_later(false);
        if self.unwant(i) {
            self.drop_refs(cx, vec![i]);
        }
        cx.ending.insert(self.id);
    }

    /// A client is gone for good: it wants nothing any more.
    fn forget_client(&mut self, cx: &mut Cx, client: ClientId) {
        let Some(calls) = &self.calls else { return };
        if self.owner != Some(client) && calls.wanters.is_empty() {
            return;
        }
        if self.owner == Some(client) {
            // Nobody else brings it.
            let brought: Vec<u32> = calls.brought.iter().copied().collect();
            for i in brought.into_iter().filter(|i| self.state_of(*i) == State::Waiting).collect::<Vec<_>>() {
                let why = "its client left before it had brought its data";
                self.lose_for_good(cx, i, Failure::of(FailureKind::Inputs(why.into())));
            }
        }
        let wanted = (0..self.state.len() as u32).filter(|i| self.state[*i as usize].wanted());
        for i in wanted.collect::<Vec<u32>>() {
            // What is to be done for nobody goes on.
            if !self.state[i as usize].later() {
                self.unwant_by(cx, i, client, false);
            }
        }
    }

    /// Cancels calls and what depends on them.
    fn cancel_calls(&mut self, cx: &mut Cx, tasks: &[u32]) {
        for &i in tasks {
            if self.has(i) && !self.state_of(i).is_final() {
                let failure = Arc::new(Failure::of(FailureKind::Cancelled));
                self.trouble.entry(i).or_default().failure = Some(failure);
                self.give_up_unstarted(cx, i);
                self.tell_failure(cx, i);
                self.fail_behind(cx, i);
                if self.state[i as usize].later() {
                    self.forget_want(cx, i);
                }
            }
        }
    }

    /// Takes a task that is not done out of everybody's hands.
    fn give_up_unstarted(&mut self, cx: &mut Cx, i: u32) {
        if self.state_of(i) == State::Processing {
            self.recall(cx, i);
        }
        self.set_state(cx, i, State::Cancelled);
        self.worker[i as usize] = NOBODY;
        self.let_go(cx, i);
        self.drop_holds(cx, i);
    }

    /// Drops all that nobody needs from the start.
    fn drop_unneeded(&mut self, cx: &mut Cx) {
        for i in (0..self.state.len() as u32).rev() {
            if self.refs[i as usize] == 0 && !self.state_of(i).is_final() {
                let mut stack = Vec::new();
                self.drop_call(cx, i, &mut stack);
                self.drop_refs(cx, stack);
            }
        }
    }

    /// Drops a call that nobody needs before it is done; what it needed loses a reference (`stack`).
    pub(super) fn drop_call(&mut self, cx: &mut Cx, i: u32, stack: &mut Vec<u32>) {
        if self.state_of(i) == State::Processing {
            self.recall(cx, i);
        }
        let done = self.state[i as usize].done_once();
        self.worker[i as usize] = NOBODY;
        match self.state_of(i) {
            State::Processing if done => self.set_state(cx, i, State::Released),
            _ => self.set_state(cx, i, State::Cancelled),
        }
        self.let_go(cx, i);
        self.holds_of(i, -1, stack);
    }

    /// Tries failed calls again: those to blame, and all that failed because of them.
    fn retry_calls(&mut self, cx: &mut Cx, tasks: &[u32]) {
        let erred = |i: &u32| self.has(*i) && self.state_of(*i) == State::Erred;
        let roots: BTreeSet<u32> = tasks
            .iter()
            .filter(|i| erred(i))
            .map(|i| self.trouble.get(i).and_then(|t| t.blame).unwrap_or(*i))
            .collect();
        let blamed = |(_, t): &(&u32, &Trouble)| t.blame.is_some_and(|b| roots.contains(&b));
        let again: Vec<u32> =
            self.trouble.iter().filter(blamed).map(|(i, _)| *i).filter(|i| erred(i)).collect();
        for &i in &again {
            self.trouble.remove(&i);
            self.set_state(cx, i, State::Waiting);
        }
        self.revive(cx, again);
        self.drop_unneeded(cx);
    }
}

impl Core {
    pub(super) fn on_calls_submitted(&mut self, id: RunId, spec: &CallSpec) {
        let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) else { return };
        for &i in &spec.wanted {
            if run.has(i) && !run.state[i as usize].wanted() {
                run.state[i as usize].set_wanted(true);
                run.wanted += 1;
                run.refs[i as usize] += 1;
            }
        }
        run.drop_unneeded(&mut self.cx);
        let n = spec.imports.len() as u32;
        (0..n).for_each(|i| self.begin_import(TaskRef { run: id, index: i }));
        self.follow_imports();
    }

    pub(super) fn run_mut(&mut self, run: RunId) -> Option<&mut Run> {
        self.runs.get_mut(run.index())?.as_deref_mut()
    }

    pub(super) fn on_calls_wanted(&mut self, client: ClientId, tasks: &[TaskRef]) {
        for task in tasks {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.has(task.index) && run.is_lazy() {
                run.want(&mut self.cx, task.index, client);
            }
        }
    }

    pub(super) fn on_calls_released(&mut self, client: ClientId, tasks: &[TaskRef], later: bool) {
        for task in tasks {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.has(task.index) {
                run.unwant_by(&mut self.cx, task.index, client, later);
            }
        }
    }

    pub(super) fn on_calls_cancelled(&mut self, run: RunId, tasks: &[u32]) {
        if let Some(run) = self.runs.get_mut(run.index()).and_then(|r| r.as_deref_mut())
            && run.is_lazy()
        {
            run.cancel_calls(&mut self.cx, tasks);
        }
    }

    pub(super) fn on_calls_retried(&mut self, run: RunId, tasks: &[u32]) {
        if let Some(run) = self.runs.get_mut(run.index()).and_then(|r| r.as_deref_mut())
            && run.is_lazy()
        {
            run.retry_calls(&mut self.cx, tasks);
        }
    }

    /// A client will not come back.
    pub(super) fn on_client_ended(&mut self, client: ClientId) {
        self.leases.remove(&client);
        self.cx.groups.client_left(client);
        for run in self.runs.iter_mut().flatten() {
            if run.is_lazy() {
                run.forget_client(&mut self.cx, client);
            } else if run.owner == Some(client) && !run.detached {
                run.cancel(&mut self.cx, "its client went away".into());
            }
        }
    }

    /// A client has brought a result to a worker.
    pub(super) fn on_stored(&mut self, w: WorkerId, task: TaskRef, nbytes: u64) {
        let nbytes = nbytes.min(super::event::BYTES_MAX);
        let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
            return self.cx.free(w, task);
        };
        let i = task.index;
        if !run.has(i) || !run.is_passive(i) || run.stands_for(i).is_some() {
            return self.cx.free(w, task);
        }
        match run.state_of(i) {
            State::Memory => run.add_replica(&mut self.cx, i, w),
            State::Waiting => {
                run.worker[i as usize] = w.0;
                run.complete(&mut self.cx, i, w, nbytes);
                if run.state_of(i) != State::Memory {
                    self.cx.free(w, task);
                }
            }
            _ => self.cx.free(w, task),
        }
    }

    /// Tells the driver about runs that nobody needs any more.
    pub(super) fn note_spent(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) else { return };
        let done = run.is_done();
        if let Some(calls) = &mut run.calls
            && done
            && calls.importers == 0
            && !std::mem::replace(&mut calls.spent, true)
        {
            self.cx.actions.push(Action::Spent { run: id });
        }
    }

    /// Why a call has no result: the task that is to blame, the host of its last attempt, how many there
    /// were, and the failure; and whether it was cancelled.
    pub fn failed_call(&self, task: TaskRef) -> Option<FailedCall> {
        let run = self.run(task.run)?;
        if !run.has(task.index) {
            return None;
        }
        let (root, trouble) = run.blame_of(task.index);
        let cancelled = || Arc::new(Failure::of(FailureKind::Cancelled));
        let failure = trouble.and_then(|t| t.failure.clone());
        Some(FailedCall {
            cancelled: failure.as_ref().is_none_or(|f| f.kind == FailureKind::Cancelled),
            root: trouble.and_then(|t| t.elsewhere).unwrap_or(root),
            host: trouble.and_then(|t| t.hosts.last().cloned()).unwrap_or_default(),
            attempts: trouble.map_or(0, |t| t.tries() + t.lost.len() as u32),
            failure: failure.unwrap_or_else(cancelled),
        })
    }
}

impl Run {
    /// The task that is to blame for another's failure, and what went wrong with it.
    pub(super) fn blame_of(&self, i: u32) -> (TaskRef, Option<&Trouble>) {
        let root = self.trouble.get(&i).and_then(|t| t.blame).unwrap_or(i);
        (self.task(root), self.trouble.get(&root))
    }
}

/// Why a call has no result.
#[derive(Clone, Debug)]
pub struct FailedCall {
    /// Whether it was cancelled, or what it depends on.
    pub cancelled: bool,
    /// The task that is to blame, maybe of another run.
    pub root: TaskRef,
    /// Host of that task's last attempt.
    pub host: String,
    /// Its attempts.
    pub attempts: u32,
    /// Why it failed.
    pub failure: Arc<Failure>,
}
