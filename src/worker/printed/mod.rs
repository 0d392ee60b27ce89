//! What tasks print, kept in files of the worker's directory: whoever looks for it finds it there after the
//! task has ended, and after the worker was killed. Owns the files, their form and their bounds.
//!
//! All tasks write to one file after the other (`.s`), each piece with a head that says whose it is. What a
//! stream prints beyond its bound goes to files of its own (`.o`), of which the last two are kept, so that a
//! task which prints without end takes nothing away from others. The number in a file's name says its age.

pub(in crate::worker) mod read;

use crate::base::ids::{Attempt, TaskRef};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The directory of these files, and of the worker's own log, inside of the worker's.
pub(in crate::worker) const DIRECTORY: &str = "logs";

/// Shared files at most; with each new one beyond that the oldest goes.
const SHARED_MAX: u64 = 8;

/// What a head begins with.
const MAGIC: u32 = 0x5048_4447;

/// Bytes of a head.
const HEAD: usize = 40;

/// Which stream of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::worker) enum Which {
    /// Standard output of a command, where that is not its result.
    Stdout,
    /// Standard error of a command.
    Stderr,
    /// Both, in the order in which they came, of what runs in executor processes.
    Output,
}

impl Which {
    const ALL: [Which; 3] = [Which::Stdout, Which::Stderr, Which::Output];

    /// Its name for people.
    pub(in crate::worker) fn name(self) -> &'static str {
        match self {
            Which::Stdout => "stdout",
            Which::Stderr => "stderr",
            Which::Output => "output",
        }
    }
}

/// What stands before each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    task: TaskRef,
    attempt: Attempt,
    which: Which,
    /// Where in the stream the piece begins.
    offset: u64,
    len: u32,
}

impl Head {
    fn bytes(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let words = [
            MAGIC,
            self.task.run.0,
            self.task.index,
            self.attempt.epoch,
            self.attempt.n,
            self.which as u32,
            self.len,
            0,
        ];
        for (place, word) in head.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        head[HEAD - 8..].copy_from_slice(&self.offset.to_le_bytes());
        head
    }

    fn read(bytes: &[u8]) -> Option<Head> {
        let word = |n: usize| bytes.get(n * 4..n * 4 + 4)?.try_into().ok().map(u32::from_le_bytes);
        let offset = bytes.get(HEAD - 8..HEAD)?.try_into().ok().map(u64::from_le_bytes)?;
        if word(0)? != MAGIC {
            return None;
        }
        Some(Head {
            task: TaskRef { run: crate::base::ids::RunId(word(1)?), index: word(2)? },
            attempt: Attempt { epoch: word(3)?, n: word(4)? },
            which: *Which::ALL.get(word(5)? as usize)?,
            offset,
            len: word(6)?,
        })
    }
}

/// The file that all write to now.
#[derive(Debug)]
struct Shared {
    file: File,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next file.
    next: u64,
    now: Option<Shared>,
    shared: VecDeque<PathBuf>,
    own: VecDeque<PathBuf>,
    /// Whether it was said that nothing can be kept.
    complained: bool,
}

/// All that tasks of this worker have printed lately.
#[derive(Debug)]
pub(in crate::worker) struct Book {
    directory: PathBuf,
    /// Bytes of a stream.
    stream_max: u64,
    /// Bytes of a shared file.
    shared_max: u64,
    /// Files of streams that have printed more.
    own_max: usize,
    state: Mutex<State>,
}

impl Book {
    /// Keeps about `stream` bytes of each stream, `total` of all, in files below `directory`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(in crate::worker) fn create(directory: &Path, stream: u64, total: u64) -> io::Result<Book> {
        let directory = directory.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let stream_max = stream.min(total / 8).max(1);
        let shared_max = (total / 2 / SHARED_MAX).max(1);
        let own_max = usize::try_from(total / 2 / stream_max).unwrap_or(usize::MAX).max(2);
        Ok(Book { directory, stream_max, shared_max, own_max, state: Mutex::default() })
    }

    /// Where the files are.
    pub(in crate::worker) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A stream of an attempt, which has printed nothing yet.
    pub(in crate::worker) fn stream(
        self: &Arc<Book>,
        (task, attempt): (TaskRef, Attempt),
        which: Which,
    ) -> Stream {
        Stream { book: self.clone(), task, attempt, which, offset: 0, own: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, state: &mut State, kind: &str) -> io::Result<(PathBuf, File)> {
        let path = self.directory.join(format!("{:012}.{kind}", state.next));
        state.next += 1;
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// Writes a piece to the file that all share.
    fn write_shared(&self, piece: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let mut now = match state.now.take() {
            Some(now) => now,
            None => {
                let (path, file) = self.open(&mut state, "s")?;
                state.shared.push_back(path);
                if state.shared.len() as u64 > SHARED_MAX {
                    state.shared.pop_front().iter().for_each(|path| drop(std::fs::remove_file(path)));
                }
                Shared { file, bytes: 0 }
            }
        };
        // After a failure, half a piece may be at the file's end: another one is begun then.
        now.file.write_all(piece)?;
        now.bytes += piece.len() as u64;
        state.now = (now.bytes < self.shared_max).then_some(now);
        Ok(())
    }

    fn open_own(&self) -> io::Result<(PathBuf, File)> {
        let mut state = self.state();
        let opened = self.open(&mut state, "o")?;
        state.own.push_back(opened.0.clone());
        if state.own.len() > self.own_max {
            state.own.pop_front().iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
        Ok(opened)
    }

    fn remove_own(&self, path: &Path) {
        let mut state = self.state();
        if let Some(at) = state.own.iter().rposition(|own| own == path) {
            state.own.remove(at);
        }
        drop(state);
        // Others may have needed its place before.
        let _ = std::fs::remove_file(path);
    }

    fn complain(&self, error: &io::Error) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.complained, true) {
            tracing::warn!("what tasks print cannot be kept in {}: {error}", self.directory.display());
        }
    }
}

/// Files of one stream.
#[derive(Debug)]
struct Own {
    file: File,
    path: PathBuf,
    bytes: u64,
    before: Option<PathBuf>,
}

/// One stream of one attempt.
#[derive(Debug)]
pub(in crate::worker) struct Stream {
    book: Arc<Book>,
    task: TaskRef,
    attempt: Attempt,
    which: Which,
    offset: u64,
    own: Option<Own>,
}

impl Stream {
    /// Keeps what was printed. Where that cannot be, it is left out.
    pub(in crate::worker) fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(64 << 10) {
            if let Err(error) = self.write_piece(piece) {
                self.book.complain(&error);
            }
            self.offset += piece.len() as u64;
        }
    }

    /// Keeps the end of what was printed, of which the first `left_out` bytes are not there.
    pub(in crate::worker) fn write_end(&mut self, left_out: u64, bytes: &[u8]) {
        self.offset += left_out;
        self.write(bytes);
    }

    /// How many bytes of a stream are kept.
    pub(in crate::worker) fn bytes_max(&self) -> u64 {
        self.book.stream_max
    }

    fn write_piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (task, attempt, which, offset) = (self.task, self.attempt, self.which, self.offset);
        let head = Head { task, attempt, which, offset, len: bytes.len() as u32 };
        let piece = [&head.bytes()[..], bytes].concat();
        if self.own.is_none() && self.offset < self.book.stream_max {
            return self.book.write_shared(&piece);
        }
        let mut own = match self.own.take() {
            Some(own) if own.bytes < self.book.stream_max => own,
            old => {
                let before = old.map(|old| {
                    old.before.iter().for_each(|path| self.book.remove_own(path));
                    old.path
                });
                let (path, file) = self.book.open_own()?;
                Own { file, path, bytes: 0, before }
            }
        };
        own.file.write_all(&piece)?;
        own.bytes += bytes.len() as u64;
        self.own = Some(own);
        Ok(())
    }
}
