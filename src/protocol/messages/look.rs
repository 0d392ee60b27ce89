//! What those say and ask who look at a cluster: views, rectangles of the task stream, logs and profiles.
//! Owns the fields and columns; what is in an answer is JSON, described in `docs/api.md`.

use crate::base::ids::{Incarnation, RunId, RunUuid, TaskRef};
use crate::protocol::columns::{ColumnReader, ColumnWriter};
use crate::protocol::framing::FrameError;
use crate::protocol::wire::Payload;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What can be looked at; each is answered by the JSON of the same name under `/api/v1` (`docs/api.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum View {
    /// Figures of the whole cluster, a bar for each worker, and what holds the work back.
    Overview,
    /// Groups of tasks (families, functions) with counts by state; of one run, or of all.
    Groups {
        /// The run.
        run: Option<RunUuid>,
    },
    /// Groups and how they depend on each other.
    Graph {
        /// The run.
        run: Option<RunUuid>,
    },
    /// Single tasks that match, in order of submission.
    Tasks(TaskFilter),
    /// What was measured over time.
    Series {
        /// Only what is newer: seconds since 1970.
        after: f64,
        /// Worker by worker too, not only the sums.
        workers: bool,
    },
    /// What happened: workers that came and went, runs, failures.
    Events {
        /// Only what has a higher number.
        after: u64,
        /// No more than so many, the newest.
        limit: u32,
    },
    /// Rectangles of the task stream.
    Spans {
        /// Only what has a higher number.
        after: u64,
        /// No more than so many, the newest.
        limit: u32,
        /// The run.
        run: Option<RunUuid>,
    },
    /// The scheduler's own time by kind of event.
    Timings,
    /// Stacks of Python tasks, merged.
    Profile {
        /// The run.
        run: Option<RunUuid>,
        /// The group.
        group: Option<String>,
        /// The worker, by name.
        worker: Option<String>,
    },
    /// What a task, a worker or the scheduler has printed.
    Logs {
        /// A task's key, a worker's name, or `scheduler`.
        of: String,
        /// The run, if it is a task's key.
        run: Option<RunUuid>,
        /// No more than so many bytes, the last.
        bytes: u64,
    },
}

/// Which tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskFilter {
    /// The run.
    pub run: Option<RunUuid>,
    /// The group.
    pub group: Option<String>,
    /// The state, by its name.
    pub state: Option<String>,
    /// The worker that has the task or its result, by name.
    pub worker: Option<String>,
    /// Part of the key.
    pub text: Option<String>,
    /// How many that match are passed over.
    pub skip: u64,
    /// No more than so many.
    pub limit: u32,
}

/// What a rectangle of the task stream shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SpanKind {
    /// A task that succeeded.
    #[default]
    Compute = 0,
    /// An attempt that failed.
    Failed = 1,
    /// Inputs fetched from another worker.
    Fetch = 2,
    /// Results written to disk.
    SpillWrite = 3,
    /// Results read back from disk.
    SpillRead = 4,
    /// A slot that waits for inputs or for room.
    Wait = 5,
    /// A task that has begun and not ended; the next message says anew which these are.
    Running = 6,
}

impl SpanKind {
    /// All, in the order of their numbers.
    pub const ALL: [SpanKind; 7] = [
        SpanKind::Compute,
        SpanKind::Failed,
        SpanKind::Fetch,
        SpanKind::SpillWrite,
        SpanKind::SpillRead,
        SpanKind::Wait,
        SpanKind::Running,
    ];

    /// The word for it in JSON.
    pub fn name(self) -> &'static str {
        match self {
            SpanKind::Compute => "compute",
            SpanKind::Failed => "failed",
            SpanKind::Fetch => "fetch",
            SpanKind::SpillWrite => "spill-write",
            SpanKind::SpillRead => "spill-read",
            SpanKind::Wait => "wait",
            SpanKind::Running => "running",
        }
    }
}

/// A rectangle of the task stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// What it shows.
    pub kind: SpanKind,
    /// Which row of the worker: slots first, then lanes for transfers and disk.
    pub lane: u32,
    /// The task, or the first of several short ones in a row of the same family; the input of a fetch.
    pub task: Option<TaskRef>,
    /// How many tasks or transfers it stands for.
    pub count: u32,
    /// When it began: nanoseconds since 1970 by the worker's clock.
    pub start_ns: u64,
    /// How long it took, nanoseconds.
    pub ns: u64,
    /// Bytes made, fetched, written or read.
    pub bytes: u64,
    /// The most memory that one of the tasks was seen to occupy, bytes; 0 if none was looked at.
    pub peak: u64,
}

/// Rectangles since the last such message, packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spans {
    /// Rectangles that were left out because there were too many.
    pub left_out: u64,
    /// What the worker's clock showed when it sent this: nanoseconds since 1970.
    pub now_ns: u64,
    #[serde(skip)]
    body: Bytes,
}
crate::payload_with_body!(Spans);

impl Spans {
    /// Packs rectangles.
    pub fn pack(left_out: u64, now_ns: u64, spans: &[Span]) -> Spans {
        const NO_TASK: TaskRef = TaskRef { run: RunId(u32::MAX), index: u32::MAX };
        let task = |s: &Span| s.task.unwrap_or(NO_TASK);
        let mut w = ColumnWriter::new();
        w.push(&spans.iter().map(|s| s.kind as u8).collect::<Vec<u8>>());
        w.push(&spans.iter().map(|s| s.lane).collect::<Vec<u32>>());
        w.push(&spans.iter().map(|s| task(s).run.0).collect::<Vec<u32>>());
        w.push(&spans.iter().map(|s| task(s).index).collect::<Vec<u32>>());
        w.push(&spans.iter().map(|s| s.count).collect::<Vec<u32>>());
        w.push(&spans.iter().map(|s| s.start_ns).collect::<Vec<u64>>());
        w.push(&spans.iter().map(|s| s.ns).collect::<Vec<u64>>());
        w.push(&spans.iter().map(|s| s.bytes).collect::<Vec<u64>>());
        w.push(&spans.iter().map(|s| s.peak).collect::<Vec<u64>>());
        Spans { left_out, now_ns, body: w.finish() }
    }

    /// Unpacks and checks. A kind that is not known makes the message invalid.
    pub fn unpack(&self) -> Result<Vec<Span>, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let kind = r.column::<u8>()?;
        let n = kind.len();
        let lane = r.column_of::<u32>(n)?;
        let run = r.column_of::<u32>(n)?;
        let index = r.column_of::<u32>(n)?;
        let count = r.column_of::<u32>(n)?;
        let start_ns = r.column_of::<u64>(n)?;
        let ns = r.column_of::<u64>(n)?;
        let bytes = r.column_of::<u64>(n)?;
        let peak = r.column_of::<u64>(n)?;
        r.finish()?;
        let span = |k: usize| {
            let unknown = || FrameError::Columns(format!("no rectangle has kind {}", kind[k]));
            let kind = *SpanKind::ALL.get(usize::from(kind[k])).ok_or_else(unknown)?;
            let task = TaskRef { run: RunId(run[k]), index: index[k] };
            let task = (task.run.0 != u32::MAX).then_some(task);
            let (lane, count, start_ns, ns) = (lane[k], count[k], start_ns[k], ns[k]);
            Ok(Span { kind, lane, task, count, start_ns, ns, bytes: bytes[k], peak: peak[k] })
        };
        (0..n).map(span).collect()
    }
}

/// The scheduler asks a worker for what only that has, for somebody who looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Comes back in the answer.
    pub id: u32,
    /// What is asked for.
    pub wanted: Wanted,
}

/// What a worker can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Wanted {
    /// The end of its own log, and of what its processes have printed besides.
    Log {
        /// No more than so many bytes.
        bytes: u64,
    },
    /// What a task has printed.
    Task {
        /// Which.
        task: TaskRef,
        /// No more than so many bytes of each stream.
        bytes: u64,
    },
    /// Stacks of its Python tasks, merged by function.
    Profile {
        /// Only of this run, by both its names.
        run: Option<(RunId, RunUuid)>,
    },
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    /// The question's number.
    pub id: u32,
    /// JSON text (`docs/protocol.md`), or why there is none.
    pub result: Result<String, String>,
}

/// What a worker, or the life before it under the same nanny, leaves behind for those who ask later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastWords {
    /// Whose.
    pub incarnation: Incarnation,
    /// The end of its log.
    pub log: String,
    /// What its last tasks have printed.
    pub tasks: Vec<Said>,
    /// Where time has gone there: a profile as JSON, as in answers to `Look`; or nothing.
    pub profile: String,
}

/// What a task has printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The task.
    pub task: TaskRef,
    /// The number of the attempt at it.
    pub attempt: u32,
    /// Streams that are not empty.
    pub parts: Vec<PrintedPart>,
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrintedPart {
    /// `stdout`, `stderr`, or `output` for both in the order in which they came.
    pub name: String,
    /// The text.
    pub text: String,
    /// Bytes before it that are not kept, or were not asked for.
    pub left_out: u64,
}

impl Payload for Look {}
impl Payload for Looked {}
impl Payload for LastWords {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_as_they_were() {
        let task = Some(TaskRef { run: RunId(3), index: 70_000 });
        let spans: Vec<Span> = SpanKind::ALL
            .iter()
            .map(|&kind| Span {
                kind,
                lane: 2,
                task,
                count: 5,
                start_ns: 1 << 60,
                ns: 77,
                bytes: 1 << 40,
                peak: 3,
            })
            .chain([Span::default()])
            .collect();
        assert_eq!(Spans::pack(4, 5, &spans).unpack().unwrap(), spans);
        assert_eq!(Spans::default().unpack().ok(), None);
    }
}
