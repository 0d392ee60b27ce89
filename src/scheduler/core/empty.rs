//! What may be left when every run is over and forgotten: the workers that are there, and nothing about any
//! task. For tests and simulations; owns no state.

use super::Core;

impl Core {
    /// Checks that nothing is kept about any task, and describes the first thing that is.
    pub fn check_empty(&self) -> Result<(), String> {
        let none = |what: &str, n: usize| if n == 0 { Ok(()) } else { Err(format!("{n} {what}")) };
        none("runs", self.runs.iter().flatten().count())?;
        none("submissions known", self.by_uuid.len())?;
        none("clients that are away", self.leases.len())?;
        none("tasks in hand", self.cx.in_hand)?;
        none("tasks to be tried again", self.cx.delayed.len())?;
        none("tasks to be alone", self.cx.ready.alone.len())?;
        none("workers with a backlog", self.cx.backlog.len())?;
        none("runs about to end", self.cx.ending.len())?;
        none("runs that fail", self.cx.failing.len())?;
        none("actions not given out", self.cx.actions.len())?;
        // Entries of tasks that are gone are thrown away when a worker has room for one.
        let open = self.cx.ready.classes.iter().filter(|c| !c.open.is_empty());
        none("tasks in queues", open.map(|c| c.heap.len()).sum())?;
        for (w, worker) in self.cx.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let some = |what: &str, n: u64| none(&format!("{what} of worker {w}"), n as usize);
            some("tasks in hand", worker.processing.len() as u64)?;
            some("results", worker.has.len() as u64)?;
            some("bytes", worker.nbytes)?;
            some("slots in hand", worker.slots_in_hand)?;
            some("bytes set aside", worker.reserved)?;
            some("resources booked", worker.booked.values().sum())?;
            some("copies on their way", worker.moving.len() as u64)?;
            some("started tasks", worker.started.into())?;
            some("suspects", worker.suspects.into())?;
            some("nanoseconds of work", worker.occupancy.min(u64::MAX.into()) as u64)?;
            some("steal requests", worker.robbed.into())?;
            some("tasks kept for", worker.kept_for.is_some().into())?;
        }
        Ok(())
    }
}
