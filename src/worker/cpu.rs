//! CPU time of a worker and of what runs under it, tasks included that have not ended. Owns what is added up,
//! so that no process counts twice and the sum never falls.

use super::memory::sampler::Sample;
use crate::base::ids::{Attempt, TaskRef};
use nix::sys::resource::{UsageWho, getrusage};
use rustc_hash::FxHashMap;
use std::time::Duration;

/// What executes: the attempt, and its main process if it has one.
pub(super) type Running = (TaskRef, Attempt, Option<i32>);

/// Adds up CPU time.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    /// What the processes of attempts had used when they were first seen, of several workers in one process.
    before: FxHashMap<(TaskRef, Attempt), f64>,
    most: f64,
}

impl Cpu {
    /// Seconds so far, of a process that is one worker.
    pub(super) fn of_process(&mut self, sample: &Sample) -> f64 {
        // Own time first: what ends meanwhile is missing once, and is not there twice.
        let own = own_seconds();
        let below = sample.processes.iter().filter_map(|p| process_seconds(p.pid));
        self.grow(own + below.sum::<f64>())
    }

    /// Seconds so far of one of several workers in this process: of its tasks that have `ended` and those
    /// that run.
    pub(super) fn of_tasks(&mut self, ended: Duration, sample: &Sample, running: &[Running]) -> f64 {
        let mut seen = FxHashMap::default();
        let mut live = 0.0;
        for (task, attempt, pid) in running {
            let Some(root) = pid else { continue };
            let used: f64 = sample.tree(*root).into_iter().filter_map(process_seconds).sum();
            // An executor has served others before.
            let before = self.before.get(&(*task, *attempt)).copied().unwrap_or(used);
            seen.insert((*task, *attempt), before);
            live += (used - before).max(0.0);
        }
        self.before = seen;
        self.grow(ended.as_secs_f64() + live)
    }

    fn grow(&mut self, seconds: f64) -> f64 {
        self.most = self.most.max(seconds);
        self.most
    }
}

/// CPU seconds of this process and of those processes below it that have ended.
fn own_seconds() -> f64 {
    let seconds = |who| {
        let Ok(usage) = getrusage(who) else { return 0.0 };
        let time = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        time(usage.user_time()) + time(usage.system_time())
    };
    seconds(UsageWho::RUSAGE_SELF) + seconds(UsageWho::RUSAGE_CHILDREN)
}

/// CPU seconds of a process and of those below it that have ended.
fn process_seconds(pid: i32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    // SAFETY: a plain query without pointers.
    let each = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(ticks as f64 / each.max(1) as f64)
}

/// The four times in `/proc/PID/stat`. Names of programs may hold anything, even a bracket.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    times.by_ref().try_fold(0, |sum: u64, n| Some(sum.saturating_add(n.ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RunId;
    use crate::worker::memory::sampler::Process;

    #[test]
    fn the_times_of_a_process_are_found() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 200 0 0 10 20 300 4000 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(4330));
        assert_eq!((ticks("12 (a"), ticks("1 (a) S 1 1 1 1 1 1 1 1 1 1 x 1 1 1")), (None, None));
        assert!(process_seconds(std::process::id() as i32).is_some());
        assert_eq!(process_seconds(-1), None);
    }

    #[test]
    fn what_runs_counts_before_it_has_ended_and_the_sum_never_falls() {
        let line = "while :; do :; done";
        let mut child = std::process::Command::new("sh").args(["-c", line]).spawn().unwrap();
        let pid = child.id() as i32;
        let sample = Sample::of(0, vec![Process { pid, parent: 1, bytes: 0 }]);
        let running = [(TaskRef { run: RunId(1), index: 1 }, Attempt { epoch: 1, n: 1 }, Some(pid))];
        let (mut tasks, mut process) = (Cpu::default(), Cpu::default());
        let first = (tasks.of_tasks(Duration::from_secs(5), &sample, &running), process.of_process(&sample));
        assert_eq!(first.0, 5.0);
        let used = |cpu: &mut Cpu| cpu.of_tasks(Duration::from_secs(5), &sample, &running);
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while used(&mut tasks) < 5.2 {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        let later = process.of_process(&sample);
        assert!(later >= first.1 + 0.2, "{first:?} {later}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.of_process(&Sample::default()) >= later);
        assert!(tasks.of_tasks(Duration::from_secs(5), &Sample::default(), &[]) >= 5.2);
    }
}
