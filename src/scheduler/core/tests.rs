//! Scenarios: small stories told to the core, one expectation each. Every step checks all invariants.

mod calls;
mod calls_random;
mod demand;
mod early;
mod feed;
mod gangs;
mod groups;
mod individual;
mod memory;
mod pinned;
mod retire;
mod steal;

use super::action::{Action, Assigned, Batch};
use super::event::{Event, Finished, Missing, Report, RunSpec, WorkerSpec};
use super::state::State;
use super::{Core, Settings};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{Attempt, ClientId, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::time::Time;
use crate::graph::layer::{Edge, Layer, Pattern, SLOT, Size};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CLIENT: ClientId = ClientId(0);
const RUN: RunId = RunId(0);

struct Story {
    core: Core,
    now: Time,
    /// Everything handed to workers and not reported yet.
    given: BTreeMap<TaskRef, (WorkerId, Assigned)>,
    log: Vec<Action>,
}

impl Story {
    fn new() -> Story {
        Story::with(Settings::default())
    }

    fn with(settings: Settings) -> Story {
        Story { core: Core::new(1, settings), now: Time::ZERO, given: BTreeMap::new(), log: Vec::new() }
    }

    fn tell(&mut self, event: Event) -> &mut Story {
        for action in self.core.handle(event, self.now) {
            match &action {
                Action::Compute { worker, batch } => {
                    let Batch { tasks, .. } = batch;
                    self.given.extend(tasks.iter().map(|t| (t.task, (*worker, *t))));
                }
                Action::Cancel { attempts, .. } => {
                    self.given.retain(|t, _| !attempts.iter().any(|(x, _)| x == t));
                }
                _ => {}
            }
            self.log.push(action);
        }
        self.core.check().expect("invariants");
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Story {
        self.now = self.now.after(time);
        self.tell(Event::Tick)
    }

    fn worker(&mut self, w: u32, host: &str, threads: u32) -> &mut Story {
        self.worker_with(w, host, threads, &[])
    }

    /// A worker that holds at most so many bytes, of a limit twice as high.
    fn worker_of(&mut self, w: u32, threads: u32, target: u64) -> &mut Story {
        self.register(w, "a", threads, &[], Some(target))
    }

    fn worker_with(&mut self, w: u32, host: &str, threads: u32, resources: &[(&str, u64)]) -> &mut Story {
        self.register(w, host, threads, resources, None)
    }

    fn register(
        &mut self,
        w: u32,
        host: &str,
        threads: u32,
        resources: &[(&str, u64)],
        target: Option<u64>,
    ) -> &mut Story {
        let spec = WorkerSpec {
            name: format!("w{w}"),
            host: host.into(),
            job: None,
            incarnation: Default::default(),
            slots: threads * SLOT,
            resources: resources.iter().map(|(n, x)| ((*n).into(), *x)).collect(),
            memory_limit: target.map(|bytes| bytes * 2),
            memory_target: target,
            leaves: None,
            preemptible: false,
        };
        self.tell(Event::WorkerRegistered { worker: WorkerId(w), spec })
    }

    /// A worker of one thread that may be taken away at any time.
    fn preemptible(&mut self, w: u32) -> &mut Story {
        let spec = WorkerSpec {
            name: format!("w{w}"),
            host: "a".into(),
            job: None,
            incarnation: Default::default(),
            slots: SLOT,
            resources: Default::default(),
            memory_limit: None,
            memory_target: None,
            leaves: None,
            preemptible: true,
        };
        self.tell(Event::WorkerRegistered { worker: WorkerId(w), spec })
    }

    /// A worker of one thread that leaves at a time.
    fn worker_until(&mut self, w: u32, seconds: u64) -> &mut Story {
        let spec = WorkerSpec {
            name: format!("w{w}"),
            host: "a".into(),
            job: None,
            incarnation: Default::default(),
            slots: SLOT,
            resources: Default::default(),
            memory_limit: None,
            memory_target: None,
            leaves: Some(Time::ZERO.after(Duration::from_secs(seconds))),
            preemptible: false,
        };
        self.tell(Event::WorkerRegistered { worker: WorkerId(w), spec })
    }

    fn submit(&mut self, layers: Vec<Layer>, outputs: &[u32]) -> &mut Story {
        self.submit_with(layers, outputs, |_| {})
    }

    fn submit_with(&mut self, layers: Vec<Layer>, outputs: &[u32], change: fn(&mut RunSpec)) -> &mut Story {
        let mut spec = spec(layers, outputs);
        change(&mut spec);
        self.tell(Event::RunSubmitted { client: Some(CLIENT), run: RUN, spec })
    }

    fn report(&mut self, w: u32, change: impl FnOnce(&mut Report)) -> &mut Story {
        let mut report = Report::default();
        change(&mut report);
        self.tell(Event::WorkerReport { worker: WorkerId(w), report })
    }

    fn attempt(&self, i: u32) -> (TaskRef, Attempt) {
        let (_, given) = &self.given[&task(i)];
        (task(i), given.attempt)
    }

    fn start(&mut self, i: u32) -> &mut Story {
        let (attempt, w) = (self.attempt(i), self.at(i));
        self.report(w, |r| r.started.push(attempt))
    }

    fn finish(&mut self, i: u32) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let finished = Finished { task, attempt, nbytes: 100, duration: Duration::from_millis(1) };
        self.report(w, |r| r.finished.push(finished))
    }

    fn break_down(&mut self, i: u32) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let failure = Arc::new(Failure::of(FailureKind::Exit(1)));
        self.report(w, |r| r.failed.push((task, attempt, failure)))
    }

    fn lose(&mut self, w: u32, expected: bool) -> &mut Story {
        self.given.retain(|_, (at, _)| *at != WorkerId(w));
        self.tell(Event::WorkerDisconnected { worker: WorkerId(w), reason: "gone".into(), expected })
    }

    /// The worker that task `i` was given to.
    fn at(&self, i: u32) -> u32 {
        self.given[&task(i)].0.0
    }

    fn given_to(&self, w: u32) -> usize {
        self.given.values().filter(|(at, _)| *at == WorkerId(w)).count()
    }

    fn state(&self, i: u32) -> State {
        self.core.explain(task(i)).expect("a task").state
    }

    fn done(&self) -> Option<&super::action::Summary> {
        self.log.iter().rev().find_map(|a| match a {
            Action::RunDone { summary, .. } => Some(summary),
            _ => None,
        })
    }
}

fn task(index: u32) -> TaskRef {
    TaskRef { run: RUN, index }
}

fn spec(layers: Vec<Layer>, outputs: &[u32]) -> RunSpec {
    RunSpec {
        uuid: Default::default(),
        name: "test".into(),
        names: Arc::new((0..layers.len()).map(|f| format!("f{f}")).collect()),
        layers,
        outputs: outputs.iter().map(|&f| FamilyIx(f)).collect(),
        detached: false,
        max_fails: None,
        max_processing: None,
        calls: None,
    }
}

fn family(n: u32) -> Layer {
    Layer { size: Size::Fixed(n), ..Layer::default() }
}

fn after(n: u32, producer: u32, pattern: Pattern) -> Layer {
    let edge = Edge { producer: FamilyIx(producer), pattern, data: true };
    Layer { size: Size::Fixed(n), edges: vec![edge], ..Layer::default() }
}

#[test]
fn a_worker_gets_as_much_as_it_has_threads_and_a_little_more() {
    let mut s = Story::new();
    s.worker(0, "a", 2).submit(vec![family(10)], &[]);
    assert_eq!(s.given_to(0), 3);
    assert_eq!(s.state(3), State::Queued);
}

#[test]
fn short_tasks_are_handed_out_by_the_hundred() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(1000)], &[]);
    assert_eq!(s.given_to(0), 2);
    let (task, attempt) = s.attempt(0);
    s.given.remove(&task);
    let finished = Finished { task, attempt, nbytes: 0, duration: Duration::from_micros(5) };
    s.report(0, |r| r.finished.push(finished));
    assert!(s.given_to(0) > 500, "{}", s.given_to(0));
}

#[test]
fn what_is_begun_is_finished_before_more_is_begun() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(9), after(9, 0, Pattern::Each)], &[]);
    s.finish(0);
    assert_eq!(
        s.state(9),
        State::Processing,
        "the second step of element 0 comes before the first of element 2"
    );
}

#[test]
fn results_are_dropped_when_their_last_reader_is_done() {
    let mut s = Story::new();
    s.worker(0, "a", 4).submit(vec![family(2), after(1, 0, Pattern::All)], &[]);
    s.finish(0).finish(1);
    assert_eq!(s.state(0), State::Memory);
    s.finish(2);
    assert_eq!((s.state(0), s.state(1), s.state(2)), (State::Released, State::Released, State::Released));
    let freed = s.log.iter().any(|a| matches!(a, Action::Free { tasks, .. } if tasks.len() == 2));
    assert!(freed, "{:?}", s.log);
    assert_eq!(s.done().expect("over").done, 3);
}

#[test]
fn tasks_go_to_their_data() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).submit(vec![family(2), after(2, 0, Pattern::Each)], &[]);
    let (first, second) = (s.at(0), s.at(1));
    assert_ne!(first, second);
    s.finish(1).finish(0);
    assert_eq!((s.at(2), s.at(3)), (first, second));
}

#[test]
fn a_failing_task_is_tried_on_another_host_after_a_pause() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).submit(vec![Layer { retries: 1, ..family(1) }], &[]);
    let first = s.at(0);
    s.break_down(0);
    assert_eq!(s.state(0), State::Delayed);
    s.pass(Duration::from_millis(900));
    assert_eq!(s.state(0), State::Delayed);
    s.pass(Duration::from_millis(200));
    assert_ne!(s.at(0), first);
    s.break_down(0);
    let summary = s.done().expect("over").clone();
    assert_eq!((summary.failed, summary.retried, summary.failures[0].attempts), (1, 1, 2));
}

#[test]
fn a_failure_takes_its_dependents_and_nothing_else() {
    let mut s = Story::new();
    let layers = vec![family(2), after(2, 0, Pattern::Each), after(1, 1, Pattern::All)];
    s.worker(0, "a", 4).submit(layers, &[1]);
    s.break_down(0).finish(1).finish(3);
    assert_eq!((s.state(2), s.state(4)), (State::Erred, State::Erred));
    assert!(s.done().is_none(), "an output waits to be taken");
    s.tell(Event::OutputsTaken { tasks: vec![task(3)] });
    let summary = s.done().expect("over");
    assert_eq!((summary.done, summary.failed, summary.skipped), (2, 1, 2));
    assert_eq!(s.core.explain(task(4)).expect("a task").blame, Some(task(0)));
}

#[test]
fn a_task_that_takes_down_three_workers_fails_with_that_history() {
    let mut s = Story::new();
    s.submit(vec![family(2)], &[]);
    for w in 0..3 {
        s.worker(w, "a", 1);
        s.start(0).lose(w, false);
    }
    s.worker(3, "a", 1);
    s.finish(1);
    let summary = s.done().expect("over");
    assert_eq!((summary.done, summary.failed), (1, 1));
    let FailureKind::WorkersLost(history) = &summary.failures[0].failure.kind else { panic!("{summary:?}") };
    assert_eq!(history.len(), 3);
}

#[test]
fn whoever_runs_beside_a_killer_is_not_blamed() {
    let mut s = Story::new();
    s.worker(0, "a", 2).submit(vec![family(8)], &[]);
    // Whenever task 0 executes, its worker dies.
    for w in 0..40 {
        for i in 0..8 {
            if s.given.contains_key(&task(i)) {
                s.start(i);
            }
        }
        if s.given.contains_key(&task(0)) {
            s.lose(w, false).worker(w + 1, "a", 2);
        } else {
            let mine: Vec<u32> = s.given.keys().map(|t| t.index).collect();
            for i in mine {
                s.finish(i);
            }
            s.lose(w, true).worker(w + 1, "a", 2);
        }
        s.pass(Duration::from_millis(300));
    }
    let summary = s.done().expect("over");
    assert_eq!((summary.done, summary.failed), (7, 1), "{summary:?}");
    assert_eq!(s.state(0), State::Erred);
}

#[test]
fn leaving_in_order_blames_nobody() {
    let mut s = Story::new();
    s.submit(vec![family(1)], &[]);
    for w in 0..6 {
        s.worker(w, "a", 1);
        s.start(0).lose(w, true);
    }
    s.worker(6, "a", 1);
    s.finish(0);
    assert_eq!(s.done().expect("over").failed, 0);
}

#[test]
fn a_task_that_had_not_started_is_not_blamed_for_a_loss() {
    let mut s = Story::new();
    s.submit(vec![family(1)], &[]);
    for w in 0..6 {
        s.worker(w, "a", 1);
        s.lose(w, false);
    }
    s.worker(6, "a", 1);
    s.finish(0);
    assert_eq!(s.done().expect("over").failed, 0);
}

#[test]
fn a_lost_result_is_computed_again_only_as_far_as_needed() {
    let mut s = Story::new();
    let layers = vec![family(1), after(1, 0, Pattern::Each), after(1, 1, Pattern::Each)];
    s.worker(0, "a", 1).submit(layers, &[]);
    s.finish(0).finish(1);
    assert_eq!(s.state(0), State::Released);
    s.lose(0, false);
    assert_eq!((s.state(0), s.state(1), s.state(2)), (State::Queued, State::Waiting, State::Waiting));
    s.worker(1, "b", 1);
    s.finish(0).finish(1).finish(2);
    assert_eq!(s.done().expect("over").done, 3);
}

#[test]
fn inputs_that_cannot_be_fetched_are_looked_for_elsewhere_or_made_again() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).submit(vec![family(1), after(2, 0, Pattern::All)], &[]);
    let holder = s.at(0);
    s.finish(0);
    let stranger = if s.at(1) == holder { 2 } else { 1 };
    let (t, attempt) = s.attempt(stranger);
    let w = s.at(stranger);
    s.given.remove(&t);
    let inputs = vec![(task(0), WorkerId(holder))];
    s.report(w, |r| r.missing.push(Missing { task: t, attempt, inputs }));
    assert_eq!(s.state(0), State::Processing, "made again");
    assert_eq!(s.state(stranger), State::Waiting);
}

#[test]
fn late_news_of_an_earlier_attempt_changes_nothing() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).submit(vec![family(1)], &[]);
    let (t, old) = s.attempt(0);
    let first = s.at(0);
    s.lose(first, false);
    let finished = Finished { task: t, attempt: old, nbytes: 1, duration: Duration::ZERO };
    let second = s.at(0);
    s.report(second, |r| r.finished.push(finished));
    assert_eq!(s.state(0), State::Processing);
    let wild = Finished { task: TaskRef { run: RunId(9), index: 77 }, ..finished };
    s.report(second, |r| {
        r.finished.push(wild);
        r.started.push((wild.task, wild.attempt));
        r.replicas.push(TaskRef { run: RUN, index: 1 << 30 });
        r.kept.push((wild.task, wild.attempt));
        r.missing.push(Missing {
            task: wild.task,
            attempt: wild.attempt,
            inputs: vec![(wild.task, WorkerId(99))],
        });
    });
    s.finish(0);
    assert_eq!(s.done().expect("over").done, 1);
}

#[test]
fn resources_are_booked_and_never_exceeded() {
    let mut s = Story::new();
    let gpu = Layer { resources: BTreeMap::from([("gpus".into(), 10_000)]), ..family(5) };
    s.worker_with(0, "a", 8, &[("gpus", 20_000)]).worker(1, "b", 8).submit(vec![gpu], &[]);
    assert_eq!((s.given_to(0), s.given_to(1)), (2, 0));
    let why = s.core.explain(task(4)).expect("a task");
    assert!(why.workers[0].1.contains("2 in use"), "{why:?}");
    assert!(why.workers[1].1.contains("has 0 gpus"), "{why:?}");
    s.finish(0);
    assert_eq!(s.given_to(0), 2);
}

#[test]
fn idle_workers_get_what_others_have_not_started() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(2)], &[]);
    s.start(0);
    assert_eq!(s.given_to(0), 2);
    s.worker(1, "b", 1);
    let asked: Vec<_> = s
        .log
        .iter()
        .filter_map(|a| match a {
            Action::Steal { worker, attempts } => Some((*worker, attempts.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), 1);
    let (victim, attempts) = asked[0].clone();
    assert_eq!((victim, attempts[0].0), (WorkerId(0), task(1)));
    s.given.remove(&task(1));
    s.report(0, |r| r.returned = attempts);
    assert_eq!(s.at(1), 1);
}

#[test]
fn no_work_is_given_to_workers_that_leave_before_it_is_done() {
    let mut s = Story::new();
    let limited = |seconds: u64| Layer { time_limit_ms: Some(seconds * 1000), ..family(1) };
    s.worker_until(0, 600).submit(vec![limited(3600), limited(60)], &[]);
    assert_eq!((s.given.contains_key(&task(0)), s.at(1)), (false, 0), "only the short one");
    let why = s.core.explain(task(0)).expect("there").workers;
    assert!(why[0].1.contains("leaves in"), "{why:?}");
    s.finish(1);
    assert!(!s.given.contains_key(&task(0)), "nothing else to do is no reason");
    let stuck = s.core.stuck(RUN).expect("a reason");
    assert!(stuck.contains("f0 may take 3600 s"), "{stuck}");
    s.worker_until(1, 7200);
    assert_eq!(s.at(0), 1);
}

#[test]
fn what_others_took_counts_more_than_a_generous_limit() {
    let mut s = Story::new();
    s.worker(0, "a", 1);
    s.submit(vec![Layer { time_limit_ms: Some(86_400_000), ..family(3) }], &[]);
    s.finish(0);
    s.tell(Event::WorkerDisconnected { worker: WorkerId(0), reason: "gone".into(), expected: true });
    s.given.clear();
    s.worker_until(1, 600);
    assert!(s.given_to(1) >= 1, "they take a millisecond");
}

#[test]
fn fail_fast_cancels_the_rest() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit_with(vec![family(10)], &[], |spec| spec.max_fails = Some(1));
    s.break_down(0);
    let summary = s.done().expect("over");
    assert_eq!((summary.failed, summary.cancelled), (1, 9));
    assert!(summary.cancel_reason.is_some());
}

#[test]
fn a_client_that_stays_away_ends_its_runs_unless_they_are_detached() {
    for detached in [false, true] {
        let mut s = Story::new();
        let change = if detached { |spec: &mut RunSpec| spec.detached = true } else { |_: &mut RunSpec| {} };
        s.worker(0, "a", 1).submit_with(vec![family(10)], &[], change);
        s.tell(Event::ClientLeft { client: CLIENT });
        s.pass(Duration::from_secs(50));
        s.tell(Event::Heartbeat { worker: WorkerId(0), memory: None });
        assert_eq!(s.state(9), State::Queued);
        s.pass(Duration::from_secs(20));
        s.tell(Event::Heartbeat { worker: WorkerId(0), memory: None });
        assert_eq!(s.state(9), if detached { State::Queued } else { State::Cancelled });
    }
}

#[test]
fn a_silent_worker_is_given_up() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).submit(vec![family(1)], &[]);
    let w = s.at(0);
    for _ in 0..14 {
        s.pass(Duration::from_secs(5));
        s.tell(Event::Heartbeat { worker: WorkerId(1 - w), memory: None });
    }
    assert!(s.log.iter().any(|a| matches!(a, Action::Drop { .. })));
    assert_eq!(s.at(0), 1 - w);
}

#[test]
fn an_output_is_offered_to_who_watches_and_kept_until_taken() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit_with(vec![family(1)], &[0], |spec| spec.detached = true);
    s.tell(Event::ClientLeft { client: CLIENT });
    s.finish(0);
    s.pass(Duration::from_secs(30));
    let offered = |s: &Story| s.log.iter().filter(|a| matches!(a, Action::Outputs { .. })).count();
    assert_eq!(offered(&s), 0);
    s.tell(Event::RunWatched { client: ClientId(5), run: RUN });
    assert_eq!(offered(&s), 1);
    s.tell(Event::OutputsTaken { tasks: vec![task(0)] });
    assert_eq!(s.state(0), State::Released);
    assert!(s.done().is_some());
}

#[test]
fn the_same_submission_twice_is_one_run() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(3)], &[]);
    s.submit(vec![family(3)], &[]);
    assert_eq!(s.core.runs().len(), 1);
}

#[test]
fn wide_tasks_wait_for_wide_workers() {
    let mut s = Story::new();
    let wide = Layer { slots: 4 * SLOT, ..family(2) };
    s.worker(0, "a", 2).submit(vec![wide], &[]);
    assert_eq!(s.given.len(), 0);
    assert!(s.core.explain(task(0)).expect("a task").workers[0].1.contains("wants 4"));
    let stuck = s.core.stuck(RUN);
    assert_eq!(stuck.as_deref(), Some("f0 wants 4 threads, which no worker has"));
    s.worker(1, "b", 4);
    assert_eq!(s.at(0), 1);
    assert_eq!(s.core.stuck(RUN), None);
}

#[test]
fn a_run_may_bound_how_much_of_it_is_handed_out() {
    let mut s = Story::new();
    s.worker(0, "a", 8).submit_with(vec![family(20)], &[], |spec| spec.max_processing = Some(2));
    assert_eq!(s.given_to(0), 2);
    s.finish(0);
    assert_eq!(s.given_to(0), 2);
    for i in 1..20 {
        s.finish(i);
    }
    assert_eq!(s.done().expect("over").done, 20);
}

/// Lets the worker finish what it was given, most urgent first, and returns how many results there were at
/// most.
fn most_alive(s: &mut Story, tasks: u32) -> usize {
    let mut most = 0;
    while let Some((&next, _)) = s.given.iter().min_by_key(|(_, (_, given))| given.priority) {
        s.finish(next.index);
        most = most.max((0..tasks).filter(|&i| s.state(i) == State::Memory).count());
    }
    assert_eq!(s.done().expect("over").done, u64::from(tasks));
    most
}

#[test]
fn tasks_of_their_own_run_depth_first() {
    let of = |inputs: &[u32]| {
        let edge = |&p| Edge { producer: FamilyIx(p), pattern: Pattern::All, data: true };
        Layer { edges: inputs.iter().map(edge).collect(), ..family(1) }
    };
    // A tree of pairs, written level by level.
    let mut tree: Vec<Layer> = (0..64).map(|_| of(&[])).collect();
    (0..63).for_each(|k| tree.push(of(&[2 * k, 2 * k + 1])));
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(tree, &[]);
    let most = most_alive(&mut s, 127);
    assert!(most <= 8, "{most} of 127 results at once");
    // Chains side by side that meet in pairs at their ends.
    let mut chains: Vec<Layer> = (0..8).map(|_| of(&[])).collect();
    (0..8 * 9).for_each(|k| chains.push(of(&[k])));
    (0..4).for_each(|k| chains.push(of(&[72 + 2 * k, 73 + 2 * k])));
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(chains, &[]);
    let most = most_alive(&mut s, 84);
    assert!(most <= 4, "{most} of 84 results at once");
}

#[test]
fn a_task_behind_a_family_comes_up_with_its_part_of_the_graph() {
    // Families, gathered by a task and written by another; the second part has one step more.
    let mut graph = vec![family(8), family(8), after(8, 1, Pattern::Each)];
    graph.extend([after(1, 0, Pattern::All), after(1, 2, Pattern::All)]);
    graph.extend([after(1, 3, Pattern::All), after(1, 4, Pattern::All)]);
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(graph, &[]);
    let rank = |f: u32| s.core.run(RUN).expect("the run").priority(FamilyIx(f), 0).rank;
    assert!(rank(5) < rank(4), "the first part is written before the second is gathered");
    // What every element of a family waits for is not delayed.
    let mut graph: Vec<Layer> = (0..9).map(|_| family(1)).collect();
    graph.push(after(8, 8, Pattern::All));
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(graph, &[]);
    assert!(s.given.contains_key(&task(0)) && s.given.contains_key(&task(8)));
}
