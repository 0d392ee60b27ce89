//! Everything that can happen to a worker, and everything its core may ask the shell to do. Closed lists.

use crate::base::failure::Failure;
use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The scheduler hands over tasks.
    Compute(Vec<Assigned>),
    /// Nobody needs these results any more.
    Free(Vec<TaskRef>),
    /// These attempts are not wanted any more.
    Cancel(Vec<(TaskRef, Attempt)>),
    /// The scheduler wants unstarted attempts back.
    Steal(Vec<(TaskRef, Attempt)>),
    /// Copy these results (with sizes) from a worker that leaves.
    Replicate {
        /// Which.
        tasks: Vec<(TaskRef, u64)>,
        /// From whom.
        from: WorkerId,
    },
    /// A fetch from a peer ended, one outcome for each task asked for.
    Fetched {
        /// The peer.
        peer: WorkerId,
        /// What came of each.
        outcomes: Vec<(TaskRef, Fetched)>,
    },
    /// Results that were here cannot be read any more.
    Lost {
        /// Which.
        tasks: Vec<TaskRef>,
        /// Under which id the scheduler knows this worker.
        here: WorkerId,
    },
    /// Memory is short: copies of results that others have may go.
    Shed {
        /// Bytes that should go.
        bytes: u64,
        /// Under which id the scheduler knows this worker.
        here: WorkerId,
    },
    /// A result that nobody here has made was brought, and lies in the store.
    Stored {
        /// Whose.
        task: TaskRef,
        /// Its size, bytes.
        nbytes: u64,
    },
    /// An attempt begins to wait for other tasks, or goes on.
    Away {
        /// The task.
        task: TaskRef,
        /// The attempt.
        attempt: Attempt,
        /// Whether it waits.
        away: bool,
    },
    /// Attempts ended in the executor.
    Done(Vec<Done>),
    /// Attempts in line had not begun, and were taken out of the executor.
    TakenBack(Vec<(TaskRef, Attempt)>),
}

/// A task handed over.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The task.
    pub task: TaskRef,
    /// The assignment.
    pub attempt: Attempt,
    /// How often it failed before.
    pub tries: u32,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// What it is expected to be like.
    pub kin: Kin,
    /// Its place in the queue.
    pub priority: Priority,
    /// CPU slots it occupies, 1/10,000.
    pub slots: u32,
    /// Whether anybody will need its result.
    pub keep: bool,
    /// Its inputs, in order.
    pub inputs: Vec<Input>,
}

/// Tasks that are expected to be alike: a family of a run, or calls of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kin {
    /// A family.
    Family(RunId, FamilyIx),
    /// Calls, of whichever run, by a number made of their name.
    Calls(u64),
}

impl Kin {
    /// Whether it ends with a run.
    pub(super) fn is_of(self, run: RunId) -> bool {
        matches!(self, Kin::Family(of, _) if of == run)
    }
}

/// An input of a task handed over.
#[derive(Clone, Debug)]
pub struct Input {
    /// Whose result.
    pub task: TaskRef,
    /// Its size, bytes.
    pub nbytes: u64,
    /// Which data edge of the family it belongs to.
    pub edge: u32,
    /// Who holds it.
    pub holders: Vec<WorkerId>,
}

/// What came of asking a peer for a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// It is here now, this many bytes.
    Here(u64),
    /// The peer does not have it.
    Absent,
    /// The peer could not be reached, or the transfer broke off.
    Unreachable,
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// The task.
    pub task: TaskRef,
    /// The attempt.
    pub attempt: Attempt,
    /// Size of the result, or why there is none.
    pub outcome: Result<u64, Arc<Failure>>,
    /// Bytes of the result in memory.
    pub memory: u64,
    /// How long it executed.
    pub duration: Duration,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Execute an attempt; all inputs are here.
    Start(Start),
    /// End an attempt that executes; a `Done` is expected for it all the same.
    Kill {
        /// The task.
        task: TaskRef,
        /// The attempt.
        attempt: Attempt,
    },
    /// Ask a peer for results.
    Fetch {
        /// Whom.
        peer: WorkerId,
        /// For what.
        tasks: Vec<TaskRef>,
    },
    /// The attempt's result becomes the task's result.
    Publish {
        /// The task.
        task: TaskRef,
        /// The attempt.
        attempt: Attempt,
        /// Whether results of its kind usually are dropped while others are made: they go to disk last.
        passing: bool,
    },
    /// The attempt's result is not wanted.
    Discard {
        /// The task.
        task: TaskRef,
        /// The attempt.
        attempt: Attempt,
    },
    /// Copies that this worker has to keep: whoever had them leaves.
    Own(Vec<TaskRef>),
    /// Results on disk that a task reads soon.
    ReadAhead(Vec<TaskRef>),
    /// Results that may be dropped from the store.
    Drop(Vec<TaskRef>),
}

/// An attempt to execute.
#[derive(Clone, Debug)]
pub struct Start {
    /// The task.
    pub task: TaskRef,
    /// The attempt.
    pub attempt: Attempt,
    /// How often it failed before.
    pub tries: u32,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Whether anybody will need its result.
    pub keep: bool,
    /// Its inputs: data edge and task, in order.
    pub inputs: Vec<(u32, TaskRef)>,
    /// Whether it waits behind busy slots, because it is so short.
    pub in_line: bool,
}

/// Inputs that could not be fetched, and the workers that did not have them.
pub type Holes = Vec<(TaskRef, WorkerId)>;

/// What the scheduler is to be told, gathered since the last time.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Attempts that execute.
    pub started: Vec<(TaskRef, Attempt)>,
    /// Attempts that succeeded: size of the result, duration.
    pub finished: Vec<(TaskRef, Attempt, u64, Duration)>,
    /// Attempts that failed.
    pub failed: Vec<(TaskRef, Attempt, Arc<Failure>)>,
    /// Attempts whose inputs could not be fetched: the inputs and where they were not.
    pub missing: Vec<(TaskRef, Attempt, Holes)>,
    /// Attempts handed back.
    pub returned: Vec<(TaskRef, Attempt)>,
    /// Attempts that could not be handed back.
    pub kept: Vec<(TaskRef, Attempt)>,
    /// Results that are here now too.
    pub replicas: Vec<TaskRef>,
    /// Results that were brought, and their bytes.
    pub stored: Vec<(TaskRef, u64)>,
    /// Copies asked for that could not be had.
    pub uncopied: Vec<(TaskRef, WorkerId)>,
    /// Attempts that wait for other tasks and have given their slots away (true), or go on.
    pub away: Vec<(TaskRef, Attempt, bool)>,
}

impl Report {
    /// Whether it says nothing but that tasks began, and ended well.
    pub fn is_plain(&self) -> bool {
        self.failed.is_empty()
            && self.missing.is_empty()
            && self.returned.is_empty()
            && self.kept.is_empty()
            && self.replicas.is_empty()
            && self.stored.is_empty()
            && self.uncopied.is_empty()
            && self.away.is_empty()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.started.is_empty() && self.finished.is_empty() && self.is_plain()
    }
}
