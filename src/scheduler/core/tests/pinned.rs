//! Results that cannot leave the process that made them: what needs them goes to them.

use super::calls::at;
use super::*;
use crate::scheduler::core::explain::Explanation;

impl Story {
    /// A task ends whose result cannot leave its worker.
    fn end_pinned(&mut self, task: TaskRef) -> &mut Story {
        let (w, given) = self.given.remove(&task).expect("it was given out");
        let finished =
            Finished { task, attempt: given.attempt, nbytes: 100, duration: Duration::from_millis(1) };
        self.report(w.0, |r| {
            r.finished.push(finished);
            r.pinned.push(task);
        })
    }

    fn look(&self, task: TaskRef) -> Explanation {
        self.core.explain(task).expect("a task")
    }

    fn copies(&self) -> usize {
        self.log.iter().filter(|a| matches!(a, Action::Replicate { .. })).count()
    }
}

#[test]
fn what_needs_it_runs_where_it_is_however_busy_that_worker_is() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[]], &[0]);
    s.end_pinned(at(0, 0));
    s.worker(1, "b", 8);
    // Of the same run's sort and of another run; there is room for all of them on the other worker.
    for run in 1..5 {
        s.calls(run, &[at(0, 0)], &[&[0]], &[1]);
    }
    let mut ended = 0;
    while let Some((task, w)) = s.given.iter().next().map(|(task, (w, _))| (*task, *w)) {
        assert_eq!(w, WorkerId(0), "{task:?} needs what is there");
        s.end(task);
        ended += 1;
    }
    assert_eq!(ended, 4);
}

#[test]
fn a_worker_that_leaves_takes_it_along_and_it_is_made_again() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[]], &[0]).end_pinned(at(0, 0));
    s.worker(1, "b", 1);
    s.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "told so".into() });
    assert_eq!(s.copies(), 0, "it cannot be copied");
    assert!(s.log.iter().any(|a| matches!(a, Action::Dismiss { worker, .. } if *worker == WorkerId(0))));
    s.calls(1, &[at(0, 0)], &[&[0]], &[1]);
    assert!(s.given.is_empty(), "nothing can be done until it has gone");
    s.lose(0, true);
    // It may be of a kind that can be sent this time.
    s.end(at(0, 0));
    s.worker(2, "c", 1).pass(Duration::from_secs(1)).end(at(1, 1));
    assert_eq!(s.look(at(1, 1)).state, State::Memory);
}

#[test]
fn two_of_them_on_different_workers_cannot_come_together() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).calls(0, &[], &[&[], &[], &[0, 1], &[2]], &[3]);
    s.end_pinned(at(0, 0)).end_pinned(at(0, 1));
    let why = s.core.failed_call(at(0, 3)).expect("it cannot be done");
    let said = why.failure.to_string();
    assert!(said.contains("workers w0 and w1") && said.contains("cannot be pickled"), "{said}");
    assert_eq!(why.root, at(0, 2));
}

#[test]
fn two_of_them_on_one_worker_come_together() {
    let mut s = Story::new();
    s.worker(0, "a", 2).calls(0, &[], &[&[], &[], &[0, 1]], &[2]);
    s.end_pinned(at(0, 0)).end_pinned(at(0, 1)).end(at(0, 2));
    assert_eq!(s.look(at(0, 2)).state, State::Memory);
    assert_eq!(s.look(at(0, 0)).state, State::Released, "nobody needs it any more");
}

#[test]
fn what_may_run_only_elsewhere_fails() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[]], &[0]).end_pinned(at(0, 0));
    s.worker_with(1, "b", 1, &[("gpus", 10_000)]);
    let mut layers = super::calls::tasks(&[&[], &[0]]);
    layers[1].resources.insert("gpus".into(), 10_000);
    let calls =
        crate::scheduler::core::event::CallSpec { imports: vec![at(0, 0)], wanted: vec![1], brought: vec![] };
    let spec = RunSpec { uuid: uuid::Uuid::from_u128(1), calls: Some(calls), ..spec(layers, &[]) };
    s.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(1), spec });
    let said = s.core.failed_call(at(1, 1)).expect("it cannot be done").failure.to_string();
    assert!(said.contains("stays on worker w0, where it may not run"), "{said}");
}

#[test]
fn a_lost_one_is_made_again_and_what_needs_it_follows() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[0]], &[1]).end_pinned(at(0, 0));
    let given = s.given[&at(0, 1)].1.attempt;
    s.worker(1, "b", 1);
    // Its process has died: the worker says that it does not have it any more, nor can do what needs it.
    let hole = |task, attempt| Missing { task, attempt, inputs: vec![(at(0, 0), WorkerId(0))] };
    s.given.clear();
    s.report(0, |r| r.missing.extend([hole(at(0, 0), Attempt::default()), hole(at(0, 1), given)]));
    s.end_pinned(at(0, 0));
    let w = s.given[&at(0, 1)].0;
    assert_eq!(s.look(at(0, 0)).holders, [w]);
    s.end(at(0, 1));
}

#[test]
fn a_paused_worker_is_waited_for_as_long_as_something_runs() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[]], &[0]).end_pinned(at(0, 0));
    s.worker(1, "b", 1).calls(1, &[], &[&[], &[]], &[0, 1]);
    s.report(0, |r| r.paused = Some(true));
    s.calls(2, &[at(0, 0)], &[&[0]], &[1]);
    assert!(!s.given.contains_key(&at(2, 1)), "it waits");
    while let Some(task) = s.given.keys().next().copied().filter(|t| t.run == RunId(1)) {
        s.end(task);
    }
    s.pass(Duration::from_secs(1)).pass(Duration::from_secs(1));
    assert_eq!(s.given[&at(2, 1)].0, WorkerId(0), "nothing else would end the pause");
}
