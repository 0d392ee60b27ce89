//! Runs of calls: results wanted one by one, tasks that depend on those of other runs, what is dropped,
//! cancelled, tried again.

use super::*;
use crate::scheduler::core::event::CallSpec;

const OTHER: ClientId = ClientId(1);

pub(super) fn at(run: u32, index: u32) -> TaskRef {
    TaskRef { run: RunId(run), index }
}

/// Single tasks, each with the numbers of those that it needs.
pub(super) fn tasks(needs: &[&[u32]]) -> Vec<Layer> {
    let edge = |p: &u32| Edge { producer: FamilyIx(*p), pattern: Pattern::All, data: true };
    needs.iter().map(|n| Layer { edges: n.iter().map(edge).collect(), ..family(1) }).collect()
}

impl Story {
    pub(super) fn calls(
        &mut self,
        run: u32,
        imports: &[TaskRef],
        needs: &[&[u32]],
        wanted: &[u32],
    ) -> &mut Story {
        let layers = tasks(&[vec![&[][..]; imports.len()], needs.to_vec()].concat());
        let calls = CallSpec { imports: imports.to_vec(), wanted: wanted.to_vec(), brought: Vec::new() };
        let uuid = uuid::Uuid::from_u128(u128::from(run));
        let spec = RunSpec { uuid, calls: Some(calls), ..spec(layers, &[]) };
        self.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(run), spec })
    }

    pub(super) fn end(&mut self, task: TaskRef) -> &mut Story {
        let (w, given) = self.given.remove(&task).expect("it was given out");
        let finished =
            Finished { task, attempt: given.attempt, nbytes: 100, duration: Duration::from_millis(1) };
        self.report(w.0, |r| r.finished.push(finished))
    }

    fn spoil(&mut self, task: TaskRef) -> &mut Story {
        let (w, given) = self.given.remove(&task).expect("it was given out");
        let failure = Arc::new(Failure::of(FailureKind::Exit(1)));
        self.report(w.0, |r| r.failed.push((task, given.attempt, failure)))
    }

    fn release(&mut self, client: ClientId, tasks: &[TaskRef]) -> &mut Story {
        self.tell(Event::CallsReleased { client, tasks: tasks.to_vec(), later: false })
    }

    fn of(&self, task: TaskRef) -> State {
        self.core.explain(task).expect("a task").state
    }

    /// What a client heard, oldest first: done, failed, lost.
    fn heard(&self, client: ClientId) -> Vec<(&'static str, TaskRef)> {
        let each = |a: &Action| match a {
            Action::Outputs { client: c, outputs } if *c == client => {
                outputs.iter().map(|o| ("done", o.task)).collect()
            }
            Action::CallsFailed { client: c, tasks } if *c == client => {
                tasks.iter().map(|t| ("failed", *t)).collect()
            }
            Action::CallsLost { client: c, tasks } if *c == client => {
                tasks.iter().map(|t| ("lost", *t)).collect()
            }
            _ => Vec::new(),
        };
        self.log.iter().flat_map(each).collect()
    }

    fn spent(&self, run: u32) -> bool {
        self.log.iter().any(|a| matches!(a, Action::Spent { run: r } if *r == RunId(run)))
    }
}

#[test]
fn what_is_wanted_stays_until_it_is_let_go() {
    let mut s = Story::new();
    s.worker(0, "a", 2).calls(0, &[], &[&[], &[0]], &[1]);
    s.end(at(0, 0)).end(at(0, 1));
    assert_eq!(s.heard(CLIENT), [("done", at(0, 1))]);
    assert_eq!((s.of(at(0, 0)), s.of(at(0, 1))), (State::Released, State::Memory));
    assert!(!s.spent(0));
    s.release(CLIENT, &[at(0, 1)]);
    assert!(s.spent(0));
    s.tell(Event::RunForgotten { run: RunId(0) });
    assert!(s.core.explain(at(0, 1)).is_none());
}

#[test]
fn runs_depend_on_one_another() {
    let mut s = Story::new();
    s.worker(0, "a", 2).calls(0, &[], &[&[]], &[0]);
    // Its only call needs the other run's task.
    s.calls(1, &[at(0, 0)], &[&[0]], &[1]);
    assert_eq!(s.of(at(1, 1)), State::Waiting);
    s.release(CLIENT, &[at(0, 0)]);
    assert_ne!(s.of(at(0, 0)), State::Cancelled, "the other run needs it");
    s.end(at(0, 0));
    assert_eq!(s.of(at(1, 1)), State::Processing);
    let input = s.log.iter().find_map(|a| match a {
        Action::Compute { batch, .. } => batch.inputs.first(),
        _ => None,
    });
    assert_eq!(input.expect("an input").task, at(0, 0), "workers know it by its own number");
    s.end(at(1, 1));
    assert_eq!(s.of(at(0, 0)), State::Released);
    assert!(!s.spent(0), "it may be needed to compute the other again");
    s.release(CLIENT, &[at(1, 1)]);
    assert!(s.spent(1));
    s.tell(Event::RunForgotten { run: RunId(1) });
    assert!(s.spent(0));
}

#[test]
fn what_is_lost_is_computed_again_across_runs() {
    let mut s = Story::new();
    s.worker(0, "a", 2).calls(0, &[], &[&[]], &[]).calls(1, &[at(0, 0)], &[&[0]], &[1]);
    s.end(at(0, 0)).end(at(1, 1));
    s.lose(0, true);
    assert_eq!(s.heard(CLIENT), [("done", at(1, 1)), ("lost", at(1, 1))]);
    assert_eq!((s.of(at(0, 0)), s.of(at(1, 1))), (State::Queued, State::Waiting));
    s.worker(1, "a", 2);
    s.end(at(0, 0)).end(at(1, 1));
    assert_eq!(s.heard(CLIENT).last(), Some(&("done", at(1, 1))));
}

#[test]
fn an_input_that_is_lost_before_it_is_read_is_waited_for() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[]], &[0]).end(at(0, 0));
    s.lose(0, true);
    s.calls(1, &[at(0, 0)], &[&[0]], &[1]);
    assert_eq!((s.of(at(1, 0)), s.of(at(1, 1))), (State::Waiting, State::Waiting));
    s.worker(1, "a", 1);
    s.end(at(0, 0)).end(at(1, 1));
    assert_eq!(s.of(at(1, 1)), State::Memory);
}

#[test]
fn failures_cross_runs_and_are_tried_again_within_one() {
    let mut s = Story::new();
    s.worker(0, "a", 4).calls(0, &[], &[&[], &[0]], &[1]).calls(1, &[at(0, 1)], &[&[0]], &[1]);
    s.spoil(at(0, 0));
    assert_eq!(s.heard(CLIENT), [("failed", at(0, 1)), ("failed", at(1, 1))]);
    let why = s.core.failed_call(at(1, 1)).expect("it failed");
    assert_eq!((why.root, why.failure.kind.clone(), why.attempts), (at(0, 0), FailureKind::Exit(1), 1));
    assert!(!why.cancelled);
    s.tell(Event::CallsRetried { run: RunId(0), tasks: vec![1] });
    s.end(at(0, 0)).end(at(0, 1));
    assert_eq!(s.heard(CLIENT).last(), Some(&("done", at(0, 1))));
    s.release(CLIENT, &[at(0, 1), at(1, 1)]);
    assert!(s.spent(1));
}

#[test]
fn what_nobody_wants_is_not_done() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[0], &[], &[2]], &[1, 3]);
    s.release(CLIENT, &[at(0, 1)]);
    assert_eq!((s.of(at(0, 0)), s.of(at(0, 1))), (State::Cancelled, State::Cancelled));
    s.end(at(0, 2)).end(at(0, 3));
    // Somebody may come to want it all the same.
    s.tell(Event::CallsWanted { client: OTHER, tasks: vec![at(0, 1), at(0, 3)] });
    assert_eq!(s.heard(OTHER), [("done", at(0, 3))]);
    s.end(at(0, 0)).end(at(0, 1));
    assert_eq!(s.heard(OTHER), [("done", at(0, 3)), ("done", at(0, 1))]);
    s.release(CLIENT, &[at(0, 3)]);
    assert_eq!(s.of(at(0, 3)), State::Memory, "the other client wants it still");
    s.tell(Event::ClientEnded { client: OTHER });
    assert!(s.spent(0));
}

#[test]
fn what_is_fired_and_forgotten_is_done() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[0]], &[1]);
    s.tell(Event::CallsReleased { client: CLIENT, tasks: vec![at(0, 1)], later: true });
    s.tell(Event::ClientEnded { client: CLIENT });
    s.end(at(0, 0)).end(at(0, 1));
    assert!(s.spent(0));
}

#[test]
fn cancelled_calls_take_their_dependents() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[0], &[]], &[1, 2]);
    s.tell(Event::CallsCancelled { run: RunId(0), tasks: vec![0] });
    assert_eq!(s.heard(CLIENT), [("failed", at(0, 1))]);
    assert!(s.core.failed_call(at(0, 1)).expect("it failed").cancelled);
    s.end(at(0, 2));
    assert_eq!(s.of(at(0, 2)), State::Memory);
}

#[test]
fn what_a_client_brings_is_there_once_and_gone_for_good() {
    let mut s = Story::new();
    s.worker(0, "a", 1);
    let calls = CallSpec { imports: Vec::new(), wanted: vec![0, 1], brought: vec![0] };
    let spec = RunSpec { calls: Some(calls), ..spec(tasks(&[&[], &[0]]), &[]) };
    s.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(0), spec });
    assert_eq!(s.of(at(0, 0)), State::Waiting);
    s.report(0, |r| r.stored.push((at(0, 0), 5000)));
    assert_eq!((s.of(at(0, 0)), s.of(at(0, 1))), (State::Memory, State::Processing));
    s.lose(0, true);
    assert_eq!(s.heard(CLIENT)[1..], [("lost", at(0, 0)), ("failed", at(0, 0)), ("failed", at(0, 1))]);
}

#[test]
fn calls_stay_on_the_workers_that_they_name() {
    let mut s = Story::new();
    s.worker(0, "a", 1);
    let among = crate::scheduler::core::among::among(&["b".into()]);
    let calls = CallSpec { wanted: vec![0, 1], ..CallSpec::default() };
    let layers = vec![Layer { resources: BTreeMap::from([(among, 0)]), ..family(1) }, family(1)];
    let spec = RunSpec { calls: Some(calls), ..spec(layers, &[]) };
    s.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(0), spec });
    assert_eq!((s.of(at(0, 0)), s.of(at(0, 1))), (State::Queued, State::Processing));
    s.worker(1, "b", 1);
    assert_eq!(s.at(0), 1);
}

#[test]
fn a_client_that_comes_back_hears_everything_again() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[]], &[0, 1]);
    s.end(at(0, 0)).spoil(at(0, 1));
    let before = s.heard(CLIENT).len();
    s.tell(Event::ClientLeft { client: CLIENT }).tell(Event::ClientArrived { client: CLIENT });
    s.tell(Event::RunWatched { client: CLIENT, run: RunId(0) });
    assert_eq!(s.heard(CLIENT)[before..].len(), 2);
}

#[test]
fn the_runs_of_a_client_that_stays_away_are_dropped() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[]], &[0, 1]);
    s.end(at(0, 0));
    s.tell(Event::ClientLeft { client: CLIENT });
    s.pass(Duration::from_secs(200));
    assert!(s.spent(0));
    assert_eq!(s.of(at(0, 1)), State::Cancelled);
}

#[test]
fn the_slot_of_a_task_that_waits_for_others_is_free() {
    let mut s = Story::new();
    s.worker(0, "a", 1).calls(0, &[], &[&[], &[], &[], &[]], &[0, 1, 2, 3]);
    assert_eq!((s.given_to(0), s.of(at(0, 2))), (2, State::Queued));
    s.start(0);
    let attempt = s.attempt(0);
    let away = |s: &mut Story, away| {
        s.report(0, |r| r.away.push((attempt.0, attempt.1, away)));
    };
    away(&mut s, true);
    away(&mut s, true);
    assert_eq!((s.given_to(0), s.of(at(0, 3))), (3, State::Queued));
    // The invariants have its slot counted once, before and after.
    away(&mut s, false);
    s.end(at(0, 0));
    assert_eq!(s.of(at(0, 3)), State::Processing);
    s.end(at(0, 1)).end(at(0, 2)).end(at(0, 3));
}
