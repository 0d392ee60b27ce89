//! Round trips of packed messages, and what is refused. Golden bytes are in `golden`.
//! ones.

mod golden;

use super::compute::{Compute, Input, Member, Task, Tasks};
use super::report::{News, Rare, Report};
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::graph::items::Item;

fn task(index: u32) -> TaskRef {
    TaskRef { run: RunId(3), index }
}

fn batch() -> Tasks {
    let attempt = Attempt { epoch: 2, n: 5 };
    let one = Task {
        task: task(7),
        attempt,
        tries: 1,
        family: FamilyIx(4),
        element: 9,
        priority: crate::base::priority::Priority { user: -2, generation: 1, rank: 1 << 40 },
        slots: 5000,
        keep: true,
        inputs_end: 1,
    };
    let input = Input { task: task(1), nbytes: 1 << 33, edge: 2, holders_end: 2 };
    Tasks {
        tasks: vec![one, Task { task: task(8), keep: false, ..one }],
        inputs: vec![input],
        holders: vec![WorkerId(1), WorkerId(6)],
        items: vec![(1, Item::Text("x".into()))],
        gangs: vec![(1, vec![Member { host: "n1".into(), slots: 20_000 }])],
    }
}

#[test]
fn tasks_survive_packing() {
    assert_eq!(Compute::pack(2, &batch()).unpack().unwrap(), batch());
    assert_eq!(Compute::pack(2, &Tasks::default()).unpack().unwrap(), Tasks::default());
}

#[test]
fn ends_that_do_not_fit_are_refused() {
    for spoil in [
        |b: &mut Tasks| b.tasks[0].inputs_end = 2,
        |b: &mut Tasks| b.tasks[1].inputs_end = 0,
        |b: &mut Tasks| b.inputs[0].holders_end = 3,
        |b: &mut Tasks| b.items[0].0 = 2,
        |b: &mut Tasks| b.gangs[0].0 = 2,
        |b: &mut Tasks| b.gangs[0].1.clear(),
        |b: &mut Tasks| b.tasks.clear(),
    ] {
        let mut batch = batch();
        spoil(&mut batch);
        assert!(Compute::pack(2, &batch).unpack().is_err(), "{batch:?}");
    }
}

#[test]
fn reports_survive_packing() {
    let a = Attempt { epoch: 2, n: 1 };
    let news = News {
        started: vec![(task(1), a)],
        finished: vec![(task(2), a, 10, 20), (task(3), Attempt { epoch: 2, n: 4 }, 1 << 40, 0)],
        replicas: vec![task(9)],
        rare: Rare { returned: vec![(task(5), a)], paused: Some(true), ..Rare::default() },
    };
    assert_eq!(Report::pack(2, news.clone()).unpack().unwrap(), news);
}
