//! Executor processes of several threads. Owns which thread of which process gets a call: work is spread over
//! the processes first, for threads of one share its interpreter's lock, and there are no more of them than
//! wanted unless all threads have something to do.

use super::{Nest, Python, Warmed, lock};
use crate::worker::executor::FailureKind;
use crate::worker::executor::processes::body::Body;
use crate::worker::python::calls::CallJob;
use crate::worker::python::zygote::THREADS_MAX;
use std::sync::Arc;

/// How many executor processes there are and threads in each, for slots of which as many processes as given
/// are to take care.
pub(in crate::worker) fn divide(slots: u32, processes: Option<u32>) -> (u32, u32) {
    let slots = slots.max(1);
    let threads = processes.map_or(1, |processes| slots.div_ceil(processes.max(1)).min(THREADS_MAX));
    let processes = processes.map_or(slots, |processes| processes.clamp(slots.div_ceil(threads), slots));
    (processes, threads)
}

impl Python {
    /// A thread that waits, of the process with the least to do; else one of a new process.
    pub(super) fn take_thread(&self, nest: &Nest, job: &CallJob) -> Result<Warmed, FailureKind> {
        let mut bodies = lock(&nest.bodies);
        bodies.retain(|body| body.upgrade().is_some_and(|body| !body.is_over()));
        let has_room = bodies.len() < self.facts.processes;
        while let Some(warmed) = nest.take_freest(has_room) {
            if let Some(warmed) = self.look_after(warmed) {
                return Ok(warmed);
            }
        }
        let mut new = self.fork(nest, job, self.facts.threads)?;
        let Some(warmed) = new.pop() else {
            return Err(FailureKind::Spawn("an executor was not started".into()));
        };
        bodies.push(Arc::downgrade(warmed.warm.body()));
        lock(&nest.idle).append(&mut new);
        Ok(warmed)
    }
}

fn is_of(warmed: &Warmed, body: &Arc<Body>) -> bool {
    Arc::ptr_eq(warmed.warm.body(), body)
}

/// Of the threads of a process, those that were not given up.
fn left(body: &Arc<Body>) -> usize {
    Arc::strong_count(body)
}

impl Nest {
    /// A thread that waits, of the process of which most wait; with `only_idle` of one where all do.
    fn take_freest(&self, only_idle: bool) -> Option<Warmed> {
        let mut idle = lock(&self.idle);
        // By process: how many wait, and the place of the last one.
        let mut seen: Vec<(*const Body, usize, usize)> = Vec::new();
        for (at, warmed) in idle.iter().enumerate() {
            let body = Arc::as_ptr(warmed.warm.body());
            match seen.iter_mut().find(|(known, ..)| *known == body) {
                Some((_, n, last)) => (*n, *last) = (*n + 1, at),
                None => seen.push((body, 1, at)),
            }
        }
        let rank = |&(_, n, at): &(*const Body, usize, usize)| {
            let body = idle[at].warm.body();
            // Those of single calls, in which something lives, come last.
            (body.threads() > 1, std::cmp::Reverse(left(body).saturating_sub(n)), at)
        };
        let (_, n, at) = seen.iter().max_by_key(|seen| rank(seen)).copied()?;
        let body = idle[at].warm.body();
        let is_idle = body.threads() > 1 && n >= left(body);
        (is_idle || !only_idle).then(|| idle.remove(at))
    }

    /// The others of an executor's process, if all of them wait.
    pub(super) fn take_others(&self, one: &Warmed) -> Option<Vec<Warmed>> {
        let body = one.warm.body();
        let mut idle = lock(&self.idle);
        let n = idle.iter().filter(|warmed| is_of(warmed, body)).count();
        (n + 1 >= body.threads() as usize)
            .then(|| idle.extract_if(.., |warmed| is_of(warmed, body)).collect())
    }

    /// All executors of a process in which all wait and nothing lives.
    pub(super) fn take_process(&self) -> Option<Vec<Warmed>> {
        let mut idle = lock(&self.idle);
        let waiting = |body: &Arc<Body>| idle.iter().filter(|one| is_of(one, body)).count();
        let is_free = |one: &&Warmed| {
            let body = one.warm.body();
            !one.warm.home().is_used() && waiting(body) >= left(body)
        };
        let body = idle.iter().rfind(is_free)?.warm.body().clone();
        Some(idle.extract_if(.., |warmed| is_of(warmed, &body)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::divide;

    #[test]
    fn slots_are_divided_among_processes() {
        assert_eq!(divide(24, None), (24, 1));
        assert_eq!(divide(24, Some(4)), (4, 6));
        assert_eq!(divide(24, Some(5)), (5, 5));
        assert_eq!(divide(4, Some(3)), (3, 2));
        assert_eq!(divide(4, Some(9)), (4, 1));
        assert_eq!(divide(0, Some(1)), (1, 1));
        // Each has its descriptors in one frame.
        assert_eq!(divide(128, Some(1)), (3, 60));
    }
}
