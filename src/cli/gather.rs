//! Waiting for workers that were started together. Owns when waiting makes no more sense, and what is said
//! about those that did not come.

use super::detach::last_lines;
use super::processes::Record;
use super::signals;
use crate::base::error::{Error, Kind, Result};
use crate::client::Client;
use crate::launch::slurm::hostlist;
use crate::launch::slurm::srun::{Step, end_of_tasks};
use crate::protocol::messages::client::Question;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether workers that are waited for are still to come.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// How long others may take to say what kept them too, once one has failed.
const AFTER_FAILURE: Duration = Duration::from_millis(700);

/// Missing workers about which everything is said; of more only the names.
const EXPLAINED_MAX: usize = 4;

/// A process that is a worker, or starts some.
#[derive(Clone, Debug)]
pub enum Source {
    /// A worker on this machine.
    Process {
        /// Its number.
        pid: u32,
        /// Where it logs.
        log: PathBuf,
    },
    /// An `srun`.
    Srun {
        /// Its number.
        pid: u32,
        /// Where it logs.
        log: PathBuf,
        /// What it runs.
        step: Step,
        /// The step's name, with which the names of its workers' logs begin, in the directory of the log.
        name: String,
    },
    /// A worker on another host, and the process here that holds the connection.
    Host {
        /// That process's number; 0 if it had ended at once.
        pid: u32,
        /// Where both log.
        log: PathBuf,
        /// The host.
        host: String,
        /// The worker's name.
        name: String,
        /// The program that holds the connection.
        means: String,
    },
}

/// What came of starting workers.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// How many are connected.
    pub connected: u32,
    /// About those that are not; empty if all are.
    pub missing: String,
}

/// A worker that is not connected.
struct Missing {
    host: String,
    why: String,
}

impl Source {
    /// How many workers it is to give.
    pub fn workers(&self) -> u32 {
        match self {
            Source::Process { .. } | Source::Host { .. } => 1,
            Source::Srun { step, .. } => step.tasks(),
        }
    }

    /// Its process and that one's log.
    pub fn process(&self) -> (u32, &Path) {
        match self {
            Source::Process { pid, log } | Source::Srun { pid, log, .. } | Source::Host { pid, log, .. } => {
                (*pid, log)
            }
        }
    }

    fn is_running(&self) -> bool {
        let (pid, log) = self.process();
        Record::of(pid, log).is_some()
    }

    /// How many of its workers have ended.
    fn ended(&self) -> u32 {
        match self {
            source if !source.is_running() => source.workers(),
            Source::Process { .. } | Source::Host { .. } => 0,
            Source::Srun { log, step, .. } => u32::try_from(ended_tasks(log, step).len()).unwrap_or(u32::MAX),
        }
    }

    /// Those of its workers that are not among the connected ones, which are counted down by host.
    fn missing(&self, connected: &mut BTreeMap<String, u32>, names: &BTreeSet<String>) -> Vec<Missing> {
        let mut is_there = |host: &str| match connected.get_mut(host) {
            Some(n) if *n > 0 => {
                *n -= 1;
                true
            }
            _ => false,
        };
        match self {
            Source::Process { log, .. } => {
                let host = hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
                if is_there(&host) {
                    return Vec::new();
                }
                let state = if self.is_running() { "not connected" } else { "ended before it was ready" };
                vec![Missing { host, why: format!("{state}{}", logged(log)) }]
            }
            Source::Host { name, .. } if names.contains(name) => Vec::new(),
            Source::Host { log, host, means, .. } => {
                let state = if self.is_running() { "not connected".into() } else { format!("{means} ended") };
                vec![Missing { host: host.clone(), why: format!("{state}{}", logged(log)) }]
            }
            Source::Srun { log, step, name, .. } => {
                let ended = ended_tasks(log, step);
                let mut missing = Vec::new();
                for (at, node) in step.nodes.iter().enumerate() {
                    for k in 0..step.per_node {
                        if is_there(node) {
                            continue;
                        }
                        let task = at as u32 * step.per_node + k;
                        let why = ended.get(&task).cloned().unwrap_or_else(|| match self.is_running() {
                            true => "not connected".into(),
                            false => "srun ended".into(),
                        });
                        let own = log.parent().and_then(|d| task_log(d, name, at, task));
                        let said = own.filter(|log| std::fs::metadata(log).is_ok_and(|m| m.len() > 0));
                        let said = logged(said.as_deref().unwrap_or(log));
                        missing.push(Missing { host: node.clone(), why: format!("{why}{said}") });
                    }
                }
                missing
            }
        }
    }
}

/// The pattern of the logs of a step's workers, for `srun`: host, the node's and the task's number in the
/// step.
pub fn task_logs(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}-%N-%n-%t.log"))
}

/// The log of one task.
fn task_log(directory: &Path, name: &str, node: usize, task: u32) -> Option<PathBuf> {
    let (begin, end) = (format!("{name}-"), format!("-{node}-{task}.log"));
    let entries = std::fs::read_dir(directory).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let found = names.into_iter().find(|file| file.starts_with(&begin) && file.ends_with(&end))?;
    Some(directory.join(found))
}

/// The tasks of a step that have ended in disorder, by number, and what `srun` says about each.
fn ended_tasks(log: &Path, step: &Step) -> BTreeMap<u32, String> {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let mut ended = BTreeMap::new();
    for line in text.lines() {
        let Some((hosts, said)) = end_of_tasks(line) else { continue };
        let numbers = said.split_once(": task").and_then(|(_, rest)| {
            let (list, said) = rest.trim_start_matches('s').trim_start().split_once(": ")?;
            let list = hostlist::parse(&format!("[{list}]")).ok()?;
            Some((list.iter().filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>(), said))
        });
        match numbers {
            Some((tasks, said)) => ended.extend(tasks.into_iter().map(|task| (task, said.to_owned()))),
            None => {
                for (at, _) in step.nodes.iter().enumerate().filter(|(_, node)| hosts.contains(node)) {
                    let first = at as u32 * step.per_node;
                    ended.extend((first..first + step.per_node).map(|task| (task, said.to_owned())));
                }
            }
        }
    }
    ended.retain(|task, _| *task < step.tasks());
    ended
}

/// What a process logged last, as the end of a message.
pub fn logged(log: &Path) -> String {
    match last_lines(log, 0) {
        Ok(lines) if !lines.is_empty() => format!("; it logged:\n{lines}"),
        _ => "; it logged nothing".into(),
    }
}

/// The names of the workers that are connected.
///
/// # Errors
/// What the scheduler answers.
pub async fn connected(client: &Client) -> Result<BTreeSet<String>> {
    Ok(workers(client).await?.into_iter().map(|(name, _)| name).collect())
}

/// Names and hosts.
async fn workers(client: &Client) -> Result<Vec<(String, String)>> {
    let status = client.ask(Question::Status).await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = status["workers"].as_array().into_iter().flatten();
    Ok(all.map(|worker| (text(&worker["name"]), text(&worker["host"]))).collect())
}

/// Waits until the workers of `sources` are connected: workers that are not among those of `before`. Ends
/// earlier when the others cannot come any more.
///
/// # Errors
/// `Launch` when fewer than `min` can come, `Timeout` when fewer have come by `deadline`; each says which are
/// missing and what they logged.
pub async fn gather(
    client: &Client,
    sources: &[Source],
    before: &BTreeSet<String>,
    min: u32,
    deadline: Instant,
) -> Result<Gathered> {
    let expected: u32 = sources.iter().map(Source::workers).sum();
    let min = min.min(expected);
    let mut failing_since: Option<Instant> = None;
    loop {
        signals::go_on()?;
        let here = workers(client).await?;
        let mut by_host: BTreeMap<String, u32> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for (name, host) in here.iter().filter(|(name, _)| !before.contains(name)) {
            *by_host.entry(host.clone()).or_default() += 1;
            names.insert(name.clone());
        }
        let connected: u32 = by_host.values().sum();
        if connected >= expected {
            return Ok(Gathered { connected, missing: String::new() });
        }
        let ended: u32 = sources.iter().map(Source::ended).sum();
        let (now, hopeless) = (Instant::now(), expected.saturating_sub(ended) < min);
        if hopeless {
            failing_since.get_or_insert(now);
        }
        let failed = failing_since.is_some_and(|since| since + AFTER_FAILURE <= now);
        if failed || !hopeless && connected + ended >= expected || now >= deadline {
            let missing = sources.iter().flat_map(|s| s.missing(&mut by_host, &names)).collect();
            let missing = describe(missing);
            if connected >= min && !failed {
                return Ok(Gathered { connected, missing });
            }
            let kind = if failed { Kind::Launch } else { Kind::Timeout };
            let text = format!("{connected} of {expected} workers are connected; missing:\n{missing}");
            return Err(Error::new(kind, text));
        }
        // At once when all are there; otherwise this is the pause.
        let all = u32::try_from(before.len()).unwrap_or(u32::MAX).saturating_add(expected);
        let left = deadline.saturating_duration_since(now).min(LOOK_INTERVAL);
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(1).max(1);
        let waited = Instant::now();
        match client.ask(Question::WaitWorkers { workers: all, timeout_ms }).await {
            Err(e) if e.kind != Kind::Timeout => return Err(e),
            // Some of those before may have left, others may have come: then this does not wait.
            _ => tokio::time::sleep(Duration::from_millis(20).saturating_sub(waited.elapsed())).await,
        }
    }
}

/// Lines about missing workers.
fn describe(missing: Vec<Missing>) -> String {
    let mut lines = Vec::new();
    for one in missing.iter().take(EXPLAINED_MAX) {
        lines.push(format!("  {}: {}", one.host, one.why));
    }
    if missing.len() > EXPLAINED_MAX {
        let names = hostlist::format(missing[EXPLAINED_MAX..].iter().map(|m| m.host.as_str()));
        lines.push(format!("  and {names}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_srun_says_is_told_by_host() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("s.log");
        let text = "srun: warning: x\nsrun: error: n3: task 5: Exited with exit code 127\n\
                    srun: error: n[1,4]: tasks 0,6-7: Killed\nsrun: error: Node failure on n2\n";
        std::fs::write(&log, text).unwrap();
        std::fs::write(directory.path().join("s-vm-2-5.log"), "no such program\n").unwrap();
        let nodes = ["n1", "n2", "n3", "n4"].map(str::to_owned).to_vec();
        let step =
            Step { nodes, per_node: 2, cpus: 1, het_group: None, by_domain: false, beside_scheduler: false };
        let ended = ended_tasks(&log, &step);
        assert_eq!(ended.keys().copied().collect::<Vec<_>>(), [0, 2, 3, 5, 6, 7]);
        assert_eq!(ended[&5], "Exited with exit code 127");
        assert_eq!(ended[&2], "Node failure on n2");
        // This process stands for the srun: it runs.
        let source = Source::Srun { pid: std::process::id(), log, step, name: "s".into() };
        assert_eq!((source.workers(), source.ended()), (8, 6));
        let mut connected =
            BTreeMap::from([("n1".to_owned(), 2), ("n3".to_owned(), 1), ("n4".to_owned(), 2)]);
        let text = describe(source.missing(&mut connected, &BTreeSet::new()));
        assert!(text.contains("n3: Exited with exit code 127; it logged:\n    no such program"), "{text}");
        assert!(text.contains("n2: Node failure on n2") && !text.contains("n1: "), "{text}");
    }
}
