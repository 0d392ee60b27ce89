//! What a disk does for one plain reader or writer, as `dd` would measure it: what spilling is compared with.
//! Owns a file without a name for the time of the measuring.

use crate::base::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

/// Bytes of one write or read.
const PIECE_BYTES: usize = 1 << 20;

/// Times that each is measured; the fastest counts.
const ROUNDS: usize = 2;

/// Bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Writing a new file in sequence, `fdatasync` included (`dd conv=fdatasync`).
    pub write: f64,
    /// Reading it in sequence, past the page cache where that is possible (`dd iflag=direct`).
    pub read: f64,
}

/// Measures the disk of a directory with a file of so many bytes.
///
/// # Errors
/// The file cannot be written or read.
pub fn measure(directory: &Path, bytes: u64) -> Result<Speed> {
    let rounds = (0..ROUNDS).map(|_| round(directory, bytes.max(PIECE_BYTES as u64)));
    let rounds: Vec<Speed> = rounds
        .collect::<io::Result<_>>()
        .map_err(|e| Error::file("cannot measure the disk of", directory, &e))?;
    let best = |of: fn(&Speed) -> f64| rounds.iter().map(of).fold(0.0, f64::max);
    Ok(Speed { write: best(|s| s.write), read: best(|s| s.read) })
}

fn round(directory: &Path, bytes: u64) -> io::Result<Speed> {
    let path = directory.join(format!("disk-{}", uuid::Uuid::new_v4().simple()));
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(flags);
        options
    };
    let file = open(libc::O_NOFOLLOW).create_new(true).open(&path)?;
    // Without its page cache, if the file system can do that.
    let direct = open(libc::O_DIRECT | libc::O_NOFOLLOW).open(&path);
    std::fs::remove_file(&path)?;
    let pieces = bytes / PIECE_BYTES as u64;
    let mut piece = memmap2::MmapMut::map_anon(PIECE_BYTES)?;
    let each = |step: &mut dyn FnMut(u64) -> io::Result<()>| {
        (0..pieces).try_for_each(|n| step(n * PIECE_BYTES as u64))
    };
    let speed = |begin: Instant| (pieces * PIECE_BYTES as u64) as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    each(&mut |at| file.write_all_at(&piece, at))?;
    file.sync_data()?;
    let write = speed(begin);
    forget(&file);
    let begin = Instant::now();
    let past = direct.and_then(|file| each(&mut |at| file.read_exact_at(&mut piece, at)));
    if past.is_ok() {
        return Ok(Speed { write, read: speed(begin) });
    }
    forget(&file);
    let begin = Instant::now();
    each(&mut |at| file.read_exact_at(&mut piece, at))?;
    Ok(Speed { write, read: speed(begin) })
}

/// Drops what the page cache has of a file.
fn forget(file: &File) {
    // SAFETY: a plain system call on a descriptor that we hold. Nothing depends on it.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_take_time() {
        let dir = tempfile::tempdir().unwrap();
        let speed = measure(dir.path(), 3 << 20).unwrap();
        assert!(speed.write > 0.0 && speed.write.is_finite(), "{speed:?}");
        assert!(speed.read > 0.0 && speed.read.is_finite(), "{speed:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(Path::new("/nowhere"), 1).is_err());
    }
}
