//! Looking through many tasks without changing them, as far as it may cost. Owns no state.

use super::Core;
use super::groups::NO_GROUP;
use super::run::{NOBODY, Run};
use super::state::State;
use crate::base::ids::{RunId, TaskRef, WorkerId};
use std::ops::ControlFlow;

/// Runs among which one is looked for that may have no more in hand, the newest.
const RUNS_LOOKED_AT: usize = 10_000;

/// A run with more families is not asked how long it will take.
const FAMILIES_LOOKED_AT: usize = 1000;

/// A task as shown in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Which.
    pub task: TaskRef,
    /// Its state.
    pub state: State,
    /// Where it is processing, or the first that holds its result.
    pub worker: Option<WorkerId>,
    /// Size of its last result.
    pub nbytes: u64,
    /// Assignments so far.
    pub attempts: u32,
}

/// Which tasks are looked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Those in this state.
    pub state: Option<State>,
    /// Those of groups of this name.
    pub group: Option<&'a str>,
}

impl Core {
    /// A task as shown in a list.
    pub fn task_row(&self, task: TaskRef) -> Option<TaskRow> {
        let run = self.run(task.run).filter(|run| run.has(task.index))?;
        Some(run.row(task.index))
    }

    /// Whether a task is one of those that are looked for.
    pub fn is_wanted(&self, row: &TaskRow, wanted: &Wanted) -> bool {
        let group = || self.group_of(row.task).and_then(|id| self.group_name(id));
        wanted.state.is_none_or(|s| s == row.state) && wanted.group.is_none_or(|name| group() == Some(name))
    }

    /// What a worker has in its hands or holds, no more than so many.
    pub fn tasks_at(&self, worker: WorkerId, most: usize) -> Vec<TaskRef> {
        let Some(w) = self.cx.worker(worker) else { return Vec::new() };
        w.processing.keys().chain(w.has.iter()).take(most).copied().collect()
    }

    /// Calls `visit` for each task of a run that is looked for, in order of submission, until it has enough
    /// or the budget is used up: each task looked at, and each family passed over, takes one of it.
    pub fn each_task(
        &self,
        run: RunId,
        wanted: &Wanted,
        budget: &mut usize,
        mut visit: impl FnMut(TaskRow, &mut usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        *budget = budget.saturating_sub(1);
        let Some(run) = self.run(run) else { return ControlFlow::Continue(()) };
        if wanted.state.is_some_and(|state| run.count(state) == 0) {
            return ControlFlow::Continue(());
        }
        for (tasks, f) in run.stretches() {
            *budget = budget.saturating_sub(1);
            let group = run.families[f.index()].group;
            let is_other = |name: &str| self.group_name(group) != Some(name);
            if group == NO_GROUP || wanted.group.is_some_and(is_other) {
                continue;
            }
            for i in tasks {
                if *budget == 0 {
                    return ControlFlow::Break(());
                }
                *budget -= 1;
                if wanted.state.is_none_or(|state| run.state_of(i) == state) {
                    visit(run.row(i), budget)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// How long what is left of a run would take on one thread, seconds, as far as its durations are known.
    pub fn work_left(&self, run: RunId) -> Option<f64> {
        let run = self.run(run).filter(|run| run.families.len() <= FAMILIES_LOOKED_AT)?;
        let mut ns = 0.0;
        for family in &run.families {
            let left = family.shape.map_or(0, |s| s.total).saturating_sub(family.done);
            if left > 0 {
                let each = family.duration_ns.or(run.stats.duration_ns)? as f64;
                let threads = f64::from(family.layer.slots) / f64::from(crate::graph::layer::SLOT);
                ns += f64::from(left) * each * threads * f64::from(family.layer.nodes.max(1));
            }
        }
        Some(ns / 1e9)
    }

    /// Why ready tasks are not handed out although there are free threads, as far as a few looks tell.
    pub fn ready_but(&self, looks: usize) -> Option<String> {
        let runs = self.runs.iter().rev().take(RUNS_LOOKED_AT).flatten();
        let runs = runs.filter(|run| run.count(State::Queued) > 0);
        if let Some(run) = runs.take(looks).find(|run| run.is_full()) {
            let most = run.max_in_hand();
            let tasks = if most == 1 { "task" } else { "tasks" };
            return Some(format!("{} may have {most} {tasks} in hand at a time", run.name));
        }
        if !self.cx.ready.alone.is_empty() {
            return Some("some ran out of memory and wait for a worker to themselves".into());
        }
        if !self.cx.gangs.waiting.is_empty() {
            return Some("some wait for several workers at once".into());
        }
        let workers = || self.cx.workers.iter().flatten();
        for class in
            self.cx.ready.classes.iter().filter(|c| c.open.is_empty() && c.entries().next().is_some())
        {
            let booked = |(name, n): &(&String, &u64)| {
                let free = |w: &super::workers::Worker| {
                    let total = w.spec.resources.get(*name).copied().unwrap_or(0);
                    total.saturating_sub(w.booked.get(*name).copied().unwrap_or(0))
                };
                !workers().any(|w| free(w) >= **n)
            };
            if let Some((name, _)) = class.resources.iter().find(booked) {
                return Some(match super::among::is_among(name) {
                    true => "the workers that they may run on are busy".into(),
                    false => format!("all {name} is in use"),
                });
            }
            if class.slots > crate::graph::layer::SLOT {
                let threads = f64::from(class.slots) / f64::from(crate::graph::layer::SLOT);
                return Some(format!("no worker has {threads} threads free at a time"));
            }
        }
        let classes = || self.cx.ready.classes.iter();
        if classes().any(|c| !c.held.is_empty()) {
            return Some("what they would add does not fit into memory yet".into());
        }
        classes().any(|c| !c.late.is_empty()).then(|| "workers would leave before they are done".into())
    }
}

impl Run {
    fn row(&self, i: u32) -> TaskRow {
        let at = self.worker[i as usize];
        let state = self.state_of(i);
        let is_there = matches!(state, State::Processing | State::Memory) && at != NOBODY;
        TaskRow {
            task: self.task(i),
            state,
            worker: is_there.then_some(WorkerId(at)),
            nbytes: self.nbytes[i as usize],
            attempts: self.attempt[i as usize],
        }
    }
}
