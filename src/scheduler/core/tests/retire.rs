//! Scenarios about workers that leave in order, alone and together.

use super::*;
use crate::scheduler::core::action::Saved;

#[test]
fn a_leaving_worker_is_dismissed_once_its_data_is_elsewhere() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(1), after(1, 0, Pattern::All)], &[]);
    s.finish(0);
    s.worker(1, "b", 1);
    s.start(1);
    s.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "walltime".into() });
    let asked = s.log.iter().any(|a| matches!(a, Action::Replicate { worker: WorkerId(1), .. }));
    assert!(asked, "{:?}", s.log);
    s.report(1, |r| r.replicas.push(task(0)));
    assert!(!s.log.iter().any(|a| matches!(a, Action::Dismiss { .. })), "its task still runs");
    s.finish(1);
    assert!(s.log.iter().any(|a| matches!(a, Action::Dismiss { worker: WorkerId(0) })));
}

fn leave_together(has_come: bool) {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(1), after(1, 0, Pattern::All)], &[]);
    s.finish(0);
    s.worker(1, "b", 1);
    s.start(1);
    let retire = |s: &mut Story, w: u32| {
        s.tell(Event::WorkerRetiring { worker: WorkerId(w), reason: "walltime".into() });
    };
    let asked = |s: &Story, w: u32| {
        s.log.iter().filter(|a| matches!(a, Action::Replicate { worker, .. } if worker.0 == w)).count()
    };
    let dismissed =
        |s: &Story, w: u32| s.log.iter().any(|a| matches!(a, Action::Dismiss { worker } if worker.0 == w));
    retire(&mut s, 0);
    assert_eq!(asked(&s, 1), 1);
    s.worker(2, "c", 1);
    assert_eq!(asked(&s, 2), 0);
    if has_come {
        s.report(1, |r| r.replicas.push(task(0)));
    }
    // Who was asked leaves too: that is no place for it.
    retire(&mut s, 1);
    assert!(asked(&s, 2) >= 1 && !dismissed(&s, 0), "{:?}", s.log);
    assert_eq!(dismissed(&s, 1), !has_come, "the copy is needed until there is another: {:?}", s.log);
    s.report(2, |r| r.replicas.push(task(0)));
    assert!(dismissed(&s, 1), "{:?}", s.log);
    s.finish(1);
    assert!(dismissed(&s, 0));
}

#[test]
fn workers_that_leave_together_hand_their_results_to_one_that_stays() {
    leave_together(false);
    leave_together(true);
}

/// Two workers of a pool that is taken away and one that stays: the results of those that leave go to it,
/// were it the fullest; among themselves only while there is no other.
#[test]
fn results_go_to_workers_that_are_not_taken_away() {
    let mut s = Story::new();
    s.preemptible(0).worker(2, "c", 1).submit(vec![family(2), after(1, 0, Pattern::All)], &[]);
    s.finish(0).finish(1);
    s.preemptible(1);
    let retire = |s: &mut Story, w: u32| {
        s.tell(Event::WorkerRetiring { worker: WorkerId(w), reason: "preempted".into() });
    };
    let asked = |s: &Story, w: u32| {
        s.log.iter().filter(|a| matches!(a, Action::Replicate { worker, .. } if worker.0 == w)).count()
    };
    retire(&mut s, 0);
    assert_eq!((asked(&s, 1), asked(&s, 2)), (0, 1), "{:?}", s.log);
    s.lose(2, false);
    s.report(1, |_| {});
    assert_eq!(asked(&s, 1), 1, "better there than nowhere: {:?}", s.log);
}

#[test]
fn a_copy_that_was_asked_of_a_lost_worker_is_asked_of_another() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(1), after(1, 0, Pattern::All)], &[]);
    s.finish(0);
    s.worker(1, "b", 1);
    s.start(1);
    s.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "walltime".into() });
    s.lose(1, false);
    s.worker(2, "c", 1);
    s.report(2, |_| {});
    let asked = s.log.iter().any(|a| matches!(a, Action::Replicate { worker: WorkerId(2), .. }));
    assert!(asked, "{:?}", s.log);
}

#[test]
fn what_nobody_can_take_over_is_saved_once() {
    let mut s = Story::new();
    // 0 -> 1 -> 2, of which the last one runs.
    s.worker(0, "a", 1).submit(vec![family(1), after(1, 0, Pattern::All), after(1, 1, Pattern::All)], &[]);
    s.finish(0);
    s.finish(1);
    s.start(2);
    s.tell(Event::WorkerRetiring { worker: WorkerId(0), reason: "walltime".into() });
    let saved = |s: &Story| -> Vec<Saved> {
        let of = |a: &Action| match a {
            Action::Save { worker: WorkerId(0), tasks } => tasks.clone(),
            _ => Vec::new(),
        };
        s.log.iter().flat_map(of).collect()
    };
    let all = saved(&s);
    assert_eq!(
        all.iter().map(|x| (x.task, x.family, x.element)).collect::<Vec<_>>(),
        [(task(1), FamilyIx(1), 0)]
    );
    let run = s.core.run(task(0).run).unwrap();
    let one = run.families[1].duration_ns.unwrap();
    let with_dropped = one + run.families[0].duration_ns.unwrap();
    assert_eq!(all[0].cost_ns, with_dropped, "the input that was dropped has to be made again, too");
    s.finish(2);
    assert_eq!(saved(&s).len(), 1, "not again, and the last result is wanted by nobody");
}
