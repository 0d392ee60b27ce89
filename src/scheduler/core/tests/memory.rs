//! Scenarios about tasks that run out of memory and workers that pause.

use super::*;
use crate::base::failure::{Failure, FailureKind, NoMoreRoom, Outgrown, Shortage};
use crate::base::ids::WorkerId;
use crate::graph::layer::{Layer, Pattern};
use crate::scheduler::core::action::Action;
use crate::scheduler::core::event::{Event, Finished, MemoryUse};
use crate::scheduler::core::state::State;
use std::sync::Arc;
use std::time::Duration;

fn shortage(peak: u64, neighbours: &[&str]) -> Shortage {
    let neighbours = neighbours.iter().map(|key| ((*key).to_owned(), 10)).collect();
    Shortage { peak, expected: 0, limit: 2000, results: 0, neighbours }
}

impl Story {
    /// Task `i` is ended for memory.
    fn outgrow(&mut self, i: u32, shortage: Shortage) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let failure = Arc::new(Failure::of(FailureKind::Memory(Box::new(shortage))));
        self.report(w, |r| r.failed.push((task, attempt, failure)))
    }

    fn pause(&mut self, w: u32, paused: bool) -> &mut Story {
        self.report(w, |r| r.paused = Some(paused))
    }

    fn outgrown(&self) -> Outgrown {
        let summary = self.done().expect("over");
        assert_eq!(summary.failed, 1, "{summary:?}");
        match &summary.failures[0].failure.kind {
            FailureKind::Outgrown(outgrown) => (**outgrown).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn finish_all_but(&mut self, spared: u32) {
        let here: Vec<u32> = self.given.keys().map(|t| t.index).filter(|i| *i != spared).collect();
        for i in here {
            self.finish(i);
        }
    }
}

#[test]
fn a_task_that_ran_out_of_memory_is_tried_once_more_with_the_worker_to_itself() {
    let mut s = Story::new();
    s.worker_of(0, 2, 1000).submit(vec![family(1), family(40)], &[]);
    s.start(0).start(1);
    s.outgrow(0, shortage(1500, &["f1[0]"]));
    assert!(!s.given.contains_key(&task(0)), "there are others");
    // Nobody else is handed over until those that are there are done.
    while s.given_to(0) > 0 {
        let next = s.given.keys().next().expect("some").index;
        s.finish(next);
        if s.given.contains_key(&task(0)) {
            break;
        }
    }
    assert_eq!((s.given_to(0), s.at(0)), (1, 0), "alone");
    assert_eq!(s.given[&task(0)].1.tries, 1);
    s.start(0).finish(0);
    assert!(s.given_to(0) > 1, "the worker is free again");
    while s.done().is_none() {
        s.finish_all_but(0);
    }
    let summary = s.done().expect("over");
    assert_eq!((summary.done, summary.failed, summary.retried), (41, 0, 1));
}

#[test]
fn after_its_attempt_alone_it_fails_and_both_attempts_are_named() {
    let mut s = Story::new();
    // The user's own retries are not for this.
    let layers = vec![Layer { retries: 5, ..family(1) }, family(1)];
    s.worker_of(0, 2, 1000).submit(layers, &[]);
    s.outgrow(0, shortage(1200, &["f1[0]"])).finish(1);
    s.outgrow(0, shortage(1900, &[]));
    let outgrown = s.outgrown();
    assert_eq!((outgrown.attempts.len(), outgrown.end), (2, NoMoreRoom::Twice));
    let summary = s.done().expect("over");
    assert_eq!((summary.failures[0].attempts, summary.done), (2, 1));
    let words = summary.failures[0].failure.to_string();
    assert!(words.contains("on w0 on a: ended") && words.contains("then, alone on w0 on a"), "{words}");
}

#[test]
fn without_a_worker_that_has_more_room_it_fails_at_once() {
    // It had the worker to itself.
    let mut s = Story::new();
    s.worker_of(0, 2, 1000).submit(vec![Layer { retries: 5, ..family(1) }], &[]);
    s.outgrow(0, shortage(1500, &[]));
    assert_eq!(s.outgrown().end, NoMoreRoom::WasAlone);
    // It had neighbours, but had reached nearly all there is.
    let mut s = Story::new();
    s.worker_of(0, 2, 1000).worker_of(1, 2, 900).submit(vec![family(1)], &[]);
    s.outgrow(0, shortage(1900, &["f1[0]"]));
    assert_eq!(s.outgrown().end, NoMoreRoom::BeyondAll { largest: 2000 });
}

#[test]
fn it_goes_to_a_larger_worker_and_waits_until_that_is_empty() {
    let mut s = Story::new();
    s.worker_of(0, 1, 1000).submit(vec![family(1), family(60)], &[]);
    s.worker_of(1, 2, 8000).worker_of(2, 2, 1000);
    s.start(0).outgrow(0, shortage(1950, &[]));
    let on_large = |s: &Story| s.given_to(1);
    assert!(on_large(&s) > 0 && !s.given.contains_key(&task(0)));
    let handed_over = on_large(&s);
    for _ in 0..handed_over {
        let next = s.given.iter().find(|(_, (w, _))| *w == WorkerId(1)).map(|(t, _)| t.index);
        s.finish(next.expect("one of those"));
    }
    assert_eq!((s.at(0), on_large(&s)), (1, 1));
    // The others went on meanwhile.
    assert!(s.given_to(0) > 0 && s.given_to(2) > 0);
    // That worker leaves: it goes on waiting for one like it, and fails when there is none.
    s.lose(1, true);
    assert!(!s.given.contains_key(&task(0)));
    while s.done().is_none() {
        s.finish_all_but(0);
    }
    assert_eq!(s.outgrown().end, NoMoreRoom::BeyondAll { largest: 2000 });
}

#[test]
fn without_any_worker_it_waits_for_one() {
    let mut s = Story::new();
    s.worker_of(0, 2, 1000).submit(vec![family(1), family(1)], &[]);
    s.outgrow(0, shortage(1200, &["f1[0]"]));
    s.lose(0, true);
    assert_eq!(s.state(0), State::Queued);
    s.worker_of(1, 1, 1000);
    assert_eq!((s.at(0), s.given_to(1)), (1, 1), "alone first");
    s.finish(0).finish(1);
    assert_eq!(s.done().expect("over").done, 2);
}

#[test]
fn a_cancelled_run_keeps_no_worker() {
    let mut s = Story::new();
    s.worker_of(0, 2, 1000).submit(vec![family(1), family(3)], &[]);
    s.start(1).outgrow(0, shortage(1200, &["f1[0]"]));
    s.tell(Event::RunCancelled { run: RUN, reason: "enough".into() });
    assert_eq!(s.done().expect("over").cancelled, 4);
    s.pass(Duration::from_secs(1));
    assert!(s.core.cx.worker(WorkerId(0)).expect("there").kept_for.is_none());
}

#[test]
fn a_paused_worker_hands_back_what_it_has_not_started_unless_that_would_free_memory() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(2), after(1, 0, Pattern::All), family(1)], &[1]);
    s.finish(0).finish(1);
    // The sum of both frees them; the third task adds.
    assert!(s.given.contains_key(&task(2)) && s.given.contains_key(&task(3)));
    let asked = |s: &Story| -> Vec<u32> {
        let steals = s.log.iter().filter_map(|a| match a {
            Action::Steal { attempts, .. } => Some(attempts.iter().map(|(t, _)| t.index)),
            _ => None,
        });
        steals.flatten().collect()
    };
    s.pause(0, true);
    assert_eq!(asked(&s), [0u32; 0], "nobody else could do it");
    s.pause(0, false).worker(1, "b", 1).pause(0, true);
    assert_eq!(asked(&s), [3]);
    let returned = s.attempt(3);
    s.given.remove(&task(3));
    s.report(0, |r| r.returned.push(returned));
    assert_eq!((s.at(3), s.at(2)), (1, 0));
}

#[test]
fn with_every_worker_paused_one_task_is_handed_over_all_the_same() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1).pause(0, true).pause(1, true);
    s.submit(vec![family(3)], &[]);
    for n in 0..3 {
        assert_eq!(s.given.len(), 1, "task {n}");
        s.finish(n);
    }
    assert_eq!(s.done().expect("over").done, 3);
}

#[test]
fn short_tasks_with_large_results_are_not_queued_deep() {
    for (nbytes, most) in [(10, 2000), (100, 3)] {
        let mut s = Story::new();
        s.worker_of(0, 1, 1000).submit(vec![family(100), after(1, 0, Pattern::All)], &[1]);
        let (task, attempt) = s.attempt(0);
        s.given.remove(&task);
        let finished = Finished { task, attempt, nbytes, duration: Duration::from_micros(5) };
        s.report(0, |r| r.finished.push(finished));
        let given = s.given_to(0);
        assert!(given <= most && (nbytes == 100 || given > 5), "{nbytes} bytes: {given}");
    }
}

#[test]
fn work_that_only_adds_results_waits_for_memory_and_work_that_frees_does_not() {
    let mut s = Story::new();
    // Results have 100 bytes each: eight fit, of which the worker leaves some room for work that frees.
    s.worker_of(0, 1, 800).submit(vec![family(20), after(10, 0, Pattern::Group { size: 2 })], &[1]);
    for i in 0..20 {
        if s.given.contains_key(&task(i)) {
            s.finish(i);
        }
    }
    // Pairs became sums: always allowed, they free more than they make.
    let held = s.core.workers()[0].nbytes;
    assert!(held <= 800, "{held}");
    assert!((0..20).any(|i| s.state(i) == State::Queued), "some loads are held back");
    for i in 20..30 {
        if s.given.contains_key(&task(i)) {
            s.finish(i);
        }
    }
    assert!(s.core.workers()[0].nbytes <= 800);
}

#[test]
fn one_task_runs_whatever_it_takes_when_nothing_else_does() {
    let mut s = Story::new();
    let big = Layer { output_size: Some(5000), ..family(2) };
    s.worker_of(0, 2, 1000).submit(vec![big], &[]);
    assert_eq!(s.given_to(0), 1, "one, alone");
    s.finish(0);
    s.finish(1);
    assert_eq!(s.done().expect("over").done, 2);
}

#[test]
fn a_task_that_declares_more_than_any_worker_has_fails_by_name() {
    let mut s = Story::new();
    let layers = vec![Layer { memory: vec![10_000], ..family(1) }, family(1)];
    s.worker_of(0, 1, 1000).submit(layers, &[]);
    s.finish(1);
    let summary = s.done().expect("over");
    assert_eq!((summary.failed, summary.done), (1, 1));
    let words = summary.failures[0].failure.to_string();
    assert!(words.contains("10000 bytes") && words.contains("2000"), "{words}");
}

#[test]
fn memory_that_is_not_results_counts_and_what_was_spilled_does_not() {
    let mut s = Story::new();
    let sized = Layer { output_size: Some(100), ..family(9) };
    s.worker_of(0, 4, 1000);
    let memory = |unmanaged, spilled| {
        let memory = Some(MemoryUse { unmanaged, spilled });
        Event::Heartbeat { worker: WorkerId(0), memory }
    };
    s.tell(memory(950, 0)).submit(vec![sized, after(1, 0, Pattern::All)], &[]);
    assert_eq!(s.given_to(0), 1, "the first is let through because nothing else runs");
    s.tell(memory(500, 0));
    assert!(s.given_to(0) > 1);
}
