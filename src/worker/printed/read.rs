//! Reads what tasks have printed, of this life of the worker or of one that has ended. Owns how pieces become
//! text again; what it finds broken it passes over.

use super::{HEAD, Head, Which};
use crate::base::ids::{Attempt, TaskRef};
use crate::protocol::messages::look::{PrintedPart, Said};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that are read for what was printed last, bytes: the latest that have so much, and one more.
const LAST_BYTES: u64 = 8 << 20;

/// Pieces of a stream, by where they begin.
type Pieces = BTreeMap<u64, Vec<u8>>;

/// The streams of one attempt, and when the last piece came: file and place.
#[derive(Default)]
struct Attempted {
    last: (usize, usize),
    streams: BTreeMap<Which, Pieces>,
}

/// What the last attempt of a task that has printed anything has printed, the last `bytes` of each stream.
/// Only attempts of this epoch count.
pub(in crate::worker) fn task(directory: &Path, task: TaskRef, epoch: u32, bytes: u64) -> Option<Said> {
    let attempts = scan(&files(directory), |head| head.task == task && head.attempt.epoch == epoch);
    let ((task, attempt), attempted) = attempts.into_iter().max_by_key(|((_, attempt), _)| attempt.n)?;
    Some(said(task, attempt, attempted, bytes))
}

/// What the last tasks have printed, no more than `total` bytes, `bytes` of each stream.
pub(in crate::worker) fn last(directory: &Path, bytes: u64, total: u64) -> Vec<Said> {
    let mut sum = 0;
    let mut latest = files(directory);
    latest.reverse();
    latest.retain(|path| {
        let before = sum;
        sum += path.metadata().map_or(0, |meta| meta.len());
        before < LAST_BYTES
    });
    latest.reverse();
    let mut attempts: Vec<_> = scan(&latest, |_| true).into_iter().collect();
    attempts.sort_by_key(|(_, attempted)| std::cmp::Reverse(attempted.last));
    let mut left = total;
    let mut all = Vec::new();
    for ((task, attempt), attempted) in attempts {
        let said = said(task, attempt, attempted, bytes);
        let size = said.parts.iter().map(|part| part.text.len() as u64 + HEAD as u64).sum();
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        all.push(said);
    }
    all
}

fn said(task: TaskRef, attempt: Attempt, attempted: Attempted, bytes: u64) -> Said {
    let part = |(which, pieces): (Which, Pieces)| {
        let (left_out, end) = joined(pieces, bytes);
        PrintedPart { name: which.name().into(), text: text(&end), left_out }
    };
    Said { task, attempt: attempt.n, parts: attempted.streams.into_iter().map(part).collect() }
}

/// The end of a stream, without gaps, and how much came before it.
fn joined(pieces: Pieces, bytes: u64) -> (u64, Vec<u8>) {
    let mut taken: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut size = 0;
    for (offset, piece) in pieces.into_iter().rev() {
        let gap = taken.last().is_some_and(|(next, _)| offset + piece.len() as u64 != *next);
        if gap || size >= bytes {
            break;
        }
        size += piece.len() as u64;
        taken.push((offset, piece));
    }
    let first = taken.last().map_or(0, |(offset, _)| *offset);
    let mut all: Vec<u8> = taken.into_iter().rev().flat_map(|(_, piece)| piece).collect();
    let excess = usize::try_from(size.saturating_sub(bytes)).unwrap_or(0);
    // Not in the middle of a character.
    let start = (excess..all.len().min(excess + 4)).find(|&at| all[at] & 0xc0 != 0x80).unwrap_or(excess);
    let start = if excess == 0 { 0 } else { start };
    all.drain(..start);
    (first + start as u64, all)
}

/// Bytes as text of the same length, so that places in it are places in the stream.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

fn scan(files: &[PathBuf], wanted: impl Fn(&Head) -> bool) -> BTreeMap<(TaskRef, Attempt), Attempted> {
    let mut found: BTreeMap<(TaskRef, Attempt), Attempted> = BTreeMap::new();
    for (n, path) in files.iter().enumerate() {
        // It may have been removed meanwhile.
        let Ok(bytes) = std::fs::read(path) else { continue };
        let mut at = 0;
        while let Some(head) = bytes.get(at..).and_then(Head::read) {
            let begin = at + HEAD;
            let Some(piece) = bytes.get(begin..begin.saturating_add(head.len as usize)) else { break };
            if wanted(&head) {
                let attempted = found.entry((head.task, head.attempt)).or_default();
                attempted.last = attempted.last.max((n, at));
                attempted.streams.entry(head.which).or_default().insert(head.offset, piece.to_vec());
            }
            at = begin + piece.len();
        }
    }
    found
}

/// The files, the oldest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let ours = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "s" || kind == "o");
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(ours).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::RunId;
    use crate::worker::printed::Book;
    use std::sync::Arc;

    const EPOCH: u32 = 5;

    fn id(index: u32, n: u32) -> (TaskRef, Attempt) {
        (TaskRef { run: RunId(1), index }, Attempt { epoch: EPOCH, n })
    }

    fn book(stream: u64, total: u64) -> (tempfile::TempDir, Arc<Book>) {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::create(dir.path(), stream, total).unwrap();
        (dir, Arc::new(book))
    }

    fn look(book: &Book, index: u32, bytes: u64) -> Option<Said> {
        task(book.directory(), id(index, 0).0, EPOCH, bytes)
    }

    #[test]
    fn each_finds_its_own() {
        let (_dir, book) = book(1000, 100_000);
        let mut err = book.stream(id(1, 1), Which::Stderr);
        let mut other = book.stream(id(2, 1), Which::Output);
        err.write(b"one ");
        other.write(b"other");
        err.write("zw\u{f6}lf".as_bytes());
        book.stream(id(1, 1), Which::Stdout).write_end(70, b"out");
        let said = look(&book, 1, 1000).unwrap();
        let parts: Vec<_> = said.parts.iter().map(|p| (&*p.name, &*p.text, p.left_out)).collect();
        assert_eq!(parts, [("stdout", "out", 70), ("stderr", "one zw\u{f6}lf", 0)]);
        // A cut goes round a character.
        let cut = look(&book, 1, 3).unwrap();
        assert_eq!((&*cut.parts[1].text, cut.parts[1].left_out), ("lf", 8));
        assert_eq!(look(&book, 3, 1000), None);
        assert_eq!(task(book.directory(), id(1, 1).0, EPOCH + 1, 10), None, "another scheduler's task");
        book.stream(id(1, 2), Which::Stderr).write(b"again");
        let again = look(&book, 1, 1000).unwrap();
        assert_eq!((again.attempt, again.parts.len(), &*again.parts[0].text), (2, 1, "again"));
    }

    #[test]
    fn one_that_prints_without_end_takes_nothing_away() {
        let (dir, book) = book(1000, 40_000);
        book.stream(id(1, 1), Which::Stderr).write(b"quiet");
        let mut loud = book.stream(id(2, 1), Which::Stderr);
        for n in 0..10_000 {
            loud.write(format!("line {n}\n").as_bytes());
        }
        assert_eq!(look(&book, 1, 1000).unwrap().parts[0].text, "quiet");
        let part = look(&book, 2, 1 << 20).unwrap().parts.remove(0);
        assert!(part.text.len() >= 1000 && part.text.ends_with("\nline 9999\n"), "{}", part.text.len());
        let all: usize = (0..10_000).map(|n| format!("line {n}\n").len()).sum();
        assert_eq!(part.left_out as usize + part.text.len(), all);
        assert!(size(dir.path()) < 40_000);
    }

    #[test]
    fn all_together_stay_within_their_bound() {
        let (dir, book) = book(1000, 40_000);
        for n in 0..2000 {
            let mut stream = book.stream(id(n, 1), Which::Stderr);
            (0..30).for_each(|_| stream.write(&[b'x'; 100]));
        }
        assert!(size(dir.path()) < 60_000, "{}", size(dir.path()));
        assert_eq!(look(&book, 0, 1000), None);
        assert_eq!(look(&book, 1999, 1000).unwrap().parts[0].left_out, 2000);
        let last = last(book.directory(), 500, 3000);
        assert_eq!(last.iter().map(|s| s.task.index).collect::<Vec<_>>(), [1999, 1998, 1997, 1996, 1995]);
    }

    #[test]
    fn what_is_broken_is_passed_over() {
        let (_dir, book) = book(1000, 40_000);
        book.stream(id(1, 1), Which::Stderr).write(b"whole");
        let path = files(book.directory()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let piece = bytes.clone();
        bytes.extend_from_slice(&piece[..piece.len() - 1]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(look(&book, 1, 1000).unwrap().parts[0].text, "whole");
        bytes.truncate(10);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(look(&book, 1, 1000), None);
    }

    fn size(directory: &Path) -> u64 {
        let logs = std::fs::read_dir(directory.join(crate::worker::printed::DIRECTORY)).unwrap();
        logs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}
