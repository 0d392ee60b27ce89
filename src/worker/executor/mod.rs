//! Running tasks. Owns the vocabulary: what a job is, how it ended, and the trait behind which commands and
//! native functions run. All of it is blocking code on slot threads (`pool`); inputs are put in place by
//! `prepare`, and when something runs is decided by the worker's core.

mod builtin;
pub mod cgroup;
pub mod command;
pub mod control;
pub mod native;
pub mod pool;
pub(in crate::worker) mod process;
pub mod processes;
pub(in crate::worker) mod program;
mod spawn;
mod streams;
pub mod variables;

use crate::base::failure::{Overrun, Raised, Shortage};
use crate::base::ids::{Attempt, TaskRef};
use crate::worker::store::data::TaskResult;
use control::Control;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Something that runs jobs of one kind on the calling thread until they have ended.
pub trait Executor<J>: Send + Sync {
    /// Runs a job. Returns soon after `control` asks for the end.
    fn run(&self, job: J, control: &Control) -> Outcome;

    /// Which short jobs may be run by one `run_all`: those for which this is the same.
    fn together(&self, _job: &J) -> Option<(usize, u32)> {
        None
    }

    /// Runs jobs one after the other. `tell` hears what becomes of them; those that are returned, with their
    /// positions, are to be run alone: they could not be begun, or went down with another.
    fn run_all(
        &self,
        jobs: Vec<J>,
        controls: &[Arc<Control>],
        tell: &mut dyn FnMut(Told<J>),
    ) -> Vec<(usize, J)> {
        for (place, (job, control)) in jobs.into_iter().zip(controls).enumerate() {
            tell(Told::Ended(vec![(place, self.run(job, control))]));
        }
        Vec::new()
    }
}

/// What becomes of jobs that run together, by position.
#[derive(Debug)]
pub enum Told<J> {
    /// How some have ended.
    Ended(Vec<(usize, Outcome)>),
    /// Some have not begun and need not wait for the one that runs, which takes long.
    Unbegun(Vec<(usize, J)>),
}

/// A job that a pool can tell from others.
pub trait Identified {
    /// The task and the attempt at it.
    fn id(&self) -> (TaskRef, Attempt);

    /// Whether it is expected to be so short that news of what ended before it may wait for it.
    fn is_short(&self) -> bool {
        false
    }

    /// It has turned out that it may be long.
    fn set_long(&mut self) {}
}

/// How a job ended, and what it took.
#[derive(Debug)]
pub struct Outcome {
    /// What it made, or why it did not.
    pub result: Result<TaskResult, Failure>,
    /// When it started.
    pub started: SystemTime,
    /// Time from start to end.
    pub wall: Duration,
    /// User and system time of the process and its descendants, or of the thread.
    pub cpu: Duration,
    /// Largest resident size of any one of its processes, bytes; 0 for native functions, which share the
    /// worker's.
    pub max_rss_bytes: u64,
    /// Files beside their final places, to be published when the attempt is accepted; removed if it is not.
    pub unpublished: Vec<Unpublished>,
}

impl Outcome {
    /// The outcome of something that did not get to run.
    pub fn failed(failure: Failure) -> Outcome {
        Clock::start().outcome(Err(failure), Duration::ZERO, 0)
    }
}

/// Takes the times of an outcome.
pub(crate) struct Clock {
    started: SystemTime,
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { started: SystemTime::now(), origin: Instant::now() }
    }

    pub(crate) fn outcome(
        &self,
        result: Result<TaskResult, Failure>,
        cpu: Duration,
        max_rss_bytes: u64,
    ) -> Outcome {
        let wall = self.origin.elapsed();
        Outcome { result, started: self.started, wall, cpu, max_rss_bytes, unpublished: Vec::new() }
    }
}

/// Why a task failed, as far as its user wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// The command as a shell would take it, cut if long; a native function's name.
    pub command: String,
    /// The last lines of its stderr, 4 KiB at most.
    #[serde(with = "serde_bytes")]
    pub stderr_tail: Vec<u8>,
    /// What the task left in `$HPCDAG_ERROR_FILE`, or why it was ended.
    pub reason: Option<String>,
}

impl Failure {
    /// A failure of which only the kind is known.
    pub fn new(kind: FailureKind) -> Failure {
        Failure { kind, command: String::new(), stderr_tail: Vec::new(), reason: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// What happened to a task that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Its process ended with this exit status.
    Exit(i32),
    /// Its process was ended by this signal, not by us.
    Signal(i32),
    /// Its process could not be started.
    Spawn(String),
    /// Its inputs, directory or environment could not be set up.
    Prepare(String),
    /// An input that was here when it was handed over is not any more.
    Inputs(String),
    /// It ran longer than it may.
    TimeLimit,
    /// It printed more than `max-output`.
    OutputTooLarge,
    /// Its function returned this error or panicked.
    Native(String),
    /// The call raised an exception.
    Raised(Box<Raised>),
    /// It was told to stop.
    Cancelled,
    /// It succeeded but did not make this output.
    MissingOutput(String),
    /// Its result could not be kept.
    Result(String),
    /// It was ended because memory ran out.
    Memory(Box<Shortage>),
    /// It was ended because it took more memory than it had declared.
    Overrun(Overrun),
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Exit(code) => write!(f, "exit status {code}"),
            FailureKind::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            FailureKind::Spawn(message)
            | FailureKind::Prepare(message)
            | FailureKind::Inputs(message)
            | FailureKind::Native(message)
            | FailureKind::MissingOutput(message)
            | FailureKind::Result(message) => f.write_str(message),
            FailureKind::TimeLimit => f.write_str("its time limit is over"),
            FailureKind::OutputTooLarge => f.write_str("it printed more than max-output allows"),
            FailureKind::Raised(raised) => f.write_str(&raised.summary),
            FailureKind::Cancelled => f.write_str("cancelled"),
            FailureKind::Memory(shortage) => write!(f, "{shortage}"),
            FailureKind::Overrun(overrun) => write!(f, "{overrun}"),
        }
    }
}

/// A file (or directory) made beside its final place. Dropped unpublished, it is removed.
#[derive(Debug)]
pub struct Unpublished {
    temporary: std::path::PathBuf,
    path: std::path::PathBuf,
    published: bool,
}

impl Unpublished {
    /// What a task has made at `temporary` and is meant to be at `path`, in the same directory.
    pub fn new(temporary: std::path::PathBuf, path: std::path::PathBuf) -> Unpublished {
        Unpublished { temporary, path, published: false }
    }

    /// Where it is now.
    pub fn temporary(&self) -> &std::path::Path {
        &self.temporary
    }

    /// Moves it to its final place, replacing what is there; size and time of change stay.
    pub fn publish(mut self) -> std::io::Result<()> {
        if self.temporary.is_dir() && self.path.is_dir() {
            // A directory cannot replace one that is not empty: move the old one aside first.
            let mut old = self.temporary.clone().into_os_string();
            old.push(".old");
            std::fs::rename(&self.path, &old)?;
            std::fs::rename(&self.temporary, &self.path)?;
            self.published = true;
            return std::fs::remove_dir_all(&old);
        }
        std::fs::rename(&self.temporary, &self.path)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // Nothing is lost if these fail: the attempt does not count, and often there is no file at all.
        if std::fs::remove_file(&self.temporary).is_err() && self.temporary.is_dir() {
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_well_and_travel() {
        let mut failure = Failure::new(FailureKind::Signal(11));
        assert_eq!(failure.to_string(), "killed by SIGSEGV");
        failure.reason = Some("out of luck".into());
        failure.stderr_tail = vec![0xff, 1];
        assert_eq!(failure.to_string(), "killed by SIGSEGV: out of luck");
        let bytes = rmp_serde::to_vec(&failure).unwrap();
        assert_eq!(rmp_serde::from_slice::<Failure>(&bytes).unwrap(), failure);
    }

    #[test]
    fn publishing_replaces_files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), "old").unwrap();
        std::fs::write(at(".a"), "new").unwrap();
        Unpublished::new(at(".a"), at("a")).publish().unwrap();
        assert_eq!(std::fs::read(at("a")).unwrap(), b"new");
        for (name, content) in [("d", "old"), (".d", "new")] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("x"), content).unwrap();
        }
        Unpublished::new(at(".d"), at("d")).publish().unwrap();
        assert_eq!(std::fs::read(at("d").join("x")).unwrap(), b"new");
        std::fs::write(at(".a"), "orphan").unwrap();
        drop(Unpublished::new(at(".a"), at("a")));
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
