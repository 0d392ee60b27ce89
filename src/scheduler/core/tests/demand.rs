//! Scenarios: how much could run now.

use super::*;
use crate::scheduler::core::demand::Demand;

const MIN_WORK: Duration = Duration::from_secs(30);

/// Useful and guessed tasks.
fn wants(demand: &Demand) -> (u64, u64) {
    demand.groups.iter().fold((0, 0), |(u, g), group| (u + group.useful, g + group.guessed))
}

impl Story {
    fn wants(&self) -> (u64, u64) {
        wants(&self.core.demand(MIN_WORK))
    }

    /// Task `i` is done after so long.
    fn finish_after(&mut self, i: u32, seconds: u64) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let finished = Finished { task, attempt, nbytes: 100, duration: Duration::from_secs(seconds) };
        self.report(w, |r| r.finished.push(finished))
    }
}

#[test]
fn nothing_to_do_needs_nobody() {
    let mut s = Story::new();
    assert_eq!(s.core.demand(MIN_WORK), Demand::default());
    s.worker(0, "a", 1).submit(vec![family(1)], &[]);
    assert_eq!(s.wants(), (0, 1));
    s.finish(0);
    assert_eq!(s.core.demand(MIN_WORK).slots(), 0);
}

#[test]
fn unknown_work_counts_by_task_and_known_work_by_time() {
    let mut s = Story::new();
    s.submit(vec![family(100), after(1, 0, Pattern::All)], &[]);
    assert_eq!(s.wants(), (0, 100), "the last one is not ready");
    s.worker(0, "a", 1);
    s.finish_after(0, 3);
    assert_eq!(s.wants(), (10, 0), "99 tasks of 3 s, 30 s for each place");
    assert_eq!(s.core.demand(MIN_WORK).slots(), u64::from(10 * SLOT));
    assert_eq!(wants(&s.core.demand(Duration::ZERO)), (99, 0));
}

#[test]
fn long_tasks_get_a_place_each_and_the_end_asks_for_no_more() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(10)], &[]);
    s.finish_after(0, 100);
    assert_eq!(s.wants(), (9, 0));
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(10)], &[]);
    for i in 0..7 {
        s.finish_after(i, 5);
    }
    assert_eq!(s.wants(), (1, 0), "three tasks of 5 s are not worth another worker");
}

#[test]
fn what_follows_at_the_same_place_counts_as_work() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(4), after(4, 0, Pattern::Each)], &[]);
    s.finish_after(0, 1);
    s.finish_after(4, 60);
    let demand = s.core.demand(MIN_WORK);
    assert_eq!((demand.tasks(), wants(&demand)), (3, (3, 0)), "each second of work brings a minute more");
}

#[test]
fn needs_are_told_apart() {
    let mut s = Story::new();
    let big = Layer { memory: vec![1 << 30], slots: 2 * SLOT, ..family(3) };
    let gpu = Layer { resources: [("gpus".to_owned(), u64::from(SLOT))].into(), ..family(2) };
    s.submit(vec![family(5), big, gpu], &[]);
    let demand = s.core.demand(MIN_WORK);
    let mut found: Vec<_> =
        demand.groups.iter().map(|g| (g.tasks, g.slots / SLOT, g.memory, g.resources.len())).collect();
    found.sort_unstable();
    assert_eq!(found, [(2, 1, 0, 1), (3, 2, 1 << 30, 0), (5, 1, 0, 0)]);
    assert_eq!(demand.slots(), u64::from(13 * SLOT));
}

#[test]
fn bounded_and_cancelled_runs_ask_for_no_more() {
    let mut s = Story::new();
    s.submit_with(vec![family(50)], &[], |spec| spec.max_processing = Some(4));
    assert_eq!(s.wants(), (0, 4));
    s.tell(Event::RunCancelled { run: RUN, reason: "enough".into() });
    assert_eq!(s.wants(), (0, 0));
}

#[test]
fn retries_and_lost_results_count_again() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![Layer { retries: 1, ..family(1) }, after(1, 0, Pattern::Each)], &[1]);
    s.break_down(0);
    assert_eq!((s.state(0), s.wants()), (State::Delayed, (0, 1)));
    s.pass(Duration::from_secs(2));
    s.finish_after(0, 60);
    assert_eq!(s.wants(), (0, 1), "its dependent");
    s.lose(0, true);
    assert_eq!(s.wants(), (1, 0), "it has to be made again");
}
