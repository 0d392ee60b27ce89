//! Runs of calls, whose results clients want one by one: who wants which, what nobody wants any more, what
//! stands for tasks of other runs, and what a client brings instead of having it computed. Owns these tables
//! and their consequences; a task's own changes are `transitions`'.
//!
//! A task of another run that a call depends on has a stand-in in the call's run: a task that nobody
//! executes, which is in memory while the other is. So a run's arithmetic stays its own. The stand-in holds
//! one reference on what it stands for, and its run keeps the other run from being forgotten, for what
//! was lost may have to be computed from there again.

use super::action::{Action, Output};
use super::cx::Cx;
use super::run::{NOBODY, Run, Trouble};
use super::state::State;
use super::{Core, event::CallSpec};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{ClientId, RunId, TaskRef, WorkerId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a run of calls has besides.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// What its first tasks stand for.
    imports: Vec<Import>,
    /// Tasks whose results clients bring.
    brought: BTreeSet<u32>,
    /// Wanted tasks that others than the run's owner want, and all who do.
    wanters: BTreeMap<u32, SmallVec<[ClientId; 2]>>,
    /// References that stand-ins in other runs hold.
    lent: BTreeMap<u32, u32>,
    /// Stand-ins in runs that are still known.
    importers: u32,
    /// The driver has been told that nobody needs it.
    spent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Import {
    of: TaskRef,
    /// It holds a reference.
    held: bool,
    /// The other run counts it.
    counted: bool,
}

/// What is to be done about stand-ins once an event has been handled.
#[derive(Debug)]
pub(super) enum News {
    /// A task with stand-ins has changed.
    Changed(TaskRef),
    /// Nobody needs this stand-in any more.
    LetGo(TaskRef),
    /// Somebody needs it again.
    Again(TaskRef),
}

/// Stand-ins by what they stand for.
#[derive(Debug, Default)]
pub(super) struct Imports {
    of: BTreeMap<TaskRef, SmallVec<[TaskRef; 2]>>,
    pub(super) news: VecDeque<News>,
}

/// What a stand-in has to know of the task that it stands for.
enum View {
    Memory(SmallVec<[WorkerId; 4]>, u64),
    /// Not there, but it will be.
    Away,
    /// It never will.
    Gone(Box<Trouble>),
}

impl Imports {
    /// Whether nothing stands for anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty() && self.news.is_empty()
    }
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

    /// The task of another run that this one stands for.
    pub(super) fn stands_for(&self, i: u32) -> Option<TaskRef> {
        Some(self.calls.as_ref()?.imports.get(i as usize)?.of)
    }

    /// The task as workers know its result.
    pub(super) fn origin(&self, i: u32) -> TaskRef {
        self.stands_for(i).unwrap_or_else(|| self.task(i))
    }

    /// References that stand-ins in other runs hold on a task.
    pub(super) fn lent(&self, i: u32) -> u32 {
        self.calls.as_ref().and_then(|c| c.lent.get(&i)).copied().unwrap_or(0)
    }

    /// Whether what is unwanted need not be done.
    pub(super) fn is_lazy(&self) -> bool {
        self.calls.is_some()
    }

    /// Notes that stand-ins may have to follow a change.
    pub(super) fn changed(&self, cx: &mut Cx, i: u32) {
        if self.state[i as usize].imported() {
            cx.imports.news.push_back(News::Changed(self.task(i)));
        }
    }

    /// A stand-in is not needed.
    pub(super) fn let_go(&mut self, cx: &mut Cx, i: u32) {
        let task = self.task(i);
        if let Some(import) = self.calls.as_mut().and_then(|c| c.imports.get_mut(i as usize))
            && std::mem::take(&mut import.held)
        {
            cx.imports.news.push_back(News::LetGo(task));
        }
    }

    /// Lets go of whatever its stand-ins hold.
    pub(super) fn let_all_go(&mut self, cx: &mut Cx) {
        let n = self.calls.as_ref().map_or(0, |c| c.imports.len() as u32);
        (0..n).for_each(|i| self.let_go(cx, i));
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

    /// Follows the task that a stand-in stands for.
    fn follow(&mut self, cx: &mut Cx, i: u32, view: &View) {
        let state = self.state_of(i);
        match view {
            View::Memory(holders, nbytes) if matches!(state, State::Waiting | State::Memory) => {
                let Some((first, rest)) = holders.split_first() else { return };
                self.worker[i as usize] = first.0;
                self.nbytes[i as usize] = *nbytes;
                match rest.is_empty() {
                    true => drop(self.replicas.remove(&i)),
                    false => drop(self.replicas.insert(i, rest.iter().copied().collect())),
                }
                if state == State::Waiting {
                    self.appear(cx, i);
                }
            }
            View::Away if state == State::Memory => self.vanish(cx, i),
            View::Gone(trouble) if state == State::Memory || !state.is_final() => {
                if state == State::Memory {
                    self.vanish(cx, i);
                }
                self.trouble.insert(i, Trouble { blame: None, ..trouble.as_ref().clone() });
                self.let_go(cx, i);
                self.fail(cx, i);
            }
            _ => {}
        }
    }

    /// What a passive task waited for is there.
    fn appear(&mut self, cx: &mut Cx, i: u32) {
        let (f, element) = self.place_of(i);
        let first_time = !self.state[i as usize].done_once();
        self.state[i as usize].set_done_once();
        self.set_state(cx, i, State::Memory);
        self.tell_dependents(cx, f, element, true, first_time);
    }

    /// It is gone again, and will come back or not.
    fn vanish(&mut self, cx: &mut Cx, i: u32) {
        self.miss(cx, i);
        self.waiting[i as usize] = 1;
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

    /// A stand-in comes into being: it holds what it stands for, if anything needs it.
    fn begin_import(&mut self, importer: TaskRef) {
        let i = importer.index;
        let needed = |run: &Run| run.refs[i as usize] > 0 && !run.state_of(i).is_final();
        if self.run(importer.run).is_some_and(needed) {
            self.hold_import(importer);
        }
    }

    fn hold_import(&mut self, importer: TaskRef) {
        let calls = self.run_mut(importer.run).and_then(|r| r.calls.as_mut());
        let Some(import) = calls.and_then(|c| c.imports.get_mut(importer.index as usize)) else { return };
        let (of, new) = (import.of, !import.counted);
        if std::mem::replace(&mut import.held, true) {
            return;
        }
        let known = self.run(of.run).is_some_and(|r| r.has(of.index) && r.is_lazy());
        if let Some(import) = self
            .run_mut(importer.run)
            .and_then(|r| r.calls.as_mut())
            .and_then(|c| c.imports.get_mut(importer.index as usize))
        {
            import.counted |= known;
        }
        self.cx.imports.of.entry(of).or_default().push(importer);
        // Whatever is there is news.
        self.cx.imports.news.push_back(News::Changed(of));
        let Some(run) = self.runs.get_mut(of.run.index()).and_then(|r| r.as_deref_mut()) else { return };
        let i = of.index;
        let Some(calls) = run.calls.as_mut().filter(|_| known) else { return };
        *calls.lent.entry(i).or_default() += 1;
        calls.importers += u32::from(new);
        run.state[i as usize].set_imported(true);
        run.refs[i as usize] += 1;
        if run.refs[i as usize] == 1 && run.is_revivable(i) {
            run.revive(&mut self.cx, vec![i]);
        }
    }

    fn run_mut(&mut self, run: RunId) -> Option<&mut Run> {
        self.runs.get_mut(run.index())?.as_deref_mut()
    }

    /// Lets stand-ins follow what they stand for, until there is no news.
    pub(super) fn follow_imports(&mut self) {
        while let Some(news) = self.cx.imports.news.pop_front() {
            match news {
                News::Changed(of) => {
                    let Some(importers) = self.cx.imports.of.get(&of).cloned() else { continue };
                    let view = self.view_of(of);
                    for importer in importers {
                        if let Some(run) =
                            self.runs.get_mut(importer.run.index()).and_then(|r| r.as_deref_mut())
                        {
                            run.follow(&mut self.cx, importer.index, &view);
                        }
                    }
                }
                News::LetGo(importer) => self.end_import(importer),
                News::Again(importer) => self.begin_import(importer),
            }
        }
    }

    fn view_of(&self, of: TaskRef) -> View {
        let Some(run) = self.run(of.run).filter(|r| r.has(of.index) && r.is_lazy()) else {
            let why = "it depends on a result that the scheduler does not know any more";
            let failure = Some(Arc::new(Failure::of(FailureKind::Inputs(why.into()))));
            return View::Gone(Box::new(Trouble { failure, ..Trouble::default() }));
        };
        match run.state_of(of.index) {
            State::Memory => View::Memory(run.holders(of.index), run.nbytes[of.index as usize]),
            State::Erred | State::Cancelled => {
                let (root, trouble) = run.blame_of(of.index);
                let mut trouble = trouble.cloned().unwrap_or_default();
                trouble.elsewhere.get_or_insert(root);
                if trouble.failure.is_none() {
                    trouble.failure = Some(Arc::new(Failure::of(FailureKind::Cancelled)));
                }
                View::Gone(Box::new(trouble))
            }
            _ => View::Away,
        }
    }

    /// A stand-in lets go of what it stands for.
    fn end_import(&mut self, importer: TaskRef) {
        let Some(of) = self.run(importer.run).and_then(|r| r.stands_for(importer.index)) else { return };
        self.unhold(importer, of);
    }

    fn unhold(&mut self, importer: TaskRef, of: TaskRef) {
        let mut last = false;
        if let Some(stand_ins) = self.cx.imports.of.get_mut(&of) {
            stand_ins.retain(|x| *x != importer);
            last = stand_ins.is_empty();
            if last {
                self.cx.imports.of.remove(&of);
            }
        }
        let Some(run) = self.runs.get_mut(of.run.index()).and_then(|r| r.as_deref_mut()) else { return };
        if !run.has(of.index) {
            return;
        }
        if last {
            run.state[of.index as usize].set_imported(false);
        }
        let Some(calls) = &mut run.calls else { return };
        if let Some(lent) = calls.lent.get_mut(&of.index) {
            *lent -= 1;
            if *lent == 0 {
                calls.lent.remove(&of.index);
            }
            run.drop_refs(&mut self.cx, vec![of.index]);
        }
    }

    /// A run is being forgotten: those that it imports from may be, too.
    pub(super) fn forget_imports(&mut self, run: &Run) {
        let Some(calls) = &run.calls else { return };
        for (i, import) in (0..).zip(&calls.imports) {
            if import.held {
                self.unhold(TaskRef { run: run.id, index: i }, import.of);
            }
            let of = import.of.run;
            if import.counted
                && let Some(other) = self.run_mut(of).and_then(|r| r.calls.as_mut())
            {
                other.importers -= 1;
                self.cx.ending.insert(of);
            }
        }
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
    fn blame_of(&self, i: u32) -> (TaskRef, Option<&Trouble>) {
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
