//! The stdout of a family's tasks as one stream, in the order of the elements. Owns the outputs that came
//! before their turn: on the heap up to a bound, then in a file without a name.

use super::outputs::{Destination, Output, Receive};
use crate::base::error::{Error, Kind, Result};
use crate::protocol::messages::peer::PartHeader;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes on the heap that wait for their turn.
const HEAP_BYTES_MAX: u64 = 64 << 20;

/// A larger output goes to the file at once.
const HEAP_OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// Writes each task's stdout whole, in the order of the elements. Elements that fail are passed over, which
/// is known at the end only: [`Ordered::finish`] writes what waits behind them.
#[derive(Clone)]
pub struct Ordered {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    to: Box<dyn Write + Send>,
    /// Whether every output ends its line.
    lines: bool,
    next: u32,
    waiting: BTreeMap<u32, Kept>,
    heap_bytes: u64,
    /// The file, and how much of it is in use.
    spill: Option<(Arc<File>, u64)>,
}

/// A whole output.
enum Kept {
    Heap(Vec<u8>),
    File { file: Arc<File>, offset: u64, len: u64 },
}

impl Ordered {
    /// Writes to `to`. With `lines` an output that does not end with a newline gets one, so that the next
    /// begins on a line of its own.
    pub fn new(to: impl Write + Send + 'static, lines: bool) -> Ordered {
        let shared =
            Shared { to: Box::new(to), lines, next: 0, waiting: BTreeMap::new(), heap_bytes: 0, spill: None };
        Ordered { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Writes what waits behind elements of which nothing will come.
    ///
    /// # Errors
    /// `File` when it cannot be written.
    pub fn finish(&self) -> Result<()> {
        let mut shared = lock(&self.shared);
        while let Some(first) = shared.waiting.keys().next().copied() {
            shared.next = first;
            shared.write_ready()?;
        }
        Ok(())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Room for an output of `len` bytes.
    fn reserve(&mut self, len: u64) -> Result<Kept> {
        if len <= HEAP_OUTPUT_BYTES_MAX && self.heap_bytes + len <= HEAP_BYTES_MAX {
            self.heap_bytes += len;
            return Ok(Kept::Heap(Vec::with_capacity(len as usize)));
        }
        let (file, end) = match &mut self.spill {
            Some(spill) => spill,
            None => {
                let file = tempfile::tempfile().map_err(|e| spill_fault(&e))?;
                self.spill.insert((Arc::new(file), 0))
            }
        };
        let offset = *end;
        *end += len;
        Ok(Kept::File { file: Arc::clone(file), offset, len })
    }

    /// Gives the room back.
    fn release(&mut self, kept: &Kept, len: u64) {
        if let Kept::Heap(_) = kept {
            self.heap_bytes -= len;
        }
    }

    fn write_ready(&mut self) -> Result<()> {
        while let Some(kept) = self.waiting.remove(&self.next) {
            self.next += 1;
            let last = match &kept {
                Kept::Heap(bytes) => {
                    self.release(&kept, bytes.len() as u64);
                    self.to.write_all(bytes).map_err(|e| fault(&e))?;
                    bytes.last().copied()
                }
                Kept::File { file, offset, len } => copy(file, *offset, *len, &mut self.to)?,
            };
            if self.lines && last.is_some_and(|b| b != b'\n') {
                self.to.write_all(b"\n").map_err(|e| fault(&e))?;
            }
        }
        self.to.flush().map_err(|e| fault(&e))
    }
}

/// Copies a range of the file; returns its last byte.
fn copy(file: &File, mut offset: u64, mut len: u64, to: &mut dyn Write) -> Result<Option<u8>> {
    let mut buffer = vec![0; COPY_BYTES.min(len as usize)];
    let mut last = None;
    while len > 0 {
        let n = buffer.len().min(len as usize);
        file.read_exact_at(&mut buffer[..n], offset).map_err(|e| spill_fault(&e))?;
        to.write_all(&buffer[..n]).map_err(|e| fault(&e))?;
        last = buffer[..n].last().copied();
        (offset, len) = (offset + n as u64, len - n as u64);
    }
    Ok(last)
}

fn fault(e: &std::io::Error) -> Error {
    Error::new(Kind::File, format!("cannot write to stdout: {e}"))
}

fn spill_fault(e: &std::io::Error) -> Error {
    let what =
        format!("cannot keep outputs that wait for their turn in {}: {e}", std::env::temp_dir().display());
    Error::new(Kind::File, what).hint("set TMPDIR to a directory with room, or write files with -o")
}

impl Destination for Ordered {
    fn wants(&self, _: &Output) -> bool {
        true
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Gather { shared: Arc::clone(&self.shared), open: None })
    }
}

/// Receives one output after the other.
struct Gather {
    shared: Arc<Mutex<Shared>>,
    open: Option<Open>,
}

struct Open {
    index: u32,
    /// Position of stdout among the parts.
    part: Option<usize>,
    len: u64,
    received: u64,
    kept: Kept,
}

impl Gather {
    fn forget(&mut self) {
        if let Some(open) = self.open.take() {
            lock(&self.shared).release(&open.kept, open.len);
        }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Receive for Gather {
    fn begin(&mut self, output: &Output, parts: &[PartHeader]) -> Result<()> {
        self.forget();
        let part = parts.iter().position(|p| p.name.is_empty());
        let len = part.map_or(0, |p| parts[p].len);
        let kept = lock(&self.shared).reserve(len)?;
        self.open = Some(Open { index: output.index, part, len, received: 0, kept });
        Ok(())
    }

    fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
        let Some(open) = self.open.as_mut().filter(|o| o.part == Some(part)) else { return Ok(()) };
        match &mut open.kept {
            Kept::Heap(kept) => kept.extend_from_slice(bytes),
            Kept::File { file, offset, .. } => {
                file.write_all_at(bytes, *offset + open.received).map_err(|e| spill_fault(&e))?;
            }
        }
        open.received += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut shared = lock(&self.shared);
        // What was announced has come: the fetch ends only then.
        debug_assert_eq!(open.len, open.received);
        shared.waiting.insert(open.index, open.kept);
        shared.write_ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{FamilyIx, TaskRef};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn give(ordered: &Ordered, index: u32, bytes: &[u8]) {
        let output = Output {
            task: TaskRef::default(),
            key: String::new(),
            family: FamilyIx(0),
            element: index,
            index,
            nbytes: 0,
            holders: Vec::new(),
        };
        let header =
            |name: &str, len: usize| PartHeader { name: name.into(), len: len as u64, in_place: None };
        let mut receiver = ordered.receiver();
        receiver.begin(&output, &[header("other", 1), header("", bytes.len())]).unwrap();
        receiver.bytes(0, b"x").unwrap();
        for piece in bytes.chunks(300_000) {
            receiver.bytes(1, piece).unwrap();
        }
        receiver.end().unwrap();
    }

    #[test]
    fn outputs_wait_for_their_turn() {
        let sink = Sink::default();
        let ordered = Ordered::new(sink.clone(), true);
        give(&ordered, 2, b"two\n");
        give(&ordered, 1, b"one");
        assert_eq!(sink.text(), "");
        give(&ordered, 0, b"zero\n");
        assert_eq!(sink.text(), "zero\none\ntwo\n");
        give(&ordered, 5, b"five");
        give(&ordered, 4, b"");
        assert_eq!(sink.text(), "zero\none\ntwo\n");
        ordered.finish().unwrap();
        assert_eq!(sink.text(), "zero\none\ntwo\nfive\n");
        assert_eq!(lock(&ordered.shared).heap_bytes, 0);
    }

    #[test]
    fn large_ones_wait_in_a_file() {
        let sink = Sink::default();
        let ordered = Ordered::new(sink.clone(), false);
        let large = |c: u8| vec![c; HEAP_OUTPUT_BYTES_MAX as usize + 5];
        give(&ordered, 2, &large(b'c'));
        give(&ordered, 1, &large(b'b'));
        assert!(lock(&ordered.shared).spill.is_some());
        give(&ordered, 0, b"a");
        let text = sink.text();
        assert_eq!(text.len(), 1 + 2 * (HEAP_OUTPUT_BYTES_MAX as usize + 5));
        assert!(text.starts_with("ab") && text.ends_with('c'));
        assert_eq!(text.matches("bc").count(), 1);
    }

    #[test]
    fn what_breaks_off_gives_its_room_back() {
        let ordered = Ordered::new(Sink::default(), false);
        let mut receiver = ordered.receiver();
        let parts = [PartHeader { name: String::new(), len: 100, in_place: None }];
        let output = Output {
            task: TaskRef::default(),
            key: String::new(),
            family: FamilyIx(0),
            element: 0,
            index: 0,
            nbytes: 0,
            holders: Vec::new(),
        };
        receiver.begin(&output, &parts).unwrap();
        assert_eq!(lock(&ordered.shared).heap_bytes, 100);
        drop(receiver);
        assert_eq!(lock(&ordered.shared).heap_bytes, 0);
    }
}
