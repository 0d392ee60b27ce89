//! A run as whoever submitted it sees it: a stream of updates. Owns the translation from messages; what is
//! done with outputs is `take`'s.

use super::Client;
use super::outputs::Output;
use super::summary::{FAILURES_DESCRIBED_MAX, FailedTask, RunProgress, RunSummary};
use crate::base::error::Result;
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::RunUuid;
use crate::protocol::messages::client as wire;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Something that became known of a run.
#[derive(Clone, Debug)]
pub enum Update {
    /// The scheduler has it: how many tasks are known so far.
    Accepted {
        /// Tasks known so far.
        tasks: u64,
    },
    /// How far it is.
    Progress(RunProgress),
    /// Outputs that can be fetched.
    Outputs(Vec<Output>),
    /// It is over; nothing follows.
    Done(RunSummary),
}

/// A run that is being followed.
pub struct RunHandle {
    run: RunUuid,
    updates: mpsc::Receiver<Result<Update>>,
    client: Client,
}

impl RunHandle {
    pub(super) fn new(run: RunUuid, updates: mpsc::Receiver<Result<Update>>, client: Client) -> RunHandle {
        RunHandle { run, updates, client }
    }

    /// The run.
    pub fn run(&self) -> RunUuid {
        self.run
    }

    /// The session that it is followed in.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The next update. After `Done`, or an error, none comes. Cancelling it loses nothing.
    ///
    /// # Errors
    /// `Graph` when the graph was not accepted; the end of the session.
    pub async fn next(&mut self) -> Result<Update> {
        match self.updates.recv().await {
            Some(update) => update,
            None => Err(self.client.shared.ended()),
        }
    }

    /// Waits until the scheduler has the graph; returns how many tasks it knows so far.
    ///
    /// # Errors
    /// As [`RunHandle::next`].
    pub async fn accepted(&mut self) -> Result<u64> {
        loop {
            if let Update::Accepted { tasks } = self.next().await? {
                return Ok(tasks);
            }
        }
    }

    /// Cancels it; the end is told as usual.
    ///
    /// # Errors
    /// The end of the session.
    pub async fn cancel(&self, reason: &str) -> Result<()> {
        self.client.cancel(self.run, reason).await
    }
}

/// What a progress message says.
pub(super) fn progress(message: &wire::Progress, begin: Instant) -> RunProgress {
    // A worker is handed more than it has threads for, so that it never waits: those tasks are queued there.
    let threads = message.slots.div_ceil(u64::from(crate::graph::layer::SLOT));
    let running = message.processing.min(threads);
    RunProgress {
        total: (!message.growing).then_some(message.total),
        done: message.done,
        running,
        queued: message.queued + (message.processing - running),
        failed: message.failed,
        bytes_moved: 0,
        stuck: message.stuck.clone(),
        elapsed: begin.elapsed(),
    }
}

/// What the message of a run's end says.
pub(super) fn summary(message: wire::RunDone) -> RunSummary {
    let s = message.summary;
    let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or_default();
    RunSummary {
        run: message.run,
        tasks: s.done.saturating_add(s.failed).saturating_add(s.skipped).saturating_add(s.cancelled),
        succeeded: s.done,
        failed: s.failed,
        skipped: s.skipped,
        cancelled: s.cancelled,
        retried: s.retried,
        wall: seconds(s.wall_seconds),
        task_time: seconds(s.task_seconds),
        bytes_moved: s.bytes_moved,
        cancel_reason: s.cancel_reason,
        failures: s.failures.into_iter().take(FAILURES_DESCRIBED_MAX).map(failed_task).collect(),
    }
}

fn failed_task(task: wire::FailedTask) -> FailedTask {
    let Failure { kind, command, stderr_tail, reason } = task.failure;
    let exit_code = if let FailureKind::Exit(code) = kind { Some(code) } else { None };
    let signal = if let FailureKind::Signal(signal) = kind { Some(signal_name(signal)) } else { None };
    let mut words = match &signal {
        Some(name) => format!("ended by {name}"),
        None => kind.to_string(),
    };
    if let Some(reason) = reason {
        words.push_str(&format!(" ({reason})"));
    }
    FailedTask {
        key: task.key,
        command,
        reason: words,
        exit_code,
        signal,
        host: task.host,
        attempts: task.attempts,
        stderr: stderr_tail,
    }
}

/// `SIGKILL`, or `signal 40` for one without a name.
fn signal_name(number: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(number).ok();
    known.map_or_else(|| format!("signal {number}"), |s| s.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_become_words() {
        let failure = Failure { reason: Some("no licence".into()), ..Failure::of(FailureKind::Exit(4)) };
        let task = |failure| wire::FailedTask { key: "a".into(), host: "h".into(), attempts: 2, failure };
        let failed = failed_task(task(failure));
        assert_eq!((failed.reason.as_str(), failed.exit_code), ("exit status 4 (no licence)", Some(4)));
        let failed = failed_task(task(Failure::of(FailureKind::Signal(9))));
        assert_eq!((failed.reason.as_str(), failed.signal.as_deref()), ("ended by SIGKILL", Some("SIGKILL")));
        assert_eq!(signal_name(40), "signal 40");
    }

    #[test]
    fn ends_are_counted() {
        let s = wire::Summary {
            done: 3,
            failed: 1,
            skipped: 2,
            cancelled: 4,
            wall_seconds: -1.0,
            ..Default::default()
        };
        let summary = summary(wire::RunDone { run: RunUuid::nil(), summary: s });
        assert_eq!((summary.tasks, summary.wall), (10, Duration::ZERO));
    }
}
