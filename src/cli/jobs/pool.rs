//! Jobs that come and go, as `workers scale` and `workers adapt` see them: which there are, who is in them,
//! and how one of them is ended. Owns that only one of these commands works on a cluster at a time.

use super::records;
use super::start::Submitter;
use super::{system_of, trouble};
use crate::base::error::{Error, Kind, Result};
use crate::cli::args::{LauncherName, PoolOptions};
use crate::cli::context::{Context, absolute, run_short};
use crate::launch::adapt::Condition;
use crate::launch::dialect::{JobState, JobStatus, System};
use crate::launch::jobs::{self, Record};
use crate::launch::pools::Pool;
use crate::net::{discovery, private_file, scheduler_file};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The lock's name in the directory of jobs.
const LOCK: &str = "scale.lock";

/// A name for the files of one of these commands, by the pool that it is about.
pub(super) fn file_name(pool: Option<&Pool>, end: &str) -> String {
    pool.map_or_else(|| end.to_owned(), |pool| format!("{}.{end}", pool.name))
}

/// The batch system that is meant: that of the launcher, or that of the last job.
pub(super) fn system(
    context: &Context,
    options: &PoolOptions,
    launcher: Option<LauncherName>,
) -> Result<System> {
    let launcher = match launcher {
        Some(launcher) => system_of(launcher)?,
        None => {
            let wish = context.wish(&options.scheduler)?;
            let path = run_short(async { absolute(&discovery::find(&wish).await?.path) })?;
            let last = match scheduler_file::read(&path) {
                Ok(file) => records::read(&super::directory(&path, &file)?)?.pop(),
                // Whoever connects says what is wrong with it.
                Err(_) => None,
            };
            last.map(|(_, record)| record.system)
        }
    };
    launcher.ok_or_else(|| {
        Error::new(Kind::Usage, "workers come and go only as jobs of a batch system")
            .hint("name it: --launcher sbatch, qsub, pbs or sge")
    })
}

/// Makes sure that nobody else changes the cluster's jobs; while the file is open. Where locks are not to be
/// had it does without.
pub(super) fn lock(submitter: &Submitter) -> Result<Option<Flock<File>>> {
    private_file::make_directory(&submitter.directory)?;
    let path = submitter.directory.join(file_name(submitter.pool.as_ref(), LOCK));
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::file("cannot write", &path, &e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::new(
            Kind::Usage,
            "another `workers adapt` or `workers scale` is at work on this cluster",
        )
        .hint("end it with Ctrl-C first; workers stay as they are")),
        Err((_, error)) => {
            tracing::debug!(%error, "no locks here");
            Ok(None)
        }
    }
}

/// Whether one of these commands is at work on the cluster.
pub(super) fn is_locked(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut locks = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(LOCK));
    locks.any(|entry| is_held(&entry.path()))
}

/// Whether somebody holds a lock.
pub(super) fn is_held(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Jobs, of a pool or of none, that may be ended again and are not known to be over.
pub(super) fn open(directory: &Path, pool: Option<&Pool>) -> Result<Vec<(PathBuf, Record)>> {
    let mut all = records::read(directory)?;
    let name = pool.map(|pool| &pool.name);
    all.retain(|(_, record)| record.scaled && record.ended.is_none() && record.pool.as_ref() == name);
    Ok(all)
}

/// What the batch system says about jobs, by id; what is over is noted.
pub(super) fn conditions(open: &[(PathBuf, Record)]) -> Result<Vec<(String, Condition)>> {
    let only: Vec<Record> = open.iter().map(|(_, record)| record.clone()).collect();
    let statuses = jobs::status(&only)?;
    let mut all = Vec::new();
    for ((path, record), statuses) in open.iter().zip(statuses) {
        let mut condition = condition(&statuses);
        if let Condition::Over { logged, .. } = &mut condition {
            *logged = statuses.first().and_then(|s| trouble::last_word(record, s));
            records::update(path, &Record { ended: Some(statuses), ..record.clone() });
        }
        all.push((record.id.clone(), condition));
    }
    Ok(all)
}

/// How a job is, from what is known of it.
pub(super) fn condition(statuses: &[JobStatus]) -> Condition {
    let state = jobs::summary(statuses);
    match state {
        JobState::Pending | JobState::Held => Condition::Waiting,
        _ if state.is_over() => {
            let word = statuses.iter().find(|s| s.state == state).map_or("-", |s| s.word.as_str());
            let words = state.words();
            let same = word == "-" || word.eq_ignore_ascii_case(words);
            let how = if same { words.into() } else { format!("{words} ({word})") };
            Condition::Over { how, logged: None }
        }
        _ => Condition::Running,
    }
}

/// A job that is to be cancelled, and what became of that.
pub(super) enum Fate {
    /// It is over.
    Over,
    /// It is still there, and why.
    Stayed(String),
}

/// Cancels jobs, with one question for all; of those marked as waiting only what still waits. The answer is
/// in the order of the jobs.
pub(super) fn cancel(jobs_to_end: &[(Record, bool)]) -> Vec<Fate> {
    let records: Vec<Record> = jobs_to_end.iter().map(|(record, _)| record.clone()).collect();
    let all_stay = |e: &Error| records.iter().map(|_| Fate::Stayed(e.message.clone())).collect();
    let statuses = match jobs::status(&records) {
        Ok(statuses) => statuses,
        Err(e) => return all_stay(&e),
    };
    let starts = |k: usize| jobs_to_end[k].1 && condition(&statuses[k]) == Condition::Running;
    let chosen: Vec<usize> = (0..records.len()).filter(|&k| !starts(k)).collect();
    let some: Vec<Record> = chosen.iter().map(|&k| records[k].clone()).collect();
    let known: Vec<Vec<JobStatus>> = chosen.iter().map(|&k| statuses[k].clone()).collect();
    let cancelled = jobs::cancel_known(&some, &known);
    let fate = |k: usize| match &cancelled {
        _ if starts(k) => Fate::Stayed("it has started meanwhile".into()),
        Ok(_) => Fate::Over,
        Err(e) => Fate::Stayed(e.message.clone()),
    };
    (0..records.len()).map(fate).collect()
}

/// The names of the connected workers of a job.
pub(super) fn workers_of<'a>(status: &'a Value, id: &str) -> Vec<&'a str> {
    let all = status["workers"].as_array().into_iter().flatten();
    all.filter(|w| w["job-id"] == id).filter_map(|w| w["name"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_by_what_the_system_says() {
        let of =
            |state, word: &str| condition(&[JobStatus { state, word: word.into(), ..JobStatus::gone("1") }]);
        assert_eq!(of(JobState::Held, "PENDING"), Condition::Waiting);
        assert_eq!(of(JobState::Completing, "COMPLETING"), Condition::Running);
        let over = |how: &str| Condition::Over { how: how.into(), logged: None };
        assert_eq!(of(JobState::Failed, "FAILED"), over("failed"));
        assert_eq!(of(JobState::TimeLimit, "TIMEOUT"), over("ended by time limit (TIMEOUT)"));
        assert_eq!(condition(&[]), over("gone"));
    }
}
