//! Between workers and the scheduler.

use super::calls::{CallBatch, CallRun, Prepare};
use super::client::{Empty, Reason};
use super::compute::Compute;
use super::look::{LastWords, Look, Looked, Spans};
use super::report::Report;
use crate::base::ids::{Attempt, FamilyIx, Incarnation, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::items::Items;
use crate::graph::layer::Shape;
use crate::graph::spec::TaskSpec;
use crate::protocol::wire::Payload;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

crate::messages! {
    /// What a worker says to the scheduler.
    #[derive(Clone, Debug, PartialEq)]
    pub enum FromWorker {
        /// The first message.
        1 => Register(Register),
        /// What happened to tasks since the last report.
        2 => Report(Report),
        /// Still there, with figures.
        3 => Heartbeat(Heartbeat),
        /// Wants to leave in order.
        4 => Retiring(Reason),
        /// Leaves now.
        5 => Goodbye(Reason),
        /// Rectangles of the task stream.
        6 => Spans(Spans),
        /// The answer to `Look`.
        7 => Looked(Looked),
        /// What is left of the life before, or of this one before it ends.
        8 => LastWords(LastWords),
    }
    retired: []
}

crate::messages! {
    /// What the scheduler says to a worker.
    #[derive(Clone, Debug, PartialEq)]
    pub enum ToWorker {
        /// The answer to `Register`.
        1 => Registered(Registered),
        /// The worker is not let in; trying again makes no sense.
        2 => Refused(Reason),
        /// Families that tasks to come belong to.
        3 => Families(Families),
        /// Tasks to run.
        4 => Compute(Compute),
        /// Results to drop.
        5 => Free(Tasks),
        /// Attempts to end.
        6 => Cancel(Attempts),
        /// Attempts to hand back if they have not started.
        7 => Steal(Attempts),
        /// Results to copy from a worker that leaves.
        8 => Replicate(Replicate),
        /// Addresses of other workers.
        9 => Peers(Peers),
        /// Nothing holds the worker any more: it may go.
        10 => Dismiss(Empty),
        /// A run is over: its families are not needed any more.
        11 => ForgetRun(ForgetRun),
        /// Leave now: the cluster ends.
        12 => Stop(Reason),
        /// Leave in order: asked for by a person.
        13 => Retire(Reason),
        /// Results to write for a later run: all workers leave.
        14 => Save(Save),
        /// A run of calls that tasks to come belong to.
        15 => CallRun(CallRun),
        /// Calls, before the first of them is to be computed.
        16 => CallBatch(CallBatch),
        /// Somebody looks at what only the worker has.
        17 => Look(Look),
        /// What calls to come will need.
        18 => Prepare(Prepare),
    }
    retired: []
}

/// A worker introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// The protocol it speaks; must be the scheduler's.
    pub protocol: u32,
    /// Version of the program, for messages to people.
    pub version: String,
    /// This life of the process.
    pub incarnation: Incarnation,
    /// Unique name among the cluster's workers.
    pub name: String,
    /// Host it runs on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Where other workers and clients reach it.
    pub address: String,
    /// CPU slots, 1/10,000.
    pub slots: u32,
    /// Named resources, 1/10,000.
    pub resources: BTreeMap<String, u64>,
    /// Memory limit in bytes, if any.
    pub memory_limit: Option<u64>,
    /// Bytes up to which it takes work that only adds results; nothing bounds that if `None`.
    pub memory_target: Option<u64>,
    /// Bytes at which it acts on its memory: target, spill, pause, terminate. For people.
    pub memory_thresholds: [Option<u64>; 4],
    /// Batch job it belongs to.
    pub job_id: Option<String>,
    /// Pool of jobs that it belongs to, if any.
    pub pool: Option<String>,
    /// Whether it may be taken away at any time.
    pub preemptible: bool,
    /// In how many milliseconds it is going to leave, if it knows.
    pub leaves_in_ms: Option<u64>,
    /// The life before this one under the same nanny, and how it ended.
    pub predecessor: Option<(Incarnation, String)>,
    /// Results it holds: run, family, element, bytes. (Used once workers can come back with their data.)
    pub holds: Vec<(RunUuid, FamilyIx, u32, u64)>,
}

/// The scheduler takes a worker in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Its id in this epoch.
    pub worker: WorkerId,
    /// How often this cluster's scheduler has been started.
    pub epoch: u32,
    /// The cluster's id.
    pub cluster: String,
    /// Pause between heartbeats, milliseconds.
    pub heartbeat_ms: u64,
}

/// Figures of a worker, sent at intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Attempts executing.
    pub executing: u32,
    /// Bytes of results held.
    pub managed: u64,
    /// Bytes of results that are on disk.
    pub spilled: u64,
    /// Bytes of memory that are not results: of the worker and of every process under it.
    pub unmanaged: u64,
    /// Of these, bytes that are kept for the next results: they are given up when anything else wants them.
    pub kept: u64,
    /// Resident bytes of the worker process.
    pub process: u64,
    /// CPU seconds of the worker process and its tasks, those included that have not ended.
    pub cpu_seconds: f64,
    /// Bytes fetched from other workers.
    pub bytes_in: u64,
    /// Bytes served to workers and clients.
    pub bytes_out: u64,
    /// The most bytes of results in memory so far.
    pub peak_managed: u64,
    /// The most bytes of results in memory and everything else so far.
    pub peak_total: u64,
    /// Bytes of results written to disk so far, those included that are gone.
    pub spill_written: u64,
    /// Of these, bytes of results that were fetched from workers that have them.
    pub spill_copied: u64,
    /// Seconds so far in which no task could start for want of memory.
    pub paused_seconds: f64,
    /// Seconds so far in which results were written to disk.
    pub spill_write_seconds: f64,
    /// Bytes of results read back from disk so far.
    pub spill_read: u64,
    /// Seconds so far in which they were.
    pub spill_read_seconds: f64,
    /// Executor processes so far: started, replaced because they had grown, died of a task.
    pub executors: (u64, u64, u64),
    /// Seconds of its slots so far in which tasks executed.
    pub compute_seconds: f64,
    /// Seconds so far in which inputs were fetched, summed over the fetches.
    pub fetch_seconds: f64,
    /// Seconds of its slots so far that had a task which waited for inputs, for room or to be begun.
    pub wait_seconds: f64,
    /// Bytes of the network that the host has received and sent since it started, of all programs.
    pub host_network: (u64, u64),
}

/// Families that tasks to come belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Families {
    /// Their run.
    pub run: RunId,
    /// The run's identity.
    pub uuid: RunUuid,
    /// The families.
    pub families: Vec<FamilyInfo>,
}

/// What a worker needs to know of a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FamilyInfo {
    /// Which one.
    pub family: FamilyIx,
    /// What its elements execute.
    pub spec: TaskSpec,
    /// The values of its elements where they follow from the index; lists travel with the tasks.
    pub items: Items,
    /// Its elements, if known, and the fan-in if it is a tree: for the text of keys.
    pub shape: Option<Shape>,
    /// The fan-in if the family is a tree.
    pub fan_in: Option<u32>,
    /// Files that the worker writes from the results: named output (stdout if none), path template, whether
    /// empty results are skipped.
    pub writes: Vec<(Option<String>, String, bool)>,
}

/// Tasks, as the scheduler numbers them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// The tasks.
    pub tasks: Vec<TaskRef>,
}

/// Attempts at tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempts {
    /// The attempts.
    pub attempts: Vec<(TaskRef, Attempt)>,
}

/// Results to copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replicate {
    /// Which, and their sizes.
    pub tasks: Vec<(TaskRef, u64)>,
    /// From whom.
    pub from: WorkerId,
}

/// Results to write for a later run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Save {
    /// Which, their families and elements, and how long it would take to make each again, milliseconds.
    pub tasks: Vec<(TaskRef, FamilyIx, u32, u64)>,
}

/// Addresses of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Id and address.
    pub peers: Vec<(WorkerId, String)>,
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForgetRun {
    /// The run.
    pub run: RunId,
}

impl Payload for Register {}
impl Payload for Registered {}
impl Payload for Heartbeat {}
impl Payload for Families {}
impl Payload for Tasks {}
impl Payload for Attempts {}
impl Payload for Replicate {}
impl Payload for Save {}
impl Payload for Peers {}
impl Payload for ForgetRun {}
