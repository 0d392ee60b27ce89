//! A run as one job, seen through a connection to its scheduler: direct, or through a relay on a node of
//! the job. Owns which way is tried when, and that losing it is no fault: the files of the run say the same,
//! later.

use super::directory::RunDirectory;
use crate::base::error::{Error, Result};
use crate::cli::output;
use crate::cli::relay::Relay;
use crate::client::summary::RunProgress;
use crate::client::{Client, ConnectOptions};
use crate::launch::dialect::System;
use crate::launch::relay::{self, Follow};
use crate::net::scheduler_file::{self, SchedulerFile};
use crate::protocol::messages::client::Question;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long the scheduler may take to be reached.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The same through a relay, which is there by then.
const RELAYED_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the scheduler is asked, at most; and which part of the time its answers may take.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
const ANSWERS_PART: u32 = 20;

/// How often the scheduler file is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Pauses before a way that did not work is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(15);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// How long the end of a run may take to show in its files after the end of its cluster.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// What is needed to reach a job's scheduler.
pub(super) struct Ways {
    pub(super) follow: Follow,
    pub(super) system: System,
    /// The program, as nodes know it.
    pub(super) program: String,
}

/// A connection that is kept up as long as this is there.
pub(super) struct Live {
    progress: watch::Receiver<Option<RunProgress>>,
    task: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Live {
    /// Begins to look for the scheduler. `job` is the id of the job that runs now.
    pub(super) fn start(ways: Ways, directory: &RunDirectory, job: watch::Receiver<String>) -> Live {
        let (tell, progress) = watch::channel(None);
        let observer = Observer { ways, directory: directory.clone(), job, tell, said: String::new() };
        Live { progress, task: tokio::spawn(observer.run()) }
    }

    /// Where the run stands, if the scheduler could be asked just now.
    pub(super) fn progress(&self) -> Option<RunProgress> {
        self.progress.borrow().clone()
    }
}

struct Observer {
    ways: Ways,
    directory: RunDirectory,
    job: watch::Receiver<String>,
    tell: watch::Sender<Option<RunProgress>>,
    /// What was said last of how the run is followed.
    said: String,
}

/// A connection, and what it depends on.
struct Reached {
    client: Client,
    /// Ends with this.
    _relay: Option<Relay>,
    how: String,
}

impl Observer {
    async fn run(mut self) {
        let (mut tried, mut retry_at, mut pause) = (None, Instant::now(), RETRY_FIRST);
        loop {
            if let Ok(file) = scheduler_file::read(&self.directory.scheduler_file())
                && (tried.as_ref() != Some(&file) || Instant::now() >= retry_at)
            {
                if tried.as_ref() != Some(&file) {
                    pause = RETRY_FIRST;
                }
                match self.reach(&file).await {
                    Ok(reached) => {
                        self.say(&format!("following {}", reached.how));
                        let lost = self.ask(&reached.client).await;
                        self.tell.send_replace(None);
                        drop(reached);
                        pause = RETRY_FIRST;
                        if self.has_ended().await {
                            return;
                        }
                        self.say_files(&lost.message);
                    }
                    Err(error) => {
                        if self.has_ended().await {
                            return;
                        }
                        self.say_files(&error.message);
                    }
                }
                retry_at = Instant::now() + pause;
                pause = (pause * 2).min(RETRY_MAX);
                tried = Some(file);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn say(&mut self, text: &str) {
        if self.said != text {
            output::say(text);
            self.said = text.to_owned();
        }
    }

    fn say_files(&mut self, why: &str) {
        let path = self.directory.file("progress.json");
        // Why it is may differ from time to time; that it is so was said.
        let text = format!("following {}", path.display());
        if self.said != text {
            output::say(&format!("{text}: {}", output::harmless(why)));
            self.said = text;
        }
    }

    /// Whether the run is over: then its cluster is gone as it should be.
    async fn has_ended(&self) -> bool {
        let until = Instant::now() + END_PATIENCE;
        while Instant::now() < until {
            if self.directory.end().is_ok_and(|end| end.is_some()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    async fn reach(&self, file: &SchedulerFile) -> Result<Reached> {
        let mut why = Vec::new();
        if self.ways.follow.tries_direct() {
            match connect(file.clone(), DIRECT_TIMEOUT).await {
                Ok(client) => {
                    let how = format!("by a connection to {}", file.address);
                    return Ok(Reached { client, _relay: None, how });
                }
                Err(error) => why.push(error.message),
            }
        }
        if self.ways.follow.tries_relay() {
            match self.reach_by_relay(file).await {
                Ok(reached) => return Ok(reached),
                Err(error) => why.push(error.message),
            }
        }
        Err(Error::new(crate::base::error::Kind::NoScheduler, why.join("; ")))
    }

    async fn reach_by_relay(&self, file: &SchedulerFile) -> Result<Reached> {
        let job = self.job.borrow().clone();
        let path = self.directory.scheduler_file();
        let line = relay::command(self.ways.system, &job, &file.host, &self.ways.program, &path);
        let how = match self.ways.system {
            System::Slurm => format!("through a relay in job {job}"),
            System::Pbs | System::GridEngine => format!("through a relay on {}", file.host),
        };
        let opening = tokio::task::spawn_blocking(move || Relay::open(&line));
        let relay = opening.await.map_err(|e| Error::os("starting a relay was given up", e))??;
        let through = SchedulerFile { address: relay.address.clone(), ..file.clone() };
        let client = connect(through, RELAYED_TIMEOUT).await?;
        Ok(Reached { client, _relay: Some(relay), how })
    }

    /// Asks until the connection ends; returns why it did.
    async fn ask(&self, client: &Client) -> Error {
        loop {
            let begin = Instant::now();
            match client.ask(Question::Status).await {
                Ok(status) => _ = self.tell.send_replace(progress(&status)),
                Err(error) => return error,
            }
            tokio::time::sleep(ASK_INTERVAL.max(begin.elapsed() * ANSWERS_PART)).await;
        }
    }
}

async fn connect(file: SchedulerFile, timeout: Duration) -> Result<Client> {
    // Whoever loses a connection here reads files, and comes back later.
    let options =
        ConnectOptions { timeout, connect_timeout: timeout, lease: Duration::ZERO, looks_only: true };
    Client::connect(file, options).await
}

/// Where the runs of a cluster stand together; for a graph there is one.
fn progress(status: &Value) -> Option<RunProgress> {
    let runs = status["runs"].as_array().filter(|runs| !runs.is_empty())?;
    let count = |names: &[&str]| -> u64 {
        let of = |run: &Value| -> u64 { names.iter().filter_map(|n| run["tasks"][n].as_u64()).sum() };
        runs.iter().map(of).sum()
    };
    let total: u64 = runs
        .iter()
        .filter_map(|run| run["tasks"].as_object())
        .flat_map(|tasks| tasks.values())
        .filter_map(Value::as_u64)
        .sum();
    let is_growing = runs.iter().any(|run| run["growing"] == true);
    let workers = status["workers"].as_array();
    let threads: f64 = workers.into_iter().flatten().filter_map(|w| w["threads"].as_f64()).sum();
    let processing = count(&["processing"]);
    // What workers have beyond their threads waits there.
    let running = processing.min(threads.ceil() as u64);
    let time = |value: &Value| humantime::parse_rfc3339(value.as_str()?).ok();
    let begin = runs.iter().filter_map(|run| time(&run["submitted"])).min();
    let now = time(&status["scheduler"]["time"]);
    Some(RunProgress {
        total: (!is_growing).then_some(total),
        done: count(&["memory", "released"]),
        running,
        queued: count(&["queued", "delayed"]) + (processing - running),
        failed: count(&["erred"]),
        elapsed: begin.zip(now).and_then(|(a, b)| b.duration_since(a).ok()).unwrap_or_default(),
        ..RunProgress::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_becomes_progress() {
        let status = json!({
            "scheduler": { "time": "2026-11-21T08:00:10.000Z" },
            "workers": [{ "threads": 2.0 }, { "threads": 1.5 }],
            "runs": [{
                "submitted": "2026-11-21T08:00:00.000Z",
                "growing": false,
                "tasks": { "waiting": 5, "queued": 2, "processing": 6, "memory": 1,
                           "released": 3, "erred": 1 },
            }],
        });
        let p = progress(&status).unwrap();
        assert_eq!((p.total, p.done, p.running, p.queued, p.failed), (Some(18), 4, 4, 4, 1));
        assert_eq!(p.elapsed, Duration::from_secs(10));
        assert!(progress(&json!({ "runs": [] })).is_none(), "nothing is known before the run begins");
    }
}
