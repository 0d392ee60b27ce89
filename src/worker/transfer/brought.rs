//! Results that clients bring, from the network into memory. Owns how much may come, counting it while it
//! does, and handing it to the worker, which decides whether it is kept.

use super::{Traffic, header};
use crate::base::ids::TaskRef;
use crate::protocol::messages::peer::{PIECE_BYTES_MAX, Put};
use crate::worker::store::data::TaskResult;
use crate::worker::store::transfer::Assembler;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Parts of one result at most.
const PARTS_MAX: usize = 1 << 16;

/// A result that was brought, for the worker.
pub(in crate::worker) struct Brought {
    /// The epoch in which its task has its number.
    pub epoch: u32,
    /// Whose result it is.
    pub task: TaskRef,
    /// The result.
    pub result: Arc<TaskResult>,
    /// Hears whether it is kept; dropped, it says that nobody cares any more.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// One result on its way in.
pub(super) struct Arrival {
    task: TaskRef,
    id: u32,
    left: u64,
    /// `Err`: it is not going to be kept, and why; its bytes come all the same. `Ok(None)`: it is here
    /// already.
    to: Result<Option<Assembler>, String>,
    counted: u64,
    traffic: Arc<Traffic>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.traffic.arriving.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Arrival {
    /// Begins. There is `room` for so many bytes, if that is bounded.
    pub(super) fn begin(put: Put, is_here: bool, room: Option<u64>, traffic: Arc<Traffic>) -> Arrival {
        let Put { id, task, parts } = put;
        let left = parts.iter().map(crate::net::fetch::travelling_bytes).fold(0, u64::saturating_add);
        let to = if is_here {
            Ok(None)
        } else if parts.iter().any(|part| part.in_place.is_some()) {
            Err("files in place cannot be brought".into())
        } else if parts.len() > PARTS_MAX {
            Err(format!("it has {} parts, {PARTS_MAX} are the most", parts.len()))
        } else if let Some(room) = room.filter(|room| left > *room) {
            Err(format!("it has {left} bytes, and this worker's memory has room for {room}"))
        } else {
            Assembler::new(header(parts)).map(Some).map_err(|e| no_memory(&e))
        };
        Arrival { task, id, left, to, counted: 0, traffic }
    }

    /// The number it was put with.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether all bytes have come.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Takes the next bytes. Whether they make sense.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let n = bytes.len() as u64;
        if n == 0 || n > self.left || bytes.len() > PIECE_BYTES_MAX {
            return false;
        }
        self.left -= n;
        self.traffic.bytes_in.fetch_add(n, Ordering::Relaxed);
        if let Ok(Some(assembler)) = &mut self.to {
            self.traffic.arriving.fetch_add(n, Ordering::Relaxed);
            self.counted += n;
            if let Err(error) = assembler.push(bytes) {
                self.to = Err(no_memory(&error));
            }
        }
        true
    }

    /// The task and the result, once complete; `Ok(None)` if it is here already, else why it is not kept.
    pub(super) fn finish(&mut self) -> Result<Option<(TaskRef, TaskResult)>, String> {
        match std::mem::replace(&mut self.to, Ok(None))? {
            None => Ok(None),
            Some(assembler) => Ok(Some((self.task, assembler.finish().map_err(|e| no_memory(&e))?))),
        }
    }
}

fn no_memory(error: &std::io::Error) -> String {
    format!("this worker cannot keep it: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::peer::PartHeader;

    fn put(lens: &[u64]) -> Put {
        let part = |len: &u64| PartHeader { name: len.to_string(), len: *len, in_place: None };
        Put { id: 7, task: TaskRef::default(), parts: lens.iter().map(part).collect() }
    }

    #[test]
    fn parts_arrive_and_are_counted_meanwhile() {
        let traffic = Arc::new(Traffic::default());
        let arriving = || traffic.arriving.load(Ordering::Relaxed);
        let mut arrival = Arrival::begin(put(&[3, 0, 200_000]), false, Some(200_003), traffic.clone());
        assert!(arrival.push(b"ab") && arrival.push(b"cd") && !arrival.is_complete());
        assert_eq!(arriving(), 4);
        assert!(!arrival.push(&vec![0; 200_000]), "one too many");
        assert!(arrival.push(&vec![1; 199_999]) && arrival.is_complete());
        let (_, result) = arrival.finish().unwrap().unwrap();
        assert_eq!((result.parts.len(), result.nbytes(), arriving()), (3, 200_003, 200_003));
        drop(arrival);
        assert_eq!(arriving(), 0);
    }

    #[test]
    fn what_is_refused_is_read_and_not_kept() {
        let traffic = Arc::new(Traffic::default());
        let mut arrival = Arrival::begin(put(&[3]), false, Some(2), traffic.clone());
        assert!(arrival.push(b"abc") && arrival.is_complete());
        assert_eq!(traffic.arriving.load(Ordering::Relaxed), 0);
        assert!(arrival.finish().unwrap_err().contains("room for 2"));
        let mut here = Arrival::begin(put(&[u64::MAX]), true, Some(2), traffic);
        assert!(here.push(b"abc") && !here.is_complete());
        assert!(here.finish().unwrap().is_none());
    }
}
