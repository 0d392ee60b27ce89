//! Tasks for a worker, as columns: one value of each kind after the other instead of one record for each
//! task.

use crate::base::ids::{Attempt, FamilyIx, RunId, TaskRef, WorkerId};
use crate::base::priority::Priority;
use crate::graph::items::Item;
use crate::protocol::columns::{ColumnReader, ColumnWriter};
use crate::protocol::framing::FrameError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Tasks to run, packed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// The epoch of all attempts.
    epoch: u32,
    /// Values of the elements, for tasks of families that list them: position in the batch and value.
    items: Vec<(u32, Item)>,
    /// Workers of tasks that have several: position in the batch, and these.
    gangs: Vec<(u32, Vec<Member>)>,
    /// The columns.
    #[serde(skip)]
    body: Bytes,
}
crate::payload_with_body!(Compute);

/// The same, unpacked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tasks {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Their inputs, one after the other.
    pub inputs: Vec<Input>,
    /// Holders of the inputs, one after the other.
    pub holders: Vec<WorkerId>,
    /// Values of elements, for tasks of families that list them: position in `tasks` and value, ascending.
    pub items: Vec<(u32, Item)>,
    /// Of tasks that have several workers: position in `tasks`, and the workers, first the one that is
    /// told this.
    pub gangs: Vec<(u32, Vec<Member>)>,
}

/// One of the workers that a task has to itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its host.
    pub host: String,
    /// Its slots, 1/10,000.
    pub slots: u32,
}

/// One task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// The task.
    pub task: TaskRef,
    /// The assignment.
    pub attempt: Attempt,
    /// How often it failed before.
    pub tries: u32,
    /// Its family.
    pub family: FamilyIx,
    /// Its element.
    pub element: u32,
    /// Its place in the queue.
    pub priority: Priority,
    /// CPU slots it occupies, 1/10,000.
    pub slots: u32,
    /// Whether anybody will need its result.
    pub keep: bool,
    /// End of its inputs.
    pub inputs_end: u32,
}

/// One input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Whose result.
    pub task: TaskRef,
    /// Its size in bytes.
    pub nbytes: u64,
    /// Which data edge of the family it belongs to.
    pub edge: u32,
    /// End of its holders.
    pub holders_end: u32,
}

impl Compute {
    /// Packs tasks. All attempts are of `epoch`.
    pub fn pack(epoch: u32, tasks: &Tasks) -> Compute {
        let mut w = ColumnWriter::new();
        let t = &tasks.tasks;
        let column = |f: &dyn Fn(&Task) -> u32| t.iter().map(f).collect::<Vec<u32>>();
        w.push(&column(&|t| t.task.run.0));
        w.push(&column(&|t| t.task.index));
        w.push(&column(&|t| t.attempt.n));
        w.push(&column(&|t| t.tries));
        w.push(&column(&|t| t.family.0));
        w.push(&column(&|t| t.element));
        w.push(&column(&|t| t.priority.user.cast_unsigned()));
        w.push(&column(&|t| t.priority.generation));
        w.push(&t.iter().map(|t| t.priority.rank).collect::<Vec<u64>>());
        w.push(&column(&|t| t.slots));
        w.push(&column(&|t| u32::from(t.keep)));
        w.push(&column(&|t| t.inputs_end));
        let i = &tasks.inputs;
        w.push(&i.iter().map(|i| i.task.run.0).collect::<Vec<u32>>());
        w.push(&i.iter().map(|i| i.task.index).collect::<Vec<u32>>());
        w.push(&i.iter().map(|i| i.nbytes).collect::<Vec<u64>>());
        w.push(&i.iter().map(|i| i.edge).collect::<Vec<u32>>());
        w.push(&i.iter().map(|i| i.holders_end).collect::<Vec<u32>>());
        w.push(&tasks.holders.iter().map(|h| h.0).collect::<Vec<u32>>());
        Compute { epoch, items: tasks.items.clone(), gangs: tasks.gangs.clone(), body: w.finish() }
    }

    /// Unpacks and checks: columns of equal length, ends that ascend and stay inside.
    pub fn unpack(self) -> Result<Tasks, FrameError> {
        let mut r = ColumnReader::new(&self.body);
        let run = r.column::<u32>()?;
        let n = run.len();
        let mut column = || r.column_of::<u32>(n);
        let (index, attempt, tries) = (column()?, column()?, column()?);
        let (family, element, user, generation) = (column()?, column()?, column()?, column()?);
        let rank = r.column_of::<u64>(n)?;
        let mut column = || r.column_of::<u32>(n);
        let (slots, keep, inputs_end) = (column()?, column()?, column()?);
        let input_run = r.column::<u32>()?;
        let m = input_run.len();
        let input_index = r.column_of::<u32>(m)?;
        let nbytes = r.column_of::<u64>(m)?;
        let (edge, holders_end) = (r.column_of::<u32>(m)?, r.column_of::<u32>(m)?);
        let holders: Vec<WorkerId> = r.column::<u32>()?.into_iter().map(WorkerId).collect();
        r.finish()?;
        check_ends("inputs", &inputs_end, m)?;
        check_ends("holders", &holders_end, holders.len())?;
        if self.items.iter().any(|(at, _)| *at as usize >= n) {
            return Err(FrameError::Columns("an item of no task".into()));
        }
        if self.gangs.iter().any(|(at, members)| *at as usize >= n || members.is_empty()) {
            return Err(FrameError::Columns("workers of no task".into()));
        }
        let tasks = (0..n).map(|k| Task {
            task: TaskRef { run: RunId(run[k]), index: index[k] },
            attempt: Attempt { epoch: self.epoch, n: attempt[k] },
            tries: tries[k],
            family: FamilyIx(family[k]),
            element: element[k],
            priority: Priority { user: user[k].cast_signed(), generation: generation[k], rank: rank[k] },
            slots: slots[k],
            keep: keep[k] != 0,
            inputs_end: inputs_end[k],
        });
        let inputs = (0..m).map(|k| Input {
            task: TaskRef { run: RunId(input_run[k]), index: input_index[k] },
            nbytes: nbytes[k],
            edge: edge[k],
            holders_end: holders_end[k],
        });
        Ok(Tasks {
            tasks: tasks.collect(),
            inputs: inputs.collect(),
            holders,
            items: self.items,
            gangs: self.gangs,
        })
    }
}

fn check_ends(what: &str, ends: &[u32], n: usize) -> Result<(), FrameError> {
    let ascending = ends.is_sorted() && ends.last().is_none_or(|&e| e as usize == n);
    if ascending && (n == 0 || !ends.is_empty()) {
        return Ok(());
    }
    Err(FrameError::Columns(format!("the ends of {what} do not fit {n} of them")))
}
