//! What stands in a run of calls for tasks of other runs. Owns these stand-ins and how they follow what they
//! stand for; what clients want is `calls`'s.
//!
//! A task of another run that a call depends on has a stand-in in the call's run: a task that nobody
//! executes, which is in memory while the other is. So a run's arithmetic stays its own. The stand-in holds
//! one reference on what it stands for, and its run keeps the other run from being forgotten, for what
//! was lost may have to be computed from there again.

use super::Core;
use super::cx::Cx;
use super::run::{Run, Trouble};
use super::state::State;
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{TaskRef, WorkerId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub(super) struct Import {
    pub(super) of: TaskRef,
    /// It holds a reference.
    pub(super) held: bool,
    /// The other run counts it.
    pub(super) counted: bool,
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
    /// On whom, how large, and whether it cannot leave.
    Memory(SmallVec<[WorkerId; 4]>, u64, bool),
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

impl Run {
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

    /// Follows the task that a stand-in stands for.
    fn follow(&mut self, cx: &mut Cx, i: u32, view: &View) {
        let state = self.state_of(i);
        match view {
            View::Memory(holders, nbytes, pinned) if matches!(state, State::Waiting | State::Memory) => {
                let Some((first, rest)) = holders.split_first() else { return };
                self.worker[i as usize] = first.0;
                self.nbytes[i as usize] = *nbytes;
                self.set_pinned(i, *pinned);
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
    /// A stand-in comes into being: it holds what it stands for, if anything needs it.
    pub(super) fn begin_import(&mut self, importer: TaskRef) {
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
        if self.cx.early > 0 {
            run.hurry(&mut self.cx, i);
        }
        run.refs[i as usize] += 1;
        if run.refs[i as usize] == 1 && run.is_revivable(i) {
            run.revive(&mut self.cx, vec![i]);
        }
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
            State::Memory => {
                let (i, pinned) = (of.index as usize, run.is_pinned(of.index));
                View::Memory(run.holders(of.index), run.nbytes[i], pinned)
            }
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
}
