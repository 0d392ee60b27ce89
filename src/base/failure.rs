//! Why an attempt at a task failed, in the words that reach the user. Made by executors and by the scheduler,
//! carried by every message about it. Owns no policy: who retries is the scheduler's business.

use crate::base::units::ByteSize;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What ended an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The process exited with a code that is not among the accepted ones.
    Exit(i32),
    /// The process was ended by a signal.
    Signal(i32),
    /// The program could not be started.
    Spawn(String),
    /// Something that has to be done before the start failed: inputs, directories, the environment's setup.
    Prepare(String),
    /// It ran longer than its time limit (milliseconds).
    TimeLimit(u64),
    /// Its captured output grew beyond the limit (bytes).
    OutputTooLarge(u64),
    /// A named output was not there afterwards.
    MissingOutput(String),
    /// A native function returned an error or panicked.
    Native(String),
    /// A call raised an exception.
    Raised(Box<Raised>),
    /// It was cancelled.
    Cancelled,
    /// The workers that ran it were lost, each with the reason.
    WorkersLost(Vec<String>),
    /// Its inputs could not be had, again and again.
    Inputs(String),
    /// Something it depends on failed: that task's key.
    Dependency(String),
    /// No worker could ever run it.
    Impossible(String),
    /// It succeeded, but its result could not be kept or written.
    Result(String),
    /// It was ended because its worker ran out of memory.
    Memory(Box<Shortage>),
    /// It ran out of memory and is not tried again: what was tried, and why no more.
    Outgrown(Box<Outgrown>),
    /// It was ended because it took more memory than it had declared.
    Overrun(Overrun),
}

/// An exception of another language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Its type and message, on one line.
    pub summary: String,
    /// Its traceback as text.
    pub traceback: String,
    /// The exception itself for the client, opaque.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// A task for which no worker had memory enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgrown {
    /// The attempts that were ended for memory, oldest first.
    pub attempts: Vec<OutgrownAttempt>,
    /// Why there is no further one.
    pub end: NoMoreRoom,
}

/// One attempt of such a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgrownAttempt {
    /// The worker and its host, for people.
    pub at: String,
    /// Whether it had a worker to itself by order of the scheduler.
    pub alone: bool,
    /// How memory ran out.
    pub shortage: Shortage,
}

/// Why a task that ran out of memory is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoMoreRoom {
    /// It has had its attempt alone.
    Twice,
    /// It had its worker to itself, and no other has more memory.
    WasAlone,
    /// What it reached, and a margin, is more than the largest limit among the workers that could run it.
    BeyondAll {
        /// That limit, bytes.
        largest: u64,
    },
}

/// How a task went beyond its declared memory, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrun {
    /// What it had declared.
    pub declared: u64,
    /// The most that it was seen to occupy.
    pub reached: u64,
    /// How that was found.
    pub by: Enforced,
}

/// How a task's declared memory was enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforced {
    /// By the kernel: a control group of its own, all memory of its processes.
    Cgroup,
    /// By looking at the anonymous memory of its processes, so often a second.
    Watching(u32),
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes| ByteSize(bytes).to_string();
        let (declared, reached) = (size(self.declared), size(self.reached));
        write!(f, "ended for memory: it declared {declared} and reached {reached}, ")?;
        match self.by {
            Enforced::Cgroup => f.write_str("enforced by a control group of its own"),
            Enforced::Watching(times) => write!(f, "enforced by watching ({times} looks a second)"),
        }
    }
}

/// How memory ran out, all in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// What the task's processes occupied when it was ended.
    pub peak: u64,
    /// What it was expected to occupy; 0 if nothing was known.
    pub expected: u64,
    /// The worker's memory limit.
    pub limit: u64,
    /// Results that the worker held in memory.
    pub results: u64,
    /// The tasks that ran beside it, by key, and what they occupied; the largest few.
    pub neighbours: Vec<(String, u64)>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes| ByteSize(bytes).to_string();
        write!(f, "ended for memory: it occupied {}", size(self.peak))?;
        if self.expected > 0 {
            write!(f, " where {} were expected", size(self.expected))?;
        }
        write!(f, ", the worker's limit is {}, results took {}", size(self.limit), size(self.results))?;
        for (n, (key, bytes)) in self.neighbours.iter().enumerate() {
            write!(f, "{}{key} {}", if n == 0 { ", beside it ran " } else { ", " }, size(*bytes))?;
        }
        Ok(())
    }
}

impl fmt::Display for Outgrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, attempt) in self.attempts.iter().enumerate() {
            let between = if n == 0 { "" } else { "; then, " };
            let alone = if attempt.alone { "alone " } else { "" };
            write!(f, "{between}{alone}on {}: {}", attempt.at, attempt.shortage)?;
        }
        match self.end {
            NoMoreRoom::Twice => Ok(()),
            NoMoreRoom::WasAlone => {
                f.write_str("; not tried again: it had the worker to itself, and no other has more room")
            }
            NoMoreRoom::BeyondAll { largest } => {
                let largest = ByteSize(largest);
                write!(f, "; not tried again: no worker has more room, the largest limit is {largest}")
            }
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What ended it.
    pub kind: FailureKind,
    /// The command as it was run, shortened.
    pub command: String,
    /// The last lines of its stderr, lossily decoded.
    pub stderr_tail: String,
    /// The short reason it left in `$HPCDAG_ERROR_FILE`.
    pub reason: Option<String>,
}

impl Failure {
    /// A failure that has no command and no stderr.
    pub fn of(kind: FailureKind) -> Failure {
        Failure { kind, command: String::new(), stderr_tail: String::new(), reason: None }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Exit(code) => write!(f, "exit status {code}"),
            FailureKind::Signal(signal) => write!(f, "ended by signal {signal}"),
            FailureKind::Spawn(what) => write!(f, "could not be started: {what}"),
            FailureKind::Prepare(what) => write!(f, "could not be prepared: {what}"),
            FailureKind::TimeLimit(ms) => {
                write!(f, "ran longer than its time limit of {} s", *ms as f64 / 1e3)
            }
            FailureKind::OutputTooLarge(bytes) => write!(f, "its output grew beyond {bytes} bytes"),
            FailureKind::MissingOutput(name) => write!(f, "did not write its output {name}"),
            FailureKind::Native(what) => write!(f, "{what}"),
            FailureKind::Raised(raised) => f.write_str(&raised.summary),
            FailureKind::Cancelled => write!(f, "cancelled"),
            FailureKind::WorkersLost(reasons) => {
                write!(f, "took down {} workers: {}", reasons.len(), reasons.join("; "))
            }
            FailureKind::Inputs(what) => write!(f, "its inputs could not be had: {what}"),
            FailureKind::Dependency(key) => write!(f, "depends on {key}, which failed"),
            FailureKind::Impossible(what) => write!(f, "cannot run anywhere: {what}"),
            FailureKind::Result(what) => write!(f, "{what}"),
            FailureKind::Memory(shortage) => write!(f, "{shortage}"),
            FailureKind::Outgrown(outgrown) => write!(f, "{outgrown}"),
            FailureKind::Overrun(overrun) => write!(f, "{overrun}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        Ok(())
    }
}
