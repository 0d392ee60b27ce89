//! What a task's result is made of: parts, each on the heap, in a sealed memory file, on disk for want of
//! memory, or in a file that stays where it is. Owns reading them; who holds which result is the `Store`'s
//! business.

use super::memfile::{self, HEAP_BYTES_MAX, MemFile, MemWriter, read_small};
use super::pinned::Pinned;
use super::spill::Extent;
use bytes::Bytes;
use std::fs::{File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Content larger than this has a memory file of its own however many there are: memory ends before it takes
/// many of them.
const CROWDED_BYTES_MAX: u64 = 64 << 20;

/// So small a part of a result on disk, one of so many, may have to be read together with others' bytes.
const SHARED_PART: u64 = 16;

/// One part of a result. Cheap to clone: the content is shared.
#[derive(Clone, Debug)]
pub enum Data {
    /// Small, or when descriptors run short: anonymous memory.
    Heap(Bytes),
    /// Large: a sealed memory file.
    File(Arc<MemFile>),
    /// On this worker's disk, for want of memory.
    Spilled(Extent),
    /// A file (or directory) that stays where the task made it; only these three travel.
    InPlace {
        /// Absolute path, the same on every node.
        path: PathBuf,
        /// Bytes.
        size: u64,
        /// Time of the last change, nanoseconds since 1970.
        mtime_ns: i64,
    },
}

impl Data {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Data::Heap(bytes) => bytes.len() as u64,
            Data::File(file) => file.len(),
            Data::Spilled(extent) => extent.len(),
            Data::InPlace { size, .. } => *size,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it occupies in this worker's memory: none for what is in files.
    pub fn memory_bytes(&self) -> u64 {
        match self {
            Data::Heap(_) | Data::File(_) => self.len(),
            Data::Spilled(_) | Data::InPlace { .. } => 0,
        }
    }

    /// Bytes that go to whoever wants the result: none for files in place.
    pub fn travelling_bytes(&self) -> u64 {
        match self {
            Data::Heap(_) | Data::File(_) | Data::Spilled(_) => self.len(),
            Data::InPlace { .. } => 0,
        }
    }

    /// Ends a writing: small content moves to the heap, the rest is sealed. When memory files have used up
    /// their part of the descriptors, content of medium size moves to the heap too.
    pub fn of_writer(writer: MemWriter) -> io::Result<Data> {
        let len = writer.size()?;
        if len <= HEAP_BYTES_MAX {
            return Ok(Data::Heap(read_small(&writer, len)?));
        }
        if len <= CROWDED_BYTES_MAX && memfile::is_crowded() {
            return Ok(Data::Heap(memfile::read_mapped(&writer, len)?));
        }
        Ok(Data::File(Arc::new(writer.seal()?)))
    }

    /// Bytes, wherever their size puts them.
    pub fn of_bytes(bytes: Bytes) -> io::Result<Data> {
        let len = bytes.len() as u64;
        if len <= HEAP_BYTES_MAX || (len <= CROWDED_BYTES_MAX && memfile::is_crowded()) {
            return Ok(Data::Heap(bytes));
        }
        let writer = MemWriter::sized("result", len)?;
        writer.file().write_all(&bytes)?;
        Data::of_writer(writer)
    }

    /// The content of a memory file that another process has made.
    ///
    /// # Errors
    /// It is none, or cannot be made unchangeable.
    pub fn adopt(file: File) -> io::Result<Data> {
        Ok(Data::File(Arc::new(MemFile::adopt(file)?)))
    }

    /// A file that stays where it is, as it is now.
    pub fn in_place(path: &Path) -> io::Result<Data> {
        let meta = std::fs::metadata(path)?;
        Ok(Data::InPlace { path: path.to_path_buf(), size: meta.len(), mtime_ns: mtime_ns(&meta) })
    }

    /// An open file of one's own at the start of the content. In-place files must be as they were.
    pub fn reopen(&self) -> io::Result<File> {
        match self {
            Data::Heap(bytes) => {
                let writer = MemWriter::create("input")?;
                let mut file = writer.file().try_clone()?;
                file.write_all(bytes)?;
                file.rewind()?;
                Ok(file)
            }
            Data::File(file) => file.reopen(),
            Data::Spilled(extent) => match extent.reopen()? {
                Some(file) => Ok(file),
                None => extent.recall()?.reopen(),
            },
            Data::InPlace { path, .. } => {
                let file = File::open(path).map_err(|error| named(path, &error))?;
                self.check_unchanged(&file.metadata()?)?;
                Ok(file)
            }
        }
    }

    /// All bytes; those of memory files and of files of their own on disk are mapped, not copied.
    pub fn bytes(&self) -> io::Result<Bytes> {
        match self {
            Data::Heap(bytes) => Ok(bytes.clone()),
            Data::File(file) => file.bytes(),
            Data::Spilled(extent) => extent.bytes(),
            Data::InPlace { .. } => {
                let mut content = Vec::new();
                io::Read::read_to_end(&mut self.reopen()?, &mut content)?;
                Ok(content.into())
            }
        }
    }

    /// A part of the bytes; shorter if they end before, or a block on disk does. For files in place: nothing,
    /// they do not travel.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Data::Heap(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start.saturating_add(len).min(bytes.len())))
            }
            Data::File(file) => file.read_at(offset, len),
            Data::Spilled(extent) => extent.read_at(offset, len),
            Data::InPlace { .. } => Ok(Bytes::new()),
        }
    }

    /// For a file in place: whether it is still there, unchanged. Others always are.
    pub fn is_present(&self) -> bool {
        match self {
            Data::InPlace { path, .. } => {
                std::fs::metadata(path).is_ok_and(|meta| self.check_unchanged(&meta).is_ok())
            }
            _ => true,
        }
    }

    fn check_unchanged(&self, meta: &Metadata) -> io::Result<()> {
        let Data::InPlace { path, size, mtime_ns: then } = self else { return Ok(()) };
        if meta.len() == *size && mtime_ns(meta) == *then {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has changed since its task made it ({} bytes then, {} now)",
            path.display(),
            size,
            meta.len()
        )))
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn mtime_ns(meta: &Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}

/// What a task has made: its parts by name. The part named `""` is its stdout, the others are named outputs.
#[derive(Clone, Debug, Default)]
pub struct TaskResult {
    /// The parts, stdout first if there is one.
    pub parts: Vec<(String, Data)>,
    /// If it is an object that stays in the process that made it: where that is. Its part stands for it.
    pub pinned: Option<Arc<Pinned>>,
}

impl TaskResult {
    /// A result of one unnamed part.
    pub fn of(data: Data) -> TaskResult {
        TaskResult { parts: vec![(String::new(), data)], pinned: None }
    }

    /// Bytes of all parts, those in place included.
    pub fn nbytes(&self) -> u64 {
        self.parts.iter().map(|(_, data)| data.len()).sum()
    }

    /// Bytes that it occupies in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, data)| data.memory_bytes()).sum()
    }

    /// Bytes of them on the heap, where they look like any other memory of the process.
    pub fn heap_bytes(&self) -> u64 {
        let on_heap = |data: &Data| if let Data::Heap(bytes) = data { bytes.len() as u64 } else { 0 };
        self.parts.iter().map(|(_, data)| on_heap(data)).sum()
    }

    /// Bytes that go to whoever wants it.
    pub fn travelling_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, data)| data.travelling_bytes()).sum()
    }

    /// Bytes that are on disk for want of memory.
    pub fn spilled_bytes(&self) -> u64 {
        let on_disk = |data: &Data| if let Data::Spilled(extent) = data { extent.len() } else { 0 };
        self.parts.iter().map(|(_, data)| on_disk(data)).sum()
    }

    /// Whether what is on disk can be read there as well as in memory: nearly all of it has files of its own.
    /// (What describes an array is small and shares a file; reading that costs nothing.)
    pub fn is_readable_on_disk(&self) -> bool {
        let shared = |data: &Data| match data {
            Data::Spilled(extent) if !extent.has_own_file() => extent.len(),
            _ => 0,
        };
        let shared: u64 = self.parts.iter().map(|(_, data)| shared(data)).sum();
        shared <= self.spilled_bytes() / SHARED_PART
    }

    /// Reads and checks those parts that have a file of their own on disk, unless that was done a moment ago.
    ///
    /// # Errors
    /// One is damaged or cannot be read.
    pub fn check_on_disk(&self) -> io::Result<()> {
        self.parts.iter().try_for_each(|(_, data)| match data {
            Data::Spilled(extent) if extent.has_own_file() => extent.check(),
            _ => Ok(()),
        })
    }

    /// Whether a part on disk could not be read back.
    pub fn is_lost(&self) -> bool {
        self.parts.iter().any(|(_, data)| matches!(data, Data::Spilled(extent) if extent.is_lost()))
    }

    /// The same result with all its parts in memory again.
    ///
    /// # Errors
    /// A file is damaged or cannot be read.
    pub fn recall(&self) -> io::Result<TaskResult> {
        let part = |(name, data): &(String, Data)| match data {
            Data::Spilled(extent) => Ok((name.clone(), extent.recall()?)),
            _ => Ok((name.clone(), data.clone())),
        };
        let parts = self.parts.iter().map(part).collect::<io::Result<_>>()?;
        Ok(TaskResult { parts, pinned: self.pinned.clone() })
    }

    /// The part of a name, if there is one.
    pub fn find_part(&self, name: &str) -> Option<&Data> {
        self.parts.iter().find(|(n, _)| n == name).map(|(_, data)| data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_decides_where_bytes_live() {
        let small = Data::of_bytes(Bytes::from(vec![1; HEAP_BYTES_MAX as usize])).unwrap();
        let large = Data::of_bytes(Bytes::from(vec![1; HEAP_BYTES_MAX as usize + 1])).unwrap();
        assert!(matches!(small, Data::Heap(_)));
        assert!(matches!(large, Data::File(_)));
        assert_eq!(large.bytes().unwrap().len() as u64, HEAP_BYTES_MAX + 1);
        let result = TaskResult { parts: vec![(String::new(), small), ("x".into(), large)], pinned: None };
        assert_eq!(result.nbytes(), 2 * HEAP_BYTES_MAX + 1);
    }

    #[test]
    fn heap_data_can_be_read_as_a_file_twice() {
        let data = Data::Heap(Bytes::from_static(b"abc"));
        for _ in 0..2 {
            assert_eq!(io::read_to_string(data.reopen().unwrap()).unwrap(), "abc");
        }
        assert_eq!(&data.read_at(1, 1).unwrap()[..], b"b");
        assert!(data.read_at(u64::MAX, 1).unwrap().is_empty());
    }

    #[test]
    fn changed_files_in_place_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let data = Data::in_place(&path).unwrap();
        assert_eq!((data.len(), data.memory_bytes()), (3, 0));
        assert!(data.is_present());
        std::fs::write(&path, "abcd").unwrap();
        assert!(!data.is_present());
        assert!(data.reopen().unwrap_err().to_string().contains("has changed"));
        std::fs::remove_file(&path).unwrap();
        assert!(data.reopen().unwrap_err().to_string().contains("f:"));
    }
}
