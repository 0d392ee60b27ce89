//! Results on disk: files that nobody can find, gone with the process however it ends. Owns writing them,
//! their checksums, and their bound; which results go to disk and when is decided elsewhere.
//!
//! A large part has a file of its own, which tasks can read directly; small ones share a file. Every block
//! has a checksum, and no byte leaves here unchecked (what tasks read directly is checked before, again when
//! the file has changed or after a while). Large parts are written past the page cache: their pages are free
//! when the write returns, and no dirty ones pile up that only seem to be.

use super::busy::{Busy, Period};
use super::data::{Data, TaskResult};
use super::memfile::{self, HEAP_BYTES_MAX, MemFile};
use bytes::Bytes;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Bytes under one checksum in a file of one part.
const BLOCK_BYTES: usize = 1 << 20;

/// The same where parts share a file: reading one of them reads whole blocks.
const SHARED_BLOCK_BYTES: usize = 64 << 10;

/// Bytes written at once past the page cache: each write waits for the disk.
const DIRECT_BYTES: usize = 8 * BLOCK_BYTES;

/// Bytes that the kernel is asked to read at once: of more it takes no notice.
const READAHEAD_BYTES: usize = 128 << 10;

/// Parts smaller than this share a file.
const OWN_FILE_BYTES_MIN: u64 = BLOCK_BYTES as u64;

/// How long a file that was checked counts as sound, as long as nobody has changed it.
const CHECKED_FOR: Duration = Duration::from_secs(600);

/// What lengths of writes past the page cache are multiples of; no disk asks for more.
const ALIGNMENT: usize = 4096;

/// Files of spilled results, of all workers of this process.
static FILES: AtomicU64 = AtomicU64::new(0);

/// How files are written and read: the seam where tests let a disk fail.
pub trait Disk: Debug + Send + Sync {
    /// Writes a block.
    fn write(&self, file: &File, block: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(block, at)
    }

    /// Reads a block.
    fn read(&self, file: &File, block: &mut [u8], at: u64) -> io::Result<()> {
        file.read_exact_at(block, at)
    }
}

/// The disk that there is.
#[derive(Debug)]
pub struct RealDisk;

impl Disk for RealDisk {}

/// How much went to disk and came back, and the time in which at least one thread was at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskUse {
    /// Bytes written, those included that are gone.
    pub written: u64,
    /// How long that took.
    pub writing: Duration,
    /// Bytes read.
    pub read: u64,
    /// How long that took.
    pub reading: Duration,
}

/// Where results go, and how much of them.
#[derive(Debug)]
pub struct Spill {
    directory: PathBuf,
    bytes_max: Option<u64>,
    used: AtomicU64,
    /// Set when a file cannot be read back.
    lost: AtomicBool,
    disk: Box<dyn Disk>,
    writing: Busy,
    reading: Busy,
}

impl Spill {
    /// Files go into `directory`, up to `bytes_max` bytes of them.
    pub fn new(directory: &Path, bytes_max: Option<u64>, disk: impl Disk + 'static) -> Arc<Spill> {
        Arc::new(Spill {
            directory: directory.to_path_buf(),
            bytes_max,
            used: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            disk: Box::new(disk),
            writing: Busy::default(),
            reading: Busy::default(),
        })
    }

    /// What was written and read back so far; reads that the page cache answered included.
    pub fn disk_use(&self) -> DiskUse {
        DiskUse {
            written: self.writing.bytes(),
            writing: self.writing.time(),
            read: self.reading.bytes(),
            reading: self.reading.time(),
        }
    }

    /// When it was written to, and read, since the last call.
    pub fn take_periods(&self) -> (Vec<Period>, Vec<Period>) {
        (self.writing.take_periods(), self.reading.take_periods())
    }

    /// Bytes on disk.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether something could not be read back since the last call.
    pub fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    /// Writes results, and returns them as they are on disk, in order. Small parts of all share a file.
    ///
    /// # Errors
    /// No room, by the disk's or our own bound, or the disk fails; nothing stays there then.
    pub fn write(self: &Arc<Self>, results: &[Arc<TaskResult>]) -> io::Result<Vec<Arc<TaskResult>>> {
        let _busy = self.writing.begin();
        let shares = |data: &Data| match data {
            Data::Heap(bytes) => !bytes.is_empty(),
            Data::File(file) => file.len() < OWN_FILE_BYTES_MIN || is_crowded(),
            Data::Spilled(_) | Data::InPlace { .. } => false,
        };
        // Asked once for each part: the answer depends on how many files there are.
        let sharing: Vec<bool> = parts_of(results).map(shares).collect();
        let mut shared = Vec::new();
        for (data, _) in parts_of(results).zip(&sharing).filter(|(_, shares)| **shares) {
            shared.push(data.bytes()?);
        }
        let file = if shared.is_empty() { None } else { Some(self.write_shared(&shared)?) };
        let (mut offset, mut sharing) = (0, sharing.into_iter());
        let mut moved = Vec::with_capacity(results.len());
        for result in results {
            let mut parts = Vec::with_capacity(result.parts.len());
            for (name, data) in &result.parts {
                let shares = sharing.next().unwrap_or(false);
                let data = match (data, &file) {
                    (_, Some(file)) if shares => {
                        let len = data.len();
                        offset += len;
                        Data::Spilled(Extent { file: file.clone(), offset: offset - len, len })
                    }
                    (Data::File(memory), _) => {
                        let file = self.write_direct(memory)?;
                        Data::Spilled(Extent { offset: 0, len: memory.len(), file })
                    }
                    _ => data.clone(),
                };
                parts.push((name.clone(), data));
            }
            moved.push(Arc::new(TaskResult { parts, pinned: result.pinned.clone() }));
        }
        Ok(moved)
    }

    /// Writes pieces, one after the other, to a new file.
    fn write_shared(self: &Arc<Self>, pieces: &[Bytes]) -> io::Result<Arc<SpillFile>> {
        let (mut new, file) =
            self.new_file(pieces.iter().map(|p| p.len() as u64).sum(), SHARED_BLOCK_BYTES)?;
        let mut at = 0;
        let mut put = |block: &[u8]| -> io::Result<()> {
            self.disk.write(&file, block, at)?;
            new.sums.extend(block.chunks(new.block).map(crc32fast::hash));
            self.writing.count(block.len() as u64);
            begin_writeback(&file, at, block.len());
            at += block.len() as u64;
            Ok(())
        };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        for mut piece in pieces.iter().map(|p| &p[..]) {
            while !piece.is_empty() {
                let n = piece.len().min(BLOCK_BYTES - block.len());
                block.extend_from_slice(&piece[..n]);
                piece = &piece[n..];
                if block.len() == BLOCK_BYTES {
                    put(&block)?;
                    block.clear();
                }
            }
        }
        if !block.is_empty() {
            put(&block)?;
        }
        new.complete(file)
    }

    /// Writes a memory file to a new file, past the page cache where the file system can do that.
    fn write_direct(self: &Arc<Self>, memory: &MemFile) -> io::Result<Arc<SpillFile>> {
        let len = usize::try_from(memory.len()).map_err(io::Error::other)?;
        let (mut new, file) = self.new_file(memory.len(), BLOCK_BYTES)?;
        let pages = memory.map_aligned(ALIGNMENT)?;
        let direct = set_direct(&file, true);
        let mut written = self.write_halves(&file, &pages, len, direct);
        if direct {
            set_direct(&file, false);
            written = match written {
                // It can be opened like that, but not written.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    self.write_halves(&file, &pages, len, false)
                }
                // The last page was written whole.
                written => written.and_then(|sums| file.set_len(memory.len()).map(|()| sums)),
            };
        }
        new.sums = written?;
        new.complete(file)
    }

    /// Writes both halves at once: the sums of one are made while the disk has the other. Returns the sums.
    fn write_halves(&self, file: &File, pages: &[u8], len: usize, direct: bool) -> io::Result<Vec<u32>> {
        let middle = (len / 2).next_multiple_of(DIRECT_BYTES).min(len);
        let write = |from, to| self.write_pages(file, pages, from, to, direct);
        if middle == len {
            return write(0, len);
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("spill-half".into());
            let Ok(second) = thread.spawn_scoped(scope, || write(middle, len)) else { return write(0, len) };
            let mut sums = write(0, middle);
            let second = second.join().unwrap_or_else(|_| Err(io::Error::other("a writing thread panicked")));
            if let Ok(sums) = &mut sums {
                sums.extend(second?);
            }
            sums
        })
    }

    /// Writes the pages of these bytes; past the page cache, the last one whole. Returns the sums.
    fn write_pages(
        &self,
        file: &File,
        pages: &[u8],
        from: usize,
        to: usize,
        direct: bool,
    ) -> io::Result<Vec<u32>> {
        let mut sums = Vec::with_capacity((to - from).div_ceil(BLOCK_BYTES));
        for at in (from..to).step_by(DIRECT_BYTES) {
            let end = (at + DIRECT_BYTES).min(to);
            sums.extend(pages[at..end].chunks(BLOCK_BYTES).map(crc32fast::hash));
            let whole = if direct { end.next_multiple_of(ALIGNMENT) } else { end };
            self.disk.write(file, &pages[at..whole], at as u64)?;
            self.writing.count((end - at) as u64);
            if !direct {
                begin_writeback(file, at as u64, end - at);
            }
        }
        Ok(sums)
    }

    /// Room for a new file, and it. Dropping the first gives the room back.
    fn new_file(self: &Arc<Self>, len: u64, block: usize) -> io::Result<(SpillFile, File)> {
        let (files, most) = (FILES.load(Ordering::Relaxed), memfile::descriptors());
        // Tasks and connections need some too.
        if files >= most / 8 * 3 {
            let text =
                format!("{files} files of spilled results are open and the limit is {most} for all files");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        self.reserve(len)?;
        let lost = AtomicBool::new(false);
        FILES.fetch_add(1, Ordering::Relaxed);
        let (sums, checked, spill) = (Vec::new(), Mutex::default(), self.clone());
        let new = SpillFile { file: None, len, block, sums, lost, checked, spill };
        let file = create(&self.directory)?;
        Ok((new, file))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let before = self.used.fetch_add(len, Ordering::Relaxed);
        match self.bytes_max {
            Some(max) if before.saturating_add(len) > max => {
                self.used.fetch_sub(len, Ordering::Relaxed);
                let text = format!("{before} bytes are on disk and max-spill is {max} bytes");
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
            }
            _ => Ok(()),
        }
    }
}

fn parts_of(results: &[Arc<TaskResult>]) -> impl Iterator<Item = &Data> {
    results.iter().flat_map(|r| &r.parts).map(|(_, data)| data)
}

/// Whether there are so many files of spilled results, a quarter of all that may be open, that also large
/// parts should share one, and many results be written at once.
pub fn is_crowded() -> bool {
    FILES.load(Ordering::Relaxed) >= memfile::descriptors() / 4
}

/// Makes writes go past the page cache, or not any more; whether they do.
fn set_direct(file: &File, direct: bool) -> bool {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let Ok(flags) = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) else { return false };
    let wanted = if direct { flags | OFlag::O_DIRECT } else { flags - OFlag::O_DIRECT };
    fcntl(file, FcntlArg::F_SETFL(wanted)).is_ok() && direct
}

/// A new file without a name, where the file system can make one; else its name goes at once.
fn create(directory: &Path) -> io::Result<File> {
    let options = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(flags);
        options
    };
    let unsupported = [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL];
    match options(libc::O_TMPFILE).open(directory) {
        Err(error) if error.raw_os_error().is_some_and(|e| unsupported.contains(&e)) => {
            let path = directory.join(format!("spill-{}", uuid::Uuid::new_v4().simple()));
            let file = options(libc::O_NOFOLLOW).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Lets the kernel begin to write, so that it can soon take the pages back.
fn begin_writeback(file: &File, at: u64, len: usize) {
    let (at, len) = (at as i64, len as i64);
    // SAFETY: a plain system call on a descriptor that we hold. Nothing depends on it.
    unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Lets the kernel read all of a file now, by as many requests as the disk takes, rather than a little ahead
/// of whoever reads it.
fn will_need(file: &File, len: u64) {
    for at in (0..len).step_by(READAHEAD_BYTES) {
        let (at, part) = (at as i64, READAHEAD_BYTES as i64);
        // SAFETY: a plain system call on a descriptor that we hold. Nothing depends on it.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), at, part, libc::POSIX_FADV_WILLNEED) };
    }
}

/// A file on disk, complete and unchanging.
#[derive(Debug)]
struct SpillFile {
    /// `None` while it is being written.
    file: Option<File>,
    len: u64,
    /// Bytes under one checksum.
    block: usize,
    sums: Vec<u32>,
    /// It could not be read back.
    lost: AtomicBool,
    /// When all of it was checked last, how long the file was then and when it had been changed.
    checked: Mutex<Option<(Instant, u64, SystemTime)>>,
    spill: Arc<Spill>,
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        FILES.fetch_sub(1, Ordering::Relaxed);
        self.spill.used.fetch_sub(self.len, Ordering::Relaxed);
    }
}

impl SpillFile {
    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("a spilled result was not written"))
    }

    /// Ends the writing.
    fn complete(mut self, file: File) -> io::Result<Arc<SpillFile>> {
        // Tasks are given its path: not even they shall change it.
        file.set_permissions(Permissions::from_mode(0o400))?;
        self.file = Some(file);
        Ok(Arc::new(self))
    }

    /// A block, checked, in place of what `block` held.
    fn read_block(&self, n: usize, block: &mut Vec<u8>) -> io::Result<()> {
        let at = n as u64 * self.block as u64;
        let len = self.len.saturating_sub(at).min(self.block as u64);
        block.resize(usize::try_from(len).unwrap_or(0), 0);
        let read = self.spill.disk.read(self.file()?, block, at);
        let sound = read.and_then(|()| match self.sums.get(n) {
            Some(sum) if *sum == crc32fast::hash(block) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum differs")),
        });
        self.spill.reading.count(len);
        sound.map_err(|error| {
            self.lost.store(true, Ordering::Release);
            self.spill.lost.store(true, Ordering::Release);
            let text = format!("a spilled result cannot be read back from disk: {error}");
            io::Error::new(error.kind(), text)
        })
    }
}

/// The pages of a file, which stays for as long as they are looked at.
struct Pages {
    map: memmap2::Mmap,
    _file: Arc<SpillFile>,
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// A part of a result on disk.
#[derive(Clone, Debug)]
pub struct Extent {
    file: Arc<SpillFile>,
    offset: u64,
    len: u64,
}

impl Extent {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Up to `len` bytes from `offset`, checked; shorter where a block ends.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        if left == 0 {
            return Ok(Bytes::new());
        }
        let _busy = self.file.spill.reading.begin();
        let (at, mut block) = (self.offset + offset, Vec::new());
        let size = self.file.block as u64;
        self.file.read_block((at / size) as usize, &mut block)?;
        let block = Bytes::from(block);
        let start = ((at % size) as usize).min(block.len());
        Ok(block.slice(start..block.len().min(start.saturating_add(left))))
    }

    /// Checks all of it, unless that was done a moment ago: of a large result many tasks read a part each.
    pub fn check(&self) -> io::Result<()> {
        // Whoever comes meanwhile waits for the outcome: one reads ahead what another needs.
        let mut checked = self.file.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let about = self.file.file()?.metadata()?;
        let (now, then) = ((about.len(), about.modified()?), *checked);
        let is_same =
            |(at, len, changed): (Instant, _, _)| at.elapsed() < CHECKED_FOR && (len, changed) == now;
        if !self.is_lost() && then.is_some_and(is_same) {
            return Ok(());
        }
        will_need(self.file.file()?, about.len());
        self.pieces(|_| Ok(()))?;
        *checked = Some((Instant::now(), now.0, now.1));
        Ok(())
    }

    /// An open file of one's own, checked, if it has a file to itself.
    pub fn reopen(&self) -> io::Result<Option<File>> {
        match self.path()? {
            Some(path) => File::open(path).map(Some),
            None => Ok(None),
        }
    }

    /// All of it, checked: mapped if it has a file to itself (the pages are the kernel's to take back), else
    /// copied.
    pub fn bytes(&self) -> io::Result<Bytes> {
        if !self.has_own_file() {
            return self.recall()?.bytes();
        }
        self.check()?;
        // SAFETY: nobody knows the file but this process and tasks that may only read it.
        let map = unsafe { memmap2::Mmap::map(self.file.file()?)? };
        Ok(Bytes::from_owner(Pages { map, _file: self.file.clone() }))
    }

    /// Whether it can be read without another part's bytes.
    pub fn has_own_file(&self) -> bool {
        self.offset == 0 && self.len == self.file.len && self.len >= OWN_FILE_BYTES_MIN
    }

    /// A path at which processes of the same user can read it, for as long as this value lives; checked.
    /// `None` if it shares its file with others.
    pub fn path(&self) -> io::Result<Option<PathBuf>> {
        if !self.has_own_file() {
            return Ok(None);
        }
        self.check()?;
        let fd = self.file.file()?.as_raw_fd();
        Ok(Some(PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()))))
    }

    /// Its content in memory again, checked.
    pub fn recall(&self) -> io::Result<Data> {
        if self.len <= HEAP_BYTES_MAX {
            let mut content = Vec::new();
            self.pieces(|piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            return Ok(Data::Heap(content.into()));
        }
        let writer = super::memfile::MemWriter::sized("recalled result", self.len)?;
        self.pieces(|piece| io::Write::write_all(&mut writer.file(), piece))?;
        Data::of_writer(writer)
    }

    /// Whether its file could not be read back.
    pub fn is_lost(&self) -> bool {
        self.file.lost.load(Ordering::Acquire)
    }

    fn pieces(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let _busy = self.file.spill.reading.begin();
        let (mut at, end) = (self.offset, self.offset + self.len);
        let (mut block, size) = (Vec::new(), self.file.block as u64);
        while at < end {
            let n = at / size;
            self.file.read_block(n as usize, &mut block)?;
            let start = ((at % size) as usize).min(block.len());
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let piece = &block[start..block.len().min(start.saturating_add(left))];
            if piece.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a spilled result ends too early"));
            }
            take(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// What a directory lies on, as far as it matters for what is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Memory of the node.
    Memory,
    /// A network file system, by name.
    Network(&'static str),
    /// A disk of the node, as far as can be told.
    Disk,
}

/// What a directory lies on.
///
/// # Errors
/// The directory cannot be looked at.
pub fn file_system(directory: &Path) -> io::Result<FileSystem> {
    let found = nix::sys::statfs::statfs(directory)?;
    #[allow(clippy::unnecessary_cast)] // Its type differs between platforms.
    let kind = found.filesystem_type().0 as u64 & 0xffff_ffff;
    Ok(match kind {
        0x0102_1994 | 0x8584_58f6 => FileSystem::Memory,
        _ => network_name(kind).map_or(FileSystem::Disk, FileSystem::Network),
    })
}

/// What is wrong with a directory for spilled results, if anything: what to tell the user.
pub fn complaint(directory: &Path) -> Option<String> {
    let found = file_system(directory).ok()?;
    let shown = directory.display();
    let advice = "set local-directory in [worker] (or $TMPDIR) to a disk of the node";
    match found {
        FileSystem::Memory => Some(format!(
            "{shown} is memory, not disk: results that are spilled there free none; {advice}, or switch \
             target and spill off"
        )),
        FileSystem::Network(name) => {
            Some(format!("{shown} is on a network file system ({name}), which is slow and shared: {advice}"))
        }
        FileSystem::Disk => None,
    }
}

fn network_name(kind: u64) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x1983_0326 => "BeeGFS",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0102_1997 => "9p",
        0xaad7_aaea => "PanFS",
        0x2003_0528 => "OrangeFS",
        _ => return None,
    })
}

#[cfg(test)]
pub(in crate::worker) mod tests;
