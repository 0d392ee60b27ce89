//! The jobs of a run, one after the other: each waits for the end of the one before it, and has nothing to do
//! when the run is over by then. Owns how they are submitted, which of them counts now, and how they are
//! cancelled. All are submitted at once from the login node: on many systems nodes may not submit.

use super::directory::{Order, RunDirectory, now};
use crate::base::error::{Error, Result};
use crate::launch::dialect::JobState;
use crate::launch::jobs::{self, Record};

/// Submits the jobs of a run and takes note of them.
///
/// # Errors
/// `Launch` when one is refused, `File` when they cannot be noted; none is left then.
pub(super) fn send(directory: &RunDirectory, order: &Order) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for _ in 0..order.chain.max(1) {
        let mut native = order.native.clone();
        // The last option of a kind counts, and this one must.
        native.extend(records.last().map(|before| order.system.after(&before.id)).unwrap_or_default());
        match jobs::submit(order.system, &directory.script(), &native) {
            Ok(id) => records.push(record(directory, order, id)),
            Err(error) => return Err(undone(&records, error)),
        }
    }
    let kept = directory.jobs().and_then(|mut all| {
        all.extend(records.iter().cloned());
        directory.write("jobs.json", &all)
    });
    kept.map(|()| records.clone()).map_err(|error| undone(&records, error))
}

fn record(directory: &RunDirectory, order: &Order, id: String) -> Record {
    Record {
        system: order.system,
        id,
        name: order.job_name.clone(),
        nodes: order.nodes,
        jobs: 1,
        submitted: now(),
        script: directory.script(),
        log: order.log.clone(),
        pool: None,
        scaled: false,
        ended: None,
    }
}

/// The error, after the jobs that were submitted before it have been cancelled.
fn undone(records: &[Record], error: Error) -> Error {
    if records.is_empty() {
        return error;
    }
    let fate = match cancel(records) {
        Ok(_) => "submitted and cancelled again",
        Err(_) => "submitted: cancel it yourself",
    };
    Error { message: format!("{}; {} was {fate}", error.message, names(records)), ..error }
}

/// Cancels those that are not over, the last first, so that none of them begins because of that.
///
/// # Errors
/// `Launch` when the batch system does not answer or refuses.
pub(super) fn cancel(records: &[Record]) -> Result<Vec<String>> {
    let backwards: Vec<Record> = records.iter().rev().cloned().collect();
    jobs::cancel(&backwards)
}

/// Cancels the jobs that come after the one in which the run has ended. They would find it out themselves.
pub(super) fn cancel_rest(records: &[Record], ended_in: Option<&str>) {
    let at = records.iter().position(|r| Some(r.id.as_str()) == ended_in);
    let rest = at.and_then(|at| records.get(at + 1..)).filter(|rest| !rest.is_empty());
    let Some(rest) = rest else { return };
    if let Err(error) = cancel(rest) {
        tracing::warn!("{}", error.message);
    }
}

/// The job that runs now, or comes next, and its state; the last one if all are over.
///
/// # Errors
/// `Launch` when the batch system does not answer.
pub(super) fn current(records: &[Record]) -> Result<(Record, JobState)> {
    let statuses = jobs::status(records)?;
    let states = records.iter().zip(&statuses).map(|(r, s)| (r.clone(), jobs::summary(s)));
    let mut last = None;
    for (record, state) in states {
        if !state.is_over() {
            return Ok((record, state));
        }
        last = Some((record, state));
    }
    last.ok_or_else(|| Error::new(crate::base::error::Kind::NotFound, "the run has no job"))
}

/// `job 12`, or `jobs 12, 13, 14`.
pub(super) fn names(records: &[Record]) -> String {
    let ids: Vec<&str> = records.iter().map(|r| r.id.as_str()).collect();
    if ids.len() == 1 { format!("job {}", ids[0]) } else { format!("jobs {}", ids.join(", ")) }
}

/// `job 12 is running`, and what comes after it.
pub(super) fn state_text(records: &[Record], current: &Record, state: JobState) -> String {
    let mut text = format!("job {} is {}", current.id, state.words());
    let after = records.iter().skip_while(|r| r.id != current.id).skip(1);
    let after: Vec<Record> = after.cloned().collect();
    if !after.is_empty() {
        text.push_str(&format!(", {} will go on with it", names(&after)));
    }
    text
}
