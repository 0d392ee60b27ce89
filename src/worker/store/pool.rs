//! Memory files that are used again. To the kernel a fresh page costs several times what it costs to fill it,
//! so the files of large results are kept when the results are gone, and the next ones are written over them.
//! Owns which files are kept, how many bytes, for how long, and that nobody still reads what is overwritten.
//! Whoever is handed a file gets an open file description of its own with a lock on it: the kernel drops the
//! lock with the last descriptor and the last mapping, in whichever process, however that ends.

use super::memfile;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Smaller files are made anew: that costs little.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Files that wait to be used again, at most.
const IDLE_FILES_MAX: usize = 64;

/// Files that are watched until nobody reads them, at most.
const AWAY_FILES_MAX: usize = 256;

/// How long a file waits before its memory goes back to the system.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// A file that has so many times the bytes that are needed is left for something larger.
const WASTE_MAX: u64 = 2;

/// Files of so many bytes together are closed in a moment.
const BRIEF_BYTES: u64 = 16 << 20;

/// The files of all workers of this process. Nothing is kept until somebody says how much.
static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), away: Vec::new(), bound: 0 });

/// A file, and what it occupies.
#[derive(Debug)]
struct Kept {
    file: File,
    bytes: u64,
    since: Instant,
}

#[derive(Debug)]
struct Pool {
    /// Nobody has these.
    idle: Vec<Kept>,
    /// Somebody else writes or reads these; their results, if there are any, are gone.
    away: Vec<Kept>,
    /// Bytes that may be idle.
    bound: u64,
}

impl Pool {
    fn bytes(&self) -> u64 {
        self.idle_bytes() + self.away.iter().map(|kept| kept.bytes).sum::<u64>()
    }

    fn idle_bytes(&self) -> u64 {
        self.idle.iter().map(|kept| kept.bytes).sum()
    }

    /// The idle file whose size is closest to what is needed.
    fn take(&mut self, bytes: u64) -> Option<Kept> {
        let fits = |kept: &&(usize, &Kept)| kept.1.bytes <= bytes.saturating_mul(WASTE_MAX);
        let idle = self.idle.iter().enumerate();
        let (at, _) = idle.filter(|kept| fits(&kept)).min_by_key(|(_, kept)| kept.bytes.abs_diff(bytes))?;
        Some(self.idle.swap_remove(at))
    }

    /// Keeps a file that nobody has. Returns what there is no room for.
    #[must_use]
    fn put(&mut self, kept: Kept) -> Vec<Kept> {
        self.idle.push(kept);
        self.shrink()
    }

    /// Those that wait longest, until the rest is within bounds.
    #[must_use]
    fn shrink(&mut self) -> Vec<Kept> {
        let mut bytes = self.idle_bytes();
        let mut left = Vec::new();
        while bytes > self.bound || self.idle.len() > IDLE_FILES_MAX {
            let Some((at, _)) = self.idle.iter().enumerate().min_by_key(|(_, kept)| kept.since) else {
                break;
            };
            let kept = self.idle.swap_remove(at);
            bytes -= kept.bytes;
            left.push(kept);
        }
        left
    }

    /// Notes who of those that had a file has gone. Returns what there is no room for.
    #[must_use]
    fn look(&mut self, now: Instant) -> Vec<Kept> {
        let free = self.away.extract_if(.., |kept| !is_held(&kept.file));
        self.idle.extend(free.map(|kept| Kept { since: now, ..kept }));
        self.shrink()
    }

    /// Those that nothing has needed for a while.
    #[must_use]
    fn expired(&mut self, now: Instant) -> Vec<Kept> {
        self.idle.extract_if(.., |kept| now.duration_since(kept.since) >= IDLE_TIME).collect()
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of files that are kept, and of those that somebody else still has.
pub fn bytes() -> u64 {
    pool().bytes()
}

/// The same, and of that, bytes of files that nobody has.
pub fn bytes_and_idle() -> (u64, u64) {
    let pool = pool();
    (pool.bytes(), pool.idle_bytes())
}

/// From now on so many bytes may be kept. What is beyond goes back to the system at once.
pub fn keep_at_most(bytes: u64) {
    let mut pool = pool();
    pool.bound = bytes;
    let left = pool.shrink();
    drop(pool);
    if left.iter().map(|kept| kept.bytes).sum::<u64>() < BRIEF_BYTES {
        return;
    }
    // It takes the kernel a moment, and whoever says this has other things to do.
    if let Err(error) = std::thread::Builder::new().name("give-back".into()).spawn(move || drop(left)) {
        tracing::warn!("cannot start a thread: {error}");
    }
}

/// Gives back what nothing has needed for a while. To be called now and then.
pub fn tend() {
    let now = Instant::now();
    let mut pool = pool();
    let (left, old) = (pool.look(now), pool.expired(now));
    drop(pool);
    drop((left, old));
}

/// A memory file that is used again when this is dropped.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    /// Somebody may have it of whom we do not hear.
    escaped: AtomicBool,
}

impl Segment {
    fn of(file: File) -> Segment {
        Segment { file, escaped: AtomicBool::new(false) }
    }

    /// A file of at most `bytes`, to be written from its start: a used one, else a new one.
    pub(super) fn take(bytes: u64) -> io::Result<Segment> {
        let mut pool = pool();
        let left = pool.look(Instant::now());
        let kept = pool.take(bytes);
        drop(pool);
        drop(left);
        let Some(Kept { mut file, .. }) = kept else { return Ok(Segment::of(memfile::memfd("segment")?)) };
        if file.metadata()?.len() > bytes {
            file.set_len(bytes)?;
        }
        file.rewind()?;
        Ok(Segment::of(file))
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The file for a reader of whom the kernel tells when he is done.
    pub(super) fn lend(&self) -> io::Result<File> {
        lend(self.file(), false)
    }

    /// The file is given to somebody of whom we do not hear when he is done: it is not used again, and can be
    /// sealed.
    pub(super) fn escape(&self) -> &File {
        self.escaped.store(true, Ordering::Release);
        self.file()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if *self.escaped.get_mut() {
            return;
        }
        // Where there are too many open files, it is not kept.
        let Ok(file) = self.file.try_clone() else { return };
        let Ok(bytes) = occupied(&file) else { return };
        let kept = Kept { bytes, since: Instant::now(), file };
        let held = is_held(&kept.file);
        let mut pool = pool();
        if !held {
            let left = pool.put(kept);
            drop(pool);
            drop(left);
        } else if pool.away.len() < AWAY_FILES_MAX {
            pool.away.push(kept);
        }
    }
}

/// A file into which another process may write `bytes` bytes, from its start.
///
/// # Errors
/// There cannot be one: too many files are open.
pub fn lend_room(bytes: u64) -> io::Result<File> {
    if memfile::is_crowded() {
        return Err(io::Error::other("too many memory files"));
    }
    let segment = Segment::take(bytes)?;
    let theirs = lend(segment.file(), true)?;
    let file = segment.escape().try_clone()?;
    pool().away.push(Kept { bytes, since: Instant::now(), file });
    Ok(theirs)
}

/// The segment that was lent as this file, now that it is written.
pub(super) fn take_back(theirs: &File) -> Option<Segment> {
    let about = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let wanted = about(theirs)?;
    let mut pool = pool();
    let at = pool.away.iter().position(|kept| about(&kept.file) == Some(wanted))?;
    Some(Segment::of(pool.away.swap_remove(at).file))
}

/// What a file occupies, bytes.
fn occupied(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Another open file description of a file, which is known to be in use for as long as anybody has that
/// open or mapped.
fn lend(file: &File, write: bool) -> io::Result<File> {
    let theirs =
        OpenOptions::new().read(true).write(write).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    lock(&theirs, libc::F_OFD_SETLK, libc::F_RDLCK)?;
    Ok(theirs)
}

/// Whether anybody has a file that was lent.
fn is_held(file: &File) -> bool {
    let unlocked = i32::from(libc::F_UNLCK as i16);
    lock(file, libc::F_OFD_GETLK, libc::F_WRLCK).map_or(true, |kind| i32::from(kind) != unlocked)
}

#[allow(clippy::unnecessary_cast)] // The types of the constants differ between platforms.
fn lock(file: &File, command: libc::c_int, kind: libc::c_int) -> io::Result<i16> {
    // SAFETY: all zeroes are a valid value of this plain structure: the whole file, no process.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: a plain system call on a descriptor that we hold, with a structure of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &mut range) } {
        0 => Ok(range.l_type),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const MIB: u64 = 1 << 20;

    fn kept(bytes: u64, since: Instant) -> Kept {
        Kept { file: memfile::memfd("t").unwrap(), bytes, since }
    }

    fn inode(file: &File) -> u64 {
        file.metadata().unwrap().ino()
    }

    fn filled(bytes: u64, with: u8) -> Segment {
        let segment = Segment::take(bytes).unwrap();
        segment.file().write_all(&vec![with; bytes as usize]).unwrap();
        segment
    }

    #[test]
    fn what_is_closest_in_size_is_used_again() {
        let now = Instant::now();
        let mut pool = Pool { idle: Vec::new(), away: Vec::new(), bound: u64::MAX };
        for bytes in [100, 40, 9] {
            assert!(pool.put(kept(bytes, now)).is_empty());
        }
        assert_eq!(pool.take(45).unwrap().bytes, 40);
        assert!(pool.take(4).is_none(), "both are much larger");
        assert_eq!(pool.take(45).unwrap().bytes, 9, "its pages are of use");
        assert_eq!(pool.bytes(), 100);
    }

    #[test]
    fn what_waits_longest_goes_first_and_all_goes_in_time() {
        let (now, later) = (Instant::now(), Instant::now() + IDLE_TIME / 2);
        let mut pool = Pool { idle: Vec::new(), away: Vec::new(), bound: 100 };
        assert!(pool.put(kept(40, later)).is_empty());
        assert!(pool.put(kept(50, now)).is_empty());
        let left = pool.put(kept(30, later));
        assert_eq!(left.iter().map(|k| k.bytes).collect::<Vec<_>>(), [50]);
        assert!(pool.expired(now + IDLE_TIME).is_empty());
        assert_eq!((pool.expired(later + IDLE_TIME).len(), pool.bytes()), (2, 0));
        pool.bound = 0;
        assert_eq!(pool.put(kept(1, now)).len(), 1);
    }

    #[test]
    fn a_file_is_used_again_once_nobody_has_it() {
        keep_at_most(100 * MIB);
        let first = filled(3 * MIB, 1);
        let id = inode(first.file());
        let reader = first.lend().unwrap();
        // SAFETY: the file is not truncated while it is mapped.
        let map = unsafe { memmap2::MmapOptions::new().map_copy(&reader).unwrap() };
        drop(reader);
        drop(first);
        assert_eq!(bytes(), 3 * MIB, "it is mapped and still counts");
        let second = filled(3 * MIB, 2);
        assert_ne!(inode(second.file()), id);
        assert!(map.iter().all(|byte| *byte == 1));
        drop(map);
        let third = filled(2 * MIB, 3);
        assert_eq!(inode(third.file()), id);
        assert_eq!((occupied(third.file()).unwrap(), bytes()), (2 * MIB, 0));
        drop((second, third));
        assert_eq!(bytes(), 5 * MIB);
        keep_at_most(2 * MIB);
        assert_eq!(bytes(), 2 * MIB);
        keep_at_most(0);
        assert_eq!(bytes(), 0);
    }

    #[test]
    fn who_writes_gives_it_back_or_dies() {
        keep_at_most(100 * MIB);
        let theirs = lend_room(2 * MIB).unwrap();
        (&theirs).write_all(&vec![7; 2 * MIB as usize]).unwrap();
        assert_eq!(bytes(), 2 * MIB);
        let segment = take_back(&theirs).unwrap();
        assert!(take_back(&theirs).is_none());
        assert_eq!((segment.file().metadata().unwrap().len(), bytes()), (2 * MIB, 0));
        let id = inode(&theirs);
        drop((theirs, segment));
        // As if the other process had died.
        drop(lend_room(2 * MIB).unwrap());
        assert_eq!(inode(Segment::take(2 * MIB).unwrap().file()), id);
    }

    #[test]
    fn what_has_escaped_is_not_used_again() {
        keep_at_most(100 * MIB);
        let segment = filled(MIB, 1);
        segment.escape();
        drop(segment);
        assert_eq!(bytes(), 0);
    }
}
