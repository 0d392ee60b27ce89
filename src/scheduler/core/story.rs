//! What happened to each task, in a bounded ring: for `story KEY` and for reading a failed simulation.
//! Owns the record and its bound.

use super::state::State;
use crate::base::ids::{TaskRef, WorkerId};
use crate::base::time::Time;
use std::collections::VecDeque;

/// One change of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// When.
    pub at: Time,
    /// Which task.
    pub task: TaskRef,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// The assignment's number.
    pub attempt: u32,
    /// The worker concerned, if one is.
    pub worker: Option<WorkerId>,
    /// The event that caused it.
    pub cause: &'static str,
}

/// The ring of records.
#[derive(Debug)]
pub struct Story {
    records: VecDeque<Record>,
    limit: usize,
}

impl Story {
    pub(super) fn new(limit: usize) -> Story {
        Story { records: VecDeque::new(), limit }
    }

    pub(super) fn push(&mut self, record: Record) {
        if self.limit == 0 {
            return;
        }
        if self.records.len() == self.limit {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// What is remembered of a task, oldest first.
    pub fn of(&self, task: TaskRef) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |r| r.task == task)
    }
}
