//! Faults put in on purpose between the cores: an action or a part of a report is lost, altered or done
//! twice. A real connection does no such thing; a core with a fault would. Owns these, and the proof that
//! the checkers notice each.

use hpcdag::base::ids::{ClientId, TaskRef, WorkerId};
use hpcdag::scheduler::core as sched;
use sched::action::{Action, Output};
use sched::event::Report;

/// What is spoiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    LoseFree,
    LoseOneFree,
    LoseCancel,
    LoseSteal,
    LoseReplicate,
    LoseDismiss,
    LoseOutputs,
    LoseRunDone,
    RunDoneTwice,
    OutputsTwice,
    WrongHolder,
    ComputeTwice,
    InputsSwapped,
    FreeOnCompute,
    LoseFinished,
    LoseFailed,
    LoseMissing,
    LoseReturned,
    LoseKept,
    LoseReplicas,
    WrongSize,
    FinishedForFailed,
}

/// A kind of fault, once it is due.
pub struct Sabotage {
    pub kind: Kind,
    /// Chances that are let pass before.
    pub spare: u32,
    pub done: u32,
    /// Outputs that are to be announced once more.
    kept: Option<(ClientId, Vec<Output>)>,
}

impl Sabotage {
    pub fn new(kind: Kind, spare: u32) -> Sabotage {
        Sabotage { kind, spare, done: 0, kept: None }
    }

    /// Whether this chance is taken.
    fn strikes(&mut self) -> bool {
        if self.spare > 0 {
            self.spare -= 1;
            return false;
        }
        self.done += 1;
        true
    }

    pub fn spoil_action(&mut self, action: Action) -> Vec<Action> {
        use Kind::*;
        let loses = match &action {
            Action::Free { .. } => self.kind == LoseFree,
            Action::Cancel { .. } => self.kind == LoseCancel,
            Action::Steal { .. } => self.kind == LoseSteal,
            Action::Replicate { worker, from, .. } => self.kind == LoseReplicate && worker != from,
            Action::Dismiss { .. } => self.kind == LoseDismiss,
            Action::Outputs { .. } => self.kind == LoseOutputs,
            Action::RunDone { .. } => self.kind == LoseRunDone,
            _ => false,
        };
        if loses {
            return if self.strikes() { Vec::new() } else { vec![action] };
        }
        match (self.kind, action) {
            (LoseOneFree, Action::Free { worker, mut tasks }) => {
                if self.strikes() {
                    tasks.pop();
                }
                vec![Action::Free { worker, tasks }]
            }
            (RunDoneTwice, action @ Action::RunDone { .. }) if self.strikes() => vec![action.clone(), action],
            (OutputsTwice, action @ Action::Outputs { .. }) => self.outputs_twice(action),
            (WrongHolder, Action::Outputs { client, mut outputs }) => {
                if self.strikes() {
                    outputs.iter_mut().for_each(|o| o.holders = vec![WorkerId(o.holders[0].0 + 1)]);
                }
                vec![Action::Outputs { client, outputs }]
            }
            (ComputeTwice, Action::Compute { worker, batch }) if self.strikes() => {
                let other = WorkerId(if worker.0 == 0 { 1 } else { 0 });
                let copy = Action::Compute { worker: other, batch: batch.clone() };
                vec![Action::Compute { worker, batch }, copy]
            }
            (InputsSwapped, Action::Compute { worker, mut batch }) => {
                let differ = batch.inputs.len() > 1 && batch.inputs[0].task != batch.inputs[1].task;
                if differ && batch.tasks[0].inputs_end > 1 && self.strikes() {
                    let (a, b) = (batch.inputs[0].task, batch.inputs[1].task);
                    (batch.inputs[0].task, batch.inputs[1].task) = (b, a);
                }
                vec![Action::Compute { worker, batch }]
            }
            (FreeOnCompute, Action::Compute { worker, batch }) => {
                let input: Option<TaskRef> = batch.inputs.first().map(|i| i.task);
                let holder = batch.holders.first().copied();
                let mut actions = vec![Action::Compute { worker, batch }];
                if let (Some(task), Some(from)) = (input, holder)
                    && from != worker
                    && self.strikes()
                {
                    actions.push(Action::Free { worker: from, tasks: vec![task] });
                }
                actions
            }
            (_, action) => vec![action],
        }
    }

    /// The same outputs again, so late that they were taken.
    fn outputs_twice(&mut self, action: Action) -> Vec<Action> {
        let Action::Outputs { client, outputs } = &action else { return vec![action] };
        if self.done == 0 && self.strikes() {
            self.kept = Some((*client, outputs.clone()));
            return vec![action];
        }
        let mut actions = vec![action];
        if let Some((client, outputs)) = self.kept.take() {
            actions.push(Action::Outputs { client, outputs });
        }
        actions
    }

    pub fn spoil_report(&mut self, report: &mut Report) {
        use Kind::*;
        let kind = self.kind;
        match kind {
            LoseFinished if !report.finished.is_empty() && self.strikes() => drop(report.finished.pop()),
            LoseFailed if !report.failed.is_empty() && self.strikes() => drop(report.failed.pop()),
            LoseMissing if !report.missing.is_empty() && self.strikes() => drop(report.missing.pop()),
            LoseReturned if !report.returned.is_empty() && self.strikes() => drop(report.returned.pop()),
            LoseKept if !report.kept.is_empty() && self.strikes() => report.kept.clear(),
            LoseReplicas if !report.replicas.is_empty() && self.strikes() => drop(report.replicas.pop()),
            WrongSize if !report.finished.is_empty() && self.strikes() => report.finished[0].nbytes += 1,
            FinishedForFailed if !report.failed.is_empty() && self.strikes() => {
                if let Some((task, attempt, _)) = report.failed.pop() {
                    let duration = std::time::Duration::ZERO;
                    report.finished.push(sched::event::Finished { task, attempt, nbytes: 1, duration });
                }
            }
            _ => {}
        }
    }
}
