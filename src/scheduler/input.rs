//! What sessions tell the driver, and what the driver orders of sessions. Plain data; both sides of the
//! queues between them. Wire messages are turned into these by the sessions.

use super::core::action::{Batch, Output};
use super::core::event::{Report, RunSpec};
use super::link::Link;
use super::sessions::calls::{CallInfo, CallSubmission};
use crate::base::ids::{ClientId, FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::Packed;
use crate::graph::layer::Shape;
use crate::protocol::messages::calls::Prepare;
use crate::protocol::messages::client::{Hello, Question, ToClient};
use crate::protocol::messages::look::{LastWords, Looked, Span};
use crate::protocol::messages::share::Share;
use crate::protocol::messages::worker::{Heartbeat, Register, ToWorker};
use crate::protocol::profile::Profile;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The driver's end of a worker's session.
pub type WorkerLink = Link<WorkerOrder, ToWorker>;

/// The driver's end of a client's session.
pub type ClientLink = Link<ClientOrder, ToClient>;

/// Files that workers write from a family's results: named output (stdout if none), path template, whether
/// empty results are skipped.
pub type Writes = BTreeMap<FamilyIx, Vec<(Option<String>, String, bool)>>;

/// What workers tell for those who look; nothing that is decided depends on it.
#[derive(Debug)]
pub enum Seen {
    /// Rectangles of the task stream.
    Spans {
        /// Which.
        spans: Vec<Span>,
        /// What the worker's clock showed when it sent them: nanoseconds since 1970.
        now_ns: u64,
        /// How many were left out.
        left_out: u64,
    },
    /// The answer to a question that a viewer asked.
    Looked(Looked),
    /// What is left of it, or of the life before, and where time has gone there.
    LastWords(Box<LastWords>, Option<Box<Profile>>),
}

/// What sessions tell the driver.
#[derive(Debug)]
pub enum Input {
    /// A worker has registered; the answer is its id. No answer: the cluster ends.
    WorkerJoined {
        /// What it said.
        register: Box<Register>,
        /// How to reach it.
        link: WorkerLink,
        /// Where its id goes.
        reply: oneshot::Sender<WorkerId>,
    },
    /// What a worker reports.
    Report {
        /// Which.
        worker: WorkerId,
        /// The report.
        report: Report,
    },
    /// A worker is alive.
    Heartbeat {
        /// Which.
        worker: WorkerId,
        /// Its figures.
        figures: Heartbeat,
    },
    /// A worker tells something for those who look.
    Seen {
        /// Which.
        worker: WorkerId,
        /// What.
        seen: Seen,
    },
    /// A worker wants to leave in order.
    Retiring {
        /// Which.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A worker's connection has ended.
    WorkerGone {
        /// Which.
        worker: WorkerId,
        /// Why.
        reason: String,
        /// Whether it said goodbye.
        announced: bool,
    },
    /// A client has introduced itself; the answer is its id and the number of this connection of it.
    ClientJoined {
        /// What it said.
        hello: Box<Hello>,
        /// How to reach it.
        link: ClientLink,
        /// Where its id goes.
        reply: oneshot::Sender<(ClientId, u64)>,
    },
    /// A client's connection has ended.
    ClientGone {
        /// Which.
        client: ClientId,
        /// Which of its connections.
        connection: u64,
        /// Why.
        reason: String,
    },
    /// A client submits a graph, which its session has checked.
    Submit {
        /// Who.
        client: ClientId,
        /// What.
        submission: Box<Submission>,
    },
    /// A client watches a run.
    Watch {
        /// Who.
        client: ClientId,
        /// What.
        run: RunUuid,
    },
    /// A client cancels a run.
    Cancel {
        /// What.
        run: RunUuid,
        /// Why.
        reason: String,
    },
    /// A client does not need a run any more.
    Forget {
        /// What.
        run: RunUuid,
    },
    /// A client has these outputs.
    OutputsTaken {
        /// Which.
        tasks: Vec<TaskRef>,
    },
    /// A client could not get an output.
    OutputMissing {
        /// Which.
        task: TaskRef,
        /// From whom.
        holder: WorkerId,
    },
    /// A client asks for something that sessions share.
    Share {
        /// Who.
        client: ClientId,
        /// What.
        share: Box<Share>,
    },
    /// A client submits a run of calls, which its session has checked.
    Calls {
        /// Who.
        client: ClientId,
        /// What.
        submission: Box<CallSubmission>,
    },
    /// A client wants something done with single calls.
    Single {
        /// Who.
        client: ClientId,
        /// What.
        what: Single,
        /// Their run.
        run: RunUuid,
        /// Their numbers in the run as clients count.
        tasks: Vec<u32>,
    },
    /// A client says what its calls will need.
    Prepare {
        /// Who.
        client: ClientId,
        /// What.
        prepare: Box<Prepare>,
    },
    /// A client will not come back.
    Leave {
        /// Who.
        client: ClientId,
    },
    /// A client asks something.
    Ask {
        /// Who.
        client: ClientId,
        /// The number that the answer carries.
        id: u32,
        /// What.
        question: Question,
    },
}

/// What can be done with single calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// Their results are wanted.
    Want,
    /// Their results are not wanted any more.
    Release,
    /// Their results are not wanted any more once each has ended.
    ReleaseLater,
    /// They are not to be run.
    Cancel,
    /// They have failed and are to be tried again.
    Retry,
}

/// A graph that was checked and can be run.
#[derive(Debug)]
pub struct Submission {
    /// The graph.
    pub graph: Arc<Packed>,
    /// What scheduling needs of it.
    pub spec: RunSpec,
    /// What workers write.
    pub writes: Writes,
    /// Starts only when so many workers are connected.
    pub wait_workers: u32,
    /// Number of tasks as far as known.
    pub tasks: u64,
}

/// What sessions need to know of a run.
#[derive(Debug)]
pub struct RunInfo {
    /// Its number.
    pub run: RunId,
    /// Its identity.
    pub uuid: RunUuid,
    /// Its graph.
    pub graph: Arc<Packed>,
    /// What workers write.
    pub writes: Writes,
    /// What workers are told of a run of calls instead.
    pub calls: Option<CallInfo>,
}

/// What the driver orders of a worker's session.
#[derive(Debug)]
pub enum WorkerOrder {
    /// Send what the worker needs to know of these families.
    Families {
        /// Their run.
        run: Arc<RunInfo>,
        /// The families, and their shapes if known.
        families: Vec<(FamilyIx, Option<Shape>)>,
    },
    /// Send what the worker needs to know of a run of calls.
    CallRun {
        /// The run.
        run: Arc<RunInfo>,
    },
    /// Send a batch of calls.
    CallBatch {
        /// Their run.
        run: Arc<RunInfo>,
        /// Which of its batches.
        batch: usize,
    },
    /// Send tasks.
    Compute {
        /// The tasks.
        batch: Batch,
        /// Their runs.
        runs: Vec<Arc<RunInfo>>,
    },
    /// Send this.
    Message(ToWorker),
    /// Send this, if anything, and end the connection.
    End(Option<ToWorker>),
}

/// What the driver orders of a client's session.
#[derive(Debug)]
pub enum ClientOrder {
    /// Announce outputs.
    Outputs {
        /// Their run.
        run: Arc<RunInfo>,
        /// The outputs, each with its family's shape.
        outputs: Vec<(Output, Shape)>,
        /// Addresses of the holders.
        peers: Vec<(WorkerId, String)>,
    },
    /// Send this.
    Message(ToClient),
    /// Answer a question with JSON that is not made yet.
    Answer {
        /// The question's number.
        id: u32,
        /// Makes it. That may take a while, and is done where others do not wait for it.
        json: MadeLater,
    },
    /// Send this and end the connection.
    End(ToClient),
}

/// JSON that is made by who sends it.
pub struct MadeLater(pub Box<dyn FnOnce() -> serde_json::Value + Send>);

impl std::fmt::Debug for MadeLater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MadeLater")
    }
}
