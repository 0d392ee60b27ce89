//! The jobs in `workers list`: what was submitted for a cluster, what it is doing in the batch system's words
//! and in ours, and how many of its workers are connected. Owns the table and the JSON.

use super::records;
use super::start::size_text;
use crate::base::error::Result;
use crate::cli::output::{self, Align, Table};
use crate::launch::dialect::JobStatus;
use crate::launch::jobs::{self, Record};
use crate::net::scheduler_file::SchedulerFile;
use serde_json::{Value, json};
use std::path::Path;

/// The longest reason that the table shows, in characters; `--json` has all.
const REASON_MAX: usize = 60;

/// A submission and what is known of its jobs.
pub(in crate::cli) struct Known {
    pub(super) record: Record,
    /// Or why nothing is known.
    pub(super) statuses: std::result::Result<Vec<JobStatus>, String>,
}

/// The jobs of a cluster. A batch system that does not answer takes nothing from the list but the states.
///
/// # Errors
/// `File` when the records cannot be read.
pub(in crate::cli) fn look(path: &Path, file: &SchedulerFile) -> Result<Vec<Known>> {
    let kept = records::read(&super::directory(path, file)?)?;
    let only: Vec<Record> = kept.iter().map(|(_, record)| record.clone()).collect();
    let statuses = match jobs::status(&only) {
        Ok(all) => all.into_iter().map(Ok).collect(),
        Err(e) => {
            let hint = e.hint.map(|hint| format!("\n  {hint}")).unwrap_or_default();
            output::say(&format!("warning: {}; what jobs do is not known{hint}", e.message));
            vec![Err("no answer".into()); only.len()]
        }
    };
    let mut all = Vec::new();
    for ((path, mut record), statuses) in kept.into_iter().zip(statuses) {
        if let Ok(statuses) = &statuses
            && record.ended.is_none()
            && statuses.iter().all(|s| s.state.is_over())
        {
            record.ended = Some(statuses.clone());
            records::update(&path, &record);
        }
        all.push(Known { record, statuses });
    }
    Ok(all)
}

impl Known {
    fn statuses(&self) -> &[JobStatus] {
        self.statuses.as_deref().unwrap_or_default()
    }

    /// The names of the connected workers of one of its jobs, or of all.
    fn workers<'a>(&self, status: Option<&JobStatus>, workers: &'a [Value]) -> Vec<&'a str> {
        self.each("name", status, workers)
    }

    /// The hosts of the connected workers of one of its jobs.
    pub(super) fn hosts<'a>(&self, status: &JobStatus, workers: &'a [Value]) -> Vec<&'a str> {
        self.each("host", Some(status), workers)
    }

    fn each<'a>(&self, key: &str, status: Option<&JobStatus>, workers: &'a [Value]) -> Vec<&'a str> {
        let of_job = |id: &str| match status {
            Some(s) => s.inner_id.as_deref().unwrap_or(&s.id) == id || s.id == id,
            None => belongs(&self.record, self.statuses(), id),
        };
        let named = |w: &'a Value| Some((w["job-id"].as_str()?, w[key].as_str()?));
        workers.iter().filter_map(named).filter(|(id, _)| of_job(id)).map(|(_, text)| text).collect()
    }

    /// As JSON, with the connected workers.
    pub(in crate::cli) fn json(&self, workers: &[Value]) -> Value {
        let job = |s: &JobStatus| {
            json!({
                "id": s.id,
                "state": s.state,
                "word": s.word,
                "reason": s.reason,
                "start-estimate": s.start_estimate,
                "end": s.end,
                "nodes": s.nodes,
                "workers": self.workers(Some(s), workers),
            })
        };
        json!({
            "system": self.record.system,
            "id": self.record.id,
            "name": self.record.name,
            "nodes": self.record.nodes,
            "jobs": self.record.jobs,
            "pool": self.record.pool,
            "submitted": self.record.submitted,
            "state": self.statuses.as_ref().map_or("unknown", |s| jobs::summary(s).words()),
            "why-unknown": self.statuses.as_ref().err(),
            "script": self.record.script,
            "log": self.record.log,
            "workers": self.workers(None, workers),
            "each": self.statuses().iter().map(job).collect::<Vec<_>>(),
        })
    }
}

/// Whether a worker that says it is in this job belongs to a submission.
pub(super) fn belongs(record: &Record, statuses: &[JobStatus], job: &str) -> bool {
    job == record.id || statuses.iter().any(|s| s.id == job || s.inner_id.as_deref() == Some(job))
}

/// A reason as the table shows it: Grid Engine names every queue that has no room.
fn cut(text: String) -> String {
    match text.char_indices().nth(REASON_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// The table of jobs.
pub(in crate::cli) fn table(all: &[Known], workers: &[Value]) -> Table {
    let mut table = Table::new([
        ("job", Align::Left),
        ("system", Align::Left),
        ("size", Align::Left),
        ("state", Align::Left),
        ("its word", Align::Left),
        ("why", Align::Left),
        ("starts", Align::Left),
        ("ends", Align::Left),
        ("workers", Align::Right),
    ]);
    for known in all {
        let system = known.record.system.to_string();
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        for s in known.statuses() {
            let size = if known.statuses().len() > 1 { "-".into() } else { size_text(&known.record) };
            table.row([
                s.id.clone(),
                system.clone(),
                size,
                s.state.words().into(),
                s.word.clone(),
                cut(text(&s.reason)),
                text(&s.start_estimate),
                text(&s.end),
                known.workers(Some(s), workers).len().to_string(),
            ]);
        }
        if let Err(why) = &known.statuses {
            let size = size_text(&known.record);
            let count = known.workers(None, workers).len().to_string();
            let dash = || "-".to_owned();
            let row = [
                known.record.id.clone(),
                system,
                size,
                "unknown".into(),
                dash(),
                why.clone(),
                dash(),
                dash(),
                count,
            ];
            table.row(row);
        }
    }
    table
}
