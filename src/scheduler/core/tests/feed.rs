//! Scenarios about work that waits for memory: where it goes, and who need not wait.

use super::*;
use crate::base::ids::WorkerId;
use crate::graph::layer::{Layer, Pattern};
use crate::scheduler::core::event::{Event, Finished, MemoryUse};
use std::time::Duration;

const MIB: u64 = 1 << 20;

impl Story {
    /// Task `i` makes so many bytes.
    fn make(&mut self, i: u32, nbytes: u64) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let finished = Finished { task, attempt, nbytes, duration: Duration::from_millis(1) };
        self.report(w, |r| r.finished.push(finished))
    }

    fn make_next_at(&mut self, w: u32, nbytes: u64) -> &mut Story {
        let first = self.given.iter().find(|(_, (at, _))| *at == WorkerId(w)).map(|(t, _)| t.index);
        self.make(first.expect("one"), nbytes)
    }

    fn spilled(&mut self, w: u32, spilled: u64) -> &mut Story {
        let memory = Some(MemoryUse { unmanaged: 0, spilled });
        self.tell(Event::Heartbeat { worker: WorkerId(w), memory })
    }
}

/// Everything is needed until the end: nothing can be dropped.
fn hoard(n: u32, each: u64) -> Vec<Layer> {
    vec![Layer { output_size: Some(each), ..family(n) }, after(1, 0, Pattern::All)]
}

#[test]
fn where_results_go_to_disk_no_worker_waits_for_another_ones_work() {
    let mut s = Story::new();
    s.worker_of(0, 1, 1000).worker_of(1, 1, 1000).submit(hoard(20, 400), &[1]);
    assert_eq!((s.given_to(0), s.given_to(1)), (2, 2));
    s.make_next_at(0, 400).make_next_at(0, 400).make_next_at(1, 400);
    // The other one's work may free something.
    s.pass(Duration::from_secs(5));
    assert_eq!((s.given_to(0), s.given_to(1)), (0, 1));
    s.spilled(1, 100);
    assert_eq!(s.given_to(0), 0, "not at once");
    let due = s.core.next_deadline().expect("it wants to look again");
    assert!(due <= s.now.after(Duration::from_millis(100)));
    s.pass(Duration::from_millis(100));
    assert_eq!(s.given_to(0), 2);
    s.make_next_at(0, 400);
    assert_eq!(s.given_to(0), 2, "and so it goes on");
}

#[test]
fn what_would_not_fit_on_an_empty_worker_still_waits() {
    let mut s = Story::new();
    s.worker_of(0, 1, 1000).worker_of(1, 1, 1000).submit(hoard(20, 600), &[1]);
    s.make_next_at(0, 600).spilled(0, 600);
    // Beside what the worker itself occupies there is no room even without results.
    let memory = Some(MemoryUse { unmanaged: 500, spilled: 600 });
    s.tell(Event::Heartbeat { worker: WorkerId(0), memory });
    let before = s.given_to(0);
    s.pass(Duration::from_secs(2));
    assert_eq!(s.given_to(0), before);
}

#[test]
fn the_one_task_that_goes_ahead_runs_where_its_inputs_are() {
    let mut s = Story::new();
    let layers = vec![family(2), after(2, 0, Pattern::Each), after(2, 0, Pattern::Each)];
    s.worker_of(0, 1, 1000).worker_of(1, 1, 1000).submit(layers, &[1, 2]);
    let first = s.at(0);
    // The other worker has more room, but the input is here.
    s.make(1, 500).make(0, 900);
    assert_eq!((s.given.len(), s.at(2)), (1, first));
}

#[test]
fn for_want_of_memory_no_more_moves_than_is_made() {
    for (makes, there) in [(10 * MIB, 0), (100 * MIB, 1)] {
        let mut s = Story::new();
        let reader = || Layer { output_size: Some(makes), ..after(1, 0, Pattern::Each) };
        s.worker_of(0, 1, 100 * MIB).submit(vec![family(1), reader(), reader()], &[1, 2]);
        s.worker_of(1, 1, 400 * MIB).make(0, 90 * MIB);
        assert_eq!(s.at(1), there, "{makes} bytes");
    }
}
