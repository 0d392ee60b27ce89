//! What a life of a worker leaves behind: its log, which it keeps in a file while it lives, and what its last
//! tasks have printed. Owns the log's files, and what becomes of all this when the life is over.

use super::printed::{self, read};
use super::profile;
use crate::base::ids::Incarnation;
use crate::base::own_log;
use crate::protocol::messages::look::LastWords;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The log's file, and the one before it.
const LOG: [&str; 2] = ["log", "log.1"];

/// Bytes of the log's file before another one is begun.
const LOG_BYTES: u64 = 512 << 10;

/// Bytes of the log among last words.
const LOG_LAST: usize = 256 << 10;

/// Bytes of each stream of tasks among last words, and of all of them.
const TASK_LAST: u64 = 64 << 10;
const TASKS_LAST: u64 = 768 << 10;

/// The directory for this below a worker's own.
pub(super) fn directory(own: &Path) -> PathBuf {
    own.join(printed::DIRECTORY)
}

/// A log in a file.
struct Log {
    directory: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(directory: &Path) -> io::Result<Log> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(LOG[0]);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Log { directory: directory.to_path_buf(), file, bytes: 0 })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.bytes >= LOG_BYTES {
            std::fs::rename(self.directory.join(LOG[0]), self.directory.join(LOG[1]))?;
            *self = Log::open(&self.directory)?;
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

/// Keeps this process's log in a file below a worker's directory from now on.
pub(super) fn keep_log(own: &Path) {
    let log = match Log::open(&directory(own)) {
        Ok(log) => Mutex::new(log),
        Err(error) => return tracing::warn!("the log is not kept for those who come later: {error}"),
    };
    own_log::also(move |line| {
        // To say so would be a line again.
        let _ = log.lock().unwrap_or_else(PoisonError::into_inner).write(line);
    });
}

/// What a life has left in its directory of logs.
pub(super) fn of(incarnation: Incarnation, directory: &Path, profile: String) -> LastWords {
    let log = LOG.iter().rev().filter_map(|name| std::fs::read(directory.join(name)).ok()).flatten();
    let log: Vec<u8> = log.collect();
    let from = log.len().saturating_sub(LOG_LAST);
    let line = log[from..].iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    let from = if from == 0 { 0 } else { from + line };
    let log = String::from_utf8_lossy(&log[from..]).into_owned();
    LastWords { incarnation, log, tasks: read::last(directory, TASK_LAST, TASKS_LAST), profile }
}

/// Where a nanny keeps what a life has left until the next one has told of it.
pub(super) fn kept_in(own: &Path) -> PathBuf {
    own.with_extension("left")
}

/// What a dead life has left, out of its directory. Removed with this value.
#[derive(Debug)]
pub(super) struct Left(pub PathBuf);

impl Left {
    /// Takes it out, if there is anything.
    pub(super) fn take(own: &Path) -> Option<Left> {
        let kept = kept_in(own);
        std::fs::rename(directory(own), &kept).ok()?;
        profile::rescue(own, &kept);
        Some(Left(kept))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Err(error) = super::directory::remove(&self.0) {
            tracing::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Attempt, TaskRef};
    use std::sync::Arc;

    #[test]
    fn a_life_leaves_its_log_and_what_tasks_have_printed() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("worker-1");
        let mut log = Log::open(&directory(&own)).unwrap();
        for n in 0..60_000 {
            log.write(&format!("line number {n:08}\n")).unwrap();
        }
        let book = Arc::new(printed::Book::create(&own, 1000, 100_000).unwrap());
        let id = (TaskRef::default(), Attempt { epoch: 1, n: 1 });
        book.stream(id, printed::Which::Stderr).write(b"the reason");
        let left = Left::take(&own).unwrap();
        assert!(!directory(&own).exists());
        let words = of(Incarnation::nil(), &left.0, String::new());
        assert!(words.log.len() > LOG_LAST - 30 && words.log.len() <= LOG_LAST, "{}", words.log.len());
        assert!(words.log.starts_with("line number 0") && words.log.ends_with("line number 00059999\n"));
        assert_eq!(words.tasks[0].parts[0].text, "the reason");
        let kept = left.0.clone();
        drop(left);
        assert!(!kept.exists() && Left::take(&own).is_none());
        assert!(of(Incarnation::nil(), &kept, String::new()).tasks.is_empty());
    }
}
