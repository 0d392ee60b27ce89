//! Memory files: large results live in memfds, so that a command's stdout is the result and the next
//! command's stdin is that file, without a copy. Owns creating, sealing and opening them anew; what is kept
//! in them and for how long is the store's business. What this worker fills itself, or has a Python executor
//! fill, is not sealed as long as only they have it: its pages are used again (`pool`).

use super::pool::{self, SEGMENT_BYTES_MIN, Segment};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Results up to this many bytes stay on the heap; larger ones get a memory file.
pub const HEAP_BYTES_MAX: u64 = 64 << 10;

/// What the names of our memory files begin with, to tell them from others' in the tasks' mappings.
pub const NAME_PREFIX: &str = "hpcdag:";

/// Parts of so many bytes are mapped to be read: that costs less than a copy.
const MAPPED_BYTES_MIN: usize = 128 << 10;

/// Whether the kernel knows `MFD_NOEXEC_SEAL` (6.3 and later); assumed until it says no.
static NOEXEC_KNOWN: AtomicBool = AtomicBool::new(true);

/// Memory files that hold results, of all workers of this process.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Descriptors that this process may have, as of the first question.
pub fn descriptors() -> u64 {
    static DESCRIPTORS: OnceLock<u64> = OnceLock::new();
    *DESCRIPTORS.get_or_init(|| {
        use nix::sys::resource::{Resource, getrlimit};
        getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
    })
}

/// Whether memory files have taken their part of the descriptors: half. The rest is for connections, tasks,
/// and results on disk.
pub(super) fn is_crowded() -> bool {
    FILES.load(Ordering::Relaxed) >= descriptors() / 2
}

/// An empty memory file.
pub(super) fn memfd(name: &str) -> io::Result<File> {
    let name = std::ffi::CString::new(format!("{NAME_PREFIX}{}", name.replace('\0', "?")))?;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    loop {
        let noexec = NOEXEC_KNOWN.load(Ordering::Relaxed);
        let flags = if noexec { base | libc::MFD_NOEXEC_SEAL } else { base };
        // SAFETY: the name is a valid C string for the time of the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the descriptor was just made and nobody else owns it.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        // EINVAL is how older kernels refuse a flag; without the flag it means something else.
        if error.raw_os_error() == Some(libc::EINVAL) && noexec {
            NOEXEC_KNOWN.store(false, Ordering::Relaxed);
            continue;
        }
        return Err(error);
    }
}

/// A file and what becomes of it.
#[derive(Debug)]
enum Backing {
    /// It is sealed, or will be, and then goes.
    Own(File),
    /// Only this process and readers that it hears of have it; its pages are used again.
    Again(Segment),
}

impl Backing {
    fn file(&self) -> &File {
        match self {
            Backing::Own(file) => file,
            Backing::Again(segment) => segment.file(),
        }
    }
}

/// A memory file that is still being written.
#[derive(Debug)]
pub struct MemWriter {
    backing: Backing,
}

impl MemWriter {
    /// A new, empty one. `name` shows up in `/proc` only; the kernel keeps 249 bytes of it.
    pub fn create(name: &str) -> io::Result<MemWriter> {
        let end = (0..=name.len().min(200)).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
        Ok(MemWriter { backing: Backing::Own(memfd(&name[..end])?) })
    }

    /// One for exactly so many bytes, which this process alone writes, from the start: into pages that were
    /// used before, if there are any. Its length says nothing before all of them are written.
    pub fn sized(name: &str, bytes: u64) -> io::Result<MemWriter> {
        if bytes < SEGMENT_BYTES_MIN {
            return MemWriter::create(name);
        }
        Ok(MemWriter { backing: Backing::Again(Segment::take(bytes)?) })
    }

    /// The file, for writing to it or for handing it to a child as its stdout.
    pub fn file(&self) -> &File {
        self.backing.file()
    }

    /// Bytes written so far.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    /// Ends the writing: the content can no longer change, whoever still has the file open. If somebody has
    /// it mapped for writing it cannot be sealed; then a copy is taken as it is now.
    pub fn seal(self) -> io::Result<MemFile> {
        let file = match self.backing {
            Backing::Own(file) => file,
            // Nobody has it but us.
            again @ Backing::Again(_) => return MemFile::of(again),
        };
        match add_seals(&file) {
            Ok(()) => MemFile::of(Backing::Own(file)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let copy = memfd("copy of a result")?;
                copy_all(&file, &copy)?;
                add_seals(&copy)?;
                MemFile::of(Backing::Own(copy))
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for MemWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

fn add_seals(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: a plain system call on a descriptor that we hold.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Copies all of `from` to the start of `to`, whatever the position of `from` (which others may share).
fn copy_all(from: &File, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let n = match from.read_at(&mut buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if n == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..n], at)?;
        at += n as u64;
    }
}

/// A memory file whose content and length do not change for as long as this value lives, nor for those who
/// were handed it. It is sealed unless this process alone could change it.
#[derive(Debug)]
pub struct MemFile {
    backing: Backing,
    len: u64,
}

impl MemFile {
    fn of(backing: Backing) -> io::Result<MemFile> {
        let len = backing.file().metadata()?.len();
        FILES.fetch_add(1, Ordering::Relaxed);
        Ok(MemFile { backing, len })
    }

    /// A memory file that another process has made, or one that it was lent to fill. It is sealed if it is
    /// its own and it has not done so; where it cannot be, a copy is taken.
    ///
    /// # Errors
    /// It is no memory file, or cannot be copied.
    pub fn adopt(file: File) -> io::Result<MemFile> {
        if let Some(segment) = pool::take_back(&file) {
            return MemFile::of(Backing::Again(segment));
        }
        // SAFETY: a plain system call on a descriptor that we hold.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 {
            let text = "a descriptor that should be a result is no memory file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let all = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
        let backing = Backing::Own(file);
        if seals & all == all { MemFile::of(backing) } else { MemWriter { backing }.seal() }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An open file description of one's own, read-only, at the start: readers that share one share its
    /// position, and the second of them finds nothing.
    pub fn reopen(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.sealed()?.as_raw_fd()))
    }

    /// The file for a Python executor, which maps it privately, and when it does so no more the kernel says.
    pub fn lend(&self) -> io::Result<OwnedFd> {
        match &self.backing {
            Backing::Own(file) => Ok(file.try_clone()?.into()),
            Backing::Again(segment) => Ok(segment.lend()?.into()),
        }
    }

    /// The file for others: nobody can change it any more, and its pages are not used again.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.sealed()?.try_clone()?.into())
    }

    fn sealed(&self) -> io::Result<&File> {
        match &self.backing {
            Backing::Own(file) => Ok(file),
            Backing::Again(segment) => {
                let file = segment.escape();
                // SAFETY: a plain system call on a descriptor that we hold.
                let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
                if seals & libc::F_SEAL_WRITE == 0 {
                    add_seals(file)?;
                }
                Ok(file)
            }
        }
    }

    /// A path at which processes of the same user can open it, for as long as this value lives.
    pub fn path(&self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.sealed()?.as_raw_fd())))
    }

    /// A part of the content; shorter if the file ends before. A large one is mapped, not copied.
    pub fn read_at(self: &Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        if len >= MAPPED_BYTES_MIN {
            // SAFETY: as for `bytes`.
            let map = unsafe {
                memmap2::MmapOptions::new().offset(offset).len(len).populate().map(self.backing.file())?
            };
            return Ok(Bytes::from_owner(Mapped { map, _file: self.clone() }));
        }
        let mut buffer = vec![0; len];
        self.backing.file().read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// All of the content, mapped, not copied.
    pub fn bytes(self: &Arc<Self>) -> io::Result<Bytes> {
        if self.is_empty() {
            return Ok(Bytes::new());
        }
        // SAFETY: the file is sealed against writing and shrinking, or nobody but this process can do either,
        // which does not while this value lives: the mapped bytes cannot change.
        let map = unsafe { memmap2::Mmap::map(self.backing.file())? };
        Ok(Bytes::from_owner(Mapped { map, _file: self.clone() }))
    }
}

impl MemFile {
    /// All of the content, mapped at once, and zeroes up to a multiple of `alignment` (of which a page is
    /// one). To be dropped before this value.
    pub(super) fn map_aligned(&self, alignment: usize) -> io::Result<memmap2::Mmap> {
        let len = usize::try_from(self.len).map_err(io::Error::other)?.next_multiple_of(alignment);
        // SAFETY: as for `bytes`, if the mapping goes before this value; it ends with the page in which the
        // file ends.
        unsafe { memmap2::MmapOptions::new().len(len).populate().map(self.backing.file()) }
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pages of a file, whose content stays for as long as they are looked at.
struct Mapped {
    map: memmap2::Mmap,
    _file: Arc<MemFile>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// The first `len` bytes of what a writer holds. The position, which a child may share, stays.
pub(super) fn read_small(writer: &MemWriter, len: u64) -> io::Result<Bytes> {
    let mut content = vec![0; usize::try_from(len).unwrap_or(0)];
    let mut at = 0;
    while at < content.len() {
        match writer.file().read_at(&mut content[at..], at as u64) {
            Ok(0) => content.truncate(at),
            Ok(n) => at += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(content.into())
}

/// The same in memory of its own, which the system has back as soon as it is dropped.
pub(super) fn read_mapped(writer: &MemWriter, len: u64) -> io::Result<Bytes> {
    let mut content = memmap2::MmapMut::map_anon(usize::try_from(len).map_err(io::Error::other)?)?;
    writer.file().read_exact_at(&mut content, 0)?;
    Ok(Bytes::from_owner(content.make_read_only()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn sealed_content_cannot_change() {
        let writer = MemWriter::create("t").unwrap();
        writer.file().write_all(b"abc").unwrap();
        let held = writer.file().try_clone().unwrap();
        let file = Arc::new(writer.seal().unwrap());
        assert!((&held).write_all(b"x").is_err());
        assert!(held.set_len(0).is_err());
        assert_eq!(&file.bytes().unwrap()[..], b"abc");
    }

    #[test]
    fn mapped_for_writing_is_copied() {
        let writer = MemWriter::create("t").unwrap();
        writer.file().write_all(&[7; 5000]).unwrap();
        // SAFETY: nobody truncates the file in this test.
        let mut map = unsafe { memmap2::MmapMut::map_mut(writer.file()).unwrap() };
        let file = Arc::new(writer.seal().unwrap());
        map[0] = 1;
        assert_eq!(file.len(), 5000);
        assert_eq!(file.bytes().unwrap()[0], 7);
    }

    #[test]
    fn every_reader_starts_at_the_beginning() {
        let writer = MemWriter::create("t").unwrap();
        writer.file().write_all(b"abc").unwrap();
        let file = Arc::new(writer.seal().unwrap());
        for _ in 0..2 {
            assert_eq!(io::read_to_string(file.reopen().unwrap()).unwrap(), "abc");
        }
        assert_eq!(std::fs::read(file.path().unwrap()).unwrap(), b"abc");
        assert_eq!(&file.read_at(1, 100).unwrap()[..], b"bc");
        assert!(file.read_at(9, 100).unwrap().is_empty());
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        MemWriter::create(&"ä".repeat(300)).unwrap();
    }
}
