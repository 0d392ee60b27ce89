//! Scenarios about results that would only lie in memory: when they are made, where, and that nothing waits
//! for ever.

use super::*;
use crate::base::ids::{FamilyIx, WorkerId};
use crate::graph::layer::{Edge, Layer, Pattern};
use crate::scheduler::core::event::{Event, MemoryUse};

const MIB: u64 = 1 << 20;
const MS: Duration = Duration::from_millis(1);

impl Story {
    /// Task `i` is done and has made so many MiB.
    fn made(&mut self, i: u32, mib: u64) -> &mut Story {
        let ((task, attempt), w) = (self.attempt(i), self.at(i));
        self.given.remove(&task);
        let finished = Finished { task, attempt, nbytes: mib * MIB, duration: MS };
        self.report(w, |r| r.finished.push(finished))
    }

    fn on_disk(&mut self, w: u32, spilled: u64) -> &mut Story {
        let memory = Some(MemoryUse { unmanaged: 0, spilled });
        self.tell(Event::Heartbeat { worker: WorkerId(w), memory })
    }

    /// The tasks that are handed out, of a range.
    fn out(&self, range: std::ops::Range<u32>) -> Vec<u32> {
        range.filter(|&i| self.state(i) == State::Processing).collect()
    }
}

fn one(mib: u64, from: &[u32]) -> Layer {
    let edge = |producer: &u32| Edge { producer: FamilyIx(*producer), pattern: Pattern::All, data: true };
    Layer { output_size: Some(mib * MIB), edges: from.iter().map(edge).collect(), ..family(1) }
}

/// Two chunks (0, 1), two rows of each (2, 3 and 4, 5), the rows by pair (6: 2, 4; 7: 3, 5), and all at last.
fn by_row() -> Vec<Layer> {
    let mut layers =
        vec![one(100, &[]), one(100, &[]), one(10, &[0]), one(10, &[0]), one(10, &[1]), one(10, &[1])];
    layers.extend([one(1, &[2, 4]), one(1, &[3, 5]), one(1, &[0, 1, 6, 7])]);
    layers
}

#[test]
fn a_result_that_would_go_to_disk_waits_until_it_is_of_use() {
    for spilled in [0, MIB] {
        let mut s = Story::new();
        s.worker_of(0, 8, 10_000 * MIB).on_disk(0, spilled).submit(by_row(), &[8]);
        s.made(0, 100);
        if spilled == 0 {
            assert_eq!(s.out(2..6), [2, 3], "memory is there to be used");
            continue;
        }
        assert_eq!(s.out(2..6), [0; 0], "the other chunk is not there yet");
        s.made(1, 100);
        assert_eq!(s.out(2..6), [2, 3, 4, 5], "there are threads for both");
    }
}

#[test]
fn neither_is_made_what_leads_to_no_more_than_such_a_result() {
    // Four chunks (0..4), a row of each (4..8), parts of two (8, 9), what comes of both (10), and all (11).
    let part = |from: &[u32]| one(20, from);
    let mut layers: Vec<Layer> = (0..4).map(|_| one(100, &[])).collect();
    layers.extend((0..4).map(|chunk| one(10, &[chunk])));
    layers.extend([part(&[4, 5]), part(&[6, 7]), one(1, &[8, 9]), one(1, &[0, 1, 2, 3, 10])]);
    let mut s = Story::new();
    s.worker_of(0, 8, 10_000 * MIB).on_disk(0, MIB).submit(layers, &[11]);
    s.made(0, 100).made(1, 100);
    assert_eq!(s.out(4..8), [0; 0], "the part would lie there until there is the other");
    s.made(2, 100);
    assert_eq!(s.out(4..8), [0; 0]);
    s.made(3, 100);
    assert_eq!(s.out(4..8), [4, 5, 6, 7]);
}

#[test]
fn inputs_are_gathered_for_as_many_tasks_as_there_are_threads() {
    let mut s = Story::new();
    s.worker_of(0, 1, 10_000 * MIB).on_disk(0, MIB).submit(by_row(), &[8]);
    s.made(0, 100).made(1, 100);
    let first = s.out(2..6);
    assert!(first == [2, 4] || first == [3, 5], "both are of one pair: {first:?}");
    s.made(first[0], 10);
    assert_eq!(s.out(2..6), [first[1]]);
    s.made(first[1], 10);
    assert_eq!(s.out(2..6).len(), 2, "the next pair, while the first is read");
}

#[test]
fn a_worker_that_has_nothing_else_to_do_gets_what_waits() {
    let mut s = Story::new();
    s.worker_of(0, 1, 10_000 * MIB).worker_of(1, 1, 10_000 * MIB).on_disk(0, MIB).on_disk(1, MIB);
    s.submit(by_row(), &[8]);
    let at = s.at(0);
    assert_ne!(s.at(1), at);
    // The other one's chunk takes long.
    s.made(0, 100);
    assert_eq!(s.out(2..6), [0; 0]);
    s.pass(999 * MS);
    assert_eq!(s.out(2..6), [0; 0]);
    s.pass(2 * MS);
    assert_eq!((s.out(2..4).len(), s.at(s.out(2..4)[0])), (1, at));
}

#[test]
fn what_leads_to_much_being_dropped_does_not_wait() {
    let mut s = Story::new();
    // A chunk with a little of the next one: the chunk is dropped for it.
    let layers =
        vec![one(100, &[]), one(100, &[]), one(1, &[0]), one(1, &[1]), one(100, &[0, 2, 3]), one(1, &[1, 4])];
    s.worker_of(0, 4, 10_000 * MIB).on_disk(0, MIB).submit(layers, &[5]);
    s.made(0, 100);
    assert_eq!(s.out(2..3), [2]);
}

#[test]
fn a_task_runs_where_its_result_meets_what_it_is_used_with() {
    let mut s = Story::new();
    s.worker_of(0, 2, 10_000 * MIB).worker_of(1, 2, 10_000 * MIB);
    // A mean, and a chunk: each with its part of the other.
    let layers =
        vec![one(10, &[]), one(100, &[]), one(10, &[0]), one(10, &[1]), one(1, &[2, 3]), one(1, &[0, 1, 4])];
    s.submit(layers, &[5]);
    let (mean, chunk) = (s.at(0), s.at(1));
    assert_ne!(mean, chunk);
    s.made(1, 100).made(0, 10);
    assert_eq!((s.at(2), s.at(3)), (chunk, chunk));
}

#[test]
fn one_goes_ahead_when_nobody_has_anything_in_hand() {
    let mut s = Story::new();
    let mut layers = by_row();
    layers[1].retries = 1;
    s.worker_of(0, 2, 10_000 * MIB).on_disk(0, MIB).submit(layers, &[8]);
    s.made(0, 100);
    assert_eq!(s.out(0..8), [1]);
    // It is tried again after a while.
    s.break_down(1);
    assert_eq!((s.state(1), s.out(0..8).len()), (State::Delayed, 1));
}
