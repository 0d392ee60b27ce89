//! Everything the core may ask its shell to do. Data only; the driver performs it and results come back as
//! events.

use crate::base::failure::Failure;
use crate::base::ids::{Attempt, ClientId, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use std::sync::Arc;
use std::time::Duration;

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Hand tasks to a worker.
    Compute {
        /// To whom.
        worker: WorkerId,
        /// What.
        batch: Batch,
    },
    /// Tell a worker to drop results.
    Free {
        /// Whom.
        worker: WorkerId,
        /// Which.
        tasks: Vec<TaskRef>,
    },
    /// Tell a worker to end or forget attempts.
    Cancel {
        /// Whom.
        worker: WorkerId,
        /// Which.
        attempts: Vec<(TaskRef, Attempt)>,
    },
    /// Ask a worker to hand back attempts that have not started.
    Steal {
        /// Whom.
        worker: WorkerId,
        /// Which.
        attempts: Vec<(TaskRef, Attempt)>,
    },
    /// Ask a worker to fetch copies of results from another that leaves; from itself: a copy it has is the
    /// one that counts from now on, not to be dropped as a spare.
    Replicate {
        /// Who fetches.
        worker: WorkerId,
        /// What, with sizes.
        tasks: Vec<(TaskRef, u64)>,
        /// From whom.
        from: WorkerId,
    },
    /// Tell a worker that leaves, as all do, to write results where it was told to, for a later run.
    Save {
        /// Whom.
        worker: WorkerId,
        /// Which.
        tasks: Vec<Saved>,
    },
    /// Nothing holds a retiring worker any more: it may stop.
    Dismiss {
        /// Which.
        worker: WorkerId,
    },
    /// Close the connection of a worker that was given up.
    Drop {
        /// Which.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// Tell a client that outputs can be fetched.
    Outputs {
        /// Whom.
        client: ClientId,
        /// Where each is.
        outputs: Vec<Output>,
    },
    /// Tell a client that calls which it wants will have no result (see `Core::failed_call`).
    CallsFailed {
        /// Whom.
        client: ClientId,
        /// Which.
        tasks: Vec<TaskRef>,
    },
    /// Tell a client that results which it wants were lost and are being made again.
    CallsLost {
        /// Whom.
        client: ClientId,
        /// Which.
        tasks: Vec<TaskRef>,
    },
    /// Nobody needs a run of calls any more: it may be forgotten.
    Spent {
        /// Which.
        run: RunId,
    },
    /// An attempt has failed, or was lost with its worker: for those who look, nothing is to be done.
    AttemptFailed {
        /// At which task.
        task: TaskRef,
        /// Where, if that is known.
        worker: Option<WorkerId>,
        /// Why.
        failure: Arc<Failure>,
        /// Whether it is tried again.
        again: bool,
    },
    /// A run reached its end: nothing of it runs and no output is left to take.
    RunDone {
        /// Which.
        run: RunId,
        /// Who watches it.
        clients: Vec<ClientId>,
        /// The figures.
        summary: Summary,
    },
}

/// A result that would be lost with all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The task.
    pub task: TaskRef,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// How long it would take to make it again, at least, nanoseconds.
    pub cost_ns: u64,
}

/// Tasks for one worker, as columns.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The tasks.
    pub tasks: Vec<Assigned>,
    /// Their inputs, one after the other.
    pub inputs: Vec<Input>,
    /// Holders of the inputs, one after the other.
    pub holders: Vec<WorkerId>,
    /// Of tasks that have several workers: position in `tasks`, and the workers, first the one that runs it.
    pub gangs: Vec<(u32, Vec<Member>)>,
}

/// One of the workers that a task has to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its host.
    pub host: String,
    /// Its slots, 1/10,000.
    pub slots: u32,
}

/// One task in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Assigned {
    /// The task.
    pub task: TaskRef,
    /// The assignment.
    pub attempt: Attempt,
    /// How often it has been tried before, as users count.
    pub tries: u32,
    /// Its family.
    pub family: FamilyIx,
    /// Its element of the family.
    pub element: u32,
    /// Its place in the queue.
    pub priority: Priority,
    /// CPU slots it occupies, 1/10,000.
    pub slots: u32,
    /// Whether anybody will need the result; if not the worker drops it at once.
    pub keep: bool,
    /// End of its inputs in the batch.
    pub inputs_end: u32,
}

/// One input of a task in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    /// Whose result.
    pub task: TaskRef,
    /// Its size in bytes.
    pub nbytes: u64,
    /// Which data edge of the family it belongs to.
    pub edge: u32,
    /// End of its holders in the batch.
    pub holders_end: u32,
}

/// An output that can be fetched.
#[derive(Clone, Debug)]
pub struct Output {
    /// The task.
    pub task: TaskRef,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Size in bytes.
    pub nbytes: u64,
    /// Who has it.
    pub holders: Vec<WorkerId>,
}

/// Figures of a finished run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Tasks that ran to success (each once, however often it was computed).
    pub done: u64,
    /// Tasks that failed themselves.
    pub failed: u64,
    /// Tasks that could not run because something they depend on failed.
    pub skipped: u64,
    /// Tasks cancelled.
    pub cancelled: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Sum of the execution times.
    pub task_time: Duration,
    /// From submission to the end.
    pub wall: Duration,
    /// Bytes of results that were made.
    pub bytes_made: u64,
    /// Bytes of results that workers have fetched from one another.
    pub bytes_moved: u64,
    /// The first failures, oldest first.
    pub failures: Vec<TaskFailure>,
    /// Why the run was cancelled, if it was.
    pub cancel_reason: Option<String>,
}

/// A task that failed for good.
#[derive(Clone, Debug)]
pub struct TaskFailure {
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Where the last attempt ran.
    pub host: String,
    /// How many attempts there were.
    pub attempts: u32,
    /// Why the last one failed.
    pub failure: Arc<Failure>,
}
