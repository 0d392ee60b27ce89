//! The directory of a run that is one job. Owns the names and forms of its files, each of which is replaced
//! as a whole, so that whoever looks from another host never sees half of one.

use crate::base::error::{Error, Kind, Result};
use crate::client::summary::{RunProgress, RunSummary};
use crate::launch::dialect::System;
use crate::launch::jobs::Record;
use crate::net::private_file::{self, Fault};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often progress is written at most.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Order {
    /// What people call it.
    pub(super) name: String,
    /// The batch system.
    pub(super) system: System,
    /// Options for the submitting program.
    pub(super) native: Vec<String>,
    /// Nodes.
    pub(super) nodes: u32,
    /// The job's name.
    pub(super) job_name: String,
    /// Where the job's own output goes, with the system's placeholders.
    pub(super) log: String,
    /// How many jobs go on with it one after the other, the first included.
    #[serde(default = "one")]
    pub(super) chain: u32,
    /// What runs on the cluster.
    pub(super) what: What,
}

fn one() -> u32 {
    1
}

/// What runs on the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    /// The graph that stands beside.
    Graph {
        /// The rest is cancelled after so many failed tasks.
        max_fails: Option<u32>,
        /// Begin with so many workers.
        wait_workers: u32,
        /// Hand out so many tasks at a time.
        max_processing: Option<u32>,
    },
    /// A client program.
    Command {
        /// It and its arguments.
        argv: Vec<String>,
        /// Where it runs.
        cwd: PathBuf,
    },
}

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Standing {
    /// `running`, `interrupted` or `ended`.
    pub(super) state: String,
    /// When this was written (RFC 3339).
    pub(super) updated: String,
    /// The job that it runs in.
    pub(super) job_id: Option<String>,
    /// Tasks that an earlier job has done.
    pub(super) kept: u64,
    /// How far it is; nothing for a client program.
    pub(super) progress: Option<RunProgress>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct End {
    /// The exit code of whoever follows it.
    pub(super) exit_code: u8,
    /// When (RFC 3339).
    pub(super) ended: String,
    /// The job that it ran in.
    pub(super) job_id: Option<String>,
    /// Tasks that an earlier job has done.
    pub(super) kept: u64,
    /// What keeps it from running, if something did.
    pub(super) error: Option<String>,
    /// What the run came to; nothing for a client program.
    pub(super) summary: Option<RunSummary>,
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// The one at this path; nothing is made.
    pub(super) fn at(path: PathBuf) -> RunDirectory {
        RunDirectory { path }
    }

    /// A new one in `NAME-runs`, under `beside`.
    pub(super) fn new(beside: &Path, name: &str) -> RunDirectory {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let time: String = now.chars().filter(|c| c.is_ascii_alphanumeric() && *c != 'Z').collect();
        let own = format!("{time}-{:04x}", fastrand::u16(..));
        RunDirectory { path: beside.join(format!("{name}-runs")).join(own) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.file("manifest.jsonl")
    }

    /// Where workers leave what would be lost with them.
    pub(super) fn checkpoint(&self) -> PathBuf {
        self.file("checkpoint")
    }

    pub(super) fn script(&self) -> PathBuf {
        self.file("job.sh")
    }

    pub(super) fn scheduler_file(&self) -> PathBuf {
        self.file("scheduler.json")
    }

    /// Writes a file of JSON.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let json = serde_json::to_vec_pretty(value).map_err(|e| Error::os("cannot write JSON", e))?;
        private_file::write(&self.file(name), &json)
    }

    /// Reads a file of JSON; `None` if it is not there.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.file(name);
        let bytes = match private_file::read(&path) {
            Ok(bytes) => bytes,
            Err(Fault::Missing { .. }) => return Ok(None),
            Err(fault) => return Err(fault.into()),
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|e| {
            Error::new(Kind::File, format!("{} is not as hpcdag writes it: {e}", path.display()))
        })
    }

    /// What is to be run.
    ///
    /// # Errors
    /// `NotFound` when this is no run's directory.
    pub(super) fn order(&self) -> Result<Order> {
        self.read("run.json")?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{} is not the directory of a run", self.path.display()))
                .hint("name the directory that `submit --batch` printed; it has a file run.json")
        })
    }

    /// The jobs so far, the latest last.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn jobs(&self) -> Result<Vec<Record>> {
        Ok(self.read("jobs.json")?.unwrap_or_default())
    }

    /// Those that were submitted last, in the order in which they run.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn chain(&self, order: &Order) -> Result<Vec<Record>> {
        let mut all = self.jobs()?;
        let first = all.len().saturating_sub(order.chain.max(1) as usize);
        Ok(all.split_off(first))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn end(&self) -> Result<Option<End>> {
        self.read("summary.json")
    }

    /// Where it stands, if that is known.
    pub(super) fn standing(&self) -> Option<Standing> {
        // It only is for people to look at; the next one will do.
        self.read("progress.json").ok().flatten()
    }

    /// Forgets how it stood and ended: it goes on.
    ///
    /// # Errors
    /// `File`.
    pub(super) fn begin_again(&self) -> Result<()> {
        for name in ["summary.json", "progress.json"] {
            let path = self.file(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("cannot remove", &path, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Now, for people.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
