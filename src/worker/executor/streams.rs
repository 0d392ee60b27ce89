//! What flows between a command and the thread that waits for it: inputs pumped into its stdin, its stdout
//! into a result, the end of its stderr. Nothing here blocks; the waiting thread calls whatever `poll` says
//! is ready.

use crate::worker::printed::Stream;
use crate::worker::store::data::Data;
use crate::worker::store::memfile::{HEAP_BYTES_MAX, MemWriter};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// How much of stderr is kept.
pub(super) const TAIL_BYTES: usize = 4 << 10;

/// How much is kept of what nobody can tell yet whose it is.
const LATER_BYTES: usize = 256 << 10;

/// Inputs of which all together have at most this many bytes are put into one file instead of being pumped.
const JOINED_BYTES_MAX: u64 = 256 << 10;

/// Bytes moved by one call.
const STEP: usize = 1 << 20;

fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A failure to make room is no failure: the pipe then stays as small as the system allows.
fn widen(fd: BorrowedFd<'_>) {
    let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
}

/// Feeds several inputs into a command's stdin, one after the other.
#[derive(Debug)]
pub(super) struct Pump {
    pipe: PipeWriter,
    waiting: VecDeque<Data>,
    current: Option<Source>,
}

#[derive(Debug)]
enum Source {
    Bytes(Bytes),
    File(File),
    /// A file on a file system that cannot send into a pipe.
    Read(File),
}

/// What a command's stdin is for these inputs (`None`: nothing), and what has to be pumped into it.
pub(super) fn stdin_of(inputs: Vec<Data>) -> io::Result<(Option<OwnedFd>, Option<Pump>)> {
    match inputs.as_slice() {
        [] => return Ok((None, None)),
        [one] => return Ok((Some(one.reopen()?.into()), None)),
        _ => {}
    }
    let total = inputs.iter().map(Data::len).fold(0, u64::saturating_add);
    if total <= JOINED_BYTES_MAX {
        let joined = MemWriter::create("inputs")?;
        let mut file = joined.file().try_clone()?;
        for input in &inputs {
            file.write_all(&input.bytes()?)?;
        }
        io::Seek::rewind(&mut file)?;
        return Ok((Some(file.into()), None));
    }
    let (read, write) = io::pipe()?;
    nonblocking(write.as_fd())?;
    widen(write.as_fd());
    Ok((Some(read.into()), Some(Pump { pipe: write, waiting: inputs.into(), current: None })))
}

impl Pump {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Moves what the pipe takes. Whether it has come to the end, or nobody reads any more.
    pub fn advance(&mut self) -> io::Result<bool> {
        loop {
            let Some(source) = &mut self.current else {
                match self.waiting.pop_front() {
                    Some(Data::Heap(bytes)) => self.current = Some(Source::Bytes(bytes)),
                    Some(data) => self.current = Some(Source::File(data.reopen()?)),
                    None => return Ok(true),
                }
                continue;
            };
            match source.send(&mut self.pipe) {
                Ok(true) => self.current = None,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The command needs no more, as with `head`.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Source {
    /// Sends a piece; whether that was the end.
    fn send(&mut self, pipe: &mut PipeWriter) -> io::Result<bool> {
        match self {
            Source::Bytes(bytes) => {
                if !bytes.is_empty() {
                    let n = pipe.write(bytes)?;
                    bytes.advance(n);
                }
                Ok(bytes.is_empty())
            }
            Source::File(file) => {
                // SAFETY: a plain system call on descriptors that we hold; the file's own position moves.
                let n =
                    unsafe { libc::sendfile(pipe.as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), STEP) };
                if n >= 0 {
                    return Ok(n == 0);
                }
                let error = io::Error::last_os_error();
                if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
                    return Err(error);
                }
                *self = Source::Read(file.try_clone()?);
                Ok(false)
            }
            Source::Read(file) => {
                // Small enough for the pipe to take or refuse as a whole? No: so step back by what it
                // refused.
                let mut buffer = vec![0; 64 << 10];
                let n = file.read(&mut buffer)?;
                if n == 0 {
                    return Ok(true);
                }
                let sent = pipe.write(&buffer[..n]);
                let taken = *sent.as_ref().unwrap_or(&0);
                io::Seek::seek_relative(file, taken as i64 - n as i64)?;
                sent.map(|_| false)
            }
        }
    }
}

/// Takes a command's stdout through a pipe: on the heap while it is small, then in a memory file.
#[derive(Debug)]
pub(super) struct PipeCapture {
    pipe: Option<PipeReader>,
    small: Vec<u8>,
    large: Option<MemWriter>,
    taken: u64,
}

impl PipeCapture {
    /// The capture and the end that the command gets.
    pub fn open() -> io::Result<(PipeCapture, OwnedFd)> {
        let (read, write) = io::pipe()?;
        nonblocking(read.as_fd())?;
        Ok((PipeCapture { pipe: Some(read), small: Vec::new(), large: None, taken: 0 }, write.into()))
    }

    /// The pipe, until everybody has closed its other end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The memory file, once there is one.
    pub fn file(&self) -> Option<&File> {
        self.large.as_ref().map(MemWriter::file)
    }

    /// Takes what is there, up to `STEP`. Whether there may be more. After an error the pipe is closed.
    pub fn advance(&mut self, name: &str) -> io::Result<bool> {
        self.take(name).inspect_err(|_| self.pipe = None)
    }

    fn take(&mut self, name: &str) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(false) };
        let got = match &mut self.large {
            None => {
                let mut buffer = [0; 16 << 10];
                pipe.read(&mut buffer).inspect(|&n| self.small.extend_from_slice(&buffer[..n]))
            }
            Some(writer) => splice(pipe, writer.file()),
        };
        match got {
            Ok(0) => self.pipe = None,
            Ok(n) => self.taken += n as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if self.large.is_none() && self.small.len() as u64 > HEAP_BYTES_MAX {
            let writer = MemWriter::create(name)?;
            writer.file().write_all(&self.small)?;
            self.small = Vec::new();
            self.large = Some(writer);
            if let Some(pipe) = &self.pipe {
                widen(pipe.as_fd());
            }
        }
        Ok(self.pipe.is_some())
    }

    /// Takes what is in the pipe now and ends. Who still writes has nobody who reads.
    pub fn finish(mut self, name: &str) -> io::Result<Data> {
        let end = self.taken + self.pipe.as_ref().map_or(0, |p| waiting_bytes(p.as_fd()));
        while self.taken < end && self.advance(name)? {}
        match self.large {
            Some(writer) => Data::of_writer(writer),
            None => Ok(Data::Heap(self.small.into())),
        }
    }
}

/// Moves what a pipe holds to the end of a file. 0: everybody has closed the pipe's other end.
fn splice(pipe: &PipeReader, file: &File) -> io::Result<usize> {
    let none = std::ptr::null_mut();
    // SAFETY: a plain system call on descriptors that we hold, without pointers.
    let n = unsafe {
        libc::splice(pipe.as_raw_fd(), none, file.as_raw_fd(), none, STEP, libc::SPLICE_F_NONBLOCK)
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

fn waiting_bytes(pipe: BorrowedFd<'_>) -> u64 {
    let mut n: libc::c_int = 0;
    // SAFETY: the call writes one int, to which the pointer points.
    unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut n) };
    u64::try_from(n).unwrap_or(0)
}

/// Keeps the end of a command's stderr, however much it prints.
#[derive(Debug)]
pub(super) struct Tail {
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    cut: bool,
    /// Where all of it is kept besides.
    book: Option<Stream>,
    /// Where nobody can tell yet whose it is, what was said since.
    later: Option<Vec<u8>>,
    /// What came from elsewhere meanwhile.
    aside: Vec<u8>,
}

impl Tail {
    /// The tail and the end that the command gets.
    pub fn open() -> io::Result<(Tail, OwnedFd)> {
        let (read, write) = io::pipe()?;
        nonblocking(read.as_fd())?;
        let (kept, aside) = (Vec::new(), Vec::new());
        Ok((Tail { pipe: Some(read), kept, cut: false, book: None, later: None, aside }, write.into()))
    }

    /// The pipe, until everybody has closed its other end.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes a piece of what is there; how many bytes.
    pub fn advance(&mut self) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        let mut buffer = [0; 16 << 10];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(n) => {
                if let Some(book) = &mut self.book {
                    book.write(&buffer[..n]);
                } else if let Some(later) = &mut self.later {
                    later.extend_from_slice(&buffer[..n]);
                    later.drain(..later.len().saturating_sub(LATER_BYTES));
                }
                self.keep(&buffer[..n]);
                return n;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
        0
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() > 2 * TAIL_BYTES {
            self.kept.drain(..self.kept.len() - TAIL_BYTES);
            self.cut = true;
        }
    }

    /// Something was said that did not come through this pipe.
    pub fn add_aside(&mut self, bytes: &[u8]) {
        match (&mut self.book, &self.later) {
            (Some(book), _) if !bytes.is_empty() => book.write(bytes),
            (None, Some(_)) => self.aside.extend_from_slice(bytes),
            _ => {}
        }
        self.keep(bytes);
    }

    /// All that was said since `record_later`, or since this was called last.
    pub fn take_all(&mut self) -> Vec<u8> {
        self.drain();
        self.later.replace(Vec::new()).unwrap_or_default()
    }

    /// What comes from now on is kept there besides, and what was said since `record_later`.
    pub fn record(&mut self, mut book: Option<Stream>) {
        let before = [self.later.take().unwrap_or_default(), std::mem::take(&mut self.aside)].concat();
        if let Some(book) = book.as_mut().filter(|_| !before.is_empty()) {
            book.write(&before);
        }
        self.book = book;
    }

    /// It will be said later whose it is what comes from now on.
    pub fn record_later(&mut self) {
        self.later = Some(Vec::new());
    }

    /// The first bytes since `record_later`, as many as that.
    pub fn take_later(&mut self, n: u64) -> Vec<u8> {
        self.drain();
        let Some(later) = &mut self.later else { return Vec::new() };
        let own = later.drain(..usize::try_from(n).unwrap_or(usize::MAX).min(later.len()));
        own.chain(std::mem::take(&mut self.aside)).collect()
    }

    /// Forgets what was said before a task begins.
    pub fn clear(&mut self) {
        // It is not the next task's; whose it is nobody knows.
        (self.book, self.later) = (None, None);
        self.drain();
        self.kept.clear();
        self.aside.clear();
        self.cut = false;
    }

    /// The last bytes so far, as `finish` gives them.
    pub fn so_far(&mut self) -> Vec<u8> {
        self.drain();
        self.kept[self.start()..].to_vec()
    }

    /// Takes what is there now, and no more.
    fn drain(&mut self) {
        let mut left = self.pipe.as_ref().map_or(0, |p| waiting_bytes(p.as_fd()));
        while left > 0 && self.pipe.is_some() {
            left = left.saturating_sub((self.advance() as u64).max(1));
        }
    }

    /// Where the last bytes begin.
    fn start(&self) -> usize {
        let mut from = self.kept.len().saturating_sub(TAIL_BYTES);
        if (self.cut || from > 0)
            && let Some(newline) = self.kept[from..].iter().position(|&b| b == b'\n')
            && from + newline + 1 < self.kept.len()
        {
            from += newline + 1;
        }
        from
    }

    /// The last bytes, from the start of a line if something was left out before.
    pub fn finish(mut self) -> Vec<u8> {
        self.drain();
        self.kept.split_off(self.start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_whole_last_lines() {
        let (mut tail, write) = Tail::open().unwrap();
        let mut write = File::from(write);
        for n in 0..3000 {
            writeln!(write, "line {n}").unwrap();
            tail.advance();
        }
        write!(write, "the end").unwrap();
        let kept = String::from_utf8(tail.finish()).unwrap();
        assert!(kept.len() <= TAIL_BYTES && kept.len() > TAIL_BYTES - 20);
        assert!(kept.starts_with("line 2") && kept.ends_with("\nline 2999\nthe end"), "{kept}");
    }

    #[test]
    fn what_comes_aside_belongs_to_whoever_is_told_of_next() {
        let (mut loose, write) = Tail::open().unwrap();
        loose.record_later();
        let (mut tail, own) = Tail::open().unwrap();
        tail.record_later();
        File::from(own).write_all(b"one").unwrap();
        File::from(write).write_all(b"library").unwrap();
        tail.add_aside(&loose.take_all());
        assert!(loose.take_all().is_empty());
        assert_eq!(tail.take_later(2), b"onlibrary");
        assert_eq!(tail.take_later(9), b"e");
        assert_eq!(tail.so_far(), b"libraryone");
        tail.add_aside(b"before");
        tail.clear();
        tail.record_later();
        assert!(tail.take_later(1).is_empty());
    }

    #[test]
    fn one_long_line_is_kept_in_part() {
        let (tail, write) = Tail::open().unwrap();
        File::from(write).write_all(&[b'x'; 3 * TAIL_BYTES]).unwrap();
        assert_eq!(tail.finish().len(), TAIL_BYTES);
    }

    #[test]
    fn small_captures_need_no_file_and_large_ones_get_one() {
        for n in [0, 10, 300_000] {
            let (mut capture, write) = PipeCapture::open().unwrap();
            std::thread::spawn(move || File::from(write).write_all(&vec![b'x'; n]));
            while capture.fd().is_some() {
                let mut fds =
                    [crate::worker::executor::process::poll_fd(capture.fd().unwrap(), libc::POLLIN)];
                crate::worker::executor::process::poll(&mut fds, std::time::Duration::from_secs(5));
                while capture.advance("t").unwrap() {}
            }
            let data = capture.finish("t").unwrap();
            assert_eq!(data.len(), n as u64);
            assert_eq!(matches!(data, Data::File(_)), n > 100_000);
            assert!(data.bytes().unwrap().iter().all(|&b| b == b'x'));
        }
    }

    #[test]
    fn a_reading_source_loses_nothing_to_a_full_pipe() {
        let content: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
        let data = Data::of_bytes(content.clone().into()).unwrap();
        let (mut read, write) = io::pipe().unwrap();
        nonblocking(write.as_fd()).unwrap();
        let current = Some(Source::Read(data.reopen().unwrap()));
        let mut pump = Pump { pipe: write, waiting: [data].into(), current };
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            read.read_to_end(&mut got).map(|_| got)
        });
        while !pump.advance().unwrap() {
            let mut fds = [crate::worker::executor::process::poll_fd(pump.fd(), libc::POLLOUT)];
            crate::worker::executor::process::poll(&mut fds, std::time::Duration::from_secs(5));
        }
        drop(pump);
        assert_eq!(reader.join().unwrap().unwrap(), [content.clone(), content].concat());
    }
}
