//! Groups of tasks: how they are named, counted and kept. That counts are right is checked at every step of
//! every scenario, with the other invariants.

use super::calls::tasks;
use super::*;
use crate::base::ids::RunUuid;
use crate::scheduler::core::event::CallSpec;
use crate::scheduler::core::groups::TaskGroup;

fn uuid(run: u32) -> RunUuid {
    RunUuid::from_u128(u128::from(run) + 1)
}

impl Story {
    fn named(&mut self, run: u32, layers: Vec<Layer>, names: &[&str], outputs: &[u32]) -> &mut Story {
        let names = Arc::new(names.iter().collect());
        let spec = RunSpec { uuid: uuid(run), names, ..spec(layers, outputs) };
        self.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(run), spec })
    }

    fn called(&mut self, run: u32, names: &[&str], imports: &[TaskRef], needs: &[&[u32]]) -> &mut Story {
        let layers = tasks(&[vec![&[][..]; imports.len()], needs.to_vec()].concat());
        let first = imports.len() as u32;
        let wanted = (first..first + needs.len() as u32).collect();
        let calls = CallSpec { imports: imports.to_vec(), wanted, brought: Vec::new() };
        let names = Arc::new(imports.iter().map(|_| "stand-in").chain(names.iter().copied()).collect());
        let spec = RunSpec { uuid: uuid(run), names, calls: Some(calls), ..spec(layers, &[]) };
        self.tell(Event::RunSubmitted { client: Some(CLIENT), run: RunId(run), spec })
    }

    fn groups(&self) -> Vec<TaskGroup> {
        self.core.groups(None, 1000).0.into_iter().cloned().collect()
    }

    fn group(&self, name: &str) -> TaskGroup {
        self.groups().into_iter().find(|g| &*g.name == name).expect("a group of that name")
    }
}

#[test]
fn families_have_a_group_each_and_single_tasks_by_name() {
    let mut s = Story::new();
    let single = |p| after(1, p, Pattern::All);
    let layers = vec![family(4), after(4, 0, Pattern::Each), single(0), single(1), single(3), family(2)];
    s.worker(0, "a", 2).named(0, layers, &["day-1", "mean", "plot-1", "plot-2", "sum", "day-2"], &[4]);
    let groups = s.groups();
    let seen: Vec<(&str, u64)> = groups.iter().map(|g| (&*g.name, g.total)).collect();
    assert_eq!(seen, [("day-1", 4), ("mean", 4), ("plot", 2), ("sum", 1), ("day-2", 2)]);
    assert!(groups.iter().all(|g| g.run == Some(uuid(0))));
    let inputs =
        |g: &TaskGroup| g.inputs.iter().map(|(id, n)| (id - groups[0].id, u64::from(*n))).collect::<Vec<_>>();
    assert_eq!(inputs(&groups[1]), [(0, 4)]);
    // All of both families, one task each.
    assert_eq!(inputs(&groups[2]), [(0, 4), (1, 4)]);
    assert_eq!(inputs(&groups[3]), [(2, 1)]);
    assert_eq!(s.core.group_of(task(9)), Some(groups[2].id));
    assert_eq!(s.core.group_name(groups[2].id), Some("plot"));
    assert_eq!(s.core.group_of(task(99)), None);
}

#[test]
fn a_group_knows_what_its_tasks_took_and_made() {
    let mut s = Story::new();
    s.worker(0, "a", 2).named(0, vec![Layer { retries: 1, ..family(2) }], &["day"], &[0]);
    let ((first, attempt), (second, other)) = (s.attempt(0), s.attempt(1));
    s.given.clear();
    assert_eq!(s.core.work_left(RUN), None, "nothing is known");
    s.report(0, |r| {
        let duration = Duration::from_secs(3);
        r.finished.push(Finished { task: first, attempt, nbytes: 10, duration });
        r.failed.push((second, other, Arc::new(Failure::of(FailureKind::Exit(1)))));
    });
    let told = s.log.iter().find_map(|a| match a {
        Action::AttemptFailed { task, worker, again, .. } => Some((*task, *worker, *again)),
        _ => None,
    });
    assert_eq!(told, Some((second, Some(WorkerId(0)), true)));
    assert_eq!(s.core.work_left(RUN), Some(3.0));
    s.pass(Duration::from_secs(2));
    let (_, attempt) = s.attempt(1);
    let duration = Duration::from_secs(1);
    s.report(0, |r| r.finished.push(Finished { task: second, attempt, nbytes: 30, duration }));
    let g = s.group("day");
    assert_eq!((g.done, g.failed_attempts, g.ns, g.longest_ns), (2, 1, 4_000_000_000, 3_000_000_000));
    assert_eq!((g.bytes, g.bytes_max), (40, 30));
    assert_eq!((s.core.totals().done, s.core.totals().failed), (2, 1));
    assert_eq!(s.core.work_left(RUN), Some(0.0));
    assert_eq!(s.core.workers()[0].done, 2);
}

#[test]
fn calls_of_one_function_are_one_group_whatever_the_run() {
    let mut s = Story::new();
    let made = TaskRef { run: RunId(0), index: 0 };
    s.worker(0, "a", 2).called(0, &["inc-1f"], &[], &[&[]]).called(
        1,
        &["inc-2e", "dec-3"],
        &[made],
        &[&[0], &[0]],
    );
    assert_eq!((s.group("inc").total, s.group("inc").run), (2, None));
    assert_eq!(s.group("dec").run, Some(uuid(1)));
    // What stands for the other run's task counts there only.
    assert_eq!((s.groups().len(), s.core.totals().counts.iter().sum::<u64>()), (2, 3));
    let totals = |s: &Story| s.core.call_totals().map(|(_, t)| (t.total, t.done)).collect::<Vec<_>>();
    assert_eq!(totals(&s), [(3, 0)]);
    s.end(made);
    assert_eq!((s.group("inc").done, totals(&s)), (1, vec![(3, 1)]));
    s.tell(Event::RunForgotten { run: RunId(1) }).tell(Event::RunForgotten { run: RunId(0) });
    let inc = s.group("inc");
    assert_eq!((inc.counts.iter().sum::<u32>(), inc.total, inc.done), (0, 2, 1));
    assert_eq!(totals(&s), [(3, 1)]);
    s.tell(Event::ClientEnded { client: CLIENT });
    assert_eq!(totals(&s), []);
    // It comes to life again.
    s.called(2, &["inc-5"], &[], &[&[]]);
    assert_eq!((s.group("inc").id, s.group("inc").total), (inc.id, 3));
}

#[test]
fn past_groups_are_kept_up_to_a_bound() {
    let mut s = Story::new();
    for run in 0..1100 {
        s.named(run, vec![family(1)], &["once"], &[]).tell(Event::RunForgotten { run: RunId(run) });
    }
    s.named(1100, vec![family(3)], &["last"], &[]);
    let (shown, more) = s.core.groups(None, 1000);
    assert_eq!((shown.len(), more), (1000, 1));
    assert_eq!(shown.last().map(|g| (&*g.name, g.id)), Some(("last", 1100)));
    assert_eq!(s.core.group_name(99), None);
    assert_eq!(s.core.group_name(100), Some("once"));
    assert_eq!(s.core.groups(Some(RunId(1100)), 1000).0.len(), 1);
}

#[test]
fn groups_beyond_the_bound_are_one() {
    let mut s = Story::new();
    let letters = |mut n: u32| {
        let mut name = String::from("t");
        while n > 0 {
            name.push(char::from(b'a' + (n % 26) as u8));
            n /= 26;
        }
        name
    };
    let names: Vec<String> = (0..10_100).map(letters).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    s.named(0, vec![family(1); names.len()], &names, &[]);
    s.called(1, &["another"], &[], &[&[]]);
    assert_eq!(s.core.groups(None, 1000).1, 9001);
    let (all, _) = s.core.groups(None, usize::MAX);
    let others = all.iter().find(|g| &*g.name == "(others)").expect("one for the rest");
    assert_eq!((all.len(), others.total, others.run), (10_001, 101, None));
    s.tell(Event::RunForgotten { run: RunId(0) });
}

#[test]
fn looking_through_tasks_costs_no_more_than_is_allowed() {
    use crate::scheduler::core::look::Wanted;
    use std::ops::ControlFlow;
    let mut s = Story::new();
    s.worker(0, "a", 2).named(0, vec![family(10), after(10, 0, Pattern::Each)], &["day", "mean"], &[]);
    let look = |wanted: Wanted, mut budget: usize, enough: usize| {
        let mut seen = Vec::new();
        let flow = s.core.each_task(RUN, &wanted, &mut budget, |row, _| {
            seen.push(row.task.index);
            if seen.len() == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (seen, flow.is_break(), budget)
    };
    assert_eq!(look(Wanted::default(), 100, 99), ((0..20).collect(), false, 77));
    assert_eq!(look(Wanted::default(), 5, 99), (vec![0, 1, 2], true, 0));
    assert_eq!(look(Wanted::default(), 100, 2), (vec![0, 1], true, 96));
    let group = Wanted { group: Some("mean"), ..Wanted::default() };
    assert_eq!(look(group, 100, 99), ((10..20).collect(), false, 87));
    let state = |state| Wanted { state: Some(state), ..Wanted::default() };
    assert_eq!(look(state(State::Processing), 100, 99), ((0..3).collect(), false, 77));
    assert_eq!(look(state(State::Erred), 100, 99), (vec![], false, 99));
    let mut held = s.core.tasks_at(WorkerId(0), 100);
    held.sort();
    assert_eq!(held, (0..3).map(task).collect::<Vec<_>>());
    let row = s.core.task_row(task(0)).expect("a task");
    assert_eq!((row.state, row.worker, row.attempts), (State::Processing, Some(WorkerId(0)), 1));
    assert!(s.core.is_wanted(&row, &state(State::Processing)) && !s.core.is_wanted(&row, &group));
}

#[test]
fn why_ready_tasks_wait_though_threads_are_free() {
    let mut s = Story::new();
    let gpu = Layer { resources: [("GPU".into(), 1)].into(), ..family(3) };
    s.worker_with(0, "a", 4, &[("GPU", 1)]).submit(vec![gpu], &[]);
    assert_eq!(s.core.ready_but(20).as_deref(), Some("all GPU is in use"));
    let mut s = Story::new();
    s.worker(0, "a", 4).submit_with(vec![family(3)], &[], |spec| spec.max_processing = Some(1));
    assert_eq!(s.core.ready_but(20).as_deref(), Some("test may have 1 task in hand at a time"));
    let mut s = Story::new();
    s.worker(0, "a", 3).submit(vec![Layer { slots: 2 * SLOT, ..family(3) }], &[]);
    assert_eq!(s.core.ready_but(20).as_deref(), Some("no worker has 2 threads free at a time"));
    let mut s = Story::new();
    s.worker_of(0, 4, 1000);
    s.submit(vec![Layer { output_size: Some(900), ..family(3) }], &[0]);
    assert_eq!(s.core.ready_but(20).as_deref(), Some("what they would add does not fit into memory yet"));
    let mut s = Story::new();
    s.worker(0, "a", 4).submit(vec![family(3)], &[]);
    assert_eq!(s.core.ready_but(20), None);
}

#[test]
fn what_is_known_of_a_group_says_what_the_next_of_it_comes_to() {
    let mut s = Story::new();
    let names: Vec<String> =
        ["load-0".to_string()].into_iter().chain((0..40).map(|i| format!("part-{i}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    s.worker_of(0, 2, 1000).called(0, &names, &[], &vec![&[][..]; names.len()]);
    for (i, nbytes) in [(1, 1), (0, 300)] {
        let (task, attempt) = s.attempt(i);
        s.given.remove(&task);
        let finished = Finished { task, attempt, nbytes, duration: Duration::from_micros(5) };
        s.report(0, |r| r.finished.push(finished));
    }
    let given = s.given_to(0);
    assert!(given > 5, "parts are small though one load was large: {given}");
}

#[test]
fn names_are_without_their_numbers_where_there_are_many_and_not_too_long() {
    let long = "é".repeat(150);
    let numbered = (0..201).map(|i| format!("t{i}"));
    let names: Vec<String> = numbered.chain(["7".into(), "12".into(), long]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut s = Story::new();
    s.named(0, vec![family(1); names.len()], &names, &[]);
    let groups = s.groups();
    let seen: Vec<(&str, u64)> = groups.iter().map(|g| (&*g.name, g.total)).collect();
    let cut = "é".repeat(100);
    assert_eq!(seen, [("t", 201), ("7", 1), ("12", 1), (&cut, 1)]);
}
