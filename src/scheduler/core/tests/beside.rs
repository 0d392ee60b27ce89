//! Tasks without inputs that come one by one: made where what their results will meet is made.

use super::calls::at;
use super::*;

impl Story {
    fn at_work_on(&self, i: u32) -> WorkerId {
        self.given.get(&at(0, i)).expect("it was given out").0
    }
}

#[test]
fn roots_whose_results_meet_are_made_by_one_worker() {
    let mut s = Story::new();
    s.worker(0, "a", 2).worker(1, "b", 2);
    // Two of the same kind: what is made of one root meets the other.
    s.calls(0, &[], &[&[], &[], &[0], &[2, 1], &[], &[], &[4], &[6, 5]], &[3, 7]);
    assert_eq!(s.given.len(), 4);
    assert_eq!(s.at_work_on(0), s.at_work_on(1));
    assert_eq!(s.at_work_on(4), s.at_work_on(5));
    assert_ne!(s.at_work_on(0), s.at_work_on(4), "both have work");
}

#[test]
fn nobody_waits_for_a_worker_that_is_full() {
    let mut s = Story::new();
    s.worker(0, "a", 1).worker(1, "b", 1);
    s.calls(0, &[], &[&[], &[], &[], &[], &[0, 1, 2, 3]], &[4]);
    let at: Vec<WorkerId> = (0..4).filter_map(|i| s.given.get(&at(0, i))).map(|(w, _)| *w).collect();
    assert!(at.contains(&WorkerId(0)) && at.contains(&WorkerId(1)), "{at:?}");
}

#[test]
fn what_all_meet_in_the_end_says_nothing() {
    let mut s = Story::new();
    s.worker(0, "a", 4).worker(1, "b", 4);
    let roots = [&[][..]; 12];
    let all: Vec<u32> = (0..12).collect();
    s.calls(0, &[], &[&roots[..], &[&all[..]]].concat(), &[12]);
    let with_first = (0..12).filter(|i| s.given.get(&at(0, *i)).is_some_and(|(w, _)| w.0 == 0)).count();
    assert_eq!(with_first * 2, s.given.len(), "shared evenly");
}
