//! Executors in which objects live that nothing can turn into bytes. Owns finding the one that a call needs
//! for its inputs, and waiting for it; what lives where is told by the results.

use super::{Nest, Python, Warmed, lock};
use crate::worker::executor::FailureKind;
use crate::worker::executor::control::Control;
use crate::worker::python::calls::CallJob;
use crate::worker::store::pinned::Home;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long it takes at most until somebody who waits for an executor sees that it has ended, or that he is
/// to stop.
const LOOK_TIME: Duration = Duration::from_millis(50);

/// What those who wait for a certain executor look at.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// An executor has ended in which something lived.
    pub(super) lost: Arc<AtomicBool>,
    /// How often one has become idle.
    idle: Mutex<u64>,
    changed: Condvar,
}

impl Homes {
    /// An executor has become idle.
    pub(super) fn note_idle(&self) {
        *lock(&self.idle) += 1;
        self.changed.notify_all();
    }

    /// Waits until one becomes idle that was not when `seen` was read, or for a moment.
    fn wait(&self, seen: u64) {
        let idle = lock(&self.idle);
        if *idle == seen {
            let waited = self.changed.wait_timeout(idle, LOOK_TIME);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Nest {
    /// An executor that waits, if possible one in which nothing lives.
    pub(super) fn take_idle(&self) -> Option<Warmed> {
        self.take_unused().or_else(|| lock(&self.idle).pop())
    }

    /// An executor that waits and in which nothing lives.
    pub(super) fn take_unused(&self) -> Option<Warmed> {
        let mut idle = lock(&self.idle);
        let at = idle.iter().rposition(|warmed| !warmed.warm.home().is_used())?;
        Some(idle.remove(at))
    }

    /// Whether anything lives in the executors that wait.
    pub(super) fn is_home(&self) -> bool {
        lock(&self.idle).iter().any(|warmed| warmed.warm.home().is_used())
    }

    fn take_this(&self, home: &Arc<Home>) -> Option<Warmed> {
        let mut idle = lock(&self.idle);
        let at = idle.iter().position(|warmed| Arc::ptr_eq(warmed.warm.home(), home))?;
        Some(idle.remove(at))
    }
}

impl Python {
    /// Whether an executor has ended, since the last call, in which something lived.
    pub(in crate::worker) fn take_lost(&self) -> bool {
        self.homes.lost.swap(false, Ordering::AcqRel)
    }

    /// The executor in which a call's inputs live, once it has nothing else to do.
    pub(super) fn take_home(
        &self,
        home: &Arc<Home>,
        control: &Control,
    ) -> Result<(Arc<Nest>, Warmed), FailureKind> {
        let gone = || {
            // Whoever hears of this is to look.
            self.homes.lost.store(true, Ordering::Release);
            FailureKind::Inputs("the process in which an input lived has ended".into())
        };
        loop {
            let seen = *lock(&self.homes.idle);
            if home.has_ended() {
                return Err(gone());
            }
            if control.is_cancelled() {
                return Err(control.verdict());
            }
            let nests = lock(&self.nests).clone();
            let found = nests.into_iter().find_map(|nest| Some((nest.take_this(home)?, nest)));
            if let Some((warmed, nest)) = found {
                return self.look_after(warmed).map(|warmed| (nest, warmed)).ok_or_else(gone);
            }
            if home.is_away() {
                let text = "the process in which an input lives (it cannot be pickled) has a task that waits \
                            for tasks it has launched, of which this may be one";
                return Err(FailureKind::Prepare(text.into()));
            }
            self.homes.wait(seen);
        }
    }
}

/// The executor that a call has to run in, if any of its inputs live in one.
pub(super) fn home_of(job: &CallJob) -> Result<Option<Arc<Home>>, FailureKind> {
    let mut home: Option<&Arc<Home>> = None;
    for pinned in job.pins() {
        if home.is_some_and(|home| !Arc::ptr_eq(home, pinned.home())) {
            let text = "inputs that cannot be pickled live in different processes of this worker and cannot \
                        come together: make them in one task, or of a kind that can be pickled";
            return Err(FailureKind::Prepare(text.into()));
        }
        home = Some(pinned.home());
    }
    Ok(home.cloned())
}
