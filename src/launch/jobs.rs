//! Jobs that were submitted: what is remembered of each, how they are submitted and refused, asked after
//! together and cancelled. Owns the records' content; where they are kept is up to whoever submits.

use super::dialect::call::{call, call_again};
use super::dialect::{JobState, JobStatus, System};
use crate::base::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub use super::dialect::call::is_silence;

/// What is remembered of a submission: one job, or one array of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// The batch system.
    pub system: System,
    /// The id that it printed.
    pub id: String,
    /// The jobs' name: a number may be given again, to somebody else's job.
    pub name: String,
    /// Nodes of each job.
    pub nodes: u32,
    /// How many jobs.
    pub jobs: u32,
    /// When it was submitted, by this host's clock (RFC 3339).
    pub submitted: String,
    /// The script.
    pub script: PathBuf,
    /// Where the output goes, with the system's placeholders.
    pub log: String,
    /// The pool of the configuration that it belongs to.
    #[serde(default)]
    pub pool: Option<String>,
    /// Whether `workers scale` and `workers adapt` may end it again.
    #[serde(default)]
    pub scaled: bool,
    /// How the jobs ended, once all have: then nobody is asked any more.
    pub ended: Option<Vec<JobStatus>>,
}

/// Submits a script.
///
/// # Errors
/// `Launch`, with the system's own words, when it is refused.
pub fn submit(system: System, script: &Path, native: &[String]) -> Result<String> {
    let line = system.submit(script, native);
    let answer = call(&line)?;
    if !answer.is_success() {
        return Err(refused(system, &answer.said()));
    }
    system.submitted(&answer.stdout)
}

/// The words about a batch system that was not reached, and what to look at.
fn silent(system: System, said: &str, what_now: &str) -> Error {
    let (tool, queue) = match system {
        System::Slurm => ("scontrol ping", "squeue --me"),
        System::Pbs => ("qstat -B", "qstat"),
        System::GridEngine => ("qhost", "qstat"),
    };
    let maybe = if said.to_lowercase().contains("timed out") {
        format!("; `{queue}` tells whether it has taken the job all the same")
    } else {
        String::new()
    };
    Error::new(Kind::Launch, format!("{system} does not answer: {said}"))
        .hint(format!("{what_now} when `{tool}` answers again{maybe}"))
}

fn refused(system: System, said: &str) -> Error {
    if is_silence(said) {
        return silent(system, said, "nothing was changed; try again");
    }
    Error::new(Kind::Launch, format!("{system} refused the job: {said}")).hint(
        "nothing was submitted; --dry-run prints the script, and what follows -- is handed on to the batch \
         system's command",
    )
}

/// Asks the system whether it would take a script; its answer in its own words.
///
/// # Errors
/// `Launch` when it would not; `Usage` when the system cannot say.
pub fn check(system: System, script: &Path, native: &[String]) -> Result<String> {
    let Some(line) = system.check(script, native) else {
        return Err(Error::new(Kind::Usage, format!("{system} cannot check a job without taking it"))
            .hint("--dry-run prints the script"));
    };
    let answer = call(&line)?;
    match answer.is_success() {
        true => Ok(answer.said()),
        false => Err(refused(system, &answer.said())),
    }
}

/// What is known of each record's jobs: one question to each batch system, about those that may still run.
/// The answer is in the order of the records.
///
/// # Errors
/// `Launch` when a batch system does not answer.
pub fn status(records: &[Record]) -> Result<Vec<Vec<JobStatus>>> {
    let mut answers = Vec::new();
    for system in System::ALL {
        let open = records.iter().filter(|r| r.system == system && r.ended.is_none());
        let ids: Vec<String> = open.map(|r| r.id.clone()).collect();
        let answer = system.status(&ids).map_err(|e| match is_silence(&e.message) {
            true => silent(system, &e.message, "jobs and workers stay as they are; try again"),
            false => e,
        });
        answers.push((system, answer?));
    }
    let of = |record: &Record| match &record.ended {
        Some(ended) => ended.clone(),
        None => {
            let found = answers.iter().filter(|(system, _)| *system == record.system).flat_map(|(_, s)| s);
            found.filter(|s| s.submission == record.id).map(|s| known(record, s)).collect()
        }
    };
    Ok(records.iter().map(of).collect())
}

/// A status as that of a record's job: if the number is another job's by now, ours is gone.
fn known(record: &Record, status: &JobStatus) -> JobStatus {
    match &status.name {
        Some(name) if !is_name(name, &record.name) => JobStatus::gone(&record.id),
        _ => status.clone(),
    }
}

/// Whether a name is the one that was given; some systems show only its beginning.
fn is_name(shown: &str, given: &str) -> bool {
    shown == given || (shown.len() >= 10 && given.starts_with(shown))
}

/// Cancels the jobs of records, and only those that are still theirs. Those that are over already are no
/// fault. The ids of what was cancelled.
///
/// # Errors
/// `Launch` when a batch system does not answer or refuses.
pub fn cancel(records: &[Record]) -> Result<Vec<String>> {
    cancel_known(records, &status(records)?)
}

/// The same for jobs whose status was just asked for, in the order of the records.
///
/// # Errors
/// As [`cancel`].
pub fn cancel_known(records: &[Record], statuses: &[Vec<JobStatus>]) -> Result<Vec<String>> {
    let mut cancelled = Vec::new();
    for system in System::ALL {
        let open = records.iter().zip(statuses).filter(|(r, s)| r.system == system && has_open(s));
        let open: Vec<Record> = open.map(|(r, _)| r.clone()).collect();
        let ids: Vec<String> = open.iter().map(|r| r.id.clone()).collect();
        cancel_ids(system, &ids, &|| Ok(status(&open)?.concat()))?;
        cancelled.extend(ids);
    }
    Ok(cancelled)
}

/// Cancels jobs of arrays by their own ids, while the others of the array go on; those that are over are no
/// fault. The ids of what was cancelled.
///
/// # Errors
/// As [`cancel`].
pub fn cancel_parts(parts: &[(Record, JobStatus)]) -> Result<Vec<String>> {
    // Where the answer was about somebody else's job of this number, it said that ours is gone.
    let statuses = status(&parts.iter().map(|(record, _)| record.clone()).collect::<Vec<_>>())?;
    let mut all = Vec::new();
    for ((record, part), now) in parts.iter().zip(statuses) {
        let of_part =
            |all: Vec<JobStatus>| -> Vec<JobStatus> { all.into_iter().filter(|s| s.id == part.id).collect() };
        if has_open(&of_part(now)) {
            let ids = [part.id.clone()];
            let again = || Ok(of_part(status(std::slice::from_ref(record))?.concat()));
            cancel_ids(record.system, &ids, &again)?;
            all.extend(ids);
        }
    }
    Ok(all)
}

fn has_open(statuses: &[JobStatus]) -> bool {
    statuses.iter().any(|s| !s.state.is_over())
}

/// Cancels jobs by id. Jobs end by themselves between question and order, and each system has its own words
/// for that; where they are not known, `again` asks what is left.
fn cancel_ids(system: System, ids: &[String], again: &dyn Fn() -> Result<Vec<JobStatus>>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let answer = call_again(&system.cancel(ids))?;
    if answer.is_success() || system.is_over_already(&answer.all()) {
        return Ok(());
    }
    if is_silence(&answer.all()) {
        return Err(silent(system, &answer.said(), "jobs may still be there; try again"));
    }
    let is_ending = |s: &JobStatus| s.state.is_over() || s.state == JobState::Completing;
    if again()?.iter().all(is_ending) {
        return Ok(());
    }
    let what = format!("{system} did not cancel {}: {}", ids.join(", "), answer.said());
    Err(Error::new(Kind::Launch, what))
}

/// The state that says most about several jobs of one submission: one that runs before one that waits, one
/// that failed before one that ended well.
pub fn summary(statuses: &[JobStatus]) -> JobState {
    use JobState::*;
    let order = [
        Running,
        Completing,
        Starting,
        Suspended,
        Pending,
        Held,
        Unknown,
        NodeFailure,
        OutOfMemory,
        Failed,
        TimeLimit,
        Preempted,
        Cancelled,
        Finished,
        Gone,
    ];
    let has = |state: &JobState| statuses.iter().any(|s| s.state == *state);
    order.into_iter().find(has).unwrap_or(Gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(id: &str, name: &str, state: JobState) -> JobStatus {
        JobStatus { name: Some(name.into()), state, ..JobStatus::gone(id) }
    }

    #[test]
    fn a_number_of_somebody_elses_job_is_not_ours() {
        let record = Record {
            system: System::Slurm,
            id: "7".into(),
            name: "hpcdag-ab12cd34".into(),
            nodes: 1,
            jobs: 1,
            submitted: String::new(),
            script: "s".into(),
            log: String::new(),
            pool: None,
            scaled: false,
            ended: None,
        };
        let is = |name: &str| known(&record, &status_of("7", name, JobState::Running)).state;
        assert_eq!(is("hpcdag-ab12cd34"), JobState::Running);
        assert_eq!(is("hpcdag-ab1"), JobState::Running, "qstat's table cuts names");
        assert_eq!((is("other"), is("hpcdag")), (JobState::Gone, JobState::Gone));
        let mut ended = record.clone();
        ended.ended = Some(vec![status_of("7", "x", JobState::TimeLimit)]);
        assert_eq!(status(&[ended]).unwrap()[0][0].state, JobState::TimeLimit, "and nobody is asked");
    }

    #[test]
    fn silence_is_no_refusal() {
        let down = "Batch job submission failed: Unable to contact slurm controller (connect failure)";
        let error = refused(System::Slurm, down);
        assert!(error.message.starts_with("Slurm does not answer: Batch job"), "{error}");
        assert!(error.hint.is_some_and(|hint| hint.contains("scontrol ping")));
        assert!(!is_silence("invalid partition specified: nosuch"));
        assert!(refused(System::Pbs, "Unknown queue").message.contains("PBS refused the job"));
    }

    #[test]
    fn an_array_is_what_its_jobs_are() {
        let all = |states: &[JobState]| -> Vec<JobStatus> {
            states.iter().map(|s| status_of("1", "x", *s)).collect()
        };
        assert_eq!(summary(&all(&[JobState::Pending, JobState::Running])), JobState::Running);
        assert_eq!(summary(&all(&[JobState::Finished, JobState::TimeLimit])), JobState::TimeLimit);
        assert_eq!(summary(&[]), JobState::Gone);
    }
}
