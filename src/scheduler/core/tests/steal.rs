//! Scenarios about workers with a free thread while tasks wait at others.

use super::*;
use std::collections::BTreeSet;

const MS: Duration = Duration::from_millis(1);

/// Workers that start what they have threads for, and give back what they are asked for and can.
struct Life {
    s: Story,
    threads: Vec<usize>,
    started: BTreeSet<TaskRef>,
    /// How much of the log they have read.
    read: usize,
}

impl Story {
    /// What was asked back since `from` in the log, with the worker that has it.
    fn asked_back(&self, from: usize) -> Vec<(WorkerId, TaskRef, Attempt)> {
        let steals = self.log[from..].iter().filter_map(|a| match a {
            Action::Steal { worker, attempts } => Some((*worker, attempts)),
            _ => None,
        });
        steals.flat_map(|(w, attempts)| attempts.iter().map(move |(t, a)| (w, *t, *a))).collect()
    }

    fn live(self, threads: &[usize]) -> Life {
        Life { s: self, threads: threads.to_vec(), started: BTreeSet::new(), read: 0 }
    }
}

impl Life {
    fn start_all(&mut self) {
        for (w, threads) in (0..).zip(&self.threads) {
            let here = self.s.given.iter().filter(|(_, (at, _))| at.0 == w).map(|(t, _)| *t);
            let (running, waiting): (Vec<_>, Vec<_>) = here.partition(|t| self.started.contains(t));
            for task in waiting.into_iter().take(threads.saturating_sub(running.len())) {
                self.started.insert(task);
                self.s.start(task.index);
            }
        }
    }

    fn answer(&mut self) {
        while self.read < self.s.log.len() {
            for (w, task, attempt) in self.s.asked_back(std::mem::replace(&mut self.read, self.s.log.len())) {
                let given = self.s.given.get(&task).is_some_and(|(at, x)| *at == w && x.attempt == attempt);
                if given && !self.started.contains(&task) {
                    self.s.given.remove(&task);
                    self.s.report(w.0, |r| r.returned.push((task, attempt)));
                } else {
                    self.s.report(w.0, |r| r.kept.push((task, attempt)));
                }
            }
        }
    }

    /// Time passes, and the scheduler is called when it wants to be.
    fn pass(&mut self, time: Duration) -> &mut Life {
        let end = self.s.now.after(time);
        loop {
            self.start_all();
            self.answer();
            self.start_all();
            if self.s.now >= end {
                return self;
            }
            self.s.now = self.s.core.next_deadline().unwrap_or(end).min(end).max(self.s.now.after(MS));
            self.s.tell(Event::Tick);
        }
    }

    /// What executes.
    fn executing(&self) -> Vec<TaskRef> {
        self.s.given.keys().filter(|t| self.started.contains(*t)).copied().collect()
    }
}

/// How many tasks of a long family execute at once though a short one came before. Only worker 0 has inputs.
fn long_after_short(n: u32, threads: &[usize]) -> usize {
    let mut s = Story::new();
    s.worker(0, "a", threads[0] as u32).submit(vec![family(1), after(n, 0, Pattern::All)], &[]);
    // It takes a millisecond, and nothing is known of those that come next.
    s.start(0).finish(0);
    for (w, threads) in (0..).zip(threads).skip(1) {
        s.worker(w, "b", *threads as u32);
    }
    let mut life = s.live(threads);
    life.pass(Duration::from_secs(2)).executing().len()
}

#[test]
fn tasks_that_take_longer_than_was_thought_are_shared_out() {
    assert_eq!(long_after_short(9, &[2, 2]), 4);
    assert_eq!(long_after_short(19, &[1, 1, 1, 1]), 4);
    assert_eq!(long_after_short(40, &[4, 16, 1]), 21);
}

#[test]
fn one_long_task_does_not_keep_those_behind_it() {
    let mut s = Story::new();
    s.worker(0, "a", 1).submit(vec![family(21)], &[]);
    s.start(0).finish(0);
    assert_eq!(s.given_to(0), 20, "by what the first took they are done soon");
    s.worker(1, "b", 1);
    let mut life = s.live(&[1, 1]);
    let long = life.pass(Duration::ZERO).executing()[0];
    for _ in 0..200 {
        match life.executing().iter().find(|task| **task != long) {
            Some(next) => life.s.finish(next.index),
            None => life.s.pass(Duration::ZERO),
        };
        life.pass(10 * MS);
    }
    assert_eq!(life.s.given.into_keys().collect::<Vec<_>>(), [long]);
}

/// Worker 0 executes a task that many wait for, worker 1 has both threads busy with what only it can do.
/// Returns the second of these.
fn beside_others() -> (Story, u32) {
    let mut s = Story::new();
    let other = Layer { resources: [("gpu".into(), 1)].into(), ..family(2) };
    s.worker(0, "a", 1).worker_with(1, "b", 2, &[("gpu", 2)]);
    s.submit(vec![family(1), after(19, 0, Pattern::All), other], &[]);
    let (one, two) = (20, 21);
    assert_eq!((s.at(0), s.at(one), s.at(two)), (0, 1, 1));
    s.start(one).start(two).start(0);
    (s, two)
}

#[test]
fn a_worker_with_a_free_thread_takes_work_though_it_has_some() {
    let (mut s, two) = beside_others();
    s.finish(0);
    assert_eq!((s.given_to(0), s.given_to(1)), (19, 2), "they go to their input");
    s.pass(MS);
    assert_eq!(s.asked_back(0), [], "nobody has a thread free");
    s.finish(two);
    let asked = s.asked_back(0);
    assert_eq!(asked.len(), 10, "half of them would keep it busy for less than its share of time");
    for (w, task, attempt) in asked {
        s.given.remove(&task);
        s.report(w.0, |r| r.returned.push((task, attempt)));
    }
    assert_eq!(s.given_to(0) + s.given_to(1), 20);
    assert!((6..15).contains(&s.given_to(1)), "beside the one it has: {}", s.given_to(1));
}

/// A worker that has work of its own leaves those where they are that would take long to move.
#[test]
fn a_free_thread_is_not_worth_moving_large_inputs() {
    let (mut s, two) = beside_others();
    let (task, attempt) = s.attempt(0);
    s.given.remove(&task);
    let finished = Finished { task, attempt, nbytes: 1 << 30, duration: MS };
    s.report(0, |r| r.finished.push(finished));
    s.finish(two);
    assert_eq!(s.asked_back(0), []);
    s.finish(two - 1);
    assert!(!s.asked_back(0).is_empty(), "one that has nothing at all takes them whatever has to move");
}

#[test]
fn what_a_worker_is_about_to_start_stays_there() {
    let mut s = Story::new();
    s.worker(0, "a", 2).submit(vec![family(2)], &[]);
    s.start(0).worker(1, "a", 4);
    s.pass(Duration::from_secs(5)).pass(Duration::from_secs(5));
    assert_eq!(s.asked_back(0), [], "its second thread is for it");
}
