//! The background processes that this user started for a cluster on this host: a list beside the cluster's
//! other files, so that `down` can wait for their end. Owns the list; processes are started by `detach`.

use crate::base::error::{Error, Result};
use crate::worker::process::send_signal;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The list's name in a cluster's directory.
const LIST: &str = "processes";

/// How the names of the files begin that belong to workers on hosts.
pub const HOSTS_PREFIX: &str = "hosts-";

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub pid: u32,
    /// When the kernel says that it began: numbers are used again.
    pub began: u64,
    /// The host that it runs on.
    pub host: String,
    /// Where it logs.
    pub log: PathBuf,
    /// The step of a Slurm job that it is the `srun` of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepRecord>,
}

/// A step of a Slurm job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The job.
    pub job_id: String,
    /// The step's name, which is unique.
    pub name: String,
    /// The node that it runs the scheduler on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler_on: Option<String>,
}

impl Record {
    /// Of a process that has just been started here. `None` if it has ended already.
    pub fn of(pid: u32, log: &Path) -> Option<Record> {
        Some(Record { pid, began: began(pid)?, host: this_host(), log: log.to_owned(), step: None })
    }

    /// The same for one that may have ended: its log is to be found all the same.
    pub fn of_any(pid: u32, log: &Path) -> Record {
        // No process of a user begins at 0.
        let ended = || Record { pid, began: 0, host: this_host(), log: log.to_owned(), step: None };
        Record::of(pid, log).unwrap_or_else(ended)
    }

    /// Whether it is still there. Processes of other hosts are not, as far as this one knows.
    pub fn is_running(&self) -> bool {
        self.is_of_this_host() && began(self.pid) == Some(self.began)
    }

    /// Whether this host can tell.
    pub fn is_of_this_host(&self) -> bool {
        self.host == this_host()
    }
}

/// When a process began, in the kernel's ticks; `None` if there is none, or it has ended and was not reaped.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows the last bracket does not.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn this_host() -> String {
    hostname::get().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Adds processes to the list of a cluster's directory.
///
/// # Errors
/// `File` when it cannot be written.
pub fn note(directory: &Path, records: &[Record]) -> Result<()> {
    let path = directory.join(LIST);
    let fault = |e: std::io::Error| Error::file("cannot write", &path, &e);
    let lines = records.iter().filter_map(|r| Some(serde_json::to_string(r).ok()? + "\n"));
    let lines: String = lines.collect();
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(fault)?;
    // One write: others may append at the same time.
    file.write_all(lines.as_bytes()).map_err(fault)
}

/// The processes on the list of a cluster's directory; none if there is no list.
pub fn noted(directory: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(directory.join(LIST)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for the end of processes; asks those that stay to leave, and kills them in the end. Returns how many
/// had to be killed.
pub fn end(records: &[Record], patience: Duration) -> usize {
    let wait = |patience: Duration| {
        let deadline = Instant::now() + patience;
        while records.iter().any(Record::is_running) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(patience);
    // A process that cannot be told is somebody else's by now.
    let tell = |record: &Record, signal| {
        let pid = i32::try_from(record.pid).ok();
        pid.is_some_and(|pid| send_signal(pid, signal).unwrap_or(false))
    };
    let running = |steps: bool| {
        let of_kind = records.iter().filter(move |r| r.step.is_some() == steps);
        of_kind.filter(|r| r.is_running())
    };
    // `srun` kills its tasks when it gets a signal, and its whole job when it is killed: Slurm itself is
    // asked to end a step.
    let asked = running(true).filter(|r| r.step.as_ref().is_some_and(cancel_step)).count();
    if asked + running(false).filter(|r| tell(r, Signal::SIGTERM)).count() > 0 {
        wait(Duration::from_secs(if asked > 0 { 10 } else { 5 }));
    }
    let killed = running(true).filter(|r| tell(r, Signal::SIGTERM)).count()
        + running(false).filter(|r| tell(r, Signal::SIGKILL)).count();
    if killed > 0 {
        wait(Duration::from_secs(2));
    }
    killed
}

/// Asks Slurm to end a step; whether it was there.
fn cancel_step(step: &StepRecord) -> bool {
    let query = ["--noheader", "--steps", "--jobs", &step.job_id, "--format=%i %j"];
    let Ok(listed) = Command::new("squeue").args(query).stderr(Stdio::null()).output() else { return false };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let named = text.lines().filter_map(|line| line.trim().split_once(' '));
    let Some((id, _)) = named.into_iter().find(|(_, name)| name.trim() == step.name) else { return false };
    let asked = Command::new("scancel").arg(id).stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Removes the list and the logs of the processes on it: they have ended in order and nobody will ask.
pub fn forget(directory: &Path) {
    let records = noted(directory);
    let logs = records.iter().map(|r| r.log.clone()).filter(|log| log.parent() == Some(directory));
    let names = || records.iter().filter_map(|r| Some(format!("{}-", r.step.as_ref()?.name)));
    let entries =
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let of_step = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        names().any(|step| name.starts_with(&step)) || name.starts_with(HOSTS_PREFIX)
    };
    let of_steps: Vec<PathBuf> = entries.filter(of_step).collect();
    for path in logs.chain(of_steps).chain([directory.join(LIST)]) {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_number_and_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "x").unwrap();
        let record = Record::of(child.id(), &log).unwrap();
        assert!(record.is_running());
        assert!(!Record { began: 1, ..record.clone() }.is_running());
        assert!(!Record { host: "elsewhere".into(), ..record.clone() }.is_running());
        note(directory.path(), std::slice::from_ref(&record)).unwrap();
        assert_eq!(noted(directory.path()), std::slice::from_ref(&record));
        assert_eq!(
            end(std::slice::from_ref(&record), Duration::from_millis(50)),
            0,
            "asked to leave, it left"
        );
        assert!(!record.is_running());
        child.wait().unwrap();
        forget(directory.path());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
