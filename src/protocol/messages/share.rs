//! What sessions share by name: locks, semaphores, events, variables, queues, published results. Owns what is
//! asked and answered; what it means is the scheduler's (`scheduler::shared`). `docs/protocol.md` describes
//! it for other languages.

use crate::base::ids::RunUuid;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a name is the name of. Each kind has names of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// One holder at a time.
    Lock,
    /// `limit` holders at a time.
    Semaphore,
    /// Set or not.
    Event,
    /// One value.
    Variable,
    /// Values, first in, first out; `limit` of them at most, if given.
    Queue,
    /// One value, published until it is deleted.
    Dataset,
    /// The session itself.
    Session,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verb {
    /// Lock, Semaphore: hold it. Waits.
    Acquire,
    /// Lock, Semaphore: do not hold it any more.
    Release,
    /// Event: set it. Variable, Dataset: give it this value, whatever it had.
    Set,
    /// Event: not set any more.
    Clear,
    /// Event: until it is set. Waits.
    Wait,
    /// Queue: append a value; waits while it is full. Dataset: publish, if there is none of this name.
    Put,
    /// Variable: its value; waits for one. Queue: take the first value; waits for one. Dataset: its value.
    Get,
    /// Variable, Queue, Dataset: what it had is dropped.
    Delete,
    /// Holders, values, or whether it is set.
    Count,
    /// Dataset: all names.
    List,
    /// Session: what it holds ends with this connection, not with the session.
    Bind,
    /// Session: what request `limit` waits for is not wanted any more; if it still waits, its time is over.
    Withdraw,
    /// Session: nothing, but for `heard`.
    Heard,
}

/// A request about something shared, answered by `Shared` with the same number. After a reconnection it is
/// sent again with the same number, and is carried out once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Counts the session's requests, from 1.
    pub id: u32,
    /// Answers that have been heard and were not named here before. They are not given again.
    pub heard: Vec<u32>,
    /// What.
    pub kind: Kind,
    /// To do.
    pub verb: Verb,
    /// Its name.
    pub name: String,
    /// Who within the session.
    pub owner: String,
    /// Holders of a semaphore, values in a queue, the number of a request.
    pub limit: Option<u32>,
    /// Waits no longer than this, milliseconds; 0 for not at all.
    pub timeout_ms: Option<u64>,
    /// Results that must be kept as long as the value is there.
    pub tasks: Vec<(RunUuid, u32)>,
    /// The value, opaque.
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(Share);

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The time was over before.
    TimedOut,
    /// There is none of this name.
    Missing,
    /// It is not done, and why.
    Refused(String),
    /// A number.
    Number(u64),
    /// A value, in the body, and the results that it needs. They are kept until the answer is heard.
    Value(Vec<(RunUuid, u32)>),
    /// Names.
    Names(Vec<String>),
}

/// The answer to `Share`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// The request's number.
    pub id: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// The value.
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(Shared);
