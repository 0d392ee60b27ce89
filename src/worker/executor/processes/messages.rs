//! What a worker and an executor process say to each other: the control parts of their frames, and how
//! results travel in them. Owns tags and fields, which `docs/protocol.md` documents for executors in other
//! languages; nothing about when something is said.

use super::channel::{Channel, DESCRIPTORS_MAX, Frame};
use crate::graph::items::Item;
use crate::worker::executor::native::NativeInput;
use crate::worker::store::data::{Data, TaskResult};
use crate::worker::store::pool;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

/// The oldest and the newest version of this protocol that this program speaks.
pub(super) const VERSIONS: (u16, u16) = (1, 3);

/// From this version on executors take several calls at once.
pub(super) const BATCHES_VERSION: u16 = 2;

/// Raw bytes of one `Inputs` frame: it is sent when it has more than this.
const INPUTS_BYTES: usize = 1 << 20;

/// Tags; each is for ever.
pub(super) mod tag {
    /// Executor: who it is, first of all.
    pub const HELLO: u16 = 1;
    /// Worker: which version is spoken.
    pub const WELCOME: u16 = 2;
    /// Worker: inputs of the task that the next `RUN` is about.
    pub const INPUTS: u16 = 3;
    /// Worker: a task.
    pub const RUN: u16 = 4;
    /// Worker: a task is to stop.
    pub const CANCEL: u16 = 5;
    /// Executor: the memory file into which a task's output goes.
    pub const OUTPUT: u16 = 6;
    /// Executor: a task has ended.
    pub const DONE: u16 = 7;
    /// Worker: memory is to be given back.
    pub const TRIM: u16 = 8;
    /// Executor: that was done.
    pub const TRIMMED: u16 = 9;
    /// Executor: a task waits for other tasks, or goes on.
    pub const AWAY: u16 = 26;
    /// Executor: tasks have ended whose results are small.
    pub const DONES: u16 = 28;
    /// Worker: what has not begun is to be given back.
    pub const RECALL: u16 = 29;
    /// Executor: these were given back.
    pub const RETURNED: u16 = 30;
    /// Executor: so much of what it prints is this task's, of several that came together.
    pub const SAID: u16 = 31;
    /// Executor: it needs a memory file for so many bytes.
    pub const ROOM: u16 = 34;
    /// Worker: there it is, or there is none.
    pub const LENT: u16 = 35;
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Room {
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said {
    pub task: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Returned {
    pub tasks: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Away {
    pub task: u64,
    pub away: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub oldest: u16,
    pub newest: u16,
    /// What it executes: `native`.
    pub kind: String,
    pub pid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub version: u16,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Inputs {
    pub inputs: Vec<Input>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Input {
    pub producer: String,
    pub key: String,
    /// These are further parts of the input before.
    pub continued: bool,
    pub parts: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub name: String,
    pub place: Place,
}

/// Where a part's bytes are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Place {
    /// So many of the frame's raw bytes, the next ones.
    Inline(u64),
    /// In the sealed memory file of the frame's next descriptor: so many bytes.
    Descriptor(u64),
    /// In a file that stays where it is: path, bytes, time of change in nanoseconds since 1970.
    Path(ByteBuf, u64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// The worker's number for this execution; what is said about it carries it.
    pub task: u64,
    pub key: String,
    pub index: u32,
    pub item: Item,
    /// Epoch and number.
    pub attempt: (u32, u32),
    pub function: String,
    pub args: serde_json::Value,
    pub max_output: Option<u64>,
    pub time_limit_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub task: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub task: u64,
    pub end: End,
    /// What it made, if it succeeded.
    pub parts: Vec<Part>,
    pub cpu_ns: u64,
}

/// How a task ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum End {
    /// Well.
    Succeeded,
    /// Well; what it made stays in the executor, since nothing can turn it into bytes. Its part says so.
    Pinned,
    /// Its function said or did this.
    Failed(String),
    /// As it was told to.
    Cancelled,
    /// It ran longer than it may.
    TimeLimit,
    /// Its output cannot be kept, for this reason.
    Unkept(String),
    /// It raised an exception: type and message, traceback, and the exception itself.
    Raised(String, String, ByteBuf),
}

/// For whom memory files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum To {
    /// Executors of our own package: they map them privately and keep no descriptor.
    Python,
    /// Anybody else.
    Others,
}

/// Raw bytes and descriptors of a frame that is put together.
#[derive(Default)]
struct Cargo {
    body: Vec<Bytes>,
    bytes: usize,
    held: Vec<Data>,
}

impl Cargo {
    fn load(&mut self, name: &str, data: &Data) -> io::Result<Part> {
        let data = match data {
            Data::Spilled(extent) => extent.recall()?,
            other => other.clone(),
        };
        let place = match &data {
            Data::Heap(bytes) => {
                self.bytes += bytes.len();
                self.body.push(bytes.clone());
                Place::Inline(bytes.len() as u64)
            }
            Data::InPlace { path, size, mtime_ns } => {
                Place::Path(ByteBuf::from(path.as_os_str().as_bytes()), *size, *mtime_ns)
            }
            Data::File(_) | Data::Spilled(_) => Place::Descriptor(data.len()),
        };
        if matches!(place, Place::Descriptor(_)) {
            self.held.push(data);
        }
        Ok(Part { name: name.into(), place })
    }

    fn is_full(&self) -> bool {
        self.bytes > INPUTS_BYTES || self.held.len() >= DESCRIPTORS_MAX
    }

    fn send<M: Serialize>(&mut self, channel: &Channel, tag: u16, message: &M, to: To) -> io::Result<()> {
        let cargo = std::mem::take(self);
        let files = cargo.held.iter().filter_map(|d| if let Data::File(f) = d { Some(f) } else { None });
        let files = files.map(|file| if to == To::Python { file.lend() } else { file.share() });
        let files = files.collect::<io::Result<Vec<OwnedFd>>>()?;
        let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        channel.send(tag, message, &cargo.body, &descriptors)
    }
}

/// Sends a task's inputs, in as many frames as it takes.
pub(in crate::worker) fn send_inputs(channel: &Channel, inputs: &[NativeInput], to: To) -> io::Result<()> {
    let (mut cargo, mut message) = (Cargo::default(), Inputs::default());
    for input in inputs {
        let (producer, key) = (input.producer.clone(), input.key.clone());
        message.inputs.push(Input { producer, key, continued: false, parts: Vec::new() });
        for (name, data) in &input.result.parts {
            let part = cargo.load(name, data)?;
            if let Some(last) = message.inputs.last_mut() {
                last.parts.push(part);
            }
            if cargo.is_full() {
                cargo.send(channel, tag::INPUTS, &std::mem::take(&mut message), to)?;
                let (producer, key) = (input.producer.clone(), input.key.clone());
                message.inputs.push(Input { producer, key, continued: true, parts: Vec::new() });
            }
        }
    }
    if message.inputs.is_empty() { Ok(()) } else { cargo.send(channel, tag::INPUTS, &message, to) }
}

/// Adds the inputs of a frame to those before.
pub(super) fn take_inputs(frame: Frame, inputs: &mut Vec<NativeInput>) -> io::Result<()> {
    let message: Inputs = frame.control()?;
    let mut unload = Unload::of(frame);
    for input in message.inputs {
        let mut parts =
            input.parts.into_iter().map(|part| unload.part(part)).collect::<io::Result<Vec<_>>>()?;
        if input.continued {
            let before = inputs.pop().ok_or_else(|| io::Error::other("an input goes on that never began"))?;
            let mut all = before.result.parts.clone();
            all.append(&mut parts);
            parts = all;
        }
        let result = Arc::new(TaskResult { parts, pinned: None });
        inputs.push(NativeInput { producer: input.producer, key: input.key, result });
    }
    Ok(())
}

/// Says that a task has ended, and sends what it has made.
pub(super) fn send_done(channel: &Channel, mut done: Done, result: Option<&TaskResult>) -> io::Result<()> {
    let mut cargo = Cargo::default();
    let parts = result.into_iter().flat_map(|r| &r.parts);
    done.parts = parts.map(|(name, data)| cargo.load(name, data)).collect::<io::Result<_>>()?;
    cargo.send(channel, tag::DONE, &done, To::Others)
}

/// Answers an executor that needs a memory file; without one if there cannot be one.
pub(super) fn send_room(channel: &Channel, frame: &Frame) -> io::Result<()> {
    let Room { bytes } = frame.control()?;
    let file = pool::lend_room(bytes).inspect_err(|e| tracing::warn!("cannot lend a memory file: {e}")).ok();
    let descriptors: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    channel.send(tag::LENT, &(), &[], &descriptors)
}

/// The end of a task, and what it has made.
pub(super) fn take_done(frame: Frame) -> io::Result<(Done, TaskResult)> {
    let mut done: Done = frame.control()?;
    let mut unload = Unload::of(frame);
    let parts = std::mem::take(&mut done.parts).into_iter().map(|part| unload.part(part));
    let result = TaskResult { parts: parts.collect::<io::Result<_>>()?, pinned: None };
    Ok((done, result))
}

/// The ends of several tasks, and what they have made.
pub(super) fn take_dones(frame: Frame) -> io::Result<Vec<(Done, TaskResult)>> {
    let (dones,): (Vec<Done>,) = frame.control()?;
    let mut unload = Unload::of(frame);
    let take = |mut done: Done| {
        let parts = std::mem::take(&mut done.parts).into_iter().map(|part| unload.part(part));
        let result = TaskResult { parts: parts.collect::<io::Result<_>>()?, pinned: None };
        Ok((done, result))
    };
    dones.into_iter().map(take).collect()
}

/// Takes apart what came with a frame.
struct Unload {
    body: Bytes,
    descriptors: std::vec::IntoIter<OwnedFd>,
}

impl Unload {
    fn of(frame: Frame) -> Unload {
        Unload { body: frame.body, descriptors: frame.descriptors.into_iter() }
    }

    fn part(&mut self, part: Part) -> io::Result<(String, Data)> {
        let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
        let data = match part.place {
            Place::Inline(len) => {
                let len = usize::try_from(len).ok().filter(|&len| len <= self.body.len());
                // A copy, so that a small part does not keep a whole frame.
                let bytes = self.body.split_to(len.ok_or_else(|| wrong("a part is longer than its frame"))?);
                Data::of_bytes(Bytes::copy_from_slice(&bytes))?
            }
            Place::Descriptor(len) => {
                let fd = self.descriptors.next().ok_or_else(|| wrong("a part has no descriptor"))?;
                let data = Data::adopt(File::from(fd))?;
                if data.len() != len {
                    return Err(wrong("a memory file is not as long as was said"));
                }
                data
            }
            Place::Path(path, size, mtime_ns) => {
                let path = OsString::from_vec(path.into_vec()).into();
                Data::InPlace { path, size, mtime_ns }
            }
        };
        Ok((part.name, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_inputs_arrive_as_they_were() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::of(other).unwrap();
        let data = |n: usize, byte| Data::of_bytes(vec![byte; n].into()).unwrap();
        let parts = |n: usize| {
            (0..n).map(move |i| (format!("p{i}"), data(if i % 2 == 0 { 100_000 } else { 9 }, i as u8)))
        };
        let result = |n| Arc::new(TaskResult { parts: parts(n).collect(), pinned: None });
        let in_place = Data::InPlace { path: "/a b".into(), size: 7, mtime_ns: -1 };
        let input = |key: &str, result| NativeInput { producer: "p".into(), key: key.into(), result };
        let sent = vec![
            input("a", result(1)),
            input("b", Arc::new(TaskResult::default())),
            input("c", result(300)),
            input("d", Arc::new(TaskResult::of(in_place))),
        ];
        let again = sent.clone();
        let sender = std::thread::spawn(move || send_inputs(&one, &again, To::Others).unwrap());
        let mut got = Vec::new();
        let mut frames = 0;
        while let Some(frame) = other.receive().unwrap() {
            assert_eq!(frame.tag, tag::INPUTS);
            take_inputs(frame, &mut got).unwrap();
            frames += 1;
        }
        sender.join().unwrap();
        assert_eq!((frames, got.len()), (2, 4));
        for (a, b) in sent.iter().zip(&got) {
            assert_eq!((&a.key, a.result.parts.len()), (&b.key, b.result.parts.len()));
            for ((name, data), (name_too, data_too)) in a.result.parts.iter().zip(&b.result.parts) {
                assert_eq!((name, data.len()), (name_too, data_too.len()));
                if !matches!(data, Data::InPlace { .. }) {
                    assert_eq!(data.bytes().unwrap(), data_too.bytes().unwrap());
                }
            }
        }
    }

    #[test]
    fn lies_are_found() {
        let lie = |place, body: &[Bytes]| {
            let (one, other) = Channel::pair().unwrap();
            let parts = vec![Part { name: "".into(), place }];
            let done = Done { task: 1, end: End::Succeeded, parts, cpu_ns: 0 };
            let file = tempfile::tempfile().unwrap();
            one.send(tag::DONE, &done, body, &[file.as_fd()]).unwrap();
            take_done(Channel::of(other).unwrap().receive().unwrap().unwrap()).unwrap_err().to_string()
        };
        assert!(lie(Place::Inline(3), &["ab".into()]).contains("longer than its frame"));
        assert!(lie(Place::Descriptor(0), &[]).contains("no memory file"));
    }
}
