//! Runs and the clients behind them: submission, watching, outputs, leases, the end. Owns who is told what
//! about a run; what its tasks do is in `transitions`.

use super::Core;
use super::action::{Action, Summary};
use super::event::RunSpec;
use super::run::Run;
use super::state::State;
use crate::base::ids::{ClientId, RunId, TaskRef, WorkerId};

impl Core {
    pub(super) fn on_client_arrived(&mut self, client: ClientId) {
        self.leases.remove(&client);
    }

    pub(super) fn on_client_left(&mut self, client: ClientId) {
        for run in self.runs.iter_mut().flatten() {
            run.watchers.retain(|w| *w != client);
        }
        self.leases.insert(client, self.cx.now.after(self.cx.settings.session_lease));
    }

    pub(super) fn on_run_submitted(&mut self, client: Option<ClientId>, id: RunId, spec: RunSpec) {
        if self.by_uuid.contains_key(&spec.uuid) {
            return;
        }
        self.generation += 1;
        let calls = spec.calls.clone();
        self.by_uuid.insert(spec.uuid, id);
        let mut run = Run::new(id, client, self.generation, self.cx.now, spec);
        run.join_groups(&mut self.cx.groups);
        run.grow(&mut self.cx);
        self.cx.ending.insert(id);
        if self.runs.len() <= id.index() {
            self.runs.resize_with(id.index() + 1, || None);
        }
        self.runs[id.index()] = Some(Box::new(run));
        if let Some(calls) = calls {
            self.on_calls_submitted(id, &calls);
        }
    }

    pub(super) fn on_run_watched(&mut self, client: ClientId, id: RunId) {
        let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) else { return };
        // The newest watcher takes the outputs.
        run.watchers.retain(|w| *w != client);
        run.watchers.insert(0, client);
        run.reported_done = false;
        if run.is_lazy() {
            return run.tell_all(&mut self.cx, client);
        }
        for i in 0..run.state.len() as u32 {
            if run.state[i as usize].wanted() && run.state_of(i) == State::Memory {
                run.announce(&mut self.cx, i);
            }
        }
        self.cx.ending.insert(id);
    }

    pub(super) fn on_run_cancelled(&mut self, id: RunId, reason: String) {
        if let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) {
            run.cancel(&mut self.cx, reason);
        }
    }

    pub(super) fn on_run_forgotten(&mut self, id: RunId) {
        self.on_run_cancelled(id, "forgotten".into());
        // While its stand-ins can still say what they held.
        self.follow_imports();
        if let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.take()) {
            self.by_uuid.remove(&run.uuid);
            self.forget_imports(&run);
            run.leave_groups(&mut self.cx.groups);
        }
    }

    pub(super) fn on_outputs_taken(&mut self, tasks: &[TaskRef]) {
        for task in tasks {
            let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else {
                continue;
            };
            if run.has(task.index) && run.unwant(task.index) {
                run.drop_refs(&mut self.cx, vec![task.index]);
                self.cx.ending.insert(task.run);
            }
        }
    }

    pub(super) fn on_output_missing(&mut self, task: TaskRef, holder: WorkerId) {
        let Some(run) = self.runs.get_mut(task.run.index()).and_then(|r| r.as_deref_mut()) else { return };
        if !run.has(task.index) || run.state_of(task.index) != State::Memory {
            return;
        }
        if run.holders(task.index).contains(&holder) {
            self.cx.free(holder, task);
            run.lose_replica(&mut self.cx, task.index, holder);
        }
        // It may have been taken from another holder meanwhile.
        if run.state_of(task.index) == State::Memory && run.state[task.index as usize].wanted() {
            run.announce(&mut self.cx, task.index);
        }
    }

    /// Ends the runs of clients that stayed away too long.
    pub(super) fn end_leases(&mut self) {
        let now = self.cx.now;
        let over: Vec<ClientId> = self.leases.iter().filter(|(_, at)| **at <= now).map(|(c, _)| *c).collect();
        for client in over {
            self.on_client_ended(client);
        }
    }

    /// Cancels runs in which too many tasks have failed.
    pub(super) fn limit_failures(&mut self) {
        for id in std::mem::take(&mut self.cx.failing) {
            let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) else { continue };
            let failed = run.stats.failed;
            if run.cancelled.is_none() && run.max_fails.is_some_and(|max| failed >= u64::from(max.max(1))) {
                let tasks = if failed == 1 { "task" } else { "tasks" };
                run.cancel(&mut self.cx, format!("{failed} {tasks} failed"));
            }
        }
    }

    /// Reports runs that have nothing left to do.
    pub(super) fn end_runs(&mut self) {
        while let Some(id) = self.cx.ending.pop_first() {
            let Some(run) = self.runs.get_mut(id.index()).and_then(|r| r.as_deref_mut()) else { continue };
            if run.is_done() && !run.reported_done {
                run.reported_done = true;
                let (clients, summary) = (run.watchers.clone(), run.summary(self.cx.now));
                self.cx.actions.push(Action::RunDone { run: id, clients, summary });
            }
            self.note_spent(id);
        }
    }
}

impl Run {
    /// Whether nothing of it is left to do and no output is left to take.
    pub(super) fn is_done(&self) -> bool {
        self.unfinished() == 0 && self.wanted == 0 && self.unsized_families == 0
    }

    /// The figures so far.
    pub(super) fn summary(&self, now: crate::base::time::Time) -> Summary {
        Summary {
            done: self.stats.done,
            failed: self.stats.failed,
            skipped: self.stats.skipped,
            cancelled: self.count(State::Cancelled),
            retried: self.stats.retried,
            task_time: self.stats.task_time,
            wall: now.since(self.submitted),
            bytes_made: self.stats.bytes_made,
            bytes_moved: self.stats.bytes_moved,
            failures: self.stats.failures.clone(),
            cancel_reason: self.cancelled.clone(),
        }
    }
}
