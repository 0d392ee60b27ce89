//! Runs of calls: tasks whose functions and arguments are opaque bytes to everybody but the executors that
//! run them. What a client sends (in pieces), what a worker is told, and what a client hears about single
//! tasks.

use crate::base::failure::Failure;
use crate::base::ids::{RunId, RunUuid, TaskRef, WorkerId};
use crate::protocol::columns::{ColumnReader, ColumnWriter};
use crate::protocol::framing::FrameError;
use crate::protocol::wire::Payload;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// In `deps`: the rest of the number is a place in the run's list of tasks of other runs.
pub const EXTERNAL: u32 = 1 << 31;

/// In `flags`: the client wants the result.
pub const WANTED: u8 = 1;

/// In `flags`: nobody computes the result, a client brings it to a worker (see `Put`).
pub const BROUGHT: u8 = 2;

/// Something that calls refer to by a number of bytes, and its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Code {
    /// Its identity, a hash.
    #[serde(with = "serde_bytes")]
    pub id: Vec<u8>,
    /// What it is, for executors.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// How calls are to be run. Amounts are in 1/10,000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallOptions {
    /// The larger, the sooner.
    pub priority: i32,
    /// Attempts beyond the first after failures.
    pub retries: u32,
    /// CPU slots.
    pub slots: u32,
    /// Named resources.
    pub resources: BTreeMap<String, u64>,
    /// Names, addresses or hosts of workers that may run it; any if empty.
    pub workers: Vec<String>,
    /// Whether others may if none of these is there.
    pub loose: bool,
    /// Private memory that it needs, bytes.
    pub memory: Option<u64>,
    /// Expected result, bytes.
    pub output_size: Option<u64>,
    /// Longest time of an attempt, milliseconds.
    pub time_limit_ms: Option<u64>,
}

/// One piece of a run of calls. Pieces come in order; the run begins after the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// The run's identity, chosen by the client.
    pub run: RunUuid,
    /// Number of the piece, from 0.
    pub piece: u32,
    /// Whether it is the last.
    pub last: bool,
    /// What people call the run; the beginning of keys that are not listed. Counts in the first piece.
    pub name: String,
    /// Whether all tasks are alike: one family, without dependencies, one option. Counts in the first piece.
    pub map: bool,
    /// What executors have to know first. Counts in the first piece.
    #[serde(with = "serde_bytes")]
    pub environment: Vec<u8>,
    /// Functions that batches refer to, beyond those of the pieces before.
    pub functions: Vec<Code>,
    /// Options, beyond those of the pieces before.
    pub options: Vec<CallOptions>,
    /// Tasks of other runs, beyond those of the pieces before.
    pub externals: Vec<(RunUuid, u32)>,
    /// The columns.
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(Calls);

/// The columns of a piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallColumns {
    /// Which of the run's options.
    pub option: Vec<u32>,
    /// `WANTED`, `BROUGHT`.
    pub flags: Vec<u8>,
    /// End of each task's dependencies in `deps`.
    pub deps_end: Vec<u32>,
    /// Numbers of tasks within the run, below their own; with `EXTERNAL`, places in `externals`.
    pub deps: Vec<u32>,
    /// End of each task's key in `keys`; empty if keys are made of the run's name and the task's number.
    pub keys_end: Vec<u32>,
    /// Keys, UTF-8.
    pub keys: Vec<u8>,
    /// End of each batch, in tasks of this piece.
    pub batch_end: Vec<u32>,
    /// End of each batch's bytes in `bytes`.
    pub bytes_end: Vec<u32>,
    /// Batches.
    pub bytes: Vec<u8>,
}

impl CallColumns {
    /// The body.
    pub fn pack(&self) -> Bytes {
        let mut w = ColumnWriter::new();
        w.push(&self.option).push(&self.flags).push(&self.deps_end).push(&self.deps).push(&self.keys_end);
        w.push(&self.keys).push(&self.batch_end).push(&self.bytes_end).push(&self.bytes);
        w.finish()
    }

    /// Reads and checks a body: columns of equal length, ends that ascend and fit.
    ///
    /// # Errors
    /// What is wrong.
    pub fn unpack(body: &[u8]) -> Result<CallColumns, FrameError> {
        let mut r = ColumnReader::new(body);
        let option = r.column::<u32>()?;
        let n = option.len();
        let flags = r.column_of::<u8>(n)?;
        let deps_end = r.column_of::<u32>(n)?;
        let deps = r.column::<u32>()?;
        let keys_end = r.column::<u32>()?;
        let keys = r.column::<u8>()?;
        let batch_end = r.column::<u32>()?;
        let bytes_end = r.column_of::<u32>(batch_end.len())?;
        let bytes = r.column::<u8>()?;
        r.finish()?;
        check_ends("dependencies", &deps_end, n, deps.len())?;
        check_ends("keys", &keys_end, if keys_end.is_empty() { 0 } else { n }, keys.len())?;
        check_ends("batches", &batch_end, batch_end.len(), n)?;
        check_ends("bytes of batches", &bytes_end, batch_end.len(), bytes.len())?;
        Ok(CallColumns { option, flags, deps_end, deps, keys_end, keys, batch_end, bytes_end, bytes })
    }
}

fn check_ends(what: &str, ends: &[u32], count: usize, n: usize) -> Result<(), FrameError> {
    let fits = ends.len() == count && ends.is_sorted();
    if fits && ends.last().map_or(n == 0, |&end| end as usize == n) {
        return Ok(());
    }
    Err(FrameError::Columns(format!("the ends of {what} do not fit {n} of them")))
}

/// Tasks of one run, by number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunTasks {
    /// The run.
    pub run: RunUuid,
    /// For `Release`: only once each has ended. Otherwise of no meaning.
    pub later: bool,
    /// Why, where that matters.
    pub reason: String,
    /// One column, u32.
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(RunTasks);

impl RunTasks {
    /// Names tasks.
    pub fn new(run: RunUuid, tasks: &[u32]) -> RunTasks {
        let mut w = ColumnWriter::new();
        w.push(tasks);
        RunTasks { run, later: false, reason: String::new(), body: w.finish() }
    }

    /// The tasks.
    ///
    /// # Errors
    /// What is wrong with the column.
    pub fn tasks(&self) -> Result<Vec<u32>, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let tasks = r.column::<u32>()?;
        r.finish()?;
        Ok(tasks)
    }
}

/// Results that can be fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallsDone {
    /// The run.
    pub run: RunUuid,
    /// Addresses of the workers that are named.
    pub peers: Vec<(WorkerId, String)>,
    /// Columns: task (u32), bytes (u64), worker (u32).
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(CallsDone);

impl CallsDone {
    /// Packs tasks, sizes and holders.
    pub fn pack(run: RunUuid, peers: Vec<(WorkerId, String)>, done: &[(u32, u64, WorkerId)]) -> CallsDone {
        let mut w = ColumnWriter::new();
        w.push(&done.iter().map(|d| d.0).collect::<Vec<u32>>());
        w.push(&done.iter().map(|d| d.1).collect::<Vec<u64>>());
        w.push(&done.iter().map(|d| d.2.0).collect::<Vec<u32>>());
        CallsDone { run, peers, body: w.finish() }
    }

    /// Unpacks them.
    ///
    /// # Errors
    /// What is wrong with the columns.
    pub fn unpack(&self) -> Result<Vec<(u32, u64, WorkerId)>, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let task = r.column::<u32>()?;
        let nbytes = r.column_of::<u64>(task.len())?;
        let worker = r.column_of::<u32>(task.len())?;
        r.finish()?;
        Ok((0..task.len()).map(|i| (task[i], nbytes[i], WorkerId(worker[i]))).collect())
    }
}

/// Tasks that will have no result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallsFailed {
    /// The run.
    pub run: RunUuid,
    /// The tasks.
    pub failed: Vec<FailedCall>,
}

/// A task that will have no result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedCall {
    /// Its number.
    pub task: u32,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// The key of the task that is to blame.
    pub key: String,
    /// Host of that task's last attempt.
    pub host: String,
    /// Its attempts.
    pub attempts: u32,
    /// Why it failed.
    pub failure: Failure,
}

/// What a worker has to know of a run of calls, before its first batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRun {
    /// The run.
    pub run: RunId,
    /// Its identity.
    pub uuid: RunUuid,
    /// Its name, and the beginning of keys that are not listed.
    pub name: String,
    /// What executors have to know first.
    #[serde(with = "serde_bytes")]
    pub environment: Vec<u8>,
    /// The functions that batches refer to.
    pub functions: Vec<Code>,
}

/// What a client's calls will need once they come. It is not promised that they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepare {
    /// What executors have to know first, as runs will have it; at most `PREPARED_BYTES_MAX`.
    #[serde(with = "serde_bytes")]
    pub environment: Vec<u8>,
    /// Modules that the client has imported since it made that.
    pub modules: Vec<String>,
}
impl Payload for Prepare {}

/// A larger environment, which has files in it, comes with the runs only.
pub const PREPARED_BYTES_MAX: usize = 64 << 10;

/// Modules that a worker is told of before calls come, at most.
pub const PREPARED_MODULES_MAX: usize = 64;

/// Tasks of such a run that came together, before the first of them is to be computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallBatch {
    /// The run.
    pub run: RunId,
    /// Number of the first task; the others follow.
    pub first: u32,
    /// Options of these tasks, each once.
    pub options: Vec<CallOptions>,
    /// Columns: option (u32, a place in `options`), end of the key (u32, empty if not listed), keys (u8),
    /// and the batch (u8).
    #[serde(skip)]
    pub body: Bytes,
}
crate::payload_with_body!(CallBatch);

/// The columns of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchColumns {
    /// Which of the options, one for each task.
    pub option: Vec<u32>,
    /// End of each task's key in `keys`; empty if keys are made of the run's name and the task's number.
    pub keys_end: Vec<u32>,
    /// Keys, UTF-8.
    pub keys: Vec<u8>,
    /// What executors read.
    pub bytes: Vec<u8>,
}

impl BatchColumns {
    /// The body.
    pub fn pack(&self) -> Bytes {
        let mut w = ColumnWriter::new();
        w.push(&self.option).push(&self.keys_end).push(&self.keys).push(&self.bytes);
        w.finish()
    }
}

impl CallBatch {
    /// Reads and checks the columns.
    ///
    /// # Errors
    /// What is wrong.
    pub fn columns(&self) -> Result<BatchColumns, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let option = r.column::<u32>()?;
        let keys_end = r.column::<u32>()?;
        let keys = r.column::<u8>()?;
        let bytes = r.column::<u8>()?;
        r.finish()?;
        check_ends("keys", &keys_end, if keys_end.is_empty() { 0 } else { option.len() }, keys.len())?;
        if option.iter().any(|o| *o as usize >= self.options.len()) {
            return Err(FrameError::Columns("an option that is not there".into()));
        }
        Ok(BatchColumns { option, keys_end, keys, bytes })
    }
}

/// A result that a client has brought to a worker, or a worker to the scheduler: task and bytes.
pub type Stored = (TaskRef, u64);

impl Payload for CallsFailed {}
impl Payload for CallRun {}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> CallColumns {
        CallColumns {
            option: vec![0, 1],
            flags: vec![WANTED, 0],
            deps_end: vec![0, 2],
            deps: vec![0, EXTERNAL],
            keys_end: vec![1, 3],
            keys: b"abc".to_vec(),
            batch_end: vec![2],
            bytes_end: vec![4],
            bytes: vec![1, 2, 3, 4],
        }
    }

    #[test]
    fn calls_survive_packing() {
        assert_eq!(CallColumns::unpack(&columns().pack()).unwrap(), columns());
        let nothing = CallColumns::default();
        assert_eq!(CallColumns::unpack(&nothing.pack()).unwrap(), nothing);
        let done = [(1, 1 << 40, WorkerId(3))];
        assert_eq!(CallsDone::pack(RunUuid::nil(), Vec::new(), &done).unpack().unwrap(), done);
        assert_eq!(RunTasks::new(RunUuid::nil(), &[5, 1]).tasks().unwrap(), [5, 1]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bad: [fn(&mut CallColumns); 7] = [
            |c| c.flags.clear(),
            |c| c.deps_end[1] = 1,
            |c| c.deps_end[0] = 3,
            |c| c.keys_end.truncate(1),
            |c| c.batch_end[0] = 1,
            |c| c.bytes_end.push(4),
            |c| c.bytes.clear(),
        ];
        for (at, spoil) in bad.iter().enumerate() {
            let mut columns = columns();
            spoil(&mut columns);
            assert!(CallColumns::unpack(&columns.pack()).is_err(), "{at}");
        }
    }
}
