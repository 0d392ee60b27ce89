//! Results that would be lost with all workers, written to a directory that nodes share before this one
//! leaves. Owns what is worth writing in the time that is left, the files, and this worker's list of those
//! that are whole; which results matter is the scheduler's word, what a later run makes of them the client's.

use super::store::data::{Data, TaskResult};
use crate::base::error::{Error, Result};
use crate::graph::proof::{Line, mtime_ns};
use crate::graph::spec::Checkpoint;
use crate::net::private_file::make_directory;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What a file system is taken for until a file was written: bytes a second.
const SPEED_GUESS: f64 = 1e8;

/// Smaller files say how long a file takes, not how fast bytes are written.
const SPEED_BYTES_MIN: u64 = 1 << 20;

/// A small file is worth this many bytes at least, when results are compared by what a byte of them saves.
const FILE_BYTES: u64 = 64 << 10;

/// A result to write.
pub(super) struct Order {
    /// Where.
    pub checkpoint: Checkpoint,
    /// The task's key.
    pub key: String,
    /// What.
    pub result: Arc<TaskResult>,
    /// How long it would take to make it again.
    pub cost: Duration,
}

/// What became of the orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Written.
    pub written: u64,
    /// Not worth it.
    pub cheap: u64,
    /// No time was left.
    pub late: u64,
    /// Could not be written.
    pub failed: u64,
}

/// Writes results, on a thread of its own.
pub(super) struct Saver {
    orders: mpsc::Sender<(Vec<Order>, Instant)>,
    done: mpsc::Receiver<Counts>,
}

impl Saver {
    /// Starts the thread. `worker` is this worker's name.
    ///
    /// # Errors
    /// `Internal` when there can be no thread.
    pub(super) fn start(worker: &str) -> Result<Saver> {
        let (orders, queue) = mpsc::channel::<(Vec<Order>, Instant)>();
        let (tell, done) = mpsc::channel();
        let mut writer = Writer::new(worker);
        let work = move || {
            while let Ok((orders, until)) = queue.recv() {
                writer.write_all(orders, until);
            }
            // Nobody waits if the time is over.
            let _ = tell.send(writer.counts);
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        thread.map_err(|e| Error::os("cannot start a thread", e))?;
        Ok(Saver { orders, done })
    }

    /// Writes results; what has not been begun at `until` is left out. Returns at once.
    pub(super) fn save(&self, orders: Vec<Order>, until: Instant) {
        // The thread ends with this.
        let _ = self.orders.send((orders, until));
    }

    /// Waits until all is written, but not longer than `limit`. Blocks.
    pub(super) fn finish(self, limit: Duration) -> Option<Counts> {
        drop(self.orders);
        self.done.recv_timeout(limit).ok()
    }
}

/// How fast files are written, as far as that is known.
struct Speed {
    file: Duration,
    bytes_per_second: f64,
}

impl Speed {
    fn time(&self, bytes: u64) -> Duration {
        self.file + Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second).unwrap_or(Duration::MAX)
    }

    fn learn(&mut self, bytes: u64, took: Duration) {
        if bytes < SPEED_BYTES_MIN {
            self.file = if self.file.is_zero() { took } else { self.file.min(took) };
        } else {
            self.bytes_per_second = bytes as f64 / took.saturating_sub(self.file).as_secs_f64().max(1e-6);
        }
    }
}

struct Writer {
    worker: String,
    files: u64,
    speed: Speed,
    counts: Counts,
}

impl Writer {
    fn new(worker: &str) -> Writer {
        let speed = Speed { file: Duration::ZERO, bytes_per_second: SPEED_GUESS };
        Writer { worker: worker.replace('/', "-"), files: 0, speed, counts: Counts::default() }
    }

    /// Those first of which a byte saves most.
    fn write_all(&mut self, mut orders: Vec<Order>, until: Instant) {
        let value = |o: &Order| o.cost.as_secs_f64() / (o.result.travelling_bytes() + FILE_BYTES) as f64;
        orders.sort_by(|a, b| value(b).total_cmp(&value(a)));
        let mut list = None;
        for order in orders {
            let bytes = order.result.travelling_bytes();
            let expected = self.speed.time(bytes);
            if expected > order.cost {
                self.counts.cheap += 1;
                continue;
            }
            let begin = Instant::now();
            if begin + expected >= until {
                self.counts.late += 1;
                continue;
            }
            match self.write(&order, &mut list) {
                Ok(()) => {
                    self.speed.learn(bytes, begin.elapsed());
                    self.counts.written += 1;
                }
                Err(error) => {
                    if self.counts.failed == 0 {
                        tracing::warn!(task = order.key, "cannot write to the checkpoint: {error}");
                    }
                    self.counts.failed += 1;
                }
            }
        }
        if let Some(list) = list {
            // A list that is not on disk after all only means that tasks run again.
            let _ = list.sync_data();
        }
    }

    /// Writes all parts of a result, and then its lines.
    fn write(&mut self, order: &Order, list: &mut Option<File>) -> io::Result<()> {
        let directory = &order.checkpoint.directory;
        let list = match list {
            Some(list) => list,
            None => list.insert(self.open_list(directory)?),
        };
        let mut text = Vec::new();
        for (part, data) in &order.result.parts {
            let line = match data {
                // It was loaded from there and has its line.
                Data::InPlace { path, .. } if path.starts_with(directory) => continue,
                Data::InPlace { path, size, mtime_ns } => Line {
                    key: order.key.clone(),
                    fingerprint: order.checkpoint.fingerprint.clone(),
                    part: part.clone(),
                    path: path.clone(),
                    size: Some(*size),
                    mtime_ns: *mtime_ns,
                    // Only its time tells.
                    checksum: 0,
                },
                data => self.put(order, part, data)?,
            };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        list.write_all(&text)
    }

    fn open_list(&self, directory: &Path) -> io::Result<File> {
        make_directory(directory).map_err(|e| io::Error::other(e.message))?;
        let path = directory.join(format!("{}.jsonl", self.worker));
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    /// Writes one part beside its place, and moves it there when it is whole.
    fn put(&mut self, order: &Order, part: &str, data: &Data) -> io::Result<Line> {
        self.files += 1;
        let name = format!("{}-{}", self.worker, self.files);
        let path: PathBuf = order.checkpoint.directory.join(&name);
        let temporary = order.checkpoint.directory.join(format!(".{name}.part"));
        let written = copy(data, &temporary).and_then(|(size, checksum)| {
            fs::rename(&temporary, &path)?;
            Ok((size, checksum, fs::metadata(&path)?))
        });
        let (size, checksum, meta) = written.inspect_err(|_| {
            // What is left of it is of no use; the error that counts is the first one.
            let _ = fs::remove_file(&temporary);
        })?;
        Ok(Line {
            key: order.key.clone(),
            fingerprint: order.checkpoint.fingerprint.clone(),
            part: part.to_owned(),
            path,
            size: Some(size),
            mtime_ns: mtime_ns(&meta),
            checksum,
        })
    }
}

/// Copies content to a new file; its size and checksum.
fn copy(data: &Data, path: &Path) -> io::Result<(u64, u32)> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let (mut hasher, mut offset) = (crc32fast::Hasher::new(), 0);
    while offset < data.len() {
        let piece = data.read_at(offset, PIECE)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&piece);
        file.write_all(&piece)?;
        offset += piece.len() as u64;
    }
    file.sync_data()?;
    Ok((offset, hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn order(directory: &Path, key: &str, bytes: usize, cost: Duration) -> Order {
        let data = Data::of_bytes(vec![7; bytes].into()).unwrap();
        let checkpoint = Checkpoint { directory: directory.into(), fingerprint: "f".into() };
        Order { checkpoint, key: key.into(), result: Arc::new(TaskResult::of(data)), cost }
    }

    fn lines(directory: &Path) -> Vec<Line> {
        let text = fs::read_to_string(directory.join("w-1.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn what_is_listed_is_whole_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("checkpoint");
        let saver = Saver::start("w/1").unwrap();
        let hour = Duration::from_secs(3600);
        let orders =
            vec![order(&to, "a", 3 << 20, hour), order(&to, "b", 0, hour), order(&to, "c", 100, hour)];
        saver.save(orders, Instant::now() + hour);
        let counts = saver.finish(Duration::from_secs(60)).unwrap();
        assert_eq!(counts, Counts { written: 3, ..Counts::default() });
        let lines = lines(&to);
        assert_eq!(lines.iter().map(|l| l.size.unwrap()).sum::<u64>(), (3 << 20) + 100);
        for line in &lines {
            assert!(line.holds(&line.path), "{line:?}");
            assert_eq!(fs::metadata(&line.path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 4, "three files and the list");
        fs::write(&lines[0].path, "damaged").unwrap();
        assert!(!lines[0].holds(&lines[0].path));
    }

    #[test]
    fn what_is_cheap_and_what_comes_too_late_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new("w-1");
        writer.speed = Speed { file: Duration::ZERO, bytes_per_second: 1000.0 };
        let soon = Instant::now() + Duration::from_secs(50);
        let second = Duration::from_secs(1);
        let orders = vec![
            order(dir.path(), "too long", 100_000, 1000 * second),
            order(dir.path(), "cheap", 10_000, second),
            order(dir.path(), "good", 10_000, 100 * second),
        ];
        writer.write_all(orders, soon);
        assert_eq!(writer.counts, Counts { written: 1, cheap: 1, late: 1, failed: 0 });
        assert_eq!(lines(dir.path()).iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_catastrophe() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mut writer = Writer::new("w-1");
        let hour = Duration::from_secs(3600);
        writer.write_all(vec![order(&file.join("x"), "a", 1, hour)], Instant::now() + hour);
        assert_eq!(writer.counts, Counts { failed: 1, ..Counts::default() });
    }

    #[test]
    fn speed_is_measured() {
        let mut speed = Speed { file: Duration::ZERO, bytes_per_second: SPEED_GUESS };
        assert_eq!(speed.time(100_000_000), Duration::from_secs(1));
        speed.learn(10, Duration::from_millis(20));
        speed.learn(10, Duration::from_millis(10));
        assert_eq!(speed.time(0), Duration::from_millis(10));
        speed.learn(10_000_000, Duration::from_millis(1010));
        assert_eq!(speed.time(20_000_000), Duration::from_millis(2010));
    }
}
