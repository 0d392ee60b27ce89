//! Taking work back from workers that have too much when others have nothing to do. Owns from whom and how
//! much; who gets it then is `place`'s.

use super::Core;
use super::action::Action;
use super::workers::{Status, Worker};
use crate::base::ids::{Attempt, WorkerId};
use smallvec::SmallVec;
use std::time::Duration;

/// Tasks asked back in one steal request.
const STEAL_MAX: u32 = 1024;
/// Workers looked at for work to take, those with the most first.
const VICTIMS_LOOKED_AT: usize = 8;
/// Work below which a worker's queue is not worth stealing from.
const STEAL_WAIT: Duration = Duration::from_millis(10);

impl Core {
    /// Asks the worker with the longest backlog for some of it when another has nothing to do.
    pub(super) fn steal(&mut self) {
        if !self.cx.settings.stealing {
            return;
        }
        let has_idle = |c: &super::ready::Class| {
            let first = c.open.first().and_then(|&(_, w)| self.cx.worker(w));
            first.is_some_and(|w| w.processing.is_empty())
        };
        let idle: SmallVec<[bool; 8]> = self.cx.ready.classes.iter().map(has_idle).collect();
        self.steal_at = None;
        if !idle.contains(&true) {
            return;
        }
        // What fits into a worker's slots is about to start, as soon as its inputs are there: taken away
        // again and again it never would. On a paused one nothing is about to start.
        let has_more = |(_, w): &&(u32, WorkerId)| {
            let may_lose =
                |x: &Worker| x.slots_in_hand > u64::from(x.spec.slots) || x.status == Status::Paused;
            self.cx.worker(*w).is_some_and(may_lose)
        };
        let mut longest = self.cx.backlog.iter().rev().take(VICTIMS_LOOKED_AT);
        let Some(&(backlog, victim)) = longest.find(has_more) else { return };
        let now = self.cx.now;
        let Some(worker) = self.cx.workers.get_mut(victim.index()).and_then(|w| w.as_mut()) else { return };
        if worker.robbed || worker.wait() < STEAL_WAIT || worker.status == Status::Retiring {
            return;
        }
        if worker.steal_after > now {
            self.steal_at = Some(worker.steal_after);
            return;
        }
        let wanted = backlog.div_ceil(2).min(STEAL_MAX) as usize;
        let mut attempts = Vec::new();
        for (task, hand) in worker.processing.iter_mut().rev() {
            if attempts.len() == wanted {
                break;
            }
            if hand.started.is_none() && !hand.stealing && idle[hand.class as usize] {
                hand.stealing = true;
                let Some(run) = self.runs.get(task.run.index()).and_then(|r| r.as_ref()) else { continue };
                attempts.push((*task, Attempt { epoch: self.cx.epoch, n: run.attempt[task.index as usize] }));
            }
        }
        if !attempts.is_empty() {
            worker.robbed = true;
            worker.steal_after = now.after(STEAL_WAIT.max(worker.wait() / 8));
            self.cx.actions.push(Action::Steal { worker: victim, attempts });
        }
    }
}
