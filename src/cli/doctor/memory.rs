//! The memory limit, where it comes from and who enforces it: judging what a worker here would find.

use super::findings::{Area, Findings};
use crate::base::units::ByteSize;
use crate::worker::Explanation;

/// With less than this a worker can hardly hold anything, bytes.
const LITTLE: u64 = 512 << 20;

/// What to say about it.
pub(super) fn judge(explanation: &Explanation, in_job: bool) -> Findings {
    let mut found = Findings::new(Area::Memory);
    explanation.found.iter().for_each(|line| found.ok(line.as_str()));
    match explanation.limit {
        None => found.warning(
            "a worker here has no memory limit: nothing is spilled, paused or ended",
            "set memory-limit in [worker], e.g. auto",
        ),
        Some(bytes) if bytes < LITTLE => found.warning(
            format!("a worker here has {} of memory", ByteSize(bytes)),
            "ask for more when submitting (--mem), or set memory-limit",
        ),
        Some(bytes) => found.ok(format!("a worker here has {} of memory", ByteSize(bytes))),
    }
    let enforcement = &explanation.enforcement;
    if enforcement.every_mapping_counts {
        found.warning(
            "whoever enforces the limit counts shared memory again in each process that maps it",
            "set memory-limit to about half of what the job has, or run fewer tasks at a time (--nthreads)",
        );
    }
    if in_job && enforcement.enforcers.is_empty() {
        found.note("nobody was found who enforces the job's memory: a task that takes too much harms others");
    }
    let quiet = |line: &String| !line.starts_with("every mapping");
    enforcement.lines().into_iter().filter(quiet).for_each(|line| found.ok(line));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;
    use crate::worker::{Enforcement, Enforcer};

    fn of(limit: Option<u64>, enforcement: Enforcement) -> Explanation {
        Explanation {
            found: vec!["RAM: 8 GiB".into()],
            limit,
            target: None,
            spill: None,
            pause: None,
            terminate: None,
            enforcement,
        }
    }

    #[test]
    fn limits_and_their_keepers_are_judged() {
        let level = |limit, in_job| judge(&of(limit, Enforcement::default()), in_job).level();
        assert_eq!(level(Some(8 << 30), false), Level::Ok);
        assert_eq!(level(Some(8 << 30), true), Level::Note);
        assert_eq!([level(None, false), level(Some(1 << 20), false)], [Level::Warning; 2]);
        let summed = Enforcement {
            enforcers: vec![Enforcer::SummedResident { who: "Slurm".into() }],
            every_mapping_counts: true,
            notes: Vec::new(),
        };
        let found = judge(&of(Some(8 << 30), summed), true);
        assert_eq!(found.level(), Level::Warning);
        assert!(found.list.iter().any(|f| f.text.contains("enforced by resident memory")), "{found:?}");
    }
}
