//! Graphs of individual tasks: what they cost, counted in edges looked at.

use super::*;
use crate::scheduler::core::edges::LOOKED_AT;

/// Runs `n` tasks and one that takes all of their results, each a family of one, to the end; returns for how
/// many edges a list was walked.
fn merge(n: u32) -> usize {
    let edge = |producer| Edge { producer: FamilyIx(producer), pattern: Pattern::All, data: true };
    let last = Layer { edges: (0..n).map(edge).collect(), ..family(1) };
    let mut layers = vec![family(1); n as usize];
    layers.push(last);
    let spec = spec(layers, &[]);
    let mut s = Story::new();
    s.worker(0, "a", n);
    let before = LOOKED_AT.get();
    let mut actions = s.core.handle(Event::RunSubmitted { client: Some(CLIENT), run: RUN, spec }, Time::ZERO);
    let mut inputs = 0;
    while !actions.iter().any(|a| matches!(a, Action::RunDone { .. })) {
        let mut report = Report::default();
        for action in actions {
            let Action::Compute { batch, .. } = action else { continue };
            let ordinals: Vec<u32> = batch.inputs.iter().map(|i| i.edge).collect();
            assert!(ordinals.iter().copied().eq(0..ordinals.len() as u32), "each input its own edge");
            inputs += ordinals.len();
            report.finished.extend(batch.tasks.iter().map(|t| Finished {
                task: t.task,
                attempt: t.attempt,
                nbytes: 1,
                duration: Duration::from_nanos(100),
            }));
        }
        assert!(!report.finished.is_empty(), "it goes on");
        actions = s.core.handle(Event::WorkerReport { worker: WorkerId(0), report }, Time::ZERO);
    }
    assert_eq!(inputs, n as usize);
    s.core.check().expect("invariants");
    LOOKED_AT.get() - before
}

#[test]
fn a_merge_of_individual_tasks_looks_at_each_edge_a_few_times() {
    let (few, many) = (merge(100), merge(1000));
    assert!(many <= 12 * few, "ten times the tasks: {few} edges, then {many}");
    assert!(many <= 20 * 1000, "{many}");
}

#[test]
fn a_task_has_more_inputs_of_its_own_than_sixteen_bits_count() {
    merge(70_000);
}

#[test]
fn what_individual_tasks_share_is_kept_once_and_results_live_as_ever() {
    let on = |producers: &[u32]| {
        let edge = |&p: &u32| Edge { producer: FamilyIx(p), pattern: Pattern::All, data: p != 1 };
        Layer { edges: producers.iter().map(edge).collect(), ..family(1) }
    };
    let mut s = Story::new();
    // 2 takes 0 twice, and waits for 1.
    s.worker(0, "a", 4).submit(vec![family(1), family(1), on(&[0, 1, 0]), on(&[2, 0])], &[]);
    s.finish(0);
    assert_eq!((s.state(0), s.state(2)), (State::Memory, State::Waiting));
    s.finish(1);
    assert_eq!((s.state(1), s.state(2)), (State::Released, State::Processing));
    s.finish(2);
    assert_eq!((s.state(0), s.state(3)), (State::Memory, State::Processing));
    s.lose(0, true);
    assert_eq!((s.state(0), s.state(2), s.state(3)), (State::Queued, State::Waiting, State::Waiting));
    s.worker(1, "b", 4);
    s.finish(0).finish(2).finish(3);
    assert!(s.done().is_some_and(|d| d.done == 4 && d.failed == 0));
}

#[test]
fn a_task_fails_with_the_one_it_depends_on() {
    let mut s = Story::new();
    let chain = |p| after(1, p, Pattern::All);
    s.worker(0, "a", 2).submit(vec![family(1), chain(0), chain(1), family(1)], &[2]);
    s.break_down(0);
    assert_eq!((s.state(1), s.state(2)), (State::Erred, State::Erred));
    s.finish(3);
    assert!(s.done().is_some_and(|d| (d.done, d.failed, d.skipped) == (1, 1, 2)));
}

/// Pairs of neighbours on two workers of one thread: each is made by one of them.
#[test]
fn roots_that_meet_are_made_by_the_same_worker() {
    let pair = |p: u32| {
        let edge = |producer| Edge { producer: FamilyIx(producer), pattern: Pattern::All, data: true };
        Layer { edges: vec![edge(2 * p), edge(2 * p + 1)], ..family(1) }
    };
    let n = 64;
    let mut layers = vec![family(1); n as usize];
    layers.extend((0..n / 2).map(pair));
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "a", 1).submit(layers, &[]);
    let mut made: BTreeMap<u32, u32> = BTreeMap::new();
    while let Some((i, w)) = s.given.values().map(|(w, given)| (given.task.index, w.0)).next() {
        made.insert(i, w);
        s.finish(i);
    }
    assert!(s.done().is_some_and(|d| d.done == u64::from(n + n / 2)));
    let apart = (0..n / 2).filter(|p| made[&(2 * p)] != made[&(2 * p + 1)]).count();
    assert!(apart <= 1, "{apart} pairs are apart");
    let by_first = (0..n).filter(|i| made[i] == 0).count();
    assert!((n as usize / 4..=n as usize * 3 / 4).contains(&by_first), "{by_first} of {n}");
}

/// Two of them are not of the same pool as the others: one needs more, one goes before all.
#[test]
fn roots_of_a_stretch_come_back_one_by_one_when_their_worker_is_lost() {
    let pair = |p: u32| {
        let edge = |producer| Edge { producer: FamilyIx(producer), pattern: Pattern::All, data: true };
        Layer { edges: vec![edge(p), edge((p + 1) % 16)], ..family(1) }
    };
    let mut layers = vec![family(1); 16];
    layers[3].slots = 2 * SLOT;
    layers[9].priority = 1;
    layers.extend((0..16).map(pair));
    let mut s = Story::new();
    s.worker(0, "a", 2).worker(1, "a", 2).submit(layers, &[]);
    assert!(s.given.contains_key(&task(9)), "the user's priority comes first");
    let first: Vec<u32> = s.given.keys().map(|t| t.index).take(3).collect();
    for i in first {
        s.finish(i);
    }
    s.lose(0, false);
    while let Some(i) = s.given.keys().map(|t| t.index).next() {
        s.finish(i);
    }
    assert!(s.done().is_some_and(|d| d.failed == 0), "all is done");
}

#[test]
fn a_task_is_found_in_its_family_whichever_was_asked_for_before() {
    let sizes = [1, 1, 3, 1, 5, 1, 1, 2];
    let mut s = Story::new();
    s.submit(sizes.map(family).to_vec(), &[]);
    let run = s.core.run(RUN).expect("the run");
    let of = |(f, n): (u32, u32)| (0..n).map(move |element| (FamilyIx(f), element));
    let all: Vec<(FamilyIx, u32)> = (0..).zip(sizes).flat_map(of).collect();
    for i in 0..all.len() {
        for j in 0..all.len() {
            let found = [i, j, i].map(|k| run.place_of(k as u32));
            assert_eq!(found, [all[i], all[j], all[i]], "{i} and {j}");
        }
    }
}
