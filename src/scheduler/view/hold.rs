//! What holds the work back, in one sentence. Owns the order in which reasons are looked for: what somebody
//! could change comes first.

use super::overview::threads;
use crate::scheduler::core::state::State;
use crate::scheduler::core::{Status, WorkerView};
use crate::scheduler::driver::Driver;

/// Runs that are asked why nothing of theirs runs, the newest.
const RUNS_ASKED: usize = 20;

impl Driver {
    /// The state of the cluster, and what holds the work back.
    pub(super) fn hold(&self, workers: &[WorkerView]) -> (&'static str, String) {
        if self.stopping.is_some() {
            return ("stopping", "the cluster ends".into());
        }
        let counts = self.core.totals().counts;
        let n = |state: State| counts[state as usize];
        let in_hand = n(State::Processing);
        if n(State::Waiting) + n(State::Queued) + n(State::Delayed) + in_hand == 0 {
            let held = self.runs.graphs().find_map(|(_, e)| Some((&e.name, e.held.as_ref()?.0)));
            return match held {
                Some((name, wanted)) => {
                    let there = workers.len();
                    ("waiting", format!("{name} waits for {wanted} workers, {there} are connected"))
                }
                None => ("idle", "nothing to do".into()),
            };
        }
        if workers.is_empty() {
            return ("waiting", "no worker is connected".into());
        }
        let state = if in_hand > 0 { "running" } else { "waiting" };
        (state, self.hold_of_work(workers, n))
    }

    fn hold_of_work(&self, workers: &[WorkerView], n: impl Fn(State) -> u64) -> String {
        let (queued, in_hand, waiting) = (n(State::Queued), n(State::Processing), n(State::Waiting));
        let all = workers.len();
        let count = |status| workers.iter().filter(|w| w.status == status).count();
        let (paused, retiring) = (count(Status::Paused), count(Status::Retiring));
        if paused == all {
            return match all {
                1 => "the only worker is paused: its memory is short".into(),
                _ => format!("all {all} workers are paused: their memory is short"),
            };
        }
        if paused + retiring == all {
            return "every worker is paused or leaves".into();
        }
        if in_hand == 0 {
            if queued == 0 && n(State::Delayed) > 0 {
                return format!(
                    "{} failed and {} again after a pause",
                    tasks(n(State::Delayed)),
                    are(n(State::Delayed), "tried")
                );
            }
            let newest = self.runs.graphs().rev().filter(|(_, e)| e.summary.is_none());
            if let Some(why) = newest.take(RUNS_ASKED).find_map(|(run, _)| self.core.stuck(run)) {
                return why;
            }
        }
        let open = || workers.iter().filter(|w| w.status == Status::Running);
        let width: u64 = open().map(|w| u64::from(w.spec.slots)).sum();
        let busy: u64 = open().map(|w| w.slots_in_hand).sum();
        let but = match paused {
            0 => String::new(),
            n => format!(
                ", and {n} of {all} workers {} for memory",
                if n == 1 { "is paused" } else { "are paused" }
            ),
        };
        if busy >= width {
            return match threads(width) {
                1.0 => format!("the only thread is busy{but}"),
                width => format!("all {width} threads are busy{but}"),
            };
        }
        let of = format!("{:.4} of {:.4} threads", Trim(threads(busy)), Trim(threads(width)));
        if queued > 0 {
            return match self.core.ready_but(RUNS_ASKED) {
                Some(why) => format!("{} ready, but {why}; {of} are busy{but}", are_tasks(queued)),
                None => format!("{} ready; {of} are busy{but}", are_tasks(queued)),
            };
        }
        match (in_hand, waiting) {
            (0, _) => format!("{} for data", wait(waiting)),
            (_, 0) => format!("the last {} running on {of}{but}", are_tasks(in_hand)),
            _ => format!(
                "only {} ready or running, on {of}; {} for results{but}",
                are_tasks(in_hand),
                wait(waiting)
            ),
        }
    }
}

/// A number without zeros at its end.
struct Trim(f64);

impl std::fmt::Display for Trim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", (self.0 * 100.0).round() / 100.0)
    }
}

/// So many tasks, in words.
pub(super) fn tasks(n: u64) -> String {
    format!("{n} task{}", if n == 1 { "" } else { "s" })
}

fn are(n: u64, what: &str) -> String {
    format!("{} {what}", if n == 1 { "is" } else { "are" })
}

fn are_tasks(n: u64) -> String {
    format!("{} {}", tasks(n), if n == 1 { "is" } else { "are" })
}

fn wait(n: u64) -> String {
    format!("{} wait{}", tasks(n), if n == 1 { "s" } else { "" })
}
