//! What is kept of a cluster's jobs: a directory beside the cluster's other files, with a record, a script
//! and the workers' settings for each submission. Owns the files' names; nothing in them is secret, but all
//! are for the user alone.

use crate::base::error::{Error, Kind, Result};
use crate::launch::jobs::Record;
use crate::net::private_file;
use std::path::{Path, PathBuf};

/// The directory's name in that of the cluster.
pub(in crate::cli) const DIRECTORY: &str = "jobs";

/// How often a directory is emptied that is not empty afterwards.
const FORGET_TRIES: u32 = 10;

/// The end of records' names.
const END: &str = ".job.json";

/// A place for the files of a submission.
pub(in crate::cli) struct Place {
    stem: PathBuf,
}

impl Place {
    /// A new one.
    pub(super) fn new(directory: &Path) -> Place {
        Place { stem: directory.join(format!("workers-{:08x}", fastrand::u32(..))) }
    }

    /// One with a name of its own.
    pub(in crate::cli) fn named(directory: &Path, name: &str) -> Place {
        Place { stem: directory.join(name) }
    }

    /// The file with this end.
    pub(in crate::cli) fn file(&self, end: &str) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(end);
        name.into()
    }

    /// Writes the record.
    ///
    /// # Errors
    /// `File` when it cannot be written.
    pub(in crate::cli) fn keep(&self, record: &Record) -> Result<()> {
        write(&self.file(END), record)
    }

    /// Removes the files: nothing was submitted.
    pub(super) fn remove(&self) {
        for end in [".sh", ".toml"] {
            // Another attempt has files of its own.
            let _ = std::fs::remove_file(self.file(end));
        }
    }
}

fn write(path: &Path, record: &Record) -> Result<()> {
    let json = serde_json::to_vec_pretty(record).map_err(|e| Error::os("cannot write a job's record", e))?;
    private_file::write(path, &json)
}

/// All records of a cluster, in the order of submission, with their files.
///
/// # Errors
/// `File` when they cannot be read.
pub(in crate::cli) fn read(directory: &Path) -> Result<Vec<(PathBuf, Record)>> {
    let fault = |e: &std::io::Error| Error::file("cannot read", directory, e);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fault(&e)),
    };
    let mut all: Vec<(PathBuf, Record)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| fault(&e))?.path();
        if !path.to_string_lossy().ends_with(END) {
            continue;
        }
        let record = serde_json::from_slice(&private_file::read(&path)?)
            .map_err(|e| Error::new(Kind::File, format!("{} is not a job's record: {e}", path.display())))?;
        all.push((path, record));
    }
    all.sort_by(|(_, a), (_, b)| (&a.submitted, &a.id).cmp(&(&b.submitted, &b.id)));
    Ok(all)
}

/// Writes a record again.
pub(super) fn update(path: &Path, record: &Record) {
    // It only saves the next question.
    if let Err(error) = write(path, record) {
        tracing::warn!("{}", error.message);
    }
}

/// Removes the directory and everything in it.
pub(in crate::cli) fn forget(directory: &Path) {
    let mut removed = std::fs::remove_dir_all(directory);
    for _ in 1..FORGET_TRIES {
        // A job that was cancelled as it began makes its log at this very moment.
        if !matches!(&removed, Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty) {
            break;
        }
        removed = std::fs::remove_dir_all(directory);
    }
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %directory.display(), %error, "cannot remove");
    }
}
