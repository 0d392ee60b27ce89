//! What happened to a worker's tasks since its last report; the frequent kinds as columns.

use crate::base::failure::Failure;
use crate::base::ids::{Attempt, RunId, TaskRef, WorkerId};
use crate::protocol::columns::{ColumnReader, ColumnWriter};
use crate::protocol::framing::FrameError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A report, packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch of the attempts in the columns.
    epoch: u32,
    rare: Rare,
    #[serde(skip)]
    body: Bytes,
}
crate::payload_with_body!(Report);

/// Inputs that could not be fetched, and the workers that did not have them.
pub type Holes = Vec<(TaskRef, WorkerId)>;

/// The kinds of news that are rare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rare {
    /// Attempts that failed.
    pub failed: Vec<(TaskRef, Attempt, Failure)>,
    /// Attempts whose inputs could not be fetched: the inputs, and where they were not.
    pub missing: Vec<(TaskRef, Attempt, Holes)>,
    /// Attempts handed back.
    pub returned: Vec<(TaskRef, Attempt)>,
    /// Attempts that could not be handed back.
    pub kept: Vec<(TaskRef, Attempt)>,
    /// Copies asked for that could not be had.
    pub uncopied: Vec<(TaskRef, WorkerId)>,
    /// Results that clients have brought, and their bytes.
    pub stored: Vec<(TaskRef, u64)>,
    /// Of the tasks that succeeded, those whose results cannot leave the worker.
    pub pinned: Vec<TaskRef>,
    /// Attempts that wait for other tasks and have given their slots away (true), or go on.
    pub away: Vec<(TaskRef, Attempt, bool)>,
    /// Whether the worker is paused, if that changed.
    pub paused: Option<bool>,
}

/// The same, unpacked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Attempts that execute.
    pub started: Vec<(TaskRef, Attempt)>,
    /// Attempts that succeeded: size of the result, nanoseconds of execution.
    pub finished: Vec<(TaskRef, Attempt, u64, u64)>,
    /// Results that are here now too.
    pub replicas: Vec<TaskRef>,
    /// The rest.
    pub rare: Rare,
}

impl Report {
    /// Packs a report. Attempts that began or succeeded are all of `epoch`.
    pub fn pack(epoch: u32, news: News) -> Report {
        let mut w = ColumnWriter::new();
        push_tasks(&mut w, news.started.iter().map(|s| s.0));
        w.push(&news.started.iter().map(|s| s.1.n).collect::<Vec<u32>>());
        push_tasks(&mut w, news.finished.iter().map(|f| f.0));
        w.push(&news.finished.iter().map(|f| f.1.n).collect::<Vec<u32>>());
        w.push(&news.finished.iter().map(|f| f.2).collect::<Vec<u64>>());
        w.push(&news.finished.iter().map(|f| f.3).collect::<Vec<u64>>());
        push_tasks(&mut w, news.replicas.iter().copied());
        Report { epoch, rare: news.rare, body: w.finish() }
    }

    /// Unpacks and checks.
    pub fn unpack(self) -> Result<News, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let attempt = |n| Attempt { epoch: self.epoch, n };
        let tasks = next_tasks(&mut r)?;
        let n = r.column_of::<u32>(tasks.len())?;
        let started = tasks.into_iter().zip(n).map(|(t, n)| (t, attempt(n))).collect();
        let tasks = next_tasks(&mut r)?;
        let n = r.column_of::<u32>(tasks.len())?;
        let nbytes = r.column_of::<u64>(tasks.len())?;
        let ns = r.column_of::<u64>(tasks.len())?;
        let finished = (0..tasks.len()).map(|k| (tasks[k], attempt(n[k]), nbytes[k], ns[k])).collect();
        let replicas = next_tasks(&mut r)?;
        r.finish()?;
        Ok(News { started, finished, replicas, rare: self.rare })
    }
}

fn push_tasks(w: &mut ColumnWriter, tasks: impl Iterator<Item = TaskRef> + Clone) {
    w.push(&tasks.clone().map(|t| t.run.0).collect::<Vec<u32>>());
    w.push(&tasks.map(|t| t.index).collect::<Vec<u32>>());
}

fn next_tasks(r: &mut ColumnReader<'_>) -> Result<Vec<TaskRef>, FrameError> {
    let run = r.column::<u32>()?;
    let index = r.column_of::<u32>(run.len())?;
    Ok(run.into_iter().zip(index).map(|(run, index)| TaskRef { run: RunId(run), index }).collect())
}
