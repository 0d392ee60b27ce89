//! What a client knows of a run: its progress while it goes on, its summary at the end. Plain data that
//! serialises to the documented JSON; owns no words, `cli` prints them.

use crate::base::ids::RunUuid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// How many failed tasks a summary describes; the others are counted.
pub const FAILURES_DESCRIBED_MAX: usize = 20;

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunProgress {
    /// Tasks of the run; `None` while that is not known (a graph that is still being sent, groups by bytes).
    pub total: Option<u64>,
    /// Tasks that have succeeded.
    pub done: u64,
    /// Tasks that are executing.
    pub running: u64,
    /// Tasks that could execute and wait for a worker.
    pub queued: u64,
    /// Tasks that have failed for good, or never will run because of one that did.
    pub failed: u64,
    /// Bytes that workers have fetched from one another.
    pub bytes_moved: u64,
    /// Why nothing of it runs although it could, if that is so.
    pub stuck: Option<String>,
    /// Since the run was submitted.
    #[serde(rename = "elapsed-seconds", serialize_with = "seconds", deserialize_with = "from_seconds")]
    pub elapsed: Duration,
}

impl RunProgress {
    /// Tasks with which nothing more will happen.
    pub fn settled(&self) -> u64 {
        self.done.saturating_add(self.failed)
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunSummary {
    /// The run.
    pub run: RunUuid,
    /// Tasks of the run.
    pub tasks: u64,
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that failed themselves, after all their retries.
    pub failed: u64,
    /// Tasks that did not run because a task that they depend on failed.
    pub skipped: u64,
    /// Tasks that did not run, or were ended, because the run was cancelled.
    pub cancelled: u64,
    /// Executions beyond the first of each task, for whatever reason.
    pub retried: u64,
    /// From submission to the last task's end.
    #[serde(rename = "wall-seconds", serialize_with = "seconds", deserialize_with = "from_seconds")]
    pub wall: Duration,
    /// The sum of all executions' durations.
    #[serde(rename = "task-seconds", serialize_with = "seconds", deserialize_with = "from_seconds")]
    pub task_time: Duration,
    /// Bytes that workers fetched from one another.
    pub bytes_moved: u64,
    /// Why the run was cancelled, if it was.
    pub cancel_reason: Option<String>,
    /// The first failed tasks, at most [`FAILURES_DESCRIBED_MAX`].
    pub failures: Vec<FailedTask>,
}

impl RunSummary {
    /// Every task succeeded.
    pub fn is_success(&self) -> bool {
        self.failed == 0 && self.skipped == 0 && self.cancelled == 0
    }
}

/// A task that failed, and its last attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedTask {
    /// Its key.
    pub key: String,
    /// What was run, as a person would type it.
    pub command: String,
    /// Why it failed, in words: `exit code 3`, `killed by SIGKILL`, `ran longer than 10m`.
    pub reason: String,
    /// The exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal's name, if one ended it.
    pub signal: Option<String>,
    /// Where the last attempt ran; empty if it was never started.
    pub host: String,
    /// How often it was started.
    pub attempts: u32,
    /// The end of its stderr.
    pub stderr: String,
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Ok(Duration::try_from_secs_f64(f64::deserialize(deserializer)?).unwrap_or_default())
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_units_in_its_names() {
        let summary = RunSummary {
            wall: Duration::from_millis(1500),
            failures: vec![FailedTask { key: "day[3]".into(), exit_code: Some(2), ..FailedTask::default() }],
            failed: 1,
            ..RunSummary::default()
        };
        let json = serde_json::to_value(&summary).expect("plain data");
        assert_eq!(json["wall-seconds"], 1.5);
        assert_eq!(json["bytes-moved"], 0);
        assert_eq!(json["failures"][0]["exit-code"], 2);
        assert!(!summary.is_success());
    }
}
