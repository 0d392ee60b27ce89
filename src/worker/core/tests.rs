//! Scenarios: small stories told to a worker's core, every step followed by a check of all invariants.

use super::Core;
use super::event::{Action, Assigned, Done, Event, Fetched, Input, Kin};
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use crate::graph::layer::SLOT;
use std::sync::Arc;
use std::time::Duration;

fn task(index: u32) -> TaskRef {
    TaskRef { run: RunId(0), index }
}

fn attempt(n: u32) -> Attempt {
    Attempt { epoch: 1, n }
}

fn assigned(i: u32, inputs: &[(u32, &[u32])]) -> Assigned {
    let inputs = inputs.iter().map(|(t, holders)| Input {
        task: task(*t),
        nbytes: 100,
        edge: 0,
        holders: holders.iter().map(|w| WorkerId(*w)).collect(),
    });
    Assigned {
        task: task(i),
        attempt: attempt(1),
        tries: 0,
        family: FamilyIx(0),
        kin: Kin::Family(RunId(0), FamilyIx(0)),
        element: i,
        priority: Priority { rank: u64::from(i), ..Priority::default() },
        slots: SLOT,
        keep: true,
        inputs: inputs.collect(),
    }
}

/// A core, and what each task's result takes.
struct Story(Core, u64);

impl Story {
    fn new(threads: u32) -> Story {
        Story(Core::new(threads * SLOT), 7)
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let actions = self.0.handle(event);
        self.0.check().expect("invariants");
        actions
    }

    fn compute(&mut self, tasks: &[Assigned]) -> Vec<Action> {
        self.tell(Event::Compute(tasks.to_vec()))
    }

    fn done(&mut self, i: u32, n: u32) -> Vec<Action> {
        self.done_after(i, n, Duration::from_millis(10))
    }

    fn done_after(&mut self, i: u32, n: u32, duration: Duration) -> Vec<Action> {
        let outcome = Ok(7);
        self.tell(Event::Done(vec![Done {
            task: task(i),
            attempt: attempt(n),
            outcome,
            memory: self.1,
            duration,
        }]))
    }

    fn fetched(&mut self, peer: u32, i: u32, outcome: Fetched) -> Vec<Action> {
        self.tell(Event::Fetched { peer: WorkerId(peer), outcomes: vec![(task(i), outcome)] })
    }
}

fn started(actions: &[Action]) -> Vec<u32> {
    let start = |a: &Action| match a {
        Action::Start(s) => Some(s.task.index),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

fn fetches(actions: &[Action]) -> Vec<(u32, Vec<u32>)> {
    let fetch = |a: &Action| match a {
        Action::Fetch { peer, tasks } => Some((peer.0, tasks.iter().map(|t| t.index).collect())),
        _ => None,
    };
    actions.iter().filter_map(fetch).collect()
}

#[test]
fn tasks_start_by_priority_as_slots_allow() {
    let mut s = Story::new(2);
    assert_eq!(started(&s.compute(&[assigned(3, &[]), assigned(1, &[]), assigned(2, &[])])), [1, 2]);
    assert_eq!(started(&s.done(1, 1)), [3]);
}

#[test]
fn a_wide_task_is_not_starved_and_runs_even_if_wider_than_the_worker() {
    let mut s = Story::new(2);
    let wide = Assigned { slots: 3 * SLOT, ..assigned(1, &[]) };
    assert_eq!(started(&s.compute(&[assigned(0, &[])])), [0]);
    assert!(started(&s.compute(&[wide, assigned(2, &[])])).is_empty());
    assert_eq!(started(&s.done(0, 1)), [1]);
    assert_eq!(started(&s.done(1, 1)), [2]);
}

#[test]
fn inputs_are_fetched_once_and_told_to_the_scheduler() {
    let mut s = Story::new(2);
    let actions = s.compute(&[assigned(1, &[(0, &[5])]), assigned(2, &[(0, &[5])])]);
    assert_eq!((fetches(&actions), started(&actions)), (vec![(5, vec![0])], vec![]));
    assert_eq!(started(&s.fetched(5, 0, Fetched::Here(100))), [1, 2]);
    assert_eq!(s.0.take_report().replicas, [task(0)]);
}

#[test]
fn the_next_holder_is_asked_before_a_task_is_given_up() {
    let mut s = Story::new(1);
    let first = fetches(&s.compute(&[assigned(1, &[(0, &[5, 6])])]))[0].0;
    let second = fetches(&s.fetched(first, 0, Fetched::Unreachable))[0].0;
    assert_ne!(first, second);
    s.fetched(second, 0, Fetched::Absent);
    let report = s.0.take_report();
    assert_eq!(report.missing.len(), 1);
    assert_eq!(report.missing[0].2.len(), 2);
    assert_eq!(s.0.in_hand(), 0);
}

#[test]
fn what_began_and_ended_is_only_told_as_ended() {
    let mut s = Story::new(2);
    s.compute(&[assigned(1, &[]), assigned(2, &[])]);
    s.done(1, 1);
    let report = s.0.take_report();
    assert_eq!((report.started.len(), report.finished.len()), (1, 1));
    assert_eq!(report.started[0].0, task(2));
}

#[test]
fn only_plain_news_of_a_busy_worker_may_wait() {
    let mut story = Story::new(1);
    let all: Vec<_> = (0..20).map(|i| assigned(i, &[])).collect();
    story.compute(&all);
    story.done(0, 1);
    assert!(story.0.may_tell_later());
    // Whoever asked for it back waits for the answer.
    story.tell(Event::Steal(vec![(task(19), attempt(1))]));
    assert!(!story.0.may_tell_later());
    let _ = story.0.take_report();
    assert!(story.0.may_tell_later());
    for i in 1..10 {
        story.done(i, 1);
    }
    // It would soon have nothing to do.
    assert!(!story.0.may_tell_later());
}

#[test]
fn a_cancelled_attempt_keeps_its_slot_until_it_ends_and_its_result_is_thrown_away() {
    let mut s = Story::new(1);
    s.compute(&[assigned(1, &[])]);
    let actions = s.tell(Event::Cancel(vec![(task(1), attempt(1))]));
    assert!(matches!(actions[0], Action::Kill { .. }));
    let again = Assigned { attempt: attempt(2), ..assigned(1, &[]) };
    assert!(started(&s.compute(&[again])).is_empty());
    let actions = s.done(1, 1);
    assert!(matches!(actions[0], Action::Discard { .. }));
    assert_eq!(started(&actions), [1]);
    assert!(matches!(s.done(1, 2)[0], Action::Publish { .. }));
}

#[test]
fn only_what_has_not_started_is_handed_back() {
    let mut s = Story::new(1);
    s.compute(&[assigned(1, &[]), assigned(2, &[(0, &[5])]), assigned(3, &[])]);
    let attempts = (1..5).map(|i| (task(i), attempt(1))).collect();
    s.tell(Event::Steal(attempts));
    let report = s.0.take_report();
    assert_eq!(report.returned, [(task(2), attempt(1)), (task(3), attempt(1))]);
    assert_eq!(report.kept, [(task(1), attempt(1)), (task(4), attempt(1))]);
}

#[test]
fn a_freed_result_stays_for_as_long_as_a_task_here_needs_it() {
    let mut s = Story::new(1);
    s.compute(&[assigned(0, &[])]);
    s.done(0, 1);
    s.compute(&[assigned(1, &[(0, &[])])]);
    let actions = s.tell(Event::Free(vec![task(0)]));
    assert!(!actions.iter().any(|a| matches!(a, Action::Drop(_))));
    let actions = s.done(1, 1);
    assert!(actions.iter().any(|a| matches!(a, Action::Drop(t) if t[..] == [task(0)])));
}

#[test]
fn a_result_that_arrives_too_late_is_dropped() {
    let mut s = Story::new(1);
    s.compute(&[assigned(1, &[(0, &[5])])]);
    s.tell(Event::Cancel(vec![(task(1), attempt(1))]));
    let actions = s.fetched(5, 0, Fetched::Here(100));
    assert!(actions.iter().any(|a| matches!(a, Action::Drop(_))));
    assert_eq!(s.0.results().count(), 0);
}

#[test]
fn copies_are_made_for_others_and_failures_told() {
    let mut s = Story::new(1);
    let tasks = vec![(task(0), 10), (task(1), 10)];
    let actions = s.tell(Event::Replicate { tasks, from: WorkerId(5) });
    assert_eq!(fetches(&actions), [(5, vec![0, 1])]);
    let outcomes = vec![(task(0), Fetched::Here(10)), (task(1), Fetched::Absent)];
    s.tell(Event::Fetched { peer: WorkerId(5), outcomes });
    let report = s.0.take_report();
    assert_eq!((report.replicas, report.uncopied), (vec![task(0)], vec![(task(1), WorkerId(5))]));
}

#[test]
fn a_failure_is_told_and_frees_the_slot() {
    let mut s = Story::new(1);
    s.compute(&[assigned(1, &[]), assigned(2, &[])]);
    let outcome = Err(Arc::new(Failure::of(FailureKind::Exit(3))));
    let done = Done { task: task(1), attempt: attempt(1), outcome, memory: 0, duration: Duration::ZERO };
    assert_eq!(started(&s.tell(Event::Done(vec![done]))), [2]);
    assert_eq!(s.0.take_report().failed.len(), 1);
}

#[test]
fn a_paused_worker_starts_nothing() {
    let mut s = Story::new(2);
    let _ = s.0.set_paused(true);
    assert!(started(&s.compute(&[assigned(1, &[])])).is_empty());
    assert_eq!(started(&s.0.set_paused(false)), [1]);
}

#[test]
fn a_paused_worker_starts_one_when_it_must() {
    let mut s = Story::new(2);
    let _ = s.0.set_paused(true);
    assert!(started(&s.compute(&[assigned(1, &[]), assigned(2, &[])])).is_empty());
    assert_eq!(started(&s.0.start_one()), [1]);
    assert!(s.0.start_one().is_empty(), "one at a time");
    assert!(started(&s.done(1, 1)).is_empty());
    assert_eq!(started(&s.0.start_one()), [2]);
    s.0.check().expect("invariants");
}

#[test]
fn a_paused_worker_fetches_nothing_unless_nothing_else_can_go_on() {
    let fetches = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Fetch { .. })).count();
    let mut s = Story::new(2);
    let _ = s.0.set_paused(true);
    assert_eq!(fetches(&s.compute(&[assigned(1, &[(7, &[3]), (8, &[4])]), assigned(2, &[])])), 0);
    assert_eq!(started(&s.0.start_one()), [2], "what is ready goes first");
    let _ = s.done(2, 1);
    assert_eq!(fetches(&s.0.start_one()), 1);
    assert_eq!(fetches(&s.0.start_one()), 0, "one is on its way");
    assert_eq!(fetches(&s.0.set_paused(false)), 1);
    s.0.check().expect("invariants");
}

#[test]
fn who_needs_a_lost_result_goes_back() {
    let mut s = Story::new(1);
    s.compute(&[assigned(0, &[])]);
    s.done(0, 1);
    let _ = s.0.take_report();
    s.compute(&[assigned(1, &[(0, &[])]), assigned(2, &[(0, &[])]), assigned(3, &[])]);
    let lost = Event::Lost { tasks: vec![task(0), task(9)], here: WorkerId(5) };
    let actions = s.tell(lost);
    assert!(matches!(actions[0], Action::Kill { task: t, .. } if t == task(1)), "{actions:?}");
    let report = s.0.take_report();
    let hole = vec![(task(0), WorkerId(5))];
    let missing: Vec<_> = report.missing.iter().map(|(t, _, holes)| (t.index, holes == &hole)).collect();
    assert_eq!(missing, [(0, true), (1, true), (2, true)]);
    assert_eq!(s.0.results().count(), 0);
    // The slot is free once the killed one has ended.
    assert_eq!(started(&s.done(1, 1)), [3]);
    // It may come back, e.g. computed elsewhere.
    let mut again = assigned(2, &[(0, &[7])]);
    again.attempt = attempt(2);
    let actions = s.compute(&[again]);
    assert!(matches!(&actions[..], [Action::Fetch { .. }]), "{actions:?}");
}

#[test]
fn what_makes_bytes_waits_for_room_and_others_pass_it() {
    const LARGE: u64 = 1 << 20;
    let mut s = Story::new(1);
    s.1 = LARGE;
    s.compute(&[assigned(0, &[])]);
    s.done(0, 1);
    assert_eq!(s.0.next_bytes(), 0);
    let _ = s.0.set_room(Some(LARGE as i64 - 1));
    let small = Assigned { kin: Kin::Family(RunId(0), FamilyIx(1)), ..assigned(2, &[]) };
    assert_eq!(started(&s.compute(&[assigned(1, &[]), small])), [2], "nothing is known of its family");
    assert_eq!((s.0.is_holding(), s.0.next_bytes(), s.0.expected_bytes()), (true, LARGE as i64, (0, 0)));
    s.1 = 5;
    assert!(started(&s.done(2, 1)).is_empty());
    assert_eq!(started(&s.0.set_room(Some(LARGE as i64))), [1]);
    s.0.check().expect("invariants");
    assert_eq!((s.0.is_holding(), s.0.expected_bytes()), (false, (LARGE as i64, 0)));
    // One that is cancelled still counts until it has ended.
    s.tell(Event::Cancel(vec![(task(1), attempt(1))]));
    assert_eq!(s.0.expected_bytes(), (LARGE as i64, 0));
    s.done(1, 1);
    assert_eq!(s.0.expected_bytes(), (0, 0));
}

#[test]
fn one_that_must_start_needs_no_room() {
    let mut s = Story::new(1);
    s.1 = 1 << 20;
    s.compute(&[assigned(0, &[])]);
    s.done(0, 1);
    let _ = s.0.set_room(Some(0));
    assert!(started(&s.compute(&[assigned(1, &[])])).is_empty());
    let _ = s.0.set_paused(true);
    assert_eq!(started(&s.0.start_one()), [1]);
    s.0.check().expect("invariants");
}

#[test]
fn copies_that_nobody_here_needs_go_when_memory_is_short() {
    let shed = || Event::Shed { bytes: 150, here: WorkerId(1) };
    let dropped = |actions: &[Action]| -> Vec<u32> {
        let tasks = |a: &Action| if let Action::Drop(tasks) = a { tasks.clone() } else { vec![] };
        actions.iter().flat_map(tasks).map(|t| t.index).collect()
    };
    let mut s = Story::new(1);
    let inputs: [(u32, &[u32]); 3] = [(0, &[5]), (1, &[5]), (2, &[5])];
    s.compute(&[assigned(7, &inputs), assigned(8, &[(1, &[5])]), assigned(9, &[])]);
    assert_eq!(s.0.expected_bytes(), (0, 300));
    let outcomes = (0..3).map(|i| (task(i), Fetched::Here(100))).collect();
    s.tell(Event::Fetched { peer: WorkerId(5), outcomes });
    assert_eq!(s.0.expected_bytes().1, 0);
    assert!(dropped(&s.tell(shed())).is_empty(), "they are needed");
    s.done(9, 1);
    s.done(7, 1);
    let _ = s.0.take_report();
    assert_eq!(dropped(&s.tell(shed())), [0, 2], "the other one is an input still");
    let holes: Vec<_> =
        s.0.take_report().missing.iter().map(|(t, _, holes)| (t.index, holes[0].1.0)).collect();
    assert_eq!(holes, [(0, 1), (2, 1)]);
    s.done(8, 1);
    // Whoever had it leaves: it is ours now.
    s.tell(Event::Replicate { tasks: vec![(task(1), 100)], from: WorkerId(5) });
    assert!(dropped(&s.tell(shed())).is_empty());
    // What was dropped is fetched again for the next who needs it.
    let again = s.compute(&[assigned(10, &[(0, &[5])])]);
    assert_eq!(fetches(&again), [(5, vec![0])]);
}

#[test]
fn who_frees_as_much_as_it_makes_needs_no_room() {
    const LARGE: u64 = 1 << 20;
    let large = |i, n, inputs: &[(u32, &[u32])]| {
        let mut task = Assigned { kin: Kin::Family(RunId(0), FamilyIx(n)), ..assigned(i, inputs) };
        task.inputs.iter_mut().for_each(|input| input.nbytes = LARGE);
        task
    };
    let mut s = Story::new(1);
    s.1 = LARGE;
    for (i, next) in [(0, 10), (1, 11)] {
        s.compute(&[large(i, 0, &[])]);
        s.tell(Event::Done(vec![Done {
            task: task(i),
            attempt: attempt(1),
            outcome: Ok(LARGE),
            memory: LARGE,
            duration: Duration::ZERO,
        }]));
        // The first of a family shows that its input is dropped after it.
        let _ = s.0.set_room((i == 1).then_some(0));
        assert_eq!(started(&s.compute(&[large(next, 1, &[(i, &[])])])), [next]);
        assert_eq!(s.0.expected_bytes().0, 0);
        s.done(next, 1);
        let _ = s.0.set_room(None);
        s.tell(Event::Free(vec![task(i)]));
    }
    // What family 0 made was dropped each time, what family 1 made was not.
    assert_eq!(s.0.brief_bytes(), 0);
    s.compute(&[large(3, 0, &[])]);
    s.done(3, 1);
    assert_eq!(s.0.brief_bytes(), LARGE);
    s.0.set_on_disk(&[(task(3), true)]);
    assert_eq!(s.0.brief_bytes(), 0);
    // What is on disk occupies nothing that could be freed.
    s.compute(&[large(2, 0, &[])]);
    s.done(2, 1);
    s.0.set_on_disk(&[(task(2), true)]);
    let _ = s.0.set_room(Some(0));
    assert!(started(&s.compute(&[large(12, 1, &[(2, &[])])])).is_empty());
    assert_eq!(s.0.next_bytes(), LARGE as i64);
}

#[test]
fn what_ended_with_the_worker_is_handed_back() {
    let mut s = Story::new(1);
    s.compute(&[assigned(1, &[])]);
    let outcome = Err(Arc::new(Failure::of(FailureKind::Cancelled)));
    let (task, attempt) = (task(1), attempt(1));
    s.tell(Event::Done(vec![Done { task, attempt, outcome, memory: 0, duration: Duration::ZERO }]));
    let report = s.0.take_report();
    assert_eq!((report.returned, report.failed.len()), (vec![(task, attempt)], 0));
}

/// A worker of two threads that knows its family as one of very short tasks, with tasks 1 to 99 in hand.
fn hurried() -> Story {
    let mut s = Story::new(2);
    s.compute(&[assigned(0, &[])]);
    s.done_after(0, 1, Duration::from_micros(5));
    let actions = s.compute(&(1..100).map(|i| assigned(i, &[])).collect::<Vec<_>>());
    let in_line = |a: &Action| matches!(a, Action::Start(s) if s.in_line);
    assert_eq!((started(&actions).len(), actions.iter().filter(|a| in_line(a)).count()), (66, 64));
    assert_eq!((s.0.in_line(), s.0.executing()), (64, 66));
    s.0.take_report();
    s
}

#[test]
fn very_short_tasks_wait_in_line_behind_busy_slots() {
    let mut s = hurried();
    // Each that ends makes room for one more, and the first in line has its slot.
    assert_eq!(started(&s.done_after(1, 1, Duration::from_micros(4))), [67]);
    assert_eq!(s.0.take_report().started, [(task(3), attempt(1))]);
    // Whoever has begun is not stolen, nor is who waits so shortly; a cancelled one leaves the line.
    s.tell(Event::Steal(vec![(task(10), attempt(1))]));
    assert_eq!(s.0.take_report().kept, [(task(10), attempt(1))]);
    s.tell(Event::Cancel(vec![(task(11), attempt(1))]));
    assert_eq!(s.0.in_line(), 64, "another took its place");
    // One that took long may have waited for a processor; of several, no more are lined up.
    let second = Duration::from_secs(1);
    for i in 2..40 {
        let duration = if i % 8 == 0 { second } else { Duration::from_micros(4) };
        s.done_after(i, 1, duration);
    }
    assert!(s.0.in_line() > 8, "{} in line", s.0.in_line());
    for i in 40..46 {
        s.done_after(i, 1, second);
    }
    assert!(started(&s.done_after(46, 1, Duration::from_micros(4))).is_empty());
}

#[test]
fn longer_and_divided_tasks_do_not_wait_in_line() {
    let mut s = Story::new(1);
    s.compute(&[assigned(0, &[])]);
    s.done_after(0, 1, Duration::from_millis(10));
    assert_eq!(started(&s.compute(&[assigned(1, &[]), assigned(2, &[])])), [1]);
    let mut s = Story::new(1);
    s.compute(&[assigned(0, &[])]);
    s.done_after(0, 1, Duration::from_millis(2));
    let four: Vec<_> = (1..5).map(|i| assigned(i, &[])).collect();
    assert_eq!(started(&s.compute(&four)), [1, 2], "one that is brief waits, so that there is no pause");
    let mut s = Story::new(1);
    s.compute(&[Assigned { slots: SLOT / 2, ..assigned(0, &[]) }]);
    s.done_after(0, 1, Duration::from_micros(5));
    assert_eq!(started(&s.compute(&[assigned(1, &[]), assigned(2, &[])])), [1]);
}

#[test]
fn a_line_that_does_not_move_is_taken_back() {
    let mut s = hurried();
    s.tell(Event::Cancel(vec![(task(20), attempt(1))]));
    let waiting: Vec<_> = (3..68).map(|i| (task(i), attempt(1))).collect();
    // The cancelled one was among those that the pool gave back.
    assert!(started(&s.tell(Event::TakenBack(waiting))).is_empty());
    assert_eq!((s.0.in_line(), s.0.executing()), (0, 2));
    s.tell(Event::Steal(vec![(task(10), attempt(1))]));
    assert_eq!(s.0.take_report().returned, [(task(10), attempt(1))], "others may have them");
    assert_eq!(started(&s.done_after(1, 1, Duration::from_secs(1))), [3]);
}

#[test]
fn a_task_that_waits_for_others_gives_its_slot_away() {
    let away = |i: u32, away: bool| Event::Away { task: task(i), attempt: attempt(1), away };
    let mut s = Story::new(1);
    assert_eq!(started(&s.compute(&[assigned(0, &[]), assigned(1, &[]), assigned(2, &[])])), [0]);
    assert_eq!(started(&s.tell(away(0, true))), [1]);
    assert!(s.tell(away(0, true)).is_empty(), "it is away already");
    // It goes on at once; the next one waits for both.
    assert!(started(&s.tell(away(0, false))).is_empty());
    assert!(started(&s.done(1, 1)).is_empty());
    assert_eq!(started(&s.done(0, 1)), [2]);
    let told: Vec<bool> = s.0.take_report().away.iter().map(|a| a.2).collect();
    assert_eq!(told, [true, false]);
    // One that ends, or is cancelled, while it is away has no slot to give back.
    assert_eq!(
        started(&s.compute(&[assigned(3, &[]), assigned(4, &[]), assigned(5, &[])])),
        Vec::<u32>::new()
    );
    assert_eq!(started(&s.tell(away(2, true))), [3]);
    assert!(started(&s.done(2, 1)).is_empty());
    assert_eq!(started(&s.tell(away(3, true))), [4]);
    s.tell(Event::Cancel(vec![(task(3), attempt(1))]));
    assert!(started(&s.done(3, 1)).is_empty());
    assert_eq!(started(&s.done(4, 1)), [5]);
}

#[test]
fn calls_of_one_name_are_known_from_run_to_run() {
    let call = |run, i| {
        let task = TaskRef { run: RunId(run), index: i };
        Assigned { task, family: FamilyIx(i), kin: Kin::Calls(9), ..assigned(i, &[]) }
    };
    let mut s = Story::new(1);
    s.compute(&[call(0, 0)]);
    s.done_after(0, 1, Duration::from_micros(5));
    s.0.forget_run(RunId(0));
    let actions = s.compute(&[call(1, 1), call(1, 2), call(1, 3)]);
    assert_eq!(started(&actions), [1, 2, 3], "each a family of its own, but known to be short");
    let other = Assigned { kin: Kin::Calls(10), ..call(1, 4) };
    assert!(started(&s.compute(&[other])).is_empty(), "nothing is known of these");
}

#[test]
fn what_the_next_task_reads_on_disk_is_read_while_others_execute() {
    let ahead = |actions: &[Action]| {
        let read = |a: &Action| if let Action::ReadAhead(tasks) = a { Some(tasks.clone()) } else { None };
        actions.iter().filter_map(read).collect::<Vec<_>>()
    };
    let mut s = Story::new(1);
    for i in 0..3 {
        assert!(ahead(&s.compute(&[assigned(i, &[])])).is_empty());
        s.done(i, 1);
    }
    s.0.set_on_disk(&[(task(1), true), (task(2), true)]);
    assert!(ahead(&s.compute(&[assigned(3, &[(1, &[])])])).is_empty(), "it starts at once");
    let next = assigned(5, &[(0, &[]), (2, &[]), (1, &[])]);
    assert_eq!(ahead(&s.compute(&[next])), [[task(2), task(1)]]);
    assert!(ahead(&s.compute(&[assigned(6, &[(2, &[])])])).is_empty(), "it was read already");
    let actions = s.done(3, 1);
    assert_eq!((started(&actions), ahead(&actions)), (vec![5], vec![vec![task(2)]]));
    assert!(ahead(&s.done(5, 1)).is_empty());
}

#[test]
fn results_are_passing_once_most_of_their_kind_were_dropped() {
    let passing = |actions: &[Action]| match &actions[0] {
        Action::Publish { passing, .. } => *passing,
        other => panic!("{other:?}"),
    };
    let mut s = Story::new(1);
    for i in 0..3 {
        s.compute(&[assigned(i, &[])]);
        assert!(!passing(&s.done(i, 1)), "none was dropped");
    }
    s.0.set_on_disk(&[(task(1), true)]);
    s.tell(Event::Free(vec![task(0), task(1)]));
    for (i, expected) in [(3, false), (4, true), (5, true)] {
        s.compute(&[assigned(i, &[])]);
        assert_eq!(passing(&s.done(i, 1)), expected, "{i}");
        s.tell(Event::Free(vec![task(i)]));
    }
}
