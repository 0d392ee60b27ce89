//! Between clients and the scheduler.

use super::calls::{Calls, CallsDone, CallsFailed, Prepare, RunTasks};
use super::look::View;
use super::share::{Share, Shared};
use crate::base::ids::{FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::Packed;
use crate::protocol::wire::Payload;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

crate::messages! {
    /// What a client says to the scheduler.
    #[derive(Clone, Debug, PartialEq)]
    pub enum FromClient {
        /// The first message.
        1 => Hello(Hello),
        /// Run a graph.
        2 => Submit(Submit),
        /// Tell me about a run, and give me its outputs.
        3 => Watch(RunNamed),
        /// Cancel a run.
        4 => Cancel(RunNamed),
        /// Forget a finished run and what it still keeps.
        5 => Forget(RunNamed),
        /// I have these outputs.
        6 => OutputsTaken(Tasks),
        /// I could not get this output there.
        7 => OutputMissing(OutputMissing),
        /// A question, answered by `Answer` with the same number.
        8 => Ask(Ask),
        /// Nothing, to show that I am there.
        9 => Ping(Empty),
        /// A piece of a run of calls.
        10 => Calls(Calls),
        /// Results of calls that I do not need any more.
        11 => Release(RunTasks),
        /// Results of calls that I need, of whoever's run: `CallsDone` or `CallsFailed` tell.
        12 => Want(RunTasks),
        /// Calls that are not to be run, nor what depends on them.
        13 => CancelCalls(RunTasks),
        /// Failed calls that are to be tried again, with those that failed because of them.
        14 => RetryCalls(RunTasks),
        /// I will not come back: the session is over.
        15 => Leave(Empty),
        /// Something about locks, variables, queues and the like, answered by `Shared` with the same number.
        16 => Share(Share),
        /// What calls to come will need: workers may make it ready.
        17 => Prepare(Prepare),
    }
    retired: []
}

crate::messages! {
    /// What the scheduler says to a client.
    #[derive(Clone, Debug, PartialEq)]
    pub enum ToClient {
        /// The answer to `Hello`.
        1 => Welcome(Welcome),
        /// The client is not let in, or what it said makes no sense; the connection ends.
        2 => Refused(Reason),
        /// A graph was accepted (again, if it was known).
        3 => Accepted(Accepted),
        /// A graph was not accepted.
        4 => Rejected(Rejected),
        /// How far a watched run is.
        5 => Progress(Progress),
        /// Outputs that can be fetched.
        6 => Outputs(Outputs),
        /// A watched run is over.
        7 => RunDone(RunDone),
        /// The answer to a question.
        8 => Answer(Answer),
        /// The cluster ends.
        9 => Stopping(Reason),
        /// The answer to `Ping`.
        10 => Pong(Empty),
        /// Results of calls that can be fetched; they are kept until `Release`.
        11 => CallsDone(CallsDone),
        /// Calls that will have no result.
        12 => CallsFailed(CallsFailed),
        /// Results of calls that were lost and are being made again.
        13 => CallsLost(RunTasks),
        /// The answer to `Share`.
        14 => Shared(Shared),
    }
    retired: []
}

/// Nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Empty {}

/// A reason in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The words.
    pub reason: String,
}

/// A client introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol it speaks.
    pub protocol_min: u32,
    /// The newest protocol it speaks.
    pub protocol_max: u32,
    /// Version of the program, for messages to people.
    pub version: String,
    /// Its session: chosen by the client, the same after a reconnection.
    pub session: uuid::Uuid,
    /// Host it runs on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Whether it only looks: it keeps nothing alive and may ask nothing that changes anything.
    #[serde(default)]
    pub looks_only: bool,
}

/// The scheduler greets a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol that is spoken from now on.
    pub protocol: u32,
    /// The scheduler's version.
    pub version: String,
    /// The cluster's id.
    pub cluster: String,
    /// How often this cluster's scheduler has been started.
    pub epoch: u32,
}

/// A graph to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    /// The run's identity, chosen by the client: the same graph sent twice is the same run.
    pub run: RunUuid,
    /// The graph.
    pub graph: Arc<Packed>,
    /// Goes on when the client is gone; outputs not written by workers are kept until somebody takes them.
    pub detached: bool,
    /// Cancel the rest after so many failed tasks.
    pub max_fails: Option<u32>,
    /// Start only when so many workers are connected.
    pub wait_workers: u32,
    /// Hand out no more than so many of its tasks at a time.
    pub max_processing: Option<u32>,
}

/// Names a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunNamed {
    /// The run.
    pub run: RunUuid,
    /// Why, where that matters.
    pub reason: String,
}

/// Tasks, as the scheduler numbers them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// The tasks.
    pub tasks: Vec<TaskRef>,
}

/// An output was not where it should have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputMissing {
    /// The task.
    pub task: TaskRef,
    /// The worker that was asked.
    pub holder: WorkerId,
}

/// A graph was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The run.
    pub run: RunUuid,
    /// Its number in this scheduler.
    pub id: RunId,
    /// Number of tasks known so far.
    pub tasks: u64,
    /// Of a run of calls: what workers know its first task by; the others follow.
    pub first: u32,
}

/// A graph was not accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// The run.
    pub run: RunUuid,
    /// Why.
    pub reason: String,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The run.
    pub run: RunUuid,
    /// Tasks known so far.
    pub total: u64,
    /// Whether more may come.
    pub growing: bool,
    /// Tasks done.
    pub done: u64,
    /// Tasks handed to workers.
    pub processing: u64,
    /// Tasks ready and waiting for a worker, or for a retry.
    pub queued: u64,
    /// Tasks that wait for others.
    pub waiting: u64,
    /// Tasks failed, or skipped because of one.
    pub failed: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Outputs that nobody has taken yet.
    pub outputs: u64,
    /// Connected workers.
    pub workers: u32,
    /// Their threads, in 1/10,000.
    pub slots: u64,
    /// Why nothing of it runs although it could, if that is so.
    pub stuck: Option<String>,
}

/// Outputs that can be fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// The run.
    pub run: RunUuid,
    /// The outputs.
    pub outputs: Vec<OutputAt>,
    /// Addresses of the workers that hold them.
    pub peers: Vec<(WorkerId, String)>,
}

/// Where an output is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputAt {
    /// The task.
    pub task: TaskRef,
    /// Its key.
    pub key: String,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Position among the family's visible elements (a tree's only one has 0).
    pub index: u32,
    /// Size in bytes.
    pub nbytes: u64,
    /// Who has it.
    pub holders: Vec<WorkerId>,
}

/// A run is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDone {
    /// The run.
    pub run: RunUuid,
    /// Its figures.
    pub summary: Summary,
}

/// Figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Tasks that succeeded.
    pub done: u64,
    /// Tasks that failed themselves.
    pub failed: u64,
    /// Tasks that could not run because of a failure before them.
    pub skipped: u64,
    /// Tasks cancelled.
    pub cancelled: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Sum of execution times, seconds.
    pub task_seconds: f64,
    /// From submission to the end, seconds.
    pub wall_seconds: f64,
    /// Bytes of results made.
    pub bytes_made: u64,
    /// Bytes that workers fetched from one another.
    pub bytes_moved: u64,
    /// The first failed tasks.
    pub failures: Vec<FailedTask>,
    /// Why the run was cancelled, if it was.
    pub cancel_reason: Option<String>,
}

/// A failed task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedTask {
    /// Its key.
    pub key: String,
    /// Host of the last attempt.
    pub host: String,
    /// Attempts made.
    pub attempts: u32,
    /// Why the last one failed.
    pub failure: crate::base::failure::Failure,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Comes back in the answer.
    pub id: u32,
    /// What is asked.
    pub question: Question,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Workers, tasks by state, memory, runs.
    Status,
    /// Why is this task not running, or what became of it? In the newest run that has the key, or in one.
    Explain {
        /// The task's key.
        key: String,
        /// The run, if not the newest.
        run: Option<RunUuid>,
    },
    /// What happened to this task?
    Story {
        /// The task's key.
        key: String,
        /// The run, if not the newest.
        run: Option<RunUuid>,
    },
    /// Where is this task's result? Answered by an `OutputAt` and addresses as JSON.
    Locate {
        /// The task's key.
        key: String,
        /// The run, if not the newest.
        run: Option<RunUuid>,
    },
    /// Answer once so many workers are connected.
    WaitWorkers {
        /// How many.
        workers: u32,
        /// Give up after this time, milliseconds.
        timeout_ms: u64,
    },
    /// Answer once a run is over (all of them if none is named).
    WaitRun {
        /// The run.
        run: Option<RunUuid>,
        /// Give up after this time, milliseconds; 0 for never.
        timeout_ms: u64,
    },
    /// Retire these workers by name; all if empty.
    StopWorkers {
        /// Names.
        names: Vec<String>,
    },
    /// End the cluster: workers and scheduler.
    Stop,
    /// How much work could run now if there were room?
    Demand {
        /// Work for less time than this is not worth a place of its own, milliseconds.
        min_work_ms: u64,
    },
    /// How large are a run's results and how long do its tasks take, family by family? No names.
    Shape {
        /// The run.
        run: RunUuid,
        /// The first family that is asked about; the answer says where to go on.
        from: u32,
    },
    /// What those see who look.
    View(View),
}

/// The answer to a question: JSON text as `--json` prints it, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's number.
    pub id: u32,
    /// The answer, or a kind of error (`not-found`, `timeout`, `refused`) and words.
    pub result: Result<String, (String, String)>,
}

impl Payload for Empty {}
impl Payload for Reason {}
impl Payload for Hello {}
impl Payload for Welcome {}
impl Payload for Submit {}
impl Payload for RunNamed {}
impl Payload for Tasks {}
impl Payload for OutputMissing {}
impl Payload for Accepted {}
impl Payload for Rejected {}
impl Payload for Progress {}
impl Payload for Outputs {}
impl Payload for RunDone {}
impl Payload for Ask {}
impl Payload for Answer {}
