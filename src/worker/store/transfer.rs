//! How a result travels between workers: a header that says what there is, then the bytes in pieces, in
//! order. Owns the header and putting the pieces together again; sockets and retries are the transfer's
//! business.

use super::data::{Data, TaskResult};
use super::memfile::{HEAP_BYTES_MAX, MemWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::PathBuf;

/// What a result consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its parts, in order.
    pub parts: Vec<PartHeader>,
}

/// What one part is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    /// Its name; empty for stdout.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// For a file that stays where it is: its path and time of change. Its bytes do not travel.
    pub in_place: Option<InPlace>,
}

/// Where a file stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// Absolute path.
    pub path: PathBuf,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Header {
    /// The header of a result.
    pub fn of(result: &TaskResult) -> Header {
        let parts = result.parts.iter().map(|(name, data)| PartHeader {
            name: name.clone(),
            len: data.len(),
            in_place: match data {
                Data::InPlace { path, mtime_ns, .. } => {
                    Some(InPlace { path: path.clone(), mtime_ns: *mtime_ns })
                }
                Data::Heap(_) | Data::File(_) | Data::Spilled(_) => None,
            },
        });
        Header { parts: parts.collect() }
    }

    /// Bytes that will travel; saturates, for it may come from outside.
    pub fn travelling_bytes(&self) -> u64 {
        self.parts.iter().map(PartHeader::travelling_bytes).fold(0, u64::saturating_add)
    }
}

impl PartHeader {
    fn travelling_bytes(&self) -> u64 {
        if self.in_place.is_some() { 0 } else { self.len }
    }
}

impl TaskResult {
    /// The bytes of the travelling parts, one after the other, seen as one stream: up to `len` of them from
    /// `offset`, shorter where a part ends or a block on disk; nothing behind the last. Those on the heap are
    /// not copied.
    pub fn read_stream_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut start = 0;
        for (_, data) in &self.parts {
            let end = start + data.travelling_bytes();
            if (start..end).contains(&offset) {
                return data.read_at(offset - start, len);
            }
            start = end;
        }
        Ok(Bytes::new())
    }
}

/// Puts a result together from its header and its bytes, which must come in order.
#[derive(Debug)]
pub struct Assembler {
    expected: std::vec::IntoIter<PartHeader>,
    open: Option<Open>,
    done: TaskResult,
    received: u64,
}

/// The part that is being received.
#[derive(Debug)]
struct Open {
    name: String,
    left: u64,
    to: Landing,
}

#[derive(Debug)]
enum Landing {
    Heap(Vec<u8>),
    File(MemWriter),
}

impl Assembler {
    /// Begins. Nothing is allocated by the header's word alone: memory grows with the bytes that arrive.
    pub fn new(header: Header) -> io::Result<Assembler> {
        let mut assembler = Assembler {
            expected: header.parts.into_iter(),
            open: None,
            done: TaskResult::default(),
            received: 0,
        };
        assembler.advance()?;
        Ok(assembler)
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether everything is there.
    pub fn is_complete(&self) -> bool {
        self.open.is_none()
    }

    /// Takes the next bytes, from anywhere in the stream of `read_stream_at`. More than announced is an
    /// error.
    pub fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(open) = &mut self.open else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} bytes more than the result's header says", bytes.len()),
                ));
            };
            let n = usize::try_from(open.left).unwrap_or(usize::MAX).min(bytes.len());
            match &mut open.to {
                Landing::Heap(content) => content.extend_from_slice(&bytes[..n]),
                Landing::File(writer) => writer.file().write_all(&bytes[..n])?,
            }
            open.left -= n as u64;
            self.received += n as u64;
            bytes = &bytes[n..];
            self.advance()?;
        }
        Ok(())
    }

    /// The result; an error if bytes are missing.
    pub fn finish(self) -> io::Result<TaskResult> {
        match self.open {
            None => Ok(self.done),
            Some(open) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the result's part `{}` ended {} bytes too early", open.name, open.left),
            )),
        }
    }

    /// Closes the open part if it is complete and opens the next one that waits for bytes.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            match self.open.take() {
                Some(open) if open.left > 0 => {
                    self.open = Some(open);
                    return Ok(());
                }
                Some(Open { name, to, .. }) => {
                    let data = match to {
                        Landing::Heap(content) => Data::Heap(content.into()),
                        Landing::File(writer) => Data::of_writer(writer)?,
                    };
                    self.done.parts.push((name, data));
                }
                None => {}
            }
            let Some(part) = self.expected.next() else { return Ok(()) };
            if let Some(InPlace { path, mtime_ns }) = part.in_place {
                self.done.parts.push((part.name, Data::InPlace { path, size: part.len, mtime_ns }));
                continue;
            }
            let to = if part.len <= HEAP_BYTES_MAX {
                Landing::Heap(Vec::new())
            } else {
                Landing::File(MemWriter::sized("fetched result", part.len)?)
            };
            self.open = Some(Open { name: part.name, left: part.len, to });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TaskResult {
        let big: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let place = Data::InPlace { path: "/f".into(), size: 9, mtime_ns: 5 };
        TaskResult {
            parts: vec![
                ("".into(), Data::of_bytes(b"hello"[..].into()).unwrap()),
                ("e".into(), Data::Heap(Bytes::new())),
                ("p".into(), place),
                ("b".into(), Data::of_bytes(big.into()).unwrap()),
            ],
            pinned: None,
        }
    }

    fn send(result: &TaskResult, piece: usize) -> TaskResult {
        let mut assembler = Assembler::new(Header::of(result)).unwrap();
        while !assembler.is_complete() {
            let bytes = result.read_stream_at(assembler.received(), piece).unwrap();
            assembler.push(&bytes).unwrap();
        }
        assembler.finish().unwrap()
    }

    #[test]
    fn arrives_as_it_left() {
        for piece in [3, 4096, 1 << 20] {
            let (sent, got) = (sample(), send(&sample(), piece));
            assert_eq!(Header::of(&got), Header::of(&sent));
            assert!(matches!(got.parts[3].1, Data::File(_)));
            for at in [0, 1, 3] {
                assert_eq!(got.parts[at].1.bytes().unwrap(), sent.parts[at].1.bytes().unwrap());
            }
        }
    }

    #[test]
    fn empty_results_are_complete_at_once() {
        assert!(Assembler::new(Header { parts: vec![] }).unwrap().finish().unwrap().parts.is_empty());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let header = Header { parts: vec![PartHeader { name: "x".into(), len: 3, in_place: None }] };
        let mut assembler = Assembler::new(header.clone()).unwrap();
        assembler.push(b"ab").unwrap();
        assert!(assembler.push(b"cd").is_err());
        let mut assembler = Assembler::new(header).unwrap();
        assembler.push(b"ab").unwrap();
        assert!(assembler.finish().unwrap_err().to_string().contains("1 bytes too early"));
    }
}
