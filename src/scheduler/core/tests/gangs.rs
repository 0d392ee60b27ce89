//! Scenarios about tasks on several nodes: choosing workers, keeping them free, losing them.

use super::*;

/// Elements that take `nodes` workers each.
fn wide(n: u32, nodes: u32) -> Layer {
    Layer { nodes, ..family(n) }
}

/// A story of workers with two threads, each on a host of its own.
fn hosts(n: u32) -> Story {
    let mut s = Story::new();
    for w in 0..n {
        s.worker(w, &format!("h{w}"), 2);
    }
    s
}

/// The hosts that task `i` was told of, the last time.
fn members(s: &Story, i: u32) -> Vec<String> {
    let told = s.log.iter().rev().find_map(|action| {
        let Action::Compute { batch, .. } = action else { return None };
        let at = batch.tasks.iter().position(|t| t.task == task(i))?;
        let (_, members) = batch.gangs.iter().find(|(k, _)| *k as usize == at)?;
        Some(members.iter().map(|m| m.host.clone()).collect())
    });
    told.unwrap_or_default()
}

fn is_kept(s: &Story, w: u32) -> bool {
    s.core.cx.worker(WorkerId(w)).is_some_and(|x| x.kept_for.is_some())
}

fn why(s: &Story) -> String {
    s.core.stuck(RUN).unwrap_or_default()
}

#[test]
fn it_runs_on_the_first_of_its_workers_and_has_all_of_them() {
    let mut s = hosts(4);
    s.submit(vec![wide(1, 3), family(20)], &[]);
    let told = members(&s, 0);
    assert_eq!(told.len(), 3);
    let first = s.at(0);
    assert_eq!(told[0], format!("h{first}"), "the first is where it runs");
    let (_, given) = s.given[&task(0)];
    assert_eq!(given.slots, 2 * SLOT, "it has the whole worker");
    let others: Vec<u32> = (0..4).filter(|&w| s.given_to(w) > 0 && w != first).collect();
    assert_eq!(others.len(), 1, "small tasks go where it is not");
    s.finish(0);
    assert!((0..4).all(|w| s.given_to(w) > 0), "all are free for others");
}

#[test]
fn workers_are_kept_free_until_all_are_empty() {
    let mut s = hosts(3);
    s.submit(vec![family(60), after(1, 0, Pattern::All)], &[]);
    (0..9).filter(|i| s.given.contains_key(&task(*i))).collect::<Vec<_>>().into_iter().for_each(|i| {
        s.start(i);
    });
    let spec = |layers: Vec<Layer>| RunSpec {
        uuid: uuid::Uuid::from_u128(7),
        name: "urgent".into(),
        names: Arc::new(["mpi"].into_iter().collect()),
        layers,
        outputs: vec![],
        detached: false,
        max_fails: None,
        max_processing: None,
        calls: None,
    };
    let urgent = Layer { priority: 1, ..wide(1, 2) };
    s.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(1), spec: spec(vec![urgent]) });
    let mpi = TaskRef { run: RunId(1), index: 0 };
    let running: Vec<u32> = (0..60).filter(|&i| s.given.contains_key(&task(i))).collect();
    let kept: Vec<u32> = (0..3).filter(|&w| is_kept(&s, w)).collect();
    assert_eq!(kept.len(), 2);
    let mut before = kept.iter().map(|&w| s.given_to(w)).sum::<usize>();
    for i in running {
        assert!(!s.given.contains_key(&mpi), "there are tasks on its workers");
        let (there, n) = (kept.contains(&s.at(i)), before);
        s.finish(i);
        before -= usize::from(there);
        if before == 0 {
            break;
        }
        let now = kept.iter().map(|&w| s.given_to(w)).sum::<usize>();
        assert_eq!(now, before, "nothing new goes there: {n}");
    }
    assert!(s.given.contains_key(&mpi), "it has its workers when what was begun there has ended");
    assert!(kept.contains(&s.given[&mpi].0.0));
}

#[test]
fn two_of_them_that_want_more_than_half_take_turns() {
    let mut s = hosts(4);
    s.submit(vec![wide(2, 3), wide(1, 4)], &[]);
    let mut over = Vec::new();
    while over.len() < 3 {
        let now: Vec<u32> = (0..3).filter(|i| s.given.contains_key(&task(*i))).collect();
        assert_eq!(now.len(), 1, "one at a time: {now:?}");
        over.push(now[0]);
        s.start(now[0]).finish(now[0]);
    }
    assert!(s.done().is_some());
}

#[test]
fn a_large_one_is_not_passed_for_ever_by_small_ones() {
    let mut s = hosts(4);
    let whole = Layer { priority: 1, ..after(1, 0, Pattern::All) };
    s.submit(vec![Layer { priority: 2, ..family(1) }, Layer { nodes: 4, ..whole }, wide(6, 2)], &[]);
    let pairs = |s: &Story| (2..8).filter(|i| s.given.contains_key(&task(*i))).collect::<Vec<u32>>();
    assert!(s.given.contains_key(&task(0)) && pairs(&s).is_empty(), "the small one goes first");
    let more = s.log.len();
    s.tell(Event::Tick);
    assert!(s.log.len() > more && pairs(&s).len() == 1, "three workers are left");
    s.finish(0);
    assert_eq!(pairs(&s).len(), 2, "the other two were kept for a second one before it was ready");
    for left in [1, 0] {
        let begun = pairs(&s)[0];
        s.finish(begun);
        assert_eq!(pairs(&s).len(), left, "no pair begins before the one on four nodes");
    }
    assert_eq!(members(&s, 1).len(), 4);
    s.finish(1);
    assert_eq!(pairs(&s).len(), 2);
}

#[test]
fn what_the_cluster_has_not_waits_with_a_reason_and_lets_others_go() {
    let mut s = hosts(2);
    s.submit(vec![Layer { priority: 5, ..wide(1, 3) }, wide(1, 2)], &[]);
    assert!(s.given.contains_key(&task(1)), "one that fits goes on");
    s.finish(1);
    assert_eq!(why(&s), "f0 wants 3 nodes, each with a worker: there are 2 that could be among them");
    // Another worker of a host that counts already is no node more.
    s.worker(7, "h0", 2);
    assert!(why(&s).contains("there are 2"), "{}", why(&s));
    let reasons = s.core.explain(task(0)).expect("a task").workers;
    assert!(reasons.iter().all(|(_, r)| r.contains("wants 3 nodes")), "{reasons:?}");
    s.worker(8, "h8", 2);
    assert_eq!(members(&s, 0).len(), 3);
    s.finish(0);
    assert!(s.done().is_some());
}

#[test]
fn it_stays_inside_one_batch_job() {
    let mut s = Story::new();
    for w in 0..4 {
        let spec = WorkerSpec {
            name: format!("w{w}"),
            host: format!("h{w}"),
            job: Some(format!("{}", w / 2)),
            preemptible: false,
            incarnation: Default::default(),
            slots: SLOT,
            resources: Default::default(),
            memory_limit: None,
            memory_target: None,
            leaves: None,
        };
        s.tell(Event::WorkerRegistered { worker: WorkerId(w), spec });
    }
    s.submit(vec![wide(2, 2), wide(1, 3)], &[]);
    let (a, b) = (members(&s, 0), members(&s, 1));
    let job = |hosts: &[String]| hosts.iter().map(|h| h == "h0" || h == "h1").collect::<Vec<_>>();
    assert!(job(&a)[0] == job(&a)[1] && job(&b)[0] == job(&b)[1], "{a:?} {b:?}");
    s.finish(0).finish(1);
    assert!(why(&s).contains("wants 3 nodes in one batch job"), "{}", why(&s));
}

#[test]
fn a_lost_worker_ends_the_attempt_and_it_is_tried_again() {
    let mut s = hosts(3);
    s.submit(vec![wide(1, 2)], &[]);
    s.start(0);
    let first = s.at(0);
    let second = members(&s, 0)[1].clone();
    let second: u32 = second[1..].parse().expect("a number");
    s.lose(second, false);
    let ended = s.log.iter().any(|a| matches!(a, Action::Cancel { worker, .. } if worker.0 == first));
    assert!(ended, "its processes elsewhere are gone: {:?}", s.log);
    assert_eq!(members(&s, 0).len(), 2);
    assert!(!members(&s, 0).contains(&format!("h{second}")));
    let told = s.core.explain(task(0)).expect("a task");
    assert_eq!((told.attempts, told.failed, told.lost.len()), (2, 0, 1));
    s.finish(0);
    assert_eq!(s.done().map(|d| (d.done, d.failed, d.retried)), Some((1, 0, 1)));
}

#[test]
fn a_worker_that_was_to_leave_is_nobodys_fault() {
    let mut s = hosts(3);
    s.submit(vec![wide(1, 2)], &[]);
    s.start(0);
    let second: u32 = members(&s, 0)[1][1..].parse().expect("a number");
    s.tell(Event::WorkerRetiring { worker: WorkerId(second), reason: "walltime".into() });
    let dismissed = |s: &Story| s.log.iter().any(|a| matches!(a, Action::Dismiss { .. }));
    assert!(!dismissed(&s), "a part of the task runs there");
    let mut t = hosts(3);
    t.submit(vec![wide(1, 2)], &[]);
    t.start(0);
    let gone: u32 = members(&t, 0)[1][1..].parse().expect("a number");
    t.lose(gone, true);
    assert_eq!(t.core.explain(task(0)).map(|e| (e.attempts, e.lost.len())), Some((2, 0)));
    s.finish(0);
    assert!(dismissed(&s), "now it may go");
}

#[test]
fn the_time_that_is_left_is_the_least_of_all() {
    let mut s = Story::new();
    s.worker(0, "h0", 1).worker_until(1, 100);
    let limited = |seconds: u64| Layer { time_limit_ms: Some(seconds * 1000), ..wide(1, 2) };
    s.submit(vec![limited(50), limited(500)], &[]);
    assert!(s.given.contains_key(&task(0)));
    s.finish(0);
    assert!(!s.given.contains_key(&task(1)), "one of the two leaves before");
    assert!(why(&s).contains("wants 2 nodes"), "{}", why(&s));
}

#[test]
fn cancelling_lets_go_of_all_its_workers() {
    let mut s = hosts(2);
    s.submit(vec![wide(3, 2)], &[]);
    s.start(0);
    s.tell(Event::RunCancelled { run: RUN, reason: "test".into() });
    assert!((0..2).all(|w| s.core.cx.worker(WorkerId(w)).expect("there").kept_for.is_none()));
    assert!(s.core.cx.gangs.formed.is_empty());
}

#[test]
fn a_worker_that_pauses_is_none_of_them() {
    let mut s = hosts(3);
    s.submit(vec![family(3)], &[]);
    (0..3).for_each(|i| _ = s.start(i));
    s.report(0, |r| r.paused = Some(true));
    let spec = RunSpec {
        uuid: uuid::Uuid::from_u128(7),
        name: "mpi".into(),
        names: Arc::new(["mpi"].into_iter().collect()),
        layers: vec![wide(1, 2)],
        outputs: vec![],
        detached: false,
        max_fails: None,
        max_processing: None,
        calls: None,
    };
    s.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(1), spec });
    let (of_1, of_2) = (s.at(1), s.at(2));
    assert!(of_1 != 0 || of_2 != 0);
    // Another of them pauses while they are getting empty: it has to wait for one of the two.
    s.report(1, |r| r.paused = Some(true));
    (0..3).for_each(|i| _ = s.finish(i));
    let mpi = TaskRef { run: RunId(1), index: 0 };
    assert!(s.given.contains_key(&mpi), "with nothing else in hand a pause stops nothing");
}
