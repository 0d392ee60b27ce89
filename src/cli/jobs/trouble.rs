//! Jobs whose workers are missing: which and where, why in the batch system's words, what they logged, and
//! what can be done. Owns these words; whoever waits for workers says them.

use super::list::Known;
use crate::cli::detach::last_lines;
use crate::launch::dialect::{JobState, JobStatus, System};
use crate::launch::jobs::Record;
use crate::launch::slurm::hostlist;
use crate::launch::slurm::srun::end_of_tasks;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A job without all its workers.
pub(super) struct Trouble {
    system: System,
    id: String,
    pub(super) state: JobState,
    word: String,
    reason: Option<String>,
    start: Option<String>,
    /// Nodes of a running job that have no worker, as far as they are known.
    hosts: Vec<String>,
    logged: String,
    /// Workers that may still come of it.
    pub(super) to_come: u32,
}

/// The jobs of a submission that lack workers; `None` if the batch system does not answer.
pub(super) fn of(known: &Known, workers: &[Value]) -> Option<Vec<Trouble>> {
    let statuses = known.statuses.as_ref().ok()?;
    let lacking = |s: &JobStatus| {
        let here = known.hosts(s, workers);
        let missing = known.record.nodes.saturating_sub(u32::try_from(here.len()).unwrap_or(u32::MAX));
        (missing > 0).then(|| one(&known.record, s, &here, missing))
    };
    Some(statuses.iter().filter_map(lacking).collect())
}

fn one(record: &Record, s: &JobStatus, here: &[&str], missing: u32) -> Trouble {
    let ended = ended_hosts(&main_log(record, s));
    let mut to_come = if s.state.is_over() { 0 } else { missing };
    let mut hosts: Vec<(usize, String)> = Vec::new();
    if matches!(s.state, JobState::Running | JobState::Completing) {
        to_come = to_come.saturating_sub(u32::try_from(ended.len()).unwrap_or(u32::MAX));
        let nodes = s.nodes.as_deref().filter(|_| record.system == System::Slurm);
        let nodes = nodes.and_then(|n| hostlist::parse(n).ok()).unwrap_or_default();
        hosts = nodes.into_iter().enumerate().filter(|(_, node)| !here.contains(&node.as_str())).collect();
    }
    let started = !matches!(s.state, JobState::Pending | JobState::Held | JobState::Starting);
    Trouble {
        system: record.system,
        id: s.id.clone(),
        state: s.state,
        word: s.word.clone(),
        reason: s.reason.clone(),
        start: s.start_estimate.clone(),
        logged: if started { said(record, s, &hosts) } else { String::new() },
        hosts: hosts.into_iter().map(|(_, host)| host).collect(),
        to_come,
    }
}

impl Trouble {
    /// One line.
    pub(super) fn line(&self) -> String {
        let mut inside: Vec<&str> = Vec::new();
        if !self.word.eq_ignore_ascii_case(self.state.words()) && self.word != "-" {
            inside.push(&self.word);
        }
        inside.extend(self.reason.as_deref());
        let why = if inside.is_empty() { String::new() } else { format!(" ({})", inside.join(", ")) };
        let mut line = format!("job {} is {}{why}", self.id, self.state.words());
        if let Some(start) = &self.start {
            line.push_str(&format!(", expected to start {start}"));
        }
        if !self.hosts.is_empty() {
            line.push_str(&format!(
                ", without a worker on {}",
                hostlist::format(self.hosts.iter().map(String::as_str))
            ));
        }
        line
    }

    /// The same with what it logged.
    pub(super) fn text(&self) -> String {
        match self.logged.is_empty() {
            true => self.line(),
            false => format!("{}; it logged:\n{}", self.line(), self.logged),
        }
    }

    /// What can be done about it.
    pub(super) fn hint(&self) -> Option<String> {
        let id = &self.id;
        if self.state == JobState::Held {
            let release = if self.system == System::Slurm { "scontrol release" } else { "qrls" };
            return Some(format!(
                "`{release} {id}` lets a held job go, if you may; `hpcdag workers stop {id}` takes it away"
            ));
        }
        let logs = |words: &[&str]| words.iter().any(|word| self.logged.contains(word));
        let key = self.system.key();
        if logs(&["No such file or directory", "command not found", "Permission denied"]) {
            return Some(format!(
                "the program must be on the nodes too: install hpcdag where they see it, or say with \
                 launch.{key}.program where it is there"
            ));
        }
        let lost = matches!(self.state, JobState::Cancelled | JobState::NodeFailure | JobState::Failed);
        let tool = if self.system == System::Slurm { "`sinfo -R`" } else { "the batch system" };
        (lost && (self.logged.is_empty() || logs(&["prolog"]))).then(|| {
            format!("if nobody has cancelled it, its node did not let it start: {tool} tells of such nodes")
        })
    }
}

/// The job's own log: the name that was asked for, with what the batch system puts in.
fn main_log(record: &Record, s: &JobStatus) -> PathBuf {
    let inner = s.inner_id.as_deref().unwrap_or(&s.id);
    let task = s.id.rsplit(['_', '.']).next().unwrap_or_default();
    let task = match s.id.split_once('[') {
        Some((_, rest)) => rest.split(']').next().unwrap_or_default(),
        None => task,
    };
    let number = record.id.split(['.', '[']).next().unwrap_or_default();
    let text = match record.system {
        System::Slurm => record.log.replace("%j", inner).replace("%A", &record.id).replace("%a", task),
        System::Pbs => record.log.replace("^array_index^", task),
        System::GridEngine => record.log.replace("$JOB_ID", number).replace("$TASK_ID", task),
    };
    text.into()
}

/// What a job said last: one of its missing workers, by its place in the job, or else its script.
fn said(record: &Record, s: &JobStatus, missing: &[(usize, String)]) -> String {
    let inner = s.inner_id.as_deref().unwrap_or(&s.id);
    let own = worker_logs(&record.script, inner);
    // By the task's number, one for each node: several nodes may be one host.
    let is_missing =
        |path: &Path| missing.iter().any(|(at, _)| path.to_string_lossy().ends_with(&format!("-{at}.log")));
    let first = own.iter().filter(|path| missing.is_empty() || is_missing(path));
    let main = main_log(record, s);
    let texts = first.chain([&main]).filter_map(|path| last_lines(path, 0).ok());
    texts.into_iter().find(|text| !text.trim().is_empty()).unwrap_or_default()
}

/// The logs of a step's workers that are not empty.
fn worker_logs(script: &Path, job: &str) -> Vec<PathBuf> {
    let stem = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let begin = format!("{stem}-{job}-");
    let entries = script.parent().and_then(|d| std::fs::read_dir(d).ok()).into_iter().flatten();
    let mut logs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin)))
        .filter(|path| std::fs::metadata(path).is_ok_and(|m| m.len() > 0))
        .collect();
    logs.sort();
    logs
}

/// The nodes whose worker has ended, from what `srun` wrote to the job's log.
fn ended_hosts(log: &Path) -> BTreeSet<String> {
    let text = last_lines(log, 0).unwrap_or_default();
    let hosts = text.lines().filter_map(|line| end_of_tasks(line.trim())).flat_map(|(hosts, _)| hosts);
    hosts.collect()
}

/// The last line that a job logged.
pub(super) fn last_word(record: &Record, s: &JobStatus) -> Option<String> {
    let text = said(record, s, &[]);
    text.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(system: System, id: &str, log: &str) -> Record {
        Record {
            system,
            id: id.into(),
            name: "n".into(),
            nodes: 1,
            jobs: 1,
            submitted: String::new(),
            script: "/none/s.sh".into(),
            log: log.into(),
            pool: None,
            scaled: false,
            ended: None,
        }
    }

    #[test]
    fn logs_are_found_by_the_systems_placeholders() {
        let of = |system, id: &str, each: &str, inner: Option<&str>, log: &str| {
            let status =
                JobStatus { id: each.into(), inner_id: inner.map(str::to_owned), ..JobStatus::gone(id) };
            main_log(&record(system, id, log), &status).display().to_string()
        };
        assert_eq!(of(System::Slurm, "7", "7", None, "/l/s-%j.log"), "/l/s-7.log");
        assert_eq!(of(System::Slurm, "7", "7_3", Some("9"), "/l/s-%A_%a.log"), "/l/s-7_3.log");
        assert_eq!(of(System::Pbs, "7[].login", "7[3].login", None, "/l/s.^array_index^.log"), "/l/s.3.log");
        assert_eq!(of(System::GridEngine, "7", "7.3", None, "/l/s.$JOB_ID.$TASK_ID.log"), "/l/s.7.3.log");
    }

    #[test]
    fn held_jobs_and_missing_programs_have_a_way_on() {
        let status = |state, reason: &str| JobStatus {
            id: "7".into(),
            state,
            word: "PENDING".into(),
            reason: Some(reason.into()),
            ..JobStatus::gone("7")
        };
        let record = record(System::Slurm, "7", "/none/l");
        let held = one(&record, &status(JobState::Held, "JobHeldUser"), &[], 1);
        assert_eq!(held.line(), "job 7 is held (PENDING, JobHeldUser)");
        assert!(held.hint().is_some_and(|h| h.contains("scontrol release 7")) && held.to_come == 1);
        let mut failed = one(&record, &status(JobState::Failed, "NonZeroExitCode"), &[], 1);
        assert!(failed.to_come == 0 && failed.hint().is_some_and(|h| h.contains("sinfo -R")));
        failed.logged = "slurmstepd: error: execve(): /x/hpcdag: No such file or directory".into();
        assert!(failed.hint().is_some_and(|h| h.contains("launch.slurm.program")));
    }
}
