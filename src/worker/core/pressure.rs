//! What is due when memory gets short: pure rules over a few figures. Owns the thresholds' meaning and their
//! hysteresis; measuring, spilling and ending are the shell's.

use crate::base::ids::{Attempt, TaskRef};

/// How far below a threshold memory must fall before what it caused ends, as a part of the limit: one of
/// this many.
const HYSTERESIS_PART: u64 = 20;

/// Results below this part of the limit (one of so many) do not matter when it is not they that occupy
/// memory.
const MATTERS_PART: u64 = 100;

/// When to act, in bytes; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The memory of the worker.
    pub limit: u64,
    /// Results in memory beyond this go to disk.
    pub target: Option<u64>,
    /// Results and everything else beyond this: results go to disk.
    pub spill: Option<u64>,
    /// Beyond this no task starts.
    pub pause: Option<u64>,
    /// Beyond this a task is ended.
    pub terminate: Option<u64>,
}

impl Thresholds {
    /// Bytes of results and everything else up to which work that only adds results is taken: the first
    /// threshold that is set.
    pub fn admission_bound(&self) -> Option<u64> {
        [self.target, self.spill, self.pause, self.terminate].into_iter().flatten().next()
    }

    /// By how much results may pass the target for a moment.
    fn slack(&self) -> u64 {
        let target = self.target.unwrap_or(self.limit);
        self.spill.or(self.pause).unwrap_or(self.limit).saturating_sub(target)
    }

    fn margin(&self) -> u64 {
        self.limit / HYSTERESIS_PART
    }
}

/// What memory is used for, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Results in memory, those included that are being made or fetched.
    pub managed: u64,
    /// Everything else of the worker and the processes under it.
    pub unmanaged: u64,
    /// By how much results are about to grow: by tasks that execute or are next, and what is on its way here.
    /// Below zero if tasks that execute free more than they make.
    pub expected: i64,
    /// Whether results cannot go to disk: it is full, or fails.
    pub disk_fails: bool,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.managed.saturating_add(self.unmanaged)
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Results may have so many bytes in memory; what is beyond goes to disk.
    pub keep: Option<u64>,
    /// There are too many already, not only with what is expected.
    pub over: bool,
    /// No task may start.
    pub paused: bool,
    /// A task must end.
    pub terminate: bool,
}

/// Remembers what is going on, for the hysteresis.
#[derive(Clone, Debug)]
pub struct Pressure {
    thresholds: Thresholds,
    spilling: bool,
    paused: bool,
}

impl Pressure {
    /// Nothing is going on yet.
    pub fn new(thresholds: Thresholds) -> Pressure {
        Pressure { thresholds, spilling: false, paused: false }
    }

    /// The thresholds.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// What is due with this use of memory.
    pub fn assess(&mut self, usage: Usage) -> Verdict {
        let (t, total) = (self.thresholds, usage.total());
        // Room is made before it is needed: writing takes time. What is free in a moment need not be written,
        // as long as memory is not short in this one.
        let room = t.target.map(|target| match u64::try_from(usage.expected) {
            Ok(growth) => target.saturating_sub(growth),
            Err(_) => target.saturating_add(usage.expected.unsigned_abs().min(t.slack())),
        });
        let mut keep = room.filter(|room| usage.managed > *room);
        let mut over = keep.is_some() && t.target.is_some_and(|target| usage.managed > target);
        if let Some(spill) = t.spill {
            // Down to the target, or without one a little below where it began.
            let until = t.target.unwrap_or(spill.saturating_sub(t.margin())).min(spill);
            self.spilling = total > spill || (self.spilling && total > until);
            let room = until.saturating_sub(usage.unmanaged);
            if self.spilling && usage.managed > room && self.is_worth_it(usage) {
                keep = Some(keep.map_or(room, |keep| keep.min(room)));
                over = true;
            }
        }
        // What should leave memory and cannot would only grow with more tasks.
        let full = over && usage.disk_fails;
        self.paused = t.pause.is_some_and(|pause| {
            let bound = if self.paused { pause.saturating_sub(t.margin()) } else { pause };
            full || total > bound
        });
        let terminate = self.is_terminal(usage.managed, usage.unmanaged);
        Verdict { keep, over, paused: self.paused, terminate }
    }

    /// Whether a task has to end with so much.
    pub fn is_terminal(&self, managed: u64, unmanaged: u64) -> bool {
        self.thresholds.terminate.is_some_and(|bound| managed.saturating_add(unmanaged) > bound)
    }

    /// Whether anything is gained when results leave: they matter, and without them memory would be below
    /// one of the thresholds that it is above of, or below where the spilling ends.
    fn is_worth_it(&self, usage: Usage) -> bool {
        let (t, total) = (&self.thresholds, usage.total());
        let gained = |bound: u64| total > bound && usage.unmanaged <= bound;
        usage.managed > t.limit / MATTERS_PART
            && [t.target, t.spill, t.pause, t.terminate].into_iter().flatten().any(gained)
    }
}

/// A task that could be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The task.
    pub task: TaskRef,
    /// The attempt.
    pub attempt: Attempt,
    /// What its processes occupy, bytes.
    pub bytes: u64,
    /// What it was expected to occupy, bytes; 0 if nothing is known.
    pub expected: u64,
}

/// Who has to end: the one that is furthest beyond its expectation; if nobody is beyond, the largest.
pub fn choose(candidates: &[Candidate]) -> Option<Candidate> {
    let excess = |c: &Candidate| (c.bytes.saturating_sub(c.expected), c.bytes, c.task);
    candidates.iter().copied().filter(|c| c.bytes > 0).max_by_key(excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Thresholds =
        Thresholds { limit: 100, target: Some(60), spill: Some(70), pause: Some(80), terminate: Some(95) };

    fn usage(managed: u64, unmanaged: u64) -> Usage {
        Usage { managed, unmanaged, expected: 0, disk_fails: false }
    }

    fn assess(pressure: &mut Pressure, managed: u64, unmanaged: u64) -> (Option<u64>, bool, bool) {
        let verdict = pressure.assess(usage(managed, unmanaged));
        (verdict.keep, verdict.paused, verdict.terminate)
    }

    #[test]
    fn results_beyond_the_target_go_to_disk() {
        let mut p = Pressure::new(ALL);
        assert_eq!(assess(&mut p, 60, 0), (None, false, false));
        assert_eq!(assess(&mut p, 61, 0), (Some(60), false, false));
        assert_eq!(p.thresholds().admission_bound(), Some(60));
    }

    #[test]
    fn spilling_goes_on_down_to_the_target() {
        let mut p = Pressure::new(ALL);
        assert_eq!(assess(&mut p, 40, 30), (None, false, false));
        assert_eq!(assess(&mut p, 40, 31), (Some(29), false, false));
        assert_eq!(assess(&mut p, 35, 31), (Some(29), false, false));
        assert_eq!(assess(&mut p, 29, 31), (None, false, false));
        assert_eq!(assess(&mut p, 35, 31), (None, false, false), "over: it begins anew beyond 70");
        // Nothing is left that could go.
        assert_eq!(assess(&mut p, 0, 75), (None, false, false));
        let mut p = Pressure::new(Thresholds { target: None, ..ALL });
        assert_eq!(assess(&mut p, 65, 0), (None, false, false));
        assert_eq!(assess(&mut p, 71, 0), (Some(65), false, false));
        assert_eq!(assess(&mut p, 65, 0), (None, false, false));
    }

    #[test]
    fn room_is_made_for_what_is_about_to_come() {
        let mut p = Pressure::new(ALL);
        let soon = |managed, expected| Usage { managed, unmanaged: 0, expected, disk_fails: true };
        assert_eq!(p.assess(soon(50, 10)).keep, None);
        // The disk that fails does not matter as long as there are not too many.
        assert_eq!(p.assess(soon(55, 10)), Verdict { keep: Some(50), ..Verdict::default() });
        assert_eq!(p.assess(soon(55, 99)).keep, Some(0));
        // What tasks are about to free is not written; but memory is not filled with it.
        assert_eq!(p.assess(soon(65, -5)).keep, None);
        assert_eq!(p.assess(soon(66, -5)).keep, Some(65));
        assert_eq!(p.assess(soon(70, -50)).keep, None);
        let there = p.assess(soon(61, 10));
        assert_eq!((there.keep, there.over, there.paused), (Some(50), true, true));
    }

    #[test]
    fn results_stay_where_their_leaving_gains_nothing() {
        let mut p = Pressure::new(ALL);
        // They do not matter; nor do more of them bring memory below any threshold.
        assert_eq!(assess(&mut p, 1, 72).0, None);
        assert_eq!(assess(&mut p, 5, 72).0, None);
        assert_eq!(assess(&mut p, 9, 72).0, Some(0), "without them there is no pause");
        assert_eq!(assess(&mut p, 9, 90).0, Some(0), "without them no task has to end");
        assert_eq!(assess(&mut p, 9, 97).0, None);
    }

    #[test]
    fn a_pause_ends_a_little_lower_than_it_begins() {
        let mut p = Pressure::new(ALL);
        assert!(!assess(&mut p, 0, 80).1);
        assert!(assess(&mut p, 0, 81).1);
        assert!(assess(&mut p, 0, 76).1);
        assert!(!assess(&mut p, 0, 75).1);
        assert!(!assess(&mut p, 0, 80).1);
    }

    #[test]
    fn a_full_disk_pauses_until_there_is_room() {
        let mut p = Pressure::new(ALL);
        let full = |managed| Usage { managed, unmanaged: 0, expected: 0, disk_fails: true };
        assert!(!p.assess(full(60)).paused);
        assert!(p.assess(full(61)).paused);
        assert!(!p.assess(usage(61, 0)).paused, "the disk has room again");
        assert!(p.assess(full(61)).paused);
        assert!(!p.assess(full(50)).paused, "results were dropped");
    }

    #[test]
    fn each_threshold_can_be_off() {
        let off = Thresholds { limit: 100, target: None, spill: None, pause: None, terminate: None };
        let mut p = Pressure::new(off);
        let full = Usage { managed: 1000, unmanaged: 1000, expected: 0, disk_fails: true };
        assert_eq!(p.assess(full), Verdict::default());
        assert_eq!(off.admission_bound(), None);
        // As many use it today: nothing to disk, but no runaway either.
        let mut p = Pressure::new(Thresholds { pause: Some(80), terminate: Some(95), ..off });
        assert_eq!(assess(&mut p, 90, 0), (None, true, false));
        assert_eq!(assess(&mut p, 90, 6), (None, true, true));
        assert_eq!(p.thresholds().admission_bound(), Some(80));
    }

    #[test]
    fn the_one_that_is_furthest_beyond_its_expectation_ends() {
        let c = |index, bytes, expected| Candidate {
            task: TaskRef { run: crate::base::ids::RunId(1), index },
            attempt: Attempt::default(),
            bytes,
            expected,
        };
        let chosen = |all: &[Candidate]| choose(all).map(|c| c.task.index);
        assert_eq!(chosen(&[c(1, 50, 50), c(2, 30, 0), c(3, 0, 0)]), Some(2));
        assert_eq!(chosen(&[c(1, 50, 60), c(2, 30, 40)]), Some(1));
        assert_eq!(chosen(&[c(3, 0, 0)]), None);
    }
}
