//! Every wanted result arrives, exactly once, and is what a sequential evaluation of the graph gives; what
//! does not arrive was cancelled or depends on a task that fails for ever.

use crate::clients::Job;
use crate::cluster::Sim;
use crate::graphs::Value;
use hpcdag::base::ids::TaskRef;
use hpcdag::scheduler::core as sched;
use sched::action::{Output, Summary};
use sched::state::State;
use std::time::Duration;

/// After so long every worker has heard that a run is cancelled.
const HEARD: Duration = Duration::from_millis(60);

impl Sim {
    /// No output is announced that was taken, and its size is right.
    pub fn check_announced(&self, outputs: &[Output]) {
        for output in outputs {
            let job = &self.jobs[output.task.run.index()];
            assert!(!job.taken.contains(&output.task), "results: {:?} was taken before", output.task);
            assert!(job.graph.outputs.contains(&output.family), "results: {output:?} was not asked for");
            assert!(!output.holders.is_empty(), "results: {output:?} is nowhere");
            let nbytes = self.sizes.get(&output.task).copied();
            assert_eq!(Some(output.nbytes), nbytes, "results: size of {:?}", output.task);
        }
    }

    /// Nothing of a cancelled or forgotten run starts.
    pub fn check_start(&self, task: TaskRef) {
        let ended = self.jobs[task.run.index()].ended_at;
        let heard = ended.is_some_and(|at| self.now.since(at) > HEARD) && self.faults.freezes == 0;
        assert!(!heard, "results: {task:?} starts though its run is over");
    }

    /// Of one run without any reason to fail: every wanted result arrived once and equals the sequential one.
    pub fn check_end(&mut self) {
        for job in &self.jobs {
            let summary = job.summary.as_ref().expect("the run is over");
            assert_eq!((summary.failed, summary.skipped, summary.cancelled), (0, 0, 0), "results");
            self.check_complete(job);
        }
        self.check_recomputation();
        self.check_nothing_left();
    }

    fn check_complete(&self, job: &Job) {
        let expected = job.graph.evaluate();
        for output in &job.graph.outputs {
            let shape = self.scheduler.shape(job.run, *output).expect("sized");
            let mut got = Vec::new();
            for element in shape.first_export..shape.total {
                let value = job.outputs.get(&(*output, element)).copied();
                got.push(value.unwrap_or_else(|| panic!("results: {output}[{element}] did not arrive")));
            }
            let expected = &expected[output.index()];
            if job.graph.flat[output.index()] {
                let joined = got.into_iter().fold(Value::nothing(), Value::then);
                assert_eq!(joined, expected[0], "results: output {output}");
            } else {
                assert_eq!(got, expected[shape.first_export as usize..], "results: output {output}");
            }
        }
    }

    /// Whatever went wrong: what arrived is right, and what did not was cancelled or failed for a reason.
    pub fn check_any_end(&mut self) {
        for job in &self.jobs {
            let summary = job.summary.as_ref().expect("the run is over");
            let expected = job.graph.evaluate();
            for ((family, element), value) in &job.outputs {
                if !job.graph.flat[family.index()] {
                    let right = expected[family.index()][*element as usize];
                    assert_eq!(*value, right, "results: {family}[{element}]");
                }
            }
            if self.scheduler.run_view(job.run).is_none() {
                let absent = self.clients[&job.owner].may_be_given_up || self.faults.vanishings > 0;
                assert!(absent, "results: run {} was never submitted", job.run);
            } else if summary.cancel_reason.is_some() {
                self.check_cancelled(job, summary);
            } else if job.hopeless.is_empty() {
                assert_eq!((summary.failed, summary.skipped, summary.cancelled), (0, 0, 0), "results");
                self.check_complete(job);
            } else {
                self.check_failed(job, summary);
            }
        }
        self.check_recomputation();
        self.check_nothing_left();
    }

    /// A run is cancelled for a reason only.
    fn check_cancelled(&self, job: &Job, summary: &Summary) {
        let given_up = self.clients[&job.owner].may_be_given_up && !job.detached;
        let failed = job.max_fails.is_some() && summary.failed > 0;
        let why = &summary.cancel_reason;
        assert!(job.cancel_asked || given_up || failed, "results: run {} ended by itself: {why:?}", job.run);
    }

    /// Exactly the tasks that fail for ever and what depends on them are missing.
    fn check_failed(&self, job: &Job, summary: &Summary) {
        let doomed = job.graph.doomed(&job.hopeless);
        for output in &job.graph.outputs {
            let Some(shape) = self.scheduler.shape(job.run, *output) else { continue };
            for element in shape.first_export..shape.total {
                let arrived = job.outputs.contains_key(&(*output, element));
                match &doomed {
                    Some(doomed) => {
                        let right = !doomed[output.index()][element as usize];
                        assert_eq!(arrived, right, "results: {output}[{element}], {summary:?}");
                    }
                    // Which groups there are depends on what failed.
                    None if arrived => {}
                    None => {
                        let task = self.scheduler.find_task(job.run, *output, element);
                        let state = task.and_then(|t| self.scheduler.explain(t)).map(|e| e.state);
                        assert_eq!(state, Some(State::Erred), "results: {output}[{element}]");
                        assert!(summary.failed > 0, "results: {output}[{element}] is missing for no reason");
                    }
                }
            }
        }
        let view = self.scheduler.run_view(job.run).expect("the run");
        let done: u64 = view.families.iter().map(|(.., n)| u64::from(*n)).sum();
        let total: u64 = view.families.iter().map(|(_, n, _)| u64::from(*n)).sum();
        assert_eq!(summary.done, done, "results: {summary:?}");
        assert!(done + summary.failed + summary.skipped >= total, "results: {summary:?} of {total}");
    }
}
