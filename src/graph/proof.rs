//! Lines that prove a file to be as it was written: for outputs, and for results in a checkpoint. Owns a
//! line's form and when it holds; which lines are written where is up to clients and workers.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    /// The task's key.
    pub key: String,
    /// The task's fingerprint.
    pub fingerprint: String,
    /// Which part: empty for stdout.
    pub part: String,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes; none if it was left out because it is empty.
    pub size: Option<u64>,
    /// When it was last changed, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// CRC-32 of its content.
    pub checksum: u32,
}

impl Line {
    /// Looks at a file that was written, and sees to it that it is on disk. `may_be_missing`: there is none
    /// because it would be empty.
    ///
    /// # Errors
    /// What reading it gives; that it is being changed.
    pub fn of(
        key: &str,
        fingerprint: &str,
        part: &str,
        path: PathBuf,
        may_be_missing: bool,
    ) -> io::Result<Line> {
        let line = Line {
            key: key.into(),
            fingerprint: fingerprint.into(),
            part: part.into(),
            path,
            size: None,
            mtime_ns: 0,
            checksum: 0,
        };
        match File::open(&line.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && may_be_missing => Ok(line),
            Err(e) => Err(e),
            Ok(mut file) => {
                // The worker may have left it to its system when to write; then a line would be a promise.
                file.sync_data()?;
                let meta = file.metadata()?;
                let (size, checksum) = checksum(&mut file)?;
                if size != meta.len() {
                    return Err(io::Error::other("it changes"));
                }
                Ok(Line { size: Some(size), mtime_ns: mtime_ns(&meta), checksum, ..line })
            }
        }
    }

    /// Whether the file is there as it was. Where only its time differs, its content decides.
    pub fn holds(&self, path: &Path) -> bool {
        if path != self.path {
            return false;
        }
        let meta = std::fs::metadata(path);
        let Some(size) = self.size else { return meta.is_err() };
        match meta {
            Ok(meta) if !meta.is_file() || meta.len() != size => false,
            Ok(meta) if mtime_ns(&meta) == self.mtime_ns => true,
            Ok(_) => File::open(path)
                .and_then(|mut file| checksum(&mut file))
                .is_ok_and(|found| found == (size, self.checksum)),
            Err(_) => false,
        }
    }
}

/// Time of the last change, nanoseconds since 1970.
pub fn mtime_ns(meta: &std::fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

fn checksum(file: &mut File) -> io::Result<(u64, u32)> {
    let (mut hasher, mut size) = (crc32fast::Hasher::new(), 0u64);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, hasher.finalize())),
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}
