//! Everything that can happen to the scheduler. A closed list: the core changes its state for nothing else.

use crate::base::failure::Failure;
use crate::base::ids::{Attempt, ClientId, FamilyIx, Incarnation, RunId, RunUuid, TaskRef, WorkerId};
use crate::base::time::Time;
use crate::graph::FamilyNames;
use crate::graph::layer::Layer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client opened a session or came back to it.
    ClientArrived {
        /// The session.
        client: ClientId,
    },
    /// A client's connection ended; its lease begins to run.
    ClientLeft {
        /// The session.
        client: ClientId,
    },
    /// A client submitted a graph that its session has checked.
    RunSubmitted {
        /// Who, or nobody (tests, replays).
        client: Option<ClientId>,
        /// The run's id, chosen by the shell, never used before.
        run: RunId,
        /// What to run.
        spec: RunSpec,
    },
    /// A client wants to be told about a run and takes its outputs from now on.
    RunWatched {
        /// Who.
        client: ClientId,
        /// What.
        run: RunId,
    },
    /// Somebody cancels a run, or some of its tasks.
    RunCancelled {
        /// Which run.
        run: RunId,
        /// Why, for the story.
        reason: String,
    },
    /// A run is finished and nobody will ask for it any more.
    RunForgotten {
        /// Which run.
        run: RunId,
    },
    /// A client has outputs safely and releases them.
    OutputsTaken {
        /// Which tasks.
        tasks: Vec<TaskRef>,
    },
    /// A client wants results of calls, of whoever's run.
    CallsWanted {
        /// Who.
        client: ClientId,
        /// Which tasks.
        tasks: Vec<TaskRef>,
    },
    /// A client does not want results of calls any more.
    CallsReleased {
        /// Who.
        client: ClientId,
        /// Which tasks.
        tasks: Vec<TaskRef>,
        /// Only once each has ended.
        later: bool,
    },
    /// Calls are not to be run, nor what depends on them.
    CallsCancelled {
        /// Which run.
        run: RunId,
        /// Which of its tasks.
        tasks: Vec<u32>,
    },
    /// Failed calls are to be tried again.
    CallsRetried {
        /// Which run.
        run: RunId,
        /// Which of its tasks.
        tasks: Vec<u32>,
    },
    /// A client will not come back.
    ClientEnded {
        /// The session.
        client: ClientId,
    },
    /// A client could not get an output from a worker that should have it.
    OutputMissing {
        /// The task.
        task: TaskRef,
        /// Where it was looked for.
        holder: WorkerId,
    },
    /// A worker registered.
    WorkerRegistered {
        /// Its id, chosen by the shell, never used before.
        worker: WorkerId,
        /// What it offers.
        spec: WorkerSpec,
    },
    /// A worker's connection ended without a word.
    WorkerDisconnected {
        /// Which.
        worker: WorkerId,
        /// What is known about why.
        reason: String,
        /// Whether this was announced (retired, stopped): then no task is blamed.
        expected: bool,
    },
    /// A worker wants to leave: it takes no more work, and its data must move.
    WorkerRetiring {
        /// Which.
        worker: WorkerId,
        /// Why: walltime, signal, command.
        reason: String,
    },
    /// What a worker reports, gathered since its last report.
    WorkerReport {
        /// Which.
        worker: WorkerId,
        /// The report.
        report: Report,
    },
    /// A worker's heartbeat.
    Heartbeat {
        /// Which.
        worker: WorkerId,
        /// Its memory, if it says.
        memory: Option<MemoryUse>,
    },
    /// A deadline passed (see `Core::next_deadline`).
    Tick,
}

/// A submitted run, reduced to what scheduling needs.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The client's identity for it.
    pub uuid: RunUuid,
    /// For people.
    pub name: String,
    /// The families in topological order.
    pub layers: Vec<Layer>,
    /// Names of the families, in the same order.
    pub names: Arc<FamilyNames>,
    /// Families whose results are outputs that the client takes.
    pub outputs: Vec<FamilyIx>,
    /// Whether it goes on without its client.
    pub detached: bool,
    /// Cancel the rest after so many failed tasks.
    pub max_fails: Option<u32>,
    /// Hand out no more than so many tasks at a time.
    pub max_processing: Option<u32>,
    /// If it is a run of calls: what it has besides.
    pub calls: Option<CallSpec>,
}

/// What a run of calls has besides: results are wanted one by one.
#[derive(Clone, Debug, Default)]
pub struct CallSpec {
    /// Tasks of other runs; the run's first families, single tasks without inputs, stand for them.
    pub imports: Vec<TaskRef>,
    /// Tasks whose results the client wants.
    pub wanted: Vec<u32>,
    /// Tasks whose results a client brings.
    pub brought: Vec<u32>,
}

/// What a worker offers.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Unique name among connected workers.
    pub name: String,
    /// Host it runs on.
    pub host: String,
    /// The batch job it is in, if it is in one: a task on several nodes stays inside one job.
    pub job: Option<String>,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// CPU slots, 1/10,000.
    pub slots: u32,
    /// Named resources, 1/10,000.
    pub resources: BTreeMap<String, u64>,
    /// Memory limit in bytes, if any.
    pub memory_limit: Option<u64>,
    /// Bytes up to which work that only adds results is given to it: its target, else the next threshold
    /// that is set. Nothing is held back without one.
    pub memory_target: Option<u64>,
    /// When it is going to leave, if that is known.
    pub leaves: Option<Time>,
    /// Whether it may be taken away at any time: results go elsewhere first.
    pub preemptible: bool,
}

/// A worker's memory besides the results that the scheduler counts itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes that are not results: of the worker and of every process under it.
    pub unmanaged: u64,
    /// Bytes of results that are on disk instead of in memory.
    pub spilled: u64,
}

/// The largest size that is believed, bytes: no process can address more.
pub const BYTES_MAX: u64 = 1 << 47;

/// The longest execution that is believed.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl MemoryUse {
    /// The same within what can be.
    pub fn believed(self) -> MemoryUse {
        let MemoryUse { unmanaged, spilled } = self;
        MemoryUse { unmanaged: unmanaged.min(BYTES_MAX), spilled: spilled.min(BYTES_MAX) }
    }
}

impl Report {
    /// Refuses figures that cannot be, before they are added to others.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        for Finished { nbytes, duration, .. } in &self.finished {
            if *nbytes > BYTES_MAX {
                return Err(format!("a result of {nbytes} bytes"));
            }
            if *duration > DURATION_MAX {
                return Err(format!("a task that took {} s", duration.as_secs()));
            }
        }
        Ok(())
    }
}

/// What a worker reports in one message.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Attempts that began to execute.
    pub started: Vec<(TaskRef, Attempt)>,
    /// Attempts that succeeded.
    pub finished: Vec<Finished>,
    /// Attempts that failed.
    pub failed: Vec<(TaskRef, Attempt, Arc<Failure>)>,
    /// Attempts whose inputs could not be fetched.
    pub missing: Vec<Missing>,
    /// Attempts handed back unstarted: taken by a steal request, or because the worker leaves.
    pub returned: Vec<(TaskRef, Attempt)>,
    /// Steal requests refused: the attempt had started or was gone.
    pub kept: Vec<(TaskRef, Attempt)>,
    /// Results of other workers that this one now holds too.
    pub replicas: Vec<TaskRef>,
    /// Copies this worker was asked to make and could not: the task and the worker that was to have it.
    pub uncopied: Vec<(TaskRef, WorkerId)>,
    /// Results that clients have brought, and their bytes.
    pub stored: Vec<(TaskRef, u64)>,
    /// Of the tasks that succeeded, those whose results cannot leave the worker.
    pub pinned: Vec<TaskRef>,
    /// Attempts that wait for other tasks and have given their slots away (true), or go on.
    pub away: Vec<(TaskRef, Attempt, bool)>,
    /// The worker's pause state, when it changed.
    pub paused: Option<bool>,
}

/// An attempt that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// The task.
    pub task: TaskRef,
    /// The attempt.
    pub attempt: Attempt,
    /// Size of its result, bytes.
    pub nbytes: u64,
    /// How long it executed.
    pub duration: Duration,
}

/// An attempt whose inputs could not be fetched.
#[derive(Clone, Debug)]
pub struct Missing {
    /// The task that cannot run.
    pub task: TaskRef,
    /// Its attempt.
    pub attempt: Attempt,
    /// The inputs and where they were not found.
    pub inputs: Vec<(TaskRef, WorkerId)>,
}
